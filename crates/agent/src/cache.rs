//! What workloads are served from: the entries of this agent, their X.509-SVIDs, the bundles,
//! and one shared update per selector set.
//!
//! The manager task ([`crate::sync`]) is the only writer. Readers subscribe with a selector set;
//! all readers of one set share a `watch` and, in it, one [`WorkloadUpdate`]: identities and
//! bundles as values. What an endpoint encodes of it is made once ([`Derived`]). Only the sets whose
//! update differs are woken.
//!
//! SVIDs are kept for at most `max_svids` entries (a soft limit: what a live subscription matches
//! is never dropped). What is not kept is signed when a subscription asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use signet_base::Clock;
use signet_identity::{Bundle, EntryId, SelectorSet, TrustDomain};
use signet_time::UnixTime;
use tokio::sync::{Notify, watch};

use crate::{
    entry::{AgentEntry, EntryMap},
    jwt_cache::{JwtKey, JwtSvid},
    rotation::RotationRule,
    svid::X509Svid,
    wit_cache::WitSvid,
};

mod bundles;
mod derived;
mod inner;
mod served;

pub(crate) use bundles::CacheBundles;
pub use derived::Derived;
use inner::Inner;
pub use served::{Served, Subscription};

/// Bundles by trust domain, shared.
pub type BundleMap = BTreeMap<TrustDomain, Arc<Bundle>>;

/// An entry together with its SVID.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The entry.
    pub entry: Arc<AgentEntry>,
    /// Its SVID, valid when the update was made.
    pub svid: Arc<X509Svid>,
}

/// Everything a workload with certain selectors gets.
#[derive(Debug)]
pub struct WorkloadUpdate {
    /// Identities in the order of their entry IDs, before equal hints are sorted out.
    pub identities: Vec<Identity>,
    /// How many entries match; more than `identities` when an SVID could not be had.
    pub matched: usize,
    /// The bundle of the agent's own trust domain.
    pub bundle: Arc<Bundle>,
    /// Bundles of the foreign trust domains the matching entries federate with, by name.
    pub federated: Vec<Arc<Bundle>>,
    /// What the endpoints encoded of it, once for all their readers.
    pub derived: Derived,
}

impl WorkloadUpdate {
    fn says_the_same(&self, other: &Self) -> bool {
        let same_bundle = |a: &Arc<Bundle>, b: &Arc<Bundle>| Arc::ptr_eq(a, b) || a.same_content(b);
        self.matched == other.matched
            && self.identities.len() == other.identities.len()
            && self.identities.iter().zip(&other.identities).all(|(a, b)| {
                Arc::ptr_eq(&a.svid, &b.svid)
                    && (Arc::ptr_eq(&a.entry, &b.entry) || a.entry == b.entry)
            })
            && same_bundle(&self.bundle, &other.bundle)
            && self.federated.len() == other.federated.len()
            && self.federated.iter().zip(&other.federated).all(|(a, b)| same_bundle(a, b))
    }
}

/// An entry that needs a (new) SVID.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The entry.
    pub entry: Arc<AgentEntry>,
    /// When the present SVID expires, if there is one.
    pub expires_at: Option<UnixTime>,
}

/// What an update of the entries changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryChanges {
    /// Entries that are new.
    pub created: usize,
    /// Entries whose content changed.
    pub updated: usize,
    /// Entries that are gone.
    pub removed: usize,
    /// Whether a bundle was added, changed or removed.
    pub bundles: bool,
}

impl EntryChanges {
    /// Whether nothing changed.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Entries, SVIDs and bundles as they can be put away and restored.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Entries by ID.
    pub entries: EntryMap,
    /// Bundles by trust domain.
    pub bundles: BundleMap,
    /// SVIDs by entry ID.
    pub svids: BTreeMap<EntryId, Arc<X509Svid>>,
    /// JWT-SVIDs, those used last first. The cache has none: whoever puts the snapshot away adds
    /// them.
    pub jwt_svids: Vec<(JwtKey, JwtSvid)>,
    /// WIT-SVIDs by entry ID, those used last first; as the JWT-SVIDs, from elsewhere.
    pub wit_svids: Vec<(EntryId, Arc<WitSvid>)>,
}

/// The cache. Shared by `Arc`.
#[derive(Debug)]
pub struct Cache {
    inner: Mutex<Inner>,
    bundles: watch::Sender<Arc<BundleMap>>,
    demand: Notify,
    clock: Arc<dyn Clock>,
    max_svids: usize,
}

impl Cache {
    /// A cache for an agent of `bundle`'s trust domain, keeping about `max_svids` SVIDs.
    pub fn new(bundle: Arc<Bundle>, max_svids: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        let bundles = BundleMap::from([(bundle.trust_domain.clone(), Arc::clone(&bundle))]);
        Arc::new(Self {
            inner: Mutex::new(Inner::new(bundle.trust_domain.clone(), bundles.clone())),
            bundles: watch::Sender::new(Arc::new(bundles)),
            demand: Notify::new(),
            clock,
            max_svids: max_svids.max(1),
        })
    }

    /// Subscribes to what a workload with `selectors` gets. Cheap when the set is known.
    pub fn subscribe(self: &Arc<Self>, selectors: SelectorSet) -> SetSubscription {
        let now = self.clock.unix();
        let (selectors, receiver, pending) = self.lock().join(selectors, now);
        if pending {
            self.demand.notify_one();
        }
        SetSubscription { cache: Arc::clone(self), selectors, receiver, fresh: true }
    }

