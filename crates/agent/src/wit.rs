//! WIT-SVIDs on demand: one with its key for each entry, for whoever on this node may have it, from
//! memory while it is fresh, else signed by the server. Nothing is signed that nobody asks for.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use signet_base::SharedClock;
use signet_identity::Bundle;
use signet_pki::{KeyType, PrivateKey};
use tonic::Status;
use zeroize::Zeroizing;

use crate::{
    client::{ClientError, RPC_TIMEOUT, ServerClient, SignedToken},
    entry::AgentEntry,
    rotation::{RotationRule, draw},
    wake::Wake,
    wit_cache::{WitCache, WitSvid},
    workload_keys,
};

/// How many are signed by one call.
const MAX_BATCH: usize = 100;
/// How soon what could not be renewed is tried again, and how long nobody looks at what is fresh.
const RETRY: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What somebody is given, and for how long that is all that can be said.
pub struct Answer {
    /// Entries with their WIT-SVIDs.
    pub svids: Vec<(Arc<AgentEntry>, Arc<WitSvid>)>,
    /// When to look again.
    pub look_again: Duration,
}

/// Gives out WIT-SVIDs. Shared by `Arc`.
pub struct WitService {
    client: Arc<ServerClient>,
    kept: Arc<WitCache>,
    wake: Arc<Wake>,
    clock: SharedClock,
    key_type: KeyType,
    /// One call at a time: who waits finds what the one before it brought, or how it failed.
    signing: tokio::sync::Mutex<Option<Failure>>,
}

/// That the server did not answer a call. Whoever asked before that gets this answer too, rather
/// than waiting for one call after another.
#[derive(Debug)]
struct Failure {
    at: Instant,
    why: Arc<str>,
}

impl WitService {
    /// A service that has `client` sign, for keys of this kind, what is not `kept`, and wakes the
    /// manager when it is to know of it.
    pub fn new(
        client: Arc<ServerClient>,
        kept: Arc<WitCache>,
        wake: Arc<Wake>,
        clock: SharedClock,
        key_type: KeyType,
    ) -> Self {
        Self { client, kept, wake, clock, key_type, signing: tokio::sync::Mutex::default() }
    }

    /// A WIT-SVID of each of `entries`. One that is kept is given while less than half its life has
    /// passed and `own`, the bundle of the own trust domain, vouches for it; beyond that while it is
    /// valid, not tainted, and the server does not answer.
    ///
    /// # Errors
    /// `Unavailable` when one cannot be had.
    pub async fn fetch(&self, entries: &[Arc<AgentEntry>], own: &Bundle) -> Result<Answer, Status> {
        let is_fresh =
            |svid: &WitSvid| svid.is_signed_by(own, false) && self.clock.unix() < svid.due_at;
        if !self.missing(entries, is_fresh).is_empty() {
            let asked = Instant::now();
            let mut last = self.signing.lock().await;
            for missing in self.missing(entries, is_fresh).chunks(MAX_BATCH) {
                if let Err(error) = self.sign_unless_failed(missing, asked, &mut last).await {
                    let gone = missing.iter().find(|entry| self.usable(entry, own).is_none());
                    if let Some(entry) = gone {
                        tracing::error!(
                            spiffe_id = %entry.spiffe_id,
                            error = %error,
                            "Could not fetch WIT-SVID"
                        );
                        return Err(Status::unavailable(format!(
                            "could not fetch WIT-SVID: {error}"
                        )));
                    }
                    tracing::warn!(error = %error, "Unable to renew WIT-SVIDs; giving those that are kept");
                }
            }
        }
        let mut svids = Vec::with_capacity(entries.len());
        for entry in entries {
            let svid = self.usable(entry, own);
            let svid = svid.ok_or_else(|| Status::unavailable("could not fetch WIT-SVID"))?;
            svids.push((Arc::clone(entry), svid));
        }
        let now = self.clock.unix();
        let due = svids.iter().map(|(_, svid)| svid.due_at - now).min();
        let due = Duration::from_secs(due.and_then(|due| due.try_into().ok()).unwrap_or_default());
        Ok(Answer { svids, look_again: due.clamp(RETRY, LONGEST_WAIT) })
    }

