//! The server sets of an agent as one: whoever serves workloads does not know how many there are.
//!
//! Each set has a [`Manager`](crate::sync::Manager) with a cache, a client and a data directory of
//! its own, as if there were no other. What is here makes one of several: how the agent stands, and
//! who signs tokens. The caches are merged in [`cache::Served`](crate::cache::Served).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::{join_all, select_all};
use signet_base::{SharedClock, chain};
use signet_identity::{Bundle, TrustDomain};
use signet_pki::tls::SwappableIdentity;
use tokio::{sync::watch, time::Instant};
use tonic::Status as RpcStatus;

use crate::{
    cache::Cache,
    client::ClientError,
    entry::AgentEntry,
    jwt::JwtService,
    jwt_cache::JwtSvid,
    status::Status,
    wit::{Answer, WitService},
};

/// How long workloads wait for the other sets once one has something to serve.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How often is looked whether an agent's SVID has expired.
const LOOK: Duration = Duration::from_secs(30);

/// How many sets of the agent go on. Shared by their managers.
#[derive(Debug)]
pub struct Alive(AtomicUsize);

impl Alive {
    /// All of so many.
    pub fn all(sets: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(sets)))
    }

    /// One ends; whether it was the last.
    pub fn ends(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) <= 1
    }

    /// One that had ended tries again.
    pub fn tries_again(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// What `T` there is of each set. Shared by `Arc`.
#[derive(Debug)]
pub struct Issuers<T>(Vec<Issuer<T>>);

/// What gives out tokens that the servers of one set sign.
#[derive(Debug)]
pub struct Issuer<T> {
    /// What asks them.
    pub service: T,
    /// The entries of the set.
    pub cache: Arc<Cache>,
    /// How the agent stands with it.
    pub status: watch::Receiver<Status>,
}

impl<T> Issuers<T> {
    /// Those of each set, in the order of the configuration.
    pub fn new(issuers: Vec<Issuer<T>>) -> Arc<Self> {
        Arc::new(Self(issuers))
    }

    /// Those whose servers answered at the last try come first.
    fn in_order(&self) -> Vec<&Issuer<T>> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|one| !one.status.borrow().server_reachable);
        all
    }

    /// What the first set gives that has an entry like `entry` and can give it.
    ///
    /// # Errors
    /// That of the last set that was asked; nothing where none has such an entry.
    async fn first<'a, R, E, F: Future<Output = Result<R, E>>>(
        &'a self,
        entry: &AgentEntry,
        ask: impl Fn(&'a T, Arc<AgentEntry>) -> F,
    ) -> Result<R, Option<E>> {
        let mut failed = None;
        for set in self.in_order() {
            let Some(theirs) = set.cache.alike(entry) else { continue };
            match ask(&set.service, theirs).await {
                Ok(found) => return Ok(found),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed)
    }
}

impl Issuers<JwtService> {
    /// How many JWT-SVIDs are cached.
    pub fn cached(&self) -> usize {
        self.0.iter().map(|one| one.service.cached()).sum()
    }

    /// Somebody has a token of `trust_domain` whose key is not in its bundle: the servers are asked
    /// to fetch that bundle.
    pub async fn unknown_key(&self, trust_domain: &TrustDomain) {
        let reachable =
            |one: &&Issuer<JwtService>| self.0.len() == 1 || one.status.borrow().server_reachable;
        let asked = self.0.iter().filter(reachable);
        join_all(asked.map(|one| one.service.unknown_key(trust_domain))).await;
    }

    /// A JWT-SVID for `audience` of each of `entries`, from the first set that can give it.
    ///
    /// # Errors
    /// `Unavailable` when one cannot be had; it is logged.
    pub async fn fetch_all(
        &self,
        entries: impl IntoIterator<Item = Arc<AgentEntry>>,
        audience: &[String],
    ) -> Result<Vec<(Arc<AgentEntry>, JwtSvid)>, RpcStatus> {
        let mut found = Vec::new();
        for entry in entries {
            let svid = self.fetch(&entry, audience).await.map_err(|error| {
                tracing::error!(
                    spiffe_id = %entry.spiffe_id,
                    error = %error,
                    "Could not fetch JWT-SVID"
                );
                RpcStatus::unavailable(format!("could not fetch JWT-SVID: {error}"))
            })?;
            found.push((entry, svid));
        }
        Ok(found)
    }