    /// Completes when some subscription lacks an SVID that must be signed first.
    pub async fn demanded(&self) {
        self.demand.notified().await;
    }

    /// The entry here that gives the same identity to the same workloads as `entry`.
    pub fn alike(&self, entry: &AgentEntry) -> Option<Arc<AgentEntry>> {
        let mut matching = self.lock().matching(&entry.selectors).into_iter();
        matching.find(|one| one.says_the_same(entry))
    }

    /// Forgets everything, the own bundle too.
    pub fn forget(&self) {
        let own = Bundle::empty(self.own_bundle().trust_domain.clone());
        let own = BundleMap::from([(own.trust_domain.clone(), Arc::new(own))]);
        self.update(&EntryMap::new(), own);
    }

    /// The entries a workload with `selectors` matches, in the order of their IDs.
    pub fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<AgentEntry>> {
        self.lock().matching(selectors)
    }

    /// The bundles with which a workload with `selectors` validates: the own one first.
    pub fn bundles_for(&self, selectors: &SelectorSet) -> Vec<Arc<Bundle>> {
        let inner = self.lock();
        let matched = inner.matching(selectors);
        let (own, federated) = inner.bundles_of(&matched);
        std::iter::once(own).chain(federated).collect()
    }

    /// All bundles, now and whenever one changes.
    pub fn watch_bundles(&self) -> watch::Receiver<Arc<BundleMap>> {
        self.bundles.subscribe()
    }

    /// The bundle of the agent's own trust domain.
    pub fn own_bundle(&self) -> Arc<Bundle> {
        self.lock().own_bundle()
    }

    /// Replaces entries and bundles by what the server says now and wakes the sets concerned.
    ///
    /// The own bundle stays when `bundles` lacks it: it is needed to know the server again. A
    /// changed entry is to be signed anew; until that has succeeded or failed, its readers see
    /// nothing of the change.
    pub fn update(&self, entries: &EntryMap, bundles: BundleMap) -> EntryChanges {
        let now = self.clock.unix();
        let mut inner = self.lock();
        let changes = inner.update(entries, bundles, now);
        if changes.bundles {
            let all = Arc::new(inner.bundles().clone());
            self.bundles.send_replace(all);
        }
        changes
    }

    /// Stores what signing brought: an SVID, or `None` where it failed.
    pub fn put(&self, signed: Vec<(EntryId, Option<Arc<X509Svid>>)>) {
        let now = self.clock.unix();
        self.lock().put(signed, now);
    }

    /// Marks for replacement the SVIDs for which `tainted` holds; returns how many. They are not
    /// given to new subscribers unless signing fails.
    pub fn taint(&self, tainted: impl Fn(&X509Svid) -> bool) -> usize {
        self.lock().taint(tainted)
    }

    /// Entries that need signing: those with live subscriptions first, then those used last, as
    /// many as the cache keeps. Drops the SVIDs used longest ago when there are too many.
    pub fn wanted(&self, rule: RotationRule) -> Vec<Wanted> {
        let now = self.clock.unix();
        self.lock().wanted(now, rule, self.max_svids)
    }

    /// When the next SVID becomes due, Unix seconds; none when nothing is kept.
    pub fn next_due(&self, rule: RotationRule) -> Option<UnixTime> {
        self.lock().next_due(rule)
    }

    /// Everything worth keeping over a restart.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    /// All entries in the order of their IDs.
    pub fn entries(&self) -> Vec<Arc<AgentEntry>> {
        self.lock().entries()
    }

    /// How many SVIDs are kept.
    pub fn svid_count(&self) -> usize {
        self.lock().svid_count()
    }

    /// When the first of the SVIDs that are kept expires, Unix seconds.
    pub fn next_expiry(&self) -> Option<UnixTime> {
        self.lock().next_expiry()
    }

    /// How many entries there are.
    pub fn entry_count(&self) -> usize {
        self.lock().entry_count()
    }

    /// How many subscriptions are open.
    pub fn subscriber_count(&self) -> usize {
        self.lock().subscriber_count()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic inside would be a bug of ours; the maps stay usable and the agent must serve.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live subscription to one cache; dropping it ends it.
#[derive(Debug)]
pub struct SetSubscription {
    cache: Arc<Cache>,
    selectors: Arc<SelectorSet>,
    receiver: watch::Receiver<Option<Arc<WorkloadUpdate>>>,
    fresh: bool,
}

impl SetSubscription {
    /// The first update once it is complete, then each one that differs from the last.
    /// None when the cache is gone.
    pub async fn next(&mut self) -> Option<Arc<WorkloadUpdate>> {
        if !self.fresh {
            self.receiver.changed().await.ok()?;
        }
        self.fresh = false;
        let update = self.receiver.wait_for(Option::is_some).await.ok()?.clone();
        self.receiver.mark_unchanged();
        update
    }

    /// The update if it is complete at once.
    pub fn ready(&mut self) -> Option<Arc<WorkloadUpdate>> {
        let update = self.receiver.borrow_and_update().clone();
        if update.is_some() {
            self.fresh = false;
        }
        update
    }

    /// The selector set subscribed with.
    pub fn selectors(&self) -> &SelectorSet {
        &self.selectors
    }
}

impl Drop for SetSubscription {
    fn drop(&mut self) {
        self.cache.lock().leave(&self.selectors);
    }
}

#[cfg(test)]
mod tests;
