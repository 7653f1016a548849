//! The cache's state and the rules on it; the caller holds the lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use signet_identity::{Bundle, EntryId, Selector, SelectorSet, TrustDomain};
use signet_time::UnixTime;
use tokio::sync::watch;

use super::{BundleMap, Derived, EntryChanges, Identity, Snapshot, Wanted, WorkloadUpdate};
use crate::{
    entry::{AgentEntry, EntryMap},
    rotation::RotationRule,
    svid::X509Svid,
};

/// How many selector sets without readers are remembered with what was encoded for them.
const MAX_IDLE_GROUPS: usize = 128;

#[derive(Debug)]
pub(super) struct Inner {
    trust_domain: TrustDomain,
    records: BTreeMap<EntryId, Record>,
    /// Each entry under one of its selectors: a workload that matches the entry has that one.
    index: HashMap<Selector, BTreeSet<EntryId>>,
    groups: HashMap<Arc<SelectorSet>, Group>,
    bundles: BundleMap,
    tick: u64,
    svids: usize,
}

#[derive(Debug)]
struct Record {
    entry: Arc<AgentEntry>,
    indexed_under: Option<Selector>,
    svid: Option<Arc<X509Svid>>,
    /// The SVID is tainted or the entry changed since it was signed.
    replace: bool,
    /// The last attempt to sign failed: readers need not wait for it.
    failed: bool,
    used: u64,
}

#[derive(Debug)]
struct Group {
    readers: usize,
    tx: watch::Sender<Option<Arc<WorkloadUpdate>>>,
    left_at: u64,
}

impl Record {
    fn usable(&self, now: UnixTime) -> Option<&Arc<X509Svid>> {
        self.svid.as_ref().filter(|svid| {
            !svid.expired(now)
                && svid.spiffe_id == self.entry.spiffe_id
                && (!self.replace || self.failed)
        })
    }

    fn pending(&self, now: UnixTime) -> bool {
        !self.failed && self.usable(now).is_none()
    }
}

impl Inner {
    pub(super) fn new(trust_domain: TrustDomain, bundles: BundleMap) -> Self {
        Self {
            trust_domain,
            records: BTreeMap::new(),
            index: HashMap::new(),
            groups: HashMap::new(),
            bundles,
            tick: 0,
            svids: 0,
        }
    }

    pub(super) fn join(
        &mut self,
        selectors: SelectorSet,
        now: UnixTime,
    ) -> (Arc<SelectorSet>, watch::Receiver<Option<Arc<WorkloadUpdate>>>, bool) {
        self.tick += 1;
        let tick = self.tick;
        let known = self.groups.get_key_value(&selectors).map(|(key, _)| Arc::clone(key));
        let key = known.unwrap_or_else(|| Arc::new(selectors));
        let ids = self.matching_ids(&key);
        for id in &ids {
            if let Some(record) = self.records.get_mut(id) {
                record.used = tick;
            }
        }
        // A known answer is used again while nothing in it has expired; an idle set also asks anew
        // for what could not be signed before.
        let stale = self.groups.get(&key).is_none_or(|group| {
            let answer = group.tx.borrow();
            answer.as_ref().is_none_or(|update| {
                update.identities.iter().any(|identity| identity.svid.expired(now))
                    || (group.readers == 0 && update.identities.len() != update.matched)
            })
        });
        if stale {
            let next = self.build(&ids, now);
            let group = self.groups.entry(Arc::clone(&key)).or_insert_with(|| Group {
                readers: 0,
                tx: watch::Sender::new(None),
                left_at: tick,
            });
            group.tx.send_replace(next.map(Arc::new));
        }
        let pending = ids.iter().any(|id| self.records.get(id).is_some_and(|r| r.pending(now)));
        let receiver = match self.groups.get_mut(&key) {
            Some(group) => {
                group.readers += 1;
                group.tx.subscribe()
            }
            None => watch::Sender::new(None).subscribe(),
        };
        (key, receiver, pending)
    }

