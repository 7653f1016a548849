//! What those who serve see: the caches of all server sets as one.
//!
//! Each set has a [`Cache`] of its own, which knows nothing of the others; here they are merged
//! whenever somebody looks. Entries of several sets with the same SPIFFE ID and selectors are one
//! identity. Bundles are the union. An agent with one set, as nearly all are, looks through this at
//! its only cache.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::select_all;
use signet_base::SharedClock;
use signet_identity::{Bundle, JwtAuthority, SelectorSet, SpiffeId, X509Authority};
use signet_time::UnixTime;
use tokio::{sync::watch, time::Instant};

use super::{BundleMap, Cache, Identity, SetSubscription, Snapshot, WorkloadUpdate};
use crate::{entry::AgentEntry, rotation::RotationRule, svid::X509Svid};

/// How long a workload waits for what one set has yet to have signed, when others have something for
/// it: a set that is away signs nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest that nobody looks whether an SVID was not renewed in time: clocks jump.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// The caches of all server sets, in the order of the configuration. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Served(Arc<Sets>);

#[derive(Debug)]
struct Sets {
    first: Arc<Cache>,
    others: Vec<Arc<Cache>>,
    rule: RotationRule,
    clock: SharedClock,
    /// The bundles of all sets; unused where there is one.
    bundles: watch::Sender<Arc<BundleMap>>,
}

/// What one workload gets of all sets; dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    served: Served,
    first: Part,
    others: Vec<Part>,
    begun: Instant,
    /// What was given last; unused where there is one set.
    last: Option<Arc<WorkloadUpdate>>,
}

#[derive(Debug)]
struct Part {
    subscription: SetSubscription,
    update: Option<Arc<WorkloadUpdate>>,
}

impl Served {
    /// The caches of the server sets: of the first, and of the others if there are any.
    pub fn new(
        first: Arc<Cache>,
        others: Vec<Arc<Cache>>,
        rule: RotationRule,
        clock: SharedClock,
    ) -> Self {
        let bundles = watch::Sender::new(Arc::default());
        let served = Self(Arc::new(Sets { first, others, rule, clock, bundles }));
        served.merge_bundles();
        served
    }

    /// The only cache, unless there are several.
    fn only(&self) -> Option<&Arc<Cache>> {
        self.0.others.is_empty().then_some(&self.0.first)
    }

    fn caches(&self) -> impl Iterator<Item = &Arc<Cache>> {
        std::iter::once(&self.0.first).chain(&self.0.others)
    }

    /// Subscribes to what a workload with `selectors` gets. Cheap when the set is known.
    pub fn subscribe(&self, selectors: SelectorSet) -> Subscription {
        let part = |cache: &Arc<Cache>, selectors| Part {
            subscription: cache.subscribe(selectors),
            update: None,
        };
        let others = self.0.others.iter().map(|cache| part(cache, selectors.clone())).collect();
        let first = part(&self.0.first, selectors);
        Subscription { served: self.clone(), first, others, begun: Instant::now(), last: None }
    }

    /// The entries a workload with `selectors` matches, in the order of their IDs.
    pub fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<AgentEntry>> {
        match self.only() {
            Some(cache) => cache.matching(selectors),
            None => distinct(self.caches().flat_map(|cache| cache.matching(selectors))),
        }
    }

    /// All entries in the order of their IDs.
    pub fn entries(&self) -> Vec<Arc<AgentEntry>> {
        match self.only() {
            Some(cache) => cache.entries(),
            None => distinct(self.caches().flat_map(|cache| cache.entries())),
        }
    }

    /// The bundles with which a workload with `selectors` validates: the own one first.
    pub fn bundles_for(&self, selectors: &SelectorSet) -> Vec<Arc<Bundle>> {
        let mut merged = self.0.first.bundles_for(selectors);
        for cache in &self.0.others {
            merge_into(&mut merged, &cache.bundles_for(selectors));
        }
        merged
    }

    /// All bundles, now and whenever one changes.
    pub fn watch_bundles(&self) -> watch::Receiver<Arc<BundleMap>> {
        match self.only() {
            Some(cache) => cache.watch_bundles(),
            None => self.0.bundles.subscribe(),
        }
    }

