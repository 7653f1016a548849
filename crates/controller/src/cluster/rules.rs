//! Resources: what they declare, and for whom.

use std::collections::BTreeMap;

use super::{ClusterState, Kind, RuleState, StaticState};
use crate::{
    data::Names,
    fingerprint::{EntryBody, EntryKey},
    reconciler::{Declared, PodId, SourceId},
    resources::{Resource, Rule, SpiffeIdSpec, StaticEntrySpec, parse_static_entry},
};

impl ClusterState {
    /// A ClusterSPIFFEID is there, new or changed.
    pub fn apply_rule(&mut self, mut resource: Resource<SpiffeIdSpec>) {
        self.waiting.remove(&resource.meta.name);
        let ours = match &resource.spec {
            Ok(spec) => self.settings.class.is_ours(&spec.class_name),
            // What cannot be read may be ours: it is reported, and declares nothing.
            Err(_) => true,
        };
        if !ours {
            self.remove_rule(&resource.meta.name);
            return;
        }
        let rule = resource.spec.as_ref().map_err(Clone::clone).and_then(Rule::parse);
        if let Ok(rule) = &rule {
            let names = rule.names();
            if !names.is_subset_of(&self.names) {
                // Without these fields a template would see empty texts where there are none.
                self.wanted.add(&names);
                self.waiting.insert(resource.meta.name.clone(), resource);
                return;
            }
        }
        if let Err(error) = &rule {
            tracing::error!(
                cluster_spiffe_id = resource.meta.name,
                error,
                "A ClusterSPIFFEID is invalid and declares nothing"
            );
        }
        let seen = self.list(Kind::ClusterSpiffeId);
        let id = self.source(Kind::ClusterSpiffeId, &resource.meta.name);
        if let Some(before) = self.rules.get_mut(&id) {
            before.seen = seen;
            if before.status != resource.status {
                // It may be another's, or an older one: it is compared with what it should be.
                before.status = resource.status;
                self.touched.insert(id);
            }
            if before.meta.is_of_same(&resource.meta) && before.spec == resource.spec {
                if before.meta != resource.meta {
                    before.meta = resource.meta;
                    self.touched.insert(id);
                }
                return;
            }
            resource.status = before.status.clone();
            self.remove_rule(&resource.meta.name);
        }
        let id = self.source(Kind::ClusterSpiffeId, &resource.meta.name);
        self.rules.insert(
            id,
            RuleState {
                meta: resource.meta,
                spec: resource.spec,
                rule,
                status: resource.status,
                namespaces_selected: 0,
                namespaces_ignored: 0,
                pods_selected: 0,
                failures: BTreeMap::new(),
                seen,
            },
        );
        self.rank();
        let namespaces: Vec<Box<str>> = self.namespaces.keys().cloned().collect();
        for namespace in &namespaces {
            self.select_one(namespace, id);
        }
        self.touched.insert(id);
    }

    /// A ClusterSPIFFEID is gone.
    pub fn remove_rule(&mut self, name: &str) {
        self.waiting.remove(name);
        let Some(id) = self.sources.remove(&(Kind::ClusterSpiffeId, name.to_owned())) else {
            return;
        };
        let mut pods = Vec::new();
        for state in self.namespaces.values_mut() {
            if state.rules.contains(&id) {
                state.rules.retain(|rule| *rule != id);
                pods.extend(state.pods.iter().copied());
            }
        }
        for pod in pods {
            let Some(state) = self.pods.get_mut(&pod) else { continue };
            let Some(at) = state.pairs.iter().position(|(source, _)| *source == id) else {
                continue;
            };
            let (_, pair) = state.pairs.swap_remove(at);
            self.undo(pod, id, pair);
            // A fallback may be due now.
            self.touch(pod);
        }
        self.rules.remove(&id);
        self.reconciler.forget(id);
        self.touched.remove(&id);
    }

    /// A ClusterStaticEntry is there, new or changed.
    pub fn apply_static(&mut self, resource: Resource<StaticEntrySpec>) {
        let ours = match &resource.spec {
            Ok(spec) => self.settings.class.is_ours(&spec.class_name),
            Err(_) => true,
        };
        let seen = self.list(Kind::ClusterStaticEntry);
        let key = (Kind::ClusterStaticEntry, resource.meta.name.clone());
        if let Some(before) = self.sources.get(&key).and_then(|id| self.statics.get_mut(id)) {
            before.seen = seen;
            if before.status != resource.status {
                before.status = resource.status.clone();
                self.touched.extend(self.sources.get(&key).copied());
            }
            let same = before.meta.is_of_same(&resource.meta) && before.spec == resource.spec;
            if ours && same {
                if before.meta != resource.meta {
                    before.meta = resource.meta;
                    self.touched.extend(self.sources.get(&key).copied());
                }
                return;
            }
        }
        let entry = resource.spec.as_ref().map_err(Clone::clone).and_then(parse_static_entry);
        self.remove_static(&resource.meta.name);
        if !ours {
            return;
        }
        if let Err(error) = &entry {
            tracing::error!(
                cluster_static_entry = resource.meta.name,
                error,
                "A ClusterStaticEntry is invalid and declares nothing"
            );
        }
        let id = self.source(Kind::ClusterStaticEntry, &resource.meta.name);
        let entry = entry.map(|draft| (EntryKey::of(&draft), draft));
        let declared = entry.as_ref().ok().map(|(key, draft)| (*key, EntryBody::of(draft)));
        let Resource { meta, spec, status } = resource;
        let state = StaticState { meta, spec, entry, status, seen };
        self.statics.insert(id, state);
        self.rank();
        if let Some((key, body)) = declared {
            self.reconciler.declare(key, Declared { source: id, pod: None, body });
        }
        self.touched.insert(id);
    }