    pub(super) fn leave(&mut self, selectors: &Arc<SelectorSet>) {
        self.tick += 1;
        let Some(group) = self.groups.get_mut(selectors) else { return };
        group.readers = group.readers.saturating_sub(1);
        group.left_at = self.tick;
        if group.readers == 0 && group.tx.borrow().is_none() {
            self.groups.remove(selectors);
            return;
        }
        // Idle sets are few against live ones; look for the oldest only when there may be too many.
        if group.readers == 0 && self.groups.len() > MAX_IDLE_GROUPS {
            let idle = self.groups.values().filter(|group| group.readers == 0).count();
            if idle > MAX_IDLE_GROUPS {
                let oldest = self
                    .groups
                    .iter()
                    .filter(|(_, group)| group.readers == 0)
                    .min_by_key(|(_, group)| group.left_at)
                    .map(|(key, _)| Arc::clone(key));
                if let Some(oldest) = oldest {
                    self.groups.remove(&oldest);
                }
            }
        }
    }

    pub(super) fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<AgentEntry>> {
        self.matching_ids(selectors)
            .iter()
            .filter_map(|id| self.records.get(id))
            .map(|record| Arc::clone(&record.entry))
            .collect()
    }

    /// The own bundle and those the entries federate with, by trust domain.
    pub(super) fn bundles_of(
        &self,
        entries: &[Arc<AgentEntry>],
    ) -> (Arc<Bundle>, Vec<Arc<Bundle>>) {
        let names: BTreeSet<&TrustDomain> = entries
            .iter()
            .flat_map(|entry| &entry.federates_with)
            .filter(|name| **name != self.trust_domain)
            .collect();
        let federated = names.into_iter().filter_map(|n| self.bundles.get(n)).cloned().collect();
        (self.own_bundle(), federated)
    }

    pub(super) fn own_bundle(&self) -> Arc<Bundle> {
        let own = self.bundles.get(&self.trust_domain).cloned();
        own.unwrap_or_else(|| Arc::new(Bundle::empty(self.trust_domain.clone())))
    }

    pub(super) fn bundles(&self) -> &BundleMap {
        &self.bundles
    }

    pub(super) fn update(
        &mut self,
        entries: &EntryMap,
        bundles: BundleMap,
        now: UnixTime,
    ) -> EntryChanges {
        let mut changes = EntryChanges::default();
        let changed_bundles = self.replace_bundles(bundles);
        changes.bundles = !changed_bundles.is_empty();

        let mut touched: Vec<Arc<AgentEntry>> = Vec::new();
        let gone: Vec<EntryId> =
            self.records.keys().filter(|id| !entries.contains_key(*id)).cloned().collect();
        for id in gone {
            if let Some(record) = self.records.remove(&id) {
                self.unindex(&id, record.indexed_under.as_ref());
                self.svids -= usize::from(record.svid.is_some());
                tracing::debug!(entry = %id, spiffe_id = %record.entry.spiffe_id, "Entry removed");
                touched.push(record.entry);
                changes.removed += 1;
            }
        }
        for (id, entry) in entries {
            match self.records.get_mut(id) {
                Some(record) if Arc::ptr_eq(&record.entry, entry) || record.entry == *entry => {}
                Some(record) => {
                    let old = std::mem::replace(&mut record.entry, Arc::clone(entry));
                    record.failed = false;
                    record.replace |= record.svid.is_some()
                        && (old.revision_number != entry.revision_number
                            || old.created_at != entry.created_at);
                    if old.selectors != entry.selectors {
                        let under = record.indexed_under.take();
                        self.unindex(id, under.as_ref());
                        self.index(id, entry);
                    }
                    tracing::debug!(entry = %id, spiffe_id = %entry.spiffe_id, "Entry updated");
                    touched.push(old);
                    touched.push(Arc::clone(entry));
                    changes.updated += 1;
                }
                None => {
                    self.records.insert(
                        id.clone(),
                        Record {
                            entry: Arc::clone(entry),
                            indexed_under: None,
                            svid: None,
                            replace: false,
                            failed: false,
                            used: 0,
                        },
                    );
                    self.index(id, entry);
                    tracing::debug!(entry = %id, spiffe_id = %entry.spiffe_id, "Entry created");
                    touched.push(Arc::clone(entry));
                    changes.created += 1;
                }
            }
        }
        self.refresh(now, |inner, selectors| {
            changed_bundles.contains(&inner.trust_domain)
                || touched.iter().any(|entry| entry.selectors.is_subset_of(selectors))
                || (!changed_bundles.is_empty()
                    && inner
                        .matching(selectors)
                        .iter()
                        .any(|e| e.federates_with.iter().any(|td| changed_bundles.contains(td))))
        });
        changes
    }