    /// The bundle of the agent's own trust domain.
    pub fn own_bundle(&self) -> Arc<Bundle> {
        let others = self.0.others.iter().map(|cache| cache.own_bundle());
        others.fold(self.0.first.own_bundle(), |merged, own| union(&merged, &own))
    }

    /// Keeps [`Served::watch_bundles`] up to date, for ever; needed where there are several sets.
    pub async fn follow_bundles(self) {
        let mut all: Vec<_> = self.caches().map(|cache| cache.watch_bundles()).collect();
        while !all.is_empty() {
            all.iter_mut().for_each(watch::Receiver::mark_unchanged);
            self.merge_bundles();
            let changes = all.iter_mut().map(|one| Box::pin(one.changed()));
            let (changed, ..) = select_all(changes).await;
            if changed.is_err() {
                return;
            }
        }
    }

    fn merge_bundles(&self) {
        if self.only().is_some() {
            return;
        }
        let mut merged = BundleMap::new();
        for cache in self.caches() {
            for (name, bundle) in cache.watch_bundles().borrow().iter() {
                merged
                    .entry(name.clone())
                    .and_modify(|known| *known = union(known, bundle))
                    .or_insert_with(|| Arc::clone(bundle));
            }
        }
        self.0.bundles.send_if_modified(|known| {
            let same = known.len() == merged.len()
                && known.iter().all(|(name, known)| {
                    merged.get(name).is_some_and(|now| known.same_content(now))
                });
            if !same {
                *known = Arc::new(merged);
            }
            !same
        });
    }

    /// Everything that is held, by entry ID. What sets hold under the same ID is shown of the first.
    pub fn snapshot(&self) -> Snapshot {
        let mut merged = self.0.first.snapshot();
        for snapshot in self.0.others.iter().map(|cache| cache.snapshot()) {
            for (id, entry) in snapshot.entries {
                merged.entries.entry(id).or_insert(entry);
            }
            for (id, svid) in snapshot.svids {
                merged.svids.entry(id).or_insert(svid);
            }
        }
        merged
    }

    /// How many SVIDs are kept.
    pub fn svid_count(&self) -> usize {
        self.caches().map(|cache| cache.svid_count()).sum()
    }

    /// When the first of the SVIDs that are kept expires, Unix seconds.
    pub fn next_expiry(&self) -> Option<UnixTime> {
        self.caches().filter_map(|cache| cache.next_expiry()).min()
    }

    /// How many entries are kept, each as often as a set has it.
    pub fn entry_count(&self) -> usize {
        self.caches().map(|cache| cache.entry_count()).sum()
    }

    /// How many subscriptions are open.
    pub fn subscriber_count(&self) -> usize {
        self.0.first.subscriber_count()
    }
}

impl Subscription {
    /// The first update once it is complete, then each one that differs from the last.
    /// None when the cache is gone.
    pub async fn next(&mut self) -> Option<Arc<WorkloadUpdate>> {
        if self.others.is_empty() {
            return self.first.subscription.next().await;
        }
        if self.last.is_none() {
            self.look();
        }
        loop {
            let now = self.served.0.clock.unix();
            let (merged, look_at) = self.merged(now);
            if let Some(merged) = merged
                && !self.last.as_ref().is_some_and(|last| last.says_the_same(&merged))
            {
                self.last = Some(Arc::clone(&merged));
                return Some(merged);
            }
            let left = look_at.map_or(LONGEST_LOOK, |at| {
                Duration::from_secs(u64::try_from(at - now).unwrap_or(0)).min(LONGEST_LOOK)
            });
            let parts = std::iter::once(&mut self.first).chain(&mut self.others);
            let updates = parts.map(|part| Box::pin(part.subscription.next()));
            // Not shorter: what is late stays late.
            let look = tokio::time::timeout(left.max(Duration::from_secs(1)), select_all(updates));
            let found = look.await.ok().map(|(update, of, _)| (update, of));
            if let Some((update, of)) = found
                && let Some(part) = self.parts_mut().nth(of)
            {
                part.update = Some(update?);
            }
        }
    }

