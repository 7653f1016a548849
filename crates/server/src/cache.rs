//! What the server answers from memory: entries, node selectors, agents' serial numbers, bundles.
//!
//! One task, [`Follower`], reads the store's change feed and writes; everyone else reads. A reader
//! that must not miss a change that was committed before it was asked (a ban, a deletion) first
//! awaits [`Cache::fresh`].
//!
//! Two places of the feed are told apart: what is *committed*, by whichever server, which the
//! database says; and what is *applied*, which this memory reflects. A refusal, a ban and an
//! administrator's right are judged by the first.
//!
//! A server with a million entries takes seconds to read them. Until they are in memory, what is
//! asked of one agent or one SPIFFE ID is read from the store each time.

mod follow;
mod load;
mod node;
mod walk;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use signet_identity::{
    AuthorizedIndex, Bundle, Entry, EntryId, SelectorSet, SpiffeId, TrustDomain, tenant::Directory,
};
use signet_pki::{
    tls::BundleSource,
    x509::{Certificate, TrustBundle},
};
use signet_store::{FeedPosition, Store, StoreError};
use signet_time::UnixTime;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

pub use follow::Follower;
pub use node::NodeRow;

/// How long a reader waits for the feed, or for the entries to be read, before it gives up.
const FRESH_DEADLINE: Duration = Duration::from_secs(5);
/// How many callers are answered from the store at a time while it is being read into memory: more
/// would hold up the reading, which helps them all.
const LOOKUPS: usize = 2;

/// Why memory cannot be brought up to what is committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotFresh {
    /// The feed did not catch up in time.
    #[error("the registration store does not answer")]
    Late,
    /// The server has started a moment ago.
    #[error("the registration entries are still being read")]
    Loading,
    /// The database cannot be asked.
    #[error("the registration store does not answer")]
    Store(#[from] StoreError),
}

/// A bundle as it was last read.
#[derive(Debug)]
pub struct CachedBundle {
    /// The bundle.
    pub bundle: Bundle,
    /// Its X.509 authorities, prepared for verification; `None` when they cannot be read.
    pub trust: Option<Arc<TrustBundle>>,
}

/// When agents expire; see [`Cache::agent_expiries`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentExpiries {
    /// How many agents there are.
    pub known: usize,
    /// How many have expired.
    pub expired: usize,
    /// When the next one expires.
    pub next: Option<UnixTime>,
}

/// The newest change of each kind that concerns a subscriber; revisions of the store's feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revisions {
    /// Entries (for an agent: its own).
    pub entries: u64,
    /// Bundles.
    pub bundles: u64,
    /// Federation relationships.
    pub relationships: u64,
    /// Attested agents.
    pub agents: u64,
}

/// The memory of the server. Share it in an `Arc`.
pub struct Cache {
    store: Store,
    trust_domain: TrustDomain,
    /// `None` until everything was read for the first time.
    mirror: RwLock<Option<Mirror>>,
    is_loaded: watch::Sender<bool>,
    lookups: Semaphore,
    bundles: ArcSwap<HashMap<TrustDomain, Arc<CachedBundle>>>,
    /// The place of the feed that everything above reflects.
    applied: watch::Sender<FeedPosition>,
    /// When the store was last seen to work.
    contact: Mutex<Instant>,
    all: watch::Sender<Revisions>,
    agents: Mutex<HashMap<SpiffeId, watch::Sender<Revisions>>>,
}

struct Mirror {
    index: AuthorizedIndex,
    nodes: HashMap<SpiffeId, NodeRow>,
    directory: Directory,
}