    pub(super) fn put(&mut self, signed: Vec<(EntryId, Option<Arc<X509Svid>>)>, now: UnixTime) {
        let mut touched = Vec::new();
        for (id, svid) in signed {
            let Some(record) = self.records.get_mut(&id) else { continue };
            match svid {
                Some(svid) => {
                    self.svids += usize::from(record.svid.is_none());
                    record.svid = Some(svid);
                    record.replace = false;
                    record.failed = false;
                }
                None => record.failed = true,
            }
            touched.push(Arc::clone(&record.entry));
        }
        self.refresh(now, |_, selectors| {
            touched.iter().any(|entry| entry.selectors.is_subset_of(selectors))
        });
    }

    pub(super) fn taint(&mut self, tainted: impl Fn(&X509Svid) -> bool) -> usize {
        let mut count = 0;
        let mut touched = HashSet::new();
        for (id, record) in &mut self.records {
            if record.svid.as_ref().is_some_and(|svid| tainted(svid)) {
                record.replace = true;
                record.failed = false;
                touched.insert(id.clone());
                count += 1;
            }
        }
        // Idle answers must not outlive what they hold; live ones are replaced when signed.
        if count > 0 {
            self.groups.retain(|_, group| {
                group.readers > 0
                    || group.tx.borrow().as_ref().is_none_or(|update| {
                        !update.identities.iter().any(|i| touched.contains(&i.entry.id))
                    })
            });
        }
        count
    }

    pub(super) fn wanted(&mut self, now: UnixTime, rule: RotationRule, max: usize) -> Vec<Wanted> {
        let pinned = self.pinned();
        self.evict(&pinned, max);
        let mut wanted: Vec<(bool, u64, Wanted)> = Vec::new();
        let mut room = max.saturating_sub(self.svids);
        let mut unsigned: Vec<(u64, &Record)> = Vec::new();
        for (id, record) in &self.records {
            let live = pinned.contains(id);
            let want = || Wanted {
                entry: Arc::clone(&record.entry),
                expires_at: record.svid.as_ref().map(|svid| svid.not_after),
            };
            match &record.svid {
                Some(svid) => {
                    let due = record.replace
                        || svid.spiffe_id != record.entry.spiffe_id
                        || now >= svid.due_at(rule);
                    if due {
                        wanted.push((live, record.used, want()));
                    }
                }
                None if live => {
                    room = room.saturating_sub(1);
                    wanted.push((true, record.used, want()));
                }
                None if record.entry.disable_x509_svid_prefetch => {}
                None => unsigned.push((record.used, record)),
            }
        }
        unsigned.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
        wanted.extend(unsigned.into_iter().take(room).map(|(used, record)| {
            (false, used, Wanted { entry: Arc::clone(&record.entry), expires_at: None })
        }));
        wanted.sort_by_key(|(live, used, _)| (!*live, std::cmp::Reverse(*used)));
        wanted.into_iter().map(|(_, _, want)| want).collect()
    }

    pub(super) fn next_due(&self, rule: RotationRule) -> Option<UnixTime> {
        self.records
            .values()
            .filter_map(|record| record.svid.as_ref())
            .map(|svid| svid.due_at(rule))
            .min()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let svids = self.records.iter().filter(|(_, record)| !record.replace);
        Snapshot {
            entries: self
                .records
                .iter()
                .map(|(id, record)| (id.clone(), Arc::clone(&record.entry)))
                .collect(),
            bundles: self.bundles.clone(),
            svids: svids
                .filter_map(|(id, record)| Some((id.clone(), Arc::clone(record.svid.as_ref()?))))
                .collect(),
            jwt_svids: Vec::new(),
            wit_svids: Vec::new(),
        }
    }

    pub(super) fn entries(&self) -> Vec<Arc<AgentEntry>> {
        self.records.values().map(|record| Arc::clone(&record.entry)).collect()
    }

    pub(super) fn next_expiry(&self) -> Option<UnixTime> {
        let svids = self.records.values().filter_map(|record| record.svid.as_ref());
        svids.map(|svid| svid.not_after).min()
    }

    pub(super) fn svid_count(&self) -> usize {
        self.svids
    }

    pub(super) fn entry_count(&self) -> usize {
        self.records.len()
    }

    pub(super) fn subscriber_count(&self) -> usize {
        self.groups.values().map(|group| group.readers).sum()
    }