    /// The update if it is complete at once.
    pub fn ready(&mut self) -> Option<Arc<WorkloadUpdate>> {
        if self.others.is_empty() {
            return self.first.subscription.ready();
        }
        self.look();
        let (merged, _) = self.merged(self.served.0.clock.unix());
        if merged.is_some() {
            self.last.clone_from(&merged);
        }
        merged
    }

    /// The selector set subscribed with.
    pub fn selectors(&self) -> &SelectorSet {
        self.first.subscription.selectors()
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        std::iter::once(&mut self.first).chain(&mut self.others)
    }

    /// Takes what each set has ready.
    fn look(&mut self) {
        for part in self.parts_mut() {
            if let Some(update) = part.subscription.ready() {
                part.update = Some(update);
            }
        }
    }

    /// What all sets say together, and when to look again; none while an identity is still to be
    /// signed that no set has, unless that takes too long.
    fn merged(&self, now: UnixTime) -> (Option<Arc<WorkloadUpdate>>, Option<UnixTime>) {
        let parts = || std::iter::once(&self.first).chain(&self.others);
        let updates: Vec<_> = parts().filter_map(|part| part.update.as_ref()).collect();
        let Some((first, others)) = updates.split_first() else { return (None, None) };
        let (mut merged, look_at) = merge(first, others, now, self.served.0.rule);
        let is_signed =
            |entry: &AgentEntry| merged.identities.iter().any(|one| one.entry.says_the_same(entry));
        let unsaid = || {
            let all = parts().zip(self.served.caches());
            all.filter(|(part, _)| part.update.is_none()).map(|(_, cache)| cache)
        };
        let waits = unsaid()
            .any(|cache| !cache.matching(self.selectors()).iter().all(|entry| is_signed(entry)));
        if waits && self.begun.elapsed() < PATIENCE {
            return (None, Some(now));
        }
        // Bundles need nobody's signature.
        for cache in unsaid() {
            let bundles = cache.bundles_for(self.selectors());
            if let Some((own, federated)) = bundles.split_first() {
                merged.bundle = union(&merged.bundle, own);
                merge_into(&mut merged.federated, federated);
            }
        }
        merged.federated.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
        // All readers of these selectors share it, as they share what it was made of.
        let shared = first.derived.of::<Shared>();
        let mut shared = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !shared.as_ref().is_some_and(|known| known.says_the_same(&merged)) {
            *shared = Some(Arc::new(merged));
        }
        (shared.clone(), look_at)
    }
}

/// What was merged of an update of the first set and those of the others, last.
#[derive(Default)]
struct Shared(Mutex<Option<Arc<WorkloadUpdate>>>);

/// One update of those of all sets, and when an SVID in it is late.
///
/// The identity of several entries with the same SPIFFE ID and selectors is given once, with the
/// entry of the first set that has it, so that neither order nor hint changes with the set that
/// signs. Of their SVIDs, that of the first set is taken which was renewed in time, else the one that
/// is valid for longest.
fn merge(
    first: &Arc<WorkloadUpdate>,
    others: &[&Arc<WorkloadUpdate>],
    now: UnixTime,
    rule: RotationRule,
) -> (WorkloadUpdate, Option<UnixTime>) {
    let updates = || std::iter::once(first).chain(others.iter().copied());
    let mut known: HashMap<(&SpiffeId, &SelectorSet), usize> = HashMap::new();
    let mut groups: Vec<Vec<&Identity>> = Vec::new();
    for identity in updates().flat_map(|update| &update.identities) {
        let key = (&identity.entry.spiffe_id, &identity.entry.selectors);
        let at = *known.entry(key).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(at) {
            group.push(identity);
        }
    }
    let mut look_at: Option<UnixTime> = None;
    let mut identities: Vec<Identity> = Vec::with_capacity(groups.len());
    for group in &groups {
        let in_time = group.iter().find(|one| now < late_at(&one.svid, rule));
        let longest = || group.iter().max_by_key(|one| one.svid.not_after);
        let (Some(first), Some(chosen)) = (group.first(), in_time.or_else(longest)) else {
            continue;
        };
        if group.len() > 1 && in_time.is_some() {
            let late = late_at(&chosen.svid, rule);
            look_at = Some(look_at.map_or(late, |at| at.min(late)));
        }
        let (entry, svid) = (Arc::clone(&first.entry), Arc::clone(&chosen.svid));
        identities.push(Identity { entry, svid });
    }
    identities.sort_by(|a, b| a.entry.id.cmp(&b.entry.id));
    let bundle = others
        .iter()
        .fold(Arc::clone(&first.bundle), |merged, update| union(&merged, &update.bundle));
    let mut federated = first.federated.clone();
    for update in others {
        merge_into(&mut federated, &update.federated);
    }
    let matched = updates().map(|update| update.matched).max().unwrap_or(0);
    let matched = matched.max(identities.len());
    (
        WorkloadUpdate { identities, matched, bundle, federated, derived: Default::default() },
        look_at,
    )
}