    async fn fetch(&self, entry: &AgentEntry, audience: &[String]) -> Result<JwtSvid, ClientError> {
        if let [only] = self.0.as_slice() {
            return only.service.fetch(entry, audience).await;
        }
        let found = self
            .first(entry, |service, theirs| async move { service.fetch(&theirs, audience).await });
        let gone = || ClientError::Local("the entry is gone".to_owned());
        found.await.map_err(|failed| failed.unwrap_or_else(gone))
    }
}

impl Issuers<WitService> {
    /// A WIT-SVID of each of `entries`, from the first set that can give it; `own` is the bundle of
    /// the own trust domain.
    ///
    /// # Errors
    /// `Unavailable` when one cannot be had.
    pub async fn fetch(
        &self,
        entries: &[Arc<AgentEntry>],
        own: &Bundle,
    ) -> Result<Answer, RpcStatus> {
        if let [only] = self.0.as_slice() {
            return only.service.fetch(entries, own).await;
        }
        let mut all = Answer { svids: Vec::with_capacity(entries.len()), look_again: LOOK };
        for entry in entries {
            let found = self
                .first(entry, |service, theirs| async move { service.fetch(&[theirs], own).await });
            let gone = || RpcStatus::unavailable("could not fetch WIT-SVID");
            let answer = found.await.map_err(|failed| failed.unwrap_or_else(gone))?;
            all.look_again = all.look_again.min(answer.look_again);
            all.svids.extend(answer.svids.into_iter().map(|(_, svid)| (Arc::clone(entry), svid)));
        }
        Ok(all)
    }
}

/// How the agent stands with several sets as one, for ever. `identity` is what the agent presents to
/// those who are no server.
///
/// It has an SVID as long as one set gave it one that is valid. It serves once all sets have
/// something to serve, or one has had for a moment: a workload that starts with the agent should get
/// what all of them say.
pub async fn stand_as_one(
    sets: Vec<(String, watch::Receiver<Status>)>,
    status: watch::Sender<Status>,
    identity: Arc<SwappableIdentity>,
    clock: SharedClock,
) {
    let (names, mut sets): (Vec<_>, Vec<_>) = sets.into_iter().unzip();
    let mut serves_since: Option<Instant> = None;
    while !sets.is_empty() {
        let all: Vec<Status> = sets.iter_mut().map(|one| one.borrow_and_update().clone()).collect();
        if all.iter().any(|one| one.serving) {
            serves_since.get_or_insert_with(Instant::now);
        }
        let waited = serves_since.is_some_and(|since| since.elapsed() >= FIRST_ANSWER);
        let mut now = as_one(&names, &all, &clock);
        now.serving |= waited;
        status.send_modify(|before| {
            let old = before.identity.take();
            now.serving |= before.serving;
            if let Some(new) = &now.identity
                && !old.is_some_and(|old| Arc::ptr_eq(&old, new))
            {
                match new.tls() {
                    Ok(tls) => identity.set(tls),
                    Err(error) => tracing::error!(
                        error = %chain(&error),
                        "The agent's SVID cannot be presented"
                    ),
                }
            }
            *before = now;
        });
        let look = match serves_since {
            Some(_) if !status.borrow().serving => FIRST_ANSWER,
            _ => LOOK,
        };
        let changes = sets.iter_mut().map(|one| Box::pin(one.changed()));
        if let Ok((Err(_), ..)) = tokio::time::timeout(look, select_all(changes)).await {
            // A manager is gone: the program ends.
            return;
        }
    }
}

fn as_one(names: &[String], all: &[Status], clock: &SharedClock) -> Status {
    let now = clock.unix();
    let valid = all.iter().filter_map(|one| one.identity.as_ref());
    let identity = valid.clone().find(|identity| !identity.expired(now));
    let troubles: Vec<String> = names
        .iter()
        .zip(all)
        .filter_map(|(name, one)| Some(format!("server_set {name:?}: {}", one.trouble.as_ref()?)))
        .collect();
    Status {
        identity: identity.or_else(|| valid.max_by_key(|one| one.not_after())).cloned(),
        last_sync: all.iter().map(|one| one.last_sync).max().unwrap_or_default(),
        server_reachable: all.iter().any(|one| one.server_reachable),
        serving: all.iter().all(|one| one.serving),
        trouble: (!troubles.is_empty()).then(|| troubles.join("; ").into()),
    }
}