    /// Rebuilds the groups `concerned` names: live ones are woken if their update differs and is
    /// complete, idle ones are forgotten.
    fn refresh(&mut self, now: UnixTime, concerned: impl Fn(&Self, &SelectorSet) -> bool) {
        let keys: Vec<Arc<SelectorSet>> = self
            .groups
            .keys()
            .filter(|selectors| concerned(self, selectors))
            .map(Arc::clone)
            .collect();
        for key in keys {
            if self.groups.get(&key).is_some_and(|group| group.readers == 0) {
                self.groups.remove(&key);
                continue;
            }
            let ids = self.matching_ids(&key);
            let Some(next) = self.build(&ids, now) else { continue };
            let Some(group) = self.groups.get(&key) else { continue };
            group.tx.send_if_modified(|present| {
                let same = present.as_ref().is_some_and(|update| update.says_the_same(&next));
                if !same {
                    *present = Some(Arc::new(next));
                }
                !same
            });
        }
    }

    /// The update for the matching entries; none while an SVID is still to be signed.
    fn build(&self, ids: &[EntryId], now: UnixTime) -> Option<WorkloadUpdate> {
        let records: Vec<&Record> = ids.iter().filter_map(|id| self.records.get(id)).collect();
        if records.iter().any(|record| record.pending(now)) {
            return None;
        }
        let identities = records
            .iter()
            .filter_map(|record| {
                let svid = Arc::clone(record.usable(now)?);
                Some(Identity { entry: Arc::clone(&record.entry), svid })
            })
            .collect();
        let entries: Vec<_> = records.iter().map(|record| Arc::clone(&record.entry)).collect();
        let (bundle, federated) = self.bundles_of(&entries);
        Some(WorkloadUpdate {
            identities,
            matched: entries.len(),
            bundle,
            federated,
            derived: Derived::default(),
        })
    }

    fn replace_bundles(&mut self, mut next: BundleMap) -> HashSet<TrustDomain> {
        if let Some(own) = self.bundles.get(&self.trust_domain)
            && !next.contains_key(&self.trust_domain)
        {
            next.insert(self.trust_domain.clone(), Arc::clone(own));
        }
        let mut changed: HashSet<TrustDomain> =
            self.bundles.keys().filter(|name| !next.contains_key(*name)).cloned().collect();
        for (name, bundle) in &mut next {
            match self.bundles.get(name) {
                Some(old) if Arc::ptr_eq(old, bundle) => {}
                Some(old) if old.same_content(bundle) => *bundle = Arc::clone(old),
                _ => {
                    changed.insert(name.clone());
                }
            }
        }
        self.bundles = next;
        changed
    }

    fn matching_ids(&self, selectors: &SelectorSet) -> Vec<EntryId> {
        let mut ids: Vec<EntryId> = selectors
            .iter()
            .filter_map(|selector| self.index.get(selector))
            .flatten()
            .filter(|id| {
                self.records
                    .get(*id)
                    .is_some_and(|record| record.entry.selectors.is_subset_of(selectors))
            })
            .cloned()
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Files an entry under the one of its selectors that has the fewest entries so far.
    fn index(&mut self, id: &EntryId, entry: &AgentEntry) {
        let rarest = entry
            .selectors
            .iter()
            .min_by_key(|selector| self.index.get(*selector).map_or(0, BTreeSet::len))
            .cloned();
        if let Some(selector) = &rarest {
            self.index.entry(selector.clone()).or_default().insert(id.clone());
        }
        if let Some(record) = self.records.get_mut(id) {
            record.indexed_under = rarest;
        }
    }

    fn unindex(&mut self, id: &EntryId, under: Option<&Selector>) {
        let Some(selector) = under else { return };
        if let Some(bucket) = self.index.get_mut(selector) {
            bucket.remove(id);
            if bucket.is_empty() {
                self.index.remove(selector);
            }
        }
    }

    fn pinned(&self) -> HashSet<EntryId> {
        self.groups
            .iter()
            .filter(|(_, group)| group.readers > 0)
            .flat_map(|(selectors, _)| self.matching_ids(selectors))
            .collect()
    }

    fn evict(&mut self, pinned: &HashSet<EntryId>, max: usize) {
        let excess = self.svids.saturating_sub(max);
        if excess == 0 {
            return;
        }
        let mut droppable: Vec<(u64, EntryId)> = self
            .records
            .iter()
            .filter(|(id, record)| record.svid.is_some() && !pinned.contains(*id))
            .map(|(id, record)| (record.used, id.clone()))
            .collect();
        droppable.sort_unstable();
        for (_, id) in droppable.into_iter().take(excess) {
            if let Some(record) = self.records.get_mut(&id) {
                record.svid = None;
                record.replace = false;
                self.svids -= 1;
            }
        }
    }
}