/// When an SVID should have been renewed for a while: a quarter of what is left from when it is due.
fn late_at(svid: &X509Svid, rule: RotationRule) -> UnixTime {
    let due = svid.due_at(rule);
    due + (svid.not_after - due).max(0) / 4
}

/// Entries without those that say the same as one of an earlier set, in the order of their IDs.
fn distinct(all: impl Iterator<Item = Arc<AgentEntry>>) -> Vec<Arc<AgentEntry>> {
    let mut known: HashSet<(SpiffeId, SelectorSet)> = HashSet::new();
    let mut kept: Vec<Arc<AgentEntry>> = all
        .filter(|entry| known.insert((entry.spiffe_id.clone(), entry.selectors.clone())))
        .collect();
    kept.sort_by(|a, b| a.id.cmp(&b.id));
    kept
}

fn merge_into(merged: &mut Vec<Arc<Bundle>>, more: &[Arc<Bundle>]) {
    for bundle in more {
        match merged.iter_mut().find(|one| one.trust_domain == bundle.trust_domain) {
            Some(known) => *known = union(known, bundle),
            None => merged.push(Arc::clone(bundle)),
        }
    }
}

/// Both bundles of one trust domain in one: every authority once, and tainted where one of them says
/// so. `a` itself where `b` adds nothing.
fn union(a: &Arc<Bundle>, b: &Arc<Bundle>) -> Arc<Bundle> {
    if Arc::ptr_eq(a, b) || a.same_content(b) || is_empty(b) {
        return Arc::clone(a);
    }
    if is_empty(a) {
        return Arc::clone(b);
    }
    let mut x509: Vec<X509Authority> = a.x509_authorities.clone();
    let mut at: BTreeMap<Arc<[u8]>, usize> =
        x509.iter().enumerate().map(|(n, one)| (Arc::clone(&one.der), n)).collect();
    for authority in &b.x509_authorities {
        match at.get(&authority.der).and_then(|n| x509.get_mut(*n)) {
            Some(known) => known.tainted |= authority.tainted,
            None => {
                at.insert(Arc::clone(&authority.der), x509.len());
                x509.push(authority.clone());
            }
        }
    }
    let merged = Bundle {
        trust_domain: a.trust_domain.clone(),
        x509_authorities: x509,
        jwt_authorities: keys(&a.jwt_authorities, &b.jwt_authorities),
        wit_authorities: keys(&a.wit_authorities, &b.wit_authorities),
        refresh_hint: match (a.refresh_hint, b.refresh_hint) {
            (0, hint) | (hint, 0) => hint,
            (one, other) => one.min(other),
        },
        // It grows with each of them.
        sequence_number: a.sequence_number.saturating_add(b.sequence_number),
    };
    if merged.same_content(a) { Arc::clone(a) } else { Arc::new(merged) }
}

fn is_empty(bundle: &Bundle) -> bool {
    bundle.x509_authorities.is_empty()
        && bundle.jwt_authorities.is_empty()
        && bundle.wit_authorities.is_empty()
}

fn keys(a: &[JwtAuthority], b: &[JwtAuthority]) -> Vec<JwtAuthority> {
    let mut all = a.to_vec();
    for key in b {
        match all.iter_mut().find(|one| one.key_id == key.key_id) {
            Some(known) => known.tainted |= key.tainted,
            None => all.push(key.clone()),
        }
    }
    all
}