    /// Those of `entries` that a new one is needed for.
    fn missing(
        &self,
        entries: &[Arc<AgentEntry>],
        is_fresh: impl Fn(&WitSvid) -> bool,
    ) -> Vec<Arc<AgentEntry>> {
        let has = |entry: &AgentEntry| {
            self.kept.get(&entry.id).is_some_and(|svid| svid.is_of(entry) && is_fresh(&svid))
        };
        entries.iter().filter(|entry| !has(entry)).map(Arc::clone).collect()
    }

    /// What is kept for an entry, unless it has expired or what signed it is tainted.
    fn usable(&self, entry: &AgentEntry, own: &Bundle) -> Option<Arc<WitSvid>> {
        let svid = self.kept.get(&entry.id)?;
        let is_good = svid.is_of(entry)
            && self.clock.unix() < svid.expires_at
            && !svid.is_signed_by(own, true);
        is_good.then_some(svid)
    }

    /// Signs, unless the server has failed to answer somebody since `asked`.
    async fn sign_unless_failed(
        &self,
        entries: &[Arc<AgentEntry>],
        asked: Instant,
        last: &mut Option<Failure>,
    ) -> Result<(), Arc<str>> {
        if let Some(failure) = last.as_ref().filter(|failure| failure.at >= asked) {
            return Err(Arc::clone(&failure.why));
        }
        let signed = self.sign(entries).await;
        signed.map_err(|error| {
            let why = Arc::from(error.to_string());
            if error.is_unreachable() {
                *last = Some(Failure { at: Instant::now(), why: Arc::clone(&why) });
            }
            why
        })
    }

    async fn sign(&self, entries: &[Arc<AgentEntry>]) -> Result<(), ClientError> {
        let (kind, count) = (self.key_type, entries.len());
        let make = move || {
            let keys: Result<Vec<_>, _> = (0..count).map(|_| PrivateKey::generate(kind)).collect();
            keys.map_err(|error| ClientError::Local(format!("making a key: {error}")))
        };
        let keys = workload_keys::make(kind, count, make).await?;
        let requests: Vec<_> = entries
            .iter()
            .zip(&keys)
            .map(|(entry, key)| (entry.id.clone(), key.public_key().clone()))
            .collect();
        let signed = self.client.sign_wit(&requests, RPC_TIMEOUT).await;
        self.wake.sync_if_refused(&signed);
        let mut failed = None;
        for ((entry, key), result) in entries.iter().zip(&keys).zip(signed?) {
            match result.and_then(|token| accept(entry, key, token)) {
                Ok(svid) => {
                    self.kept.put(entry.id.clone(), Arc::new(svid));
                }
                Err(error) => failed = Some(error),
            }
        }
        self.kept.prune(self.clock.unix());
        self.wake.token_came();
        failed.map_or(Ok(()), Err)
    }
}

impl fmt::Debug for WitService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WitService({} kept)", self.kept.len())
    }
}

/// Checks that a token is for the entry's SPIFFE ID, and puts its key beside it.
fn accept(
    entry: &AgentEntry,
    key: &PrivateKey,
    signed: SignedToken,
) -> Result<WitSvid, ClientError> {
    let SignedToken { token, spiffe_id, issued_at, expires_at, key_id } = signed;
    if spiffe_id != entry.spiffe_id {
        let reason = format!("a token for {spiffe_id}");
        return Err(ClientError::Malformed { method: "BatchNewWITSVID", reason });
    }
    let jwk = key.to_jwk().map_err(|error| ClientError::Local(error.to_string()))?;
    let spread = draw(token.as_bytes());
    Ok(WitSvid {
        token,
        // Without the room that it grew in.
        key: Zeroizing::new(jwk.as_str().to_owned()),
        spiffe_id,
        due_at: RotationRule::default().x509_due_at(issued_at, expires_at, spread),
        expires_at,
        key_id,
        revision: entry.revision_number,
    })
}
