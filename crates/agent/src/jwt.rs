//! JWT-SVIDs on demand: from the cache while they are fresh, else signed by the server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use signet_base::{FairQueue, SharedClock, Throttle};
use signet_identity::{SpiffeId, TrustDomain};

use crate::{
    client::{ClientError, RPC_TIMEOUT, ServerClient},
    entry::AgentEntry,
    jwt_cache::{JwtCache, JwtKey, JwtSvid},
    rotation::{RotationRule, draw},
    wake::Wake,
};

/// More callers than this, waiting for different tokens at once, are turned away.
const MAX_FLIGHTS: usize = 10_000;
/// How many tokens the server is asked for at a time, and how many of them may be for one SPIFFE ID.
/// The server signs some hundreds a second for an agent, and has the others wait: without a queue
/// here, whoever asks for thousands would have all of them.
const SIGNING: usize = 32;
const SIGNING_FOR_ONE: usize = 16;
/// How many calls for one SPIFFE ID may wait for their turn.
const WAITING: usize = 2_048;
/// How often an unknown key of a trust domain is reported.
const REPORT_PAUSE: Duration = Duration::from_secs(5);

/// Gives out JWT-SVIDs. Shared by `Arc`.
#[derive(Debug)]
pub struct JwtService {
    client: Arc<ServerClient>,
    cache: Arc<JwtCache>,
    wake: Arc<Wake>,
    clock: SharedClock,
    hit_timeout: Duration,
    flights: Mutex<HashMap<JwtKey, Arc<tokio::sync::Mutex<()>>>>,
    turns: FairQueue<SpiffeId>,
    reports: Throttle<TrustDomain>,
}

impl JwtService {
    /// A service that has `client` sign what is not in `cache`, and wakes the manager when it is to
    /// know of it; a renewal takes at most `hit_timeout` while the cached token is
    /// still valid.
    pub fn new(
        client: Arc<ServerClient>,
        cache: Arc<JwtCache>,
        wake: Arc<Wake>,
        clock: SharedClock,
        hit_timeout: Duration,
    ) -> Self {
        let turns = FairQueue::new(SIGNING, SIGNING_FOR_ONE, WAITING);
        let reports = Throttle::new(1, REPORT_PAUSE);
        Self { client, cache, wake, clock, hit_timeout, flights: Mutex::default(), turns, reports }
    }

    /// Somebody has a token of `trust_domain` whose key is not in its bundle: the server is asked to
    /// fetch that bundle, if it was not asked a moment ago. It comes as bundles always do.
    pub async fn unknown_key(&self, trust_domain: &TrustDomain) {
        if self.reports.admit(trust_domain).is_none() {
            return;
        }
        if let Err(error) = self.client.report_unknown_key(trust_domain).await {
            tracing::debug!(%trust_domain, %error, "The server does not fetch the bundle");
        }
    }

    /// How many JWT-SVIDs are cached.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// A JWT-SVID of `entry` for `audience`.
    ///
    /// A cached token is given while less than half its life has passed, and beyond that while it
    /// is valid and the server does not answer. An entry that wants a `jti` gets a new token each
    /// time. Callers that want the same token at once share one request.
    ///
    /// # Errors
    /// [`ClientError`] when there is no valid token to give.
    pub async fn fetch(
        &self,
        entry: &AgentEntry,
        audience: &[String],
    ) -> Result<JwtSvid, ClientError> {
        if entry.jwt_svid_include_jti {
            return self.sign(entry, audience, RPC_TIMEOUT).await;
        }
        let key = JwtKey::new(&entry.spiffe_id, audience);
        if let Some(svid) = self.fresh(&key) {
            return Ok(svid);
        }
        let flight = self.flight(&key)?;
        let result = {
            let _guard = flight.lock().await;
            // Whoever was first may have brought it.
            match self.fresh(&key) {
                Some(svid) => Ok(svid),
                None => self.renew(entry, audience, &key).await,
            }
        };
        drop(flight);
        self.land(&key);
        result
    }

    async fn renew(
        &self,
        entry: &AgentEntry,
        audience: &[String],
        key: &JwtKey,
    ) -> Result<JwtSvid, ClientError> {
        let valid = |svid: &JwtSvid| svid.expires_at > self.clock.unix();
        let cached = self.cache.get(key).filter(valid);
        let deadline = if cached.is_some() { self.hit_timeout } else { RPC_TIMEOUT };
        match (self.sign(entry, audience, deadline).await, cached) {
            (Ok(svid), _) => {
                self.cache.put(key.clone(), svid.clone());
                self.wake.token_came();
                Ok(svid)
            }
            (Err(error), Some(cached)) if valid(&cached) => {
                tracing::warn!(
                    spiffe_id = %entry.spiffe_id,
                    error = %error,
                    "Unable to renew JWT; returning cached copy"
                );
                Ok(cached)
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn sign(
        &self,
        entry: &AgentEntry,
        audience: &[String],
        deadline: Duration,
    ) -> Result<JwtSvid, ClientError> {
        let signing = async {
            let turn = self.turns.turn(entry.spiffe_id.clone()).await;
            let _turn = turn.map_err(|error| ClientError::Local(error.to_string()))?;
            self.client.sign_jwt(&entry.id, audience, deadline).await
        };
        // Who waits for others of the same identity has had its time, too.
        let late = |_| ClientError::Local("too many JWT-SVIDs are being signed".to_owned());
        let result = tokio::time::timeout(deadline, signing).await.unwrap_or_else(|e| Err(late(e)));
        self.wake.sync_if_refused(&result);
        let svid = result?;
        if svid.spiffe_id != entry.spiffe_id {
            return Err(ClientError::Malformed {
                method: "NewJWTSVID",
                reason: format!("a token for {}", svid.spiffe_id),
            });
        }
        Ok(svid)
    }

    fn fresh(&self, key: &JwtKey) -> Option<JwtSvid> {
        let svid = self.cache.get(key)?;
        let rule = RotationRule::default();
        let spread = draw(svid.token.as_bytes());
        (!rule.jwt_due(self.clock.unix(), svid.issued_at, svid.expires_at, spread)).then_some(svid)
    }

    fn flight(&self, key: &JwtKey) -> Result<Arc<tokio::sync::Mutex<()>>, ClientError> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key) {
            return Ok(Arc::clone(flight));
        }
        if flights.len() >= MAX_FLIGHTS {
            return Err(ClientError::Local("too many JWT-SVIDs are being signed".to_owned()));
        }
        Ok(Arc::clone(flights.entry(key.clone()).or_default()))
    }

    /// Forgets a flight nobody waits for any more.
    fn land(&self, key: &JwtKey) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights.get(key).is_some_and(|flight| Arc::strong_count(flight) == 1) {
            flights.remove(key);
        }
    }
}