/// What a reader asks about.
#[derive(Clone, Copy)]
enum About<'a> {
    /// The entries that this agent is authorised for.
    Agent(&'a SpiffeId),
    /// The entries that issue this ID.
    Issuing(&'a SpiffeId),
}

impl Cache {
    /// Reads the bundles from the store, and answers with the task that reads everything else and
    /// keeps it current.
    ///
    /// # Errors
    /// [`signet_store::StoreError`] when the store cannot be read.
    pub async fn open(
        store: Store,
        trust_domain: TrustDomain,
    ) -> Result<(Arc<Self>, Follower), signet_store::StoreError> {
        let cache = Arc::new(Self {
            mirror: RwLock::new(None),
            is_loaded: watch::Sender::new(false),
            lookups: Semaphore::new(LOOKUPS),
            bundles: ArcSwap::default(),
            applied: watch::Sender::new(FeedPosition { epoch: "".into(), revision: 0 }),
            contact: Mutex::new(Instant::now()),
            all: watch::Sender::new(Revisions::default()),
            agents: Mutex::default(),
            store,
            trust_domain,
        });
        let follower = Follower::new(Arc::clone(&cache));
        follower.begin().await?;
        Ok((cache, follower))
    }

    /// Waits until every change that is committed now, by whichever server, is visible here.
    ///
    /// # Errors
    /// [`NotFresh`] when the database cannot be asked, or the feed does not catch up.
    pub async fn fresh(&self) -> Result<(), NotFresh> {
        let caught_up = async {
            let committed = self.store.committed().await?;
            if self.applied.borrow().has_reached(&committed) {
                return Ok(());
            }
            let mut applied = self.applied.subscribe();
            let reached = applied.wait_for(|applied| applied.has_reached(&committed)).await;
            reached.map(drop).map_err(|_| NotFresh::Late)
        };
        let answer = tokio::time::timeout(FRESH_DEADLINE, caught_up).await;
        answer.unwrap_or(Err(NotFresh::Late))
    }

    /// As [`Cache::fresh`]; but while the database is away, what is known counts as long as the
    /// store was seen to work within `max_staleness`. For answers that go on with what was so
    /// before: nothing that was asked of this server since then could have been stored.
    ///
    /// # Errors
    /// [`NotFresh`] when entries are not in memory yet, or memory has not caught up and the
    /// database has been away for longer.
    pub async fn fresh_or_away(&self, max_staleness: Duration) -> Result<(), NotFresh> {
        match self.fresh().await {
            Err(NotFresh::Store(StoreError::Unavailable { .. }))
                if self.staleness() <= max_staleness =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// How long ago the store was last seen to work.
    pub fn staleness(&self) -> Duration {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// The entries `agent` is authorised for, in no particular order.
    ///
    /// # Errors
    /// [`NotFresh`] while the entries are still being read and the store cannot be asked.
    pub async fn authorized(&self, agent: &SpiffeId) -> Result<Vec<Arc<Entry>>, NotFresh> {
        self.ask(About::Agent(agent), |index| index.authorized(agent)).await
    }

    /// Those of `ids` that `agent` is authorised for, in order; all as of one moment.
    ///
    /// # Errors
    /// As [`Self::authorized`].
    pub async fn entries_for_agent(
        &self,
        agent: &SpiffeId,
        ids: &[Option<EntryId>],
    ) -> Result<Vec<Option<Arc<Entry>>>, NotFresh> {
        self.ask(About::Agent(agent), |index| {
            ids.iter().map(|id| index.entry_for_agent(agent, id.as_ref()?)).collect()
        })
        .await
    }

    /// The entries that issue this SPIFFE ID.
    ///
    /// # Errors
    /// As [`Self::authorized`].
    pub async fn entries_of(&self, id: &SpiffeId) -> Result<Vec<Arc<Entry>>, NotFresh> {
        self.ask(About::Issuing(id), |index| index.entries_of(id).map(Arc::clone).collect()).await
    }

    /// Waits until everything was read, and what was committed before this call is visible.
    ///
    /// # Errors
    /// [`NotFresh`] when either takes too long, or the database cannot be asked.
    pub async fn current(&self) -> Result<(), NotFresh> {
        self.loaded().await?;
        self.fresh().await
    }

    /// Waits until everything is in memory.
    ///
    /// # Errors
    /// [`NotFresh::Loading`] when that takes too long.
    pub async fn loaded(&self) -> Result<(), NotFresh> {
        let loaded = tokio::time::timeout(FRESH_DEADLINE, self.when_loaded()).await;
        loaded.map_err(|_| NotFresh::Loading)
    }

    /// Whether everything is in memory.
    pub fn is_loaded(&self) -> bool {
        *self.is_loaded.borrow()
    }

    /// How many entries there are; 0 before they were read.
    pub fn entry_count(&self) -> usize {
        self.read().as_ref().map_or(0, |mirror| mirror.index.len())
    }

    /// How many agents there are; 0 before they were read.
    pub fn node_count(&self) -> usize {
        self.read().as_ref().map_or(0, |mirror| mirror.nodes.len())
    }

    /// How many agents there are, how many of them have expired at `now`, and when the next one
    /// does. Those that are banned do not count as expired.
    pub fn agent_expiries(&self, now: UnixTime) -> AgentExpiries {
        let mirror = self.read();
        let mut found = AgentExpiries::default();
        let Some(mirror) = &*mirror else { return found };
        found.known = mirror.nodes.len();
        for node in mirror.nodes.values().filter(|node| !node.serial_number.is_empty()) {
            if node.expires_at <= now {
                found.expired += 1;
            } else {
                found.next =
                    Some(found.next.map_or(node.expires_at, |next| next.min(node.expires_at)));
            }
        }
        found
    }

    /// When the last authority of each foreign bundle expires.
    pub fn foreign_expiries(&self) -> Vec<(TrustDomain, UnixTime)> {
        let bundles = self.bundles.load();
        let foreign = bundles.iter().filter(|(name, _)| **name != self.trust_domain);
        foreign
            .filter_map(|(name, bundle)| {
                let authorities = bundle.trust.as_ref()?.authorities();
                Some((name.clone(), authorities.iter().map(Certificate::not_after).max()?))
            })
            .collect()
    }

    /// How many changes this process knows to be committed that are not reflected here.
    pub fn behind(&self) -> u64 {
        self.store.known().revision.saturating_sub(self.revision())
    }

    /// The serial numbers of an agent, if it is known in memory.
    pub fn node(&self, agent: &SpiffeId) -> Option<NodeRow> {
        self.read().as_ref()?.nodes.get(agent).cloned()
    }

    /// The node selectors of an agent; none if it is not known in memory.
    pub fn node_selectors(&self, agent: &SpiffeId) -> SelectorSet {
        let selectors = self.with_index(|index| index.node_selectors(agent).cloned());
        selectors.flatten().unwrap_or_default()
    }

    /// Looks at the index while it stands still: keep it short. `None` before it was read.
    pub fn with_index<T>(&self, look: impl FnOnce(&AuthorizedIndex) -> T) -> Option<T> {
        self.read().as_ref().map(|mirror| look(&mirror.index))
    }

    /// Looks at the index and at what is kept about tenants while they stand still: keep it short.
    /// `None` before they were read.
    pub fn with_tenants<T>(
        &self,
        look: impl FnOnce(&AuthorizedIndex, &Directory) -> T,
    ) -> Option<T> {
        self.read().as_ref().map(|mirror| look(&mirror.index, &mirror.directory))
    }

    /// The bundle of a trust domain, own or foreign.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<CachedBundle>> {
        self.bundles.load().get(trust_domain).cloned()
    }

    /// The server's own bundle, once there is one.
    pub fn own_bundle(&self) -> Option<Arc<CachedBundle>> {
        self.bundle(&self.trust_domain)
    }

    /// How many bundles there are, the own one included.
    pub fn bundle_count(&self) -> usize {
        self.bundles.load().len()
    }

    /// The revision of the store that is reflected here.
    pub fn revision(&self) -> u64 {
        self.applied.borrow().revision
    }

    /// Names the history that revisions belong to.
    pub fn feed_id(&self) -> Arc<str> {
        Arc::clone(&self.applied.borrow().epoch)
    }

    /// The newest changes, now and as they come: those that concern `agent`, or all of them.
    pub fn subscribe(&self, agent: Option<&SpiffeId>) -> watch::Receiver<Revisions> {
        let Some(agent) = agent else { return self.all.subscribe() };
        let now = *self.all.borrow();
        let mut agents = self.subscribers();
        // Those whose streams have ended are forgotten here, so that the map stays as small as
        // the number of streams.
        if agents.len() % 64 == 63 {
            agents.retain(|_, sender| sender.receiver_count() > 0);
        }
        let sender = agents.entry(agent.clone()).or_insert_with(|| {
            watch::Sender::new(Revisions { relationships: 0, agents: 0, ..now })
        });
        sender.subscribe()
    }

    /// Answers from memory, or from what the store has of it while memory is being filled.
    async fn ask<T>(
        &self,
        about: About<'_>,
        look: impl Fn(&AuthorizedIndex) -> T,
    ) -> Result<T, NotFresh> {
        if let Some(answer) = self.with_index(&look) {
            return Ok(answer);
        }
        let asked = async {
            let _turn = tokio::select! {
                () = self.when_loaded() => None,
                turn = self.lookups.acquire() => turn.ok(),
            };
            if let Some(answer) = self.with_index(&look) {
                return Ok(answer);
            }
            if let Some(part) = load::part(&self.store, &self.trust_domain, about).await? {
                return Ok(look(&part));
            }
            self.when_loaded().await;
            self.with_index(&look).ok_or(NotFresh::Loading)
        };
        tokio::time::timeout(FRESH_DEADLINE, asked).await.unwrap_or(Err(NotFresh::Loading))
    }

    async fn when_loaded(&self) {
        // The sender is our own.
        _ = self.is_loaded.subscribe().wait_for(|is_loaded| *is_loaded).await;
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Option<Mirror>> {
        self.mirror.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Option<Mirror>> {
        self.mirror.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribers(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<SpiffeId, watch::Sender<Revisions>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saw_store(&self) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl BundleSource for Cache {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        self.bundles.load().get(trust_domain)?.trust.clone()
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache(revision {})", self.revision())
    }
}

#[cfg(test)]
mod tests;