    /// A ClusterStaticEntry is gone.
    pub fn remove_static(&mut self, name: &str) {
        let key = (Kind::ClusterStaticEntry, name.to_owned());
        let Some(id) = self.sources.remove(&key) else { return };
        if let Some(state) = self.statics.remove(&id)
            && let Ok((key, _)) = state.entry
        {
            self.reconciler.withdraw(key, id, None);
        }
        self.reconciler.forget(id);
        self.touched.remove(&id);
    }

    /// Pods have all been read with `names`: what waited for them goes on.
    pub fn set_names(&mut self, names: Names) {
        if names == self.names {
            return;
        }
        self.names = names;
        // What nodes look like to templates has changed with it.
        let nodes: Vec<_> = self
            .nodes
            .values()
            .filter_map(|state| state.known.as_ref().map(|known| known.node.clone()))
            .collect();
        for node in nodes {
            let made = self.node_values(&node);
            if let Some(known) = self.nodes.get_mut(&node.name).and_then(|one| one.known.as_mut()) {
                known.made = made;
            }
        }
        for (_, resource) in std::mem::take(&mut self.waiting) {
            self.apply_rule(resource);
        }
    }

    /// Finds out anew which rules select a namespace.
    pub(super) fn select(&mut self, namespace: &str) {
        let rules: Vec<SourceId> = self.rules.keys().copied().collect();
        for rule in rules {
            self.select_one(namespace, rule);
        }
        let pods = self.namespaces.get(namespace).map(|state| state.pods.iter().copied());
        let pods: Vec<PodId> = pods.into_iter().flatten().collect();
        self.touch_all(pods);
    }

    /// Finds out anew whether a rule selects a namespace.
    fn select_one(&mut self, namespace: &str, id: SourceId) {
        let Some(state) = self.namespaces.get_mut(namespace) else { return };
        let Some(rule) = self.rules.get_mut(&id) else { return };
        let Ok(parsed) = &rule.rule else { return };
        let was = state.rules.contains(&id);
        let is = state.labels.as_ref().is_some_and(|labels| parsed.namespaces.matches(labels));
        if was == is {
            return;
        }
        let step = |count: &mut usize| {
            *count = if is { count.saturating_add(1) } else { count.saturating_sub(1) };
        };
        step(&mut rule.namespaces_selected);
        if state.ignored {
            step(&mut rule.namespaces_ignored);
        }
        self.touched.insert(id);
        if is {
            state.rules.push(id);
            let rules = &self.rules;
            state.rules.sort_by_key(|id| {
                let fallback = rules.get(id).and_then(|rule| rule.rule.as_ref().ok());
                (fallback.is_some_and(|rule| rule.fallback), *id)
            });
        } else {
            state.rules.retain(|rule| *rule != id);
        }
        let pods: Vec<PodId> = state.pods.iter().copied().collect();
        for pod in pods {
            // One that is to be looked at anyhow need not be looked at now.
            let concerned = self.pods.get(&pod).is_some_and(|state| {
                !state.stale && {
                    state.pairs.iter().any(|(source, _)| *source == id)
                        || self.rules.get(&id).is_some_and(|rule| {
                            rule.rule
                                .as_ref()
                                .is_ok_and(|rule| rule.pods.matches(&state.pod.labels))
                        })
                }
            });
            if concerned {
                self.touch(pod);
            }
        }
    }

    fn source(&mut self, kind: Kind, name: &str) -> SourceId {
        let next = SourceId(self.next_source);
        let id = *self.sources.entry((kind, name.to_owned())).or_insert(next);
        if id == next {
            self.next_source = self.next_source.wrapping_add(1);
        }
        id
    }

    /// Tells the reconciler who goes first. The order among those that were there stays as it was.
    fn rank(&mut self) {
        let rules = self.rules.iter().map(|(id, rule)| (&rule.meta, *id));
        let statics = self.statics.iter().map(|(id, one)| (&one.meta, *id));
        let mut all: Vec<_> = rules.chain(statics).collect();
        all.sort_by(|(a, _), (b, _)| a.preference().cmp(&b.preference()));
        let order: Vec<SourceId> = all.into_iter().map(|(_, id)| id).collect();
        for (rank, id) in (0..).zip(order) {
            self.reconciler.rank(id, rank);
        }
    }
}
