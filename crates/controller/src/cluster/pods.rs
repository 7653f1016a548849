//! Pods, and the namespaces, nodes and services around them.

use std::collections::hash_map::Entry as Slot;

use super::{ClusterState, Kind, KnownNode, Pair, PodState};
use crate::{
    objects::{Endpoints, Namespace, Node, Pod},
    reconciler::{Declared, PodId, SourceId},
};

impl ClusterState {
    /// A pod is there, new or changed.
    pub fn apply_pod(&mut self, pod: Pod) {
        if self.is_ignored(&pod.namespace) {
            return;
        }
        let key = pod.key();
        let seen = self.list(Kind::Pod);
        if let Some(id) = self.pod_names.get(&key).copied()
            && let Some(state) = self.pods.get_mut(&id)
        {
            state.seen = seen;
            if state.pod == pod {
                return;
            }
            if state.pod.uid == pod.uid && state.pod.node == pod.node {
                state.pod = pod;
                self.touch(id);
                return;
            }
            // A pod of the same name, or one that was scheduled just now.
            self.remove_pod(&key);
        }
        let id = PodId(self.next_pod);
        self.next_pod = self.next_pod.wrapping_add(1);
        self.namespaces.entry(pod.namespace.clone()).or_default().pods.insert(id);
        self.nodes.entry(pod.node.clone()).or_default().pods.insert(id);
        self.pod_uids.insert(pod.uid.clone(), id);
        self.pod_names.insert(key, id);
        self.pods.insert(id, PodState { pod, pairs: Vec::new(), stale: false, seen });
        self.touch(id);
    }

    /// A pod (`namespace/name`) is gone.
    pub fn remove_pod(&mut self, key: &str) {
        let Some(id) = self.pod_names.remove(key) else { return };
        let Some(state) = self.pods.remove(&id) else { return };
        for (source, pair) in &state.pairs {
            self.undo(id, *source, *pair);
        }
        if self.pod_uids.get(&state.pod.uid) == Some(&id) {
            self.pod_uids.remove(&state.pod.uid);
        }
        if let Slot::Occupied(mut slot) = self.namespaces.entry(state.pod.namespace) {
            slot.get_mut().pods.remove(&id);
            if slot.get().pods.is_empty() && slot.get().labels.is_none() {
                slot.remove();
            }
        }
        if let Slot::Occupied(mut slot) = self.nodes.entry(state.pod.node) {
            slot.get_mut().pods.remove(&id);
            if slot.get().pods.is_empty() && slot.get().known.is_none() {
                slot.remove();
            }
        }
    }

    /// A namespace is there, new or changed.
    pub fn apply_namespace(&mut self, namespace: Namespace) {
        let ignored = self.is_ignored(&namespace.name);
        let seen = self.list(Kind::Namespace);
        let state = self.namespaces.entry(namespace.name.clone()).or_default();
        state.seen = seen;
        if state.labels.as_ref() == Some(&namespace.labels) {
            return;
        }
        state.labels = Some(namespace.labels);
        state.ignored = ignored;
        self.select(&namespace.name);
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        if let Some(state) = self.namespaces.get_mut(name) {
            state.labels = None;
            self.select(name);
        }
        if self.namespaces.get(name).is_some_and(|state| state.pods.is_empty()) {
            self.namespaces.remove(name);
        }
    }

    /// A node is there, new or changed.
    pub fn apply_node(&mut self, node: Node) {
        let seen = self.list(Kind::Node);
        let name = node.name.clone();
        let before = self.nodes.get(&name).and_then(|state| state.known.as_ref());
        // Nodes change all the time in ways that nobody sees here.
        let same = before.is_some_and(|known| {
            known.node == node || known.node.visible(&self.names) == node.visible(&self.names)
        });
        let made = if same { None } else { Some(self.node_values(&node)) };
        let state = self.nodes.entry(name).or_default();
        state.seen = seen;
        let pods: Vec<PodId> = match (made, &mut state.known) {
            (None, Some(known)) => {
                known.node = node;
                return;
            }
            (made, known) => {
                let made = made.unwrap_or_else(|| Err("the node cannot be read".to_owned()));
                *known = Some(KnownNode { node, made });
                state.pods.iter().copied().collect()
            }
        };
        self.touch_all(pods);
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &str) {
        let Some(state) = self.nodes.get_mut(name) else { return };
        state.known = None;
        let pods: Vec<PodId> = state.pods.iter().copied().collect();
        if pods.is_empty() {
            self.nodes.remove(name);
        }
        self.touch_all(pods);
    }

    /// The pods behind a service, new or changed.
    pub fn apply_endpoints(&mut self, endpoints: Endpoints) {
        if self.is_ignored(&endpoints.namespace) {
            return;
        }
        let key = endpoints.key();
        let seen = self.list(Kind::Endpoints);
        if let Some((before, at)) = self.services.get_mut(&key) {
            *at = seen;
            if *before == endpoints {
                return;
            }
        }
        let after = endpoints.pods.clone();
        let before = self.services.insert(key.clone(), (endpoints, seen));
        let before = before.map(|(endpoints, _)| endpoints.pods).unwrap_or_default();
        for uid in before.difference(&after) {
            self.unlink(uid, &key);
        }
        for uid in after.difference(&before) {
            self.services_of.entry(uid.clone()).or_default().insert(key.clone());
            self.touch_uid(uid);
        }
    }

    /// A service (`namespace/name`) is gone.
    pub fn remove_endpoints(&mut self, key: &str) {
        if let Some((endpoints, _)) = self.services.remove(key) {
            for uid in &endpoints.pods {
                self.unlink(uid, key);
            }
        }
    }

    fn unlink(&mut self, uid: &str, service: &str) {
        if let Some(services) = self.services_of.get_mut(uid) {
            services.remove(service);
            if services.is_empty() {
                self.services_of.remove(uid);
            }
        }
        self.touch_uid(uid);
    }

    fn touch_uid(&mut self, uid: &str) {
        if let Some(id) = self.pod_uids.get(uid).copied() {
            self.touch(id);
        }
    }

    /// Works out what every rule makes of a pod.
    pub(super) fn refresh(&mut self, id: PodId) {
        let Some(mut state) = self.pods.remove(&id) else { return };
        state.stale = false;
        let pairs = self.pairs(id, &state);
        for (source, pair) in &state.pairs {
            if !pairs.contains(&(*source, *pair)) {
                self.undo(id, *source, *pair);
            }
        }
        for (source, pair) in &pairs {
            if !state.pairs.contains(&(*source, *pair)) {
                self.redo(id, *source, *pair);
            }
        }
        state.pairs = pairs;
        state.pairs.shrink_to_fit();
        self.pods.insert(id, state);
    }

    fn pairs(&mut self, id: PodId, state: &PodState) -> Vec<(SourceId, Pair)> {
        let pod = &state.pod;
        let Some(namespace) = self.namespaces.get(&pod.namespace) else { return Vec::new() };
        if namespace.labels.is_none() || namespace.ignored {
            return Vec::new();
        }
        let mut pairs = Vec::new();
        let mut failures = Vec::new();
        let mut seen = None;
        let mut applied = false;
        for source in &namespace.rules {
            let Some(rule) = self.rules.get(source).and_then(|rule| rule.rule.as_ref().ok()) else {
                continue;
            };
            if !rule.pods.matches(&pod.labels) {
                continue;
            }
            if rule.fallback && applied {
                pairs.push((*source, Pair::Skipped));
                continue;
            }
            let seen = seen.get_or_insert_with(|| self.view(pod));
            let rendered = match seen {
                Ok(seen) => self.render(rule, pod, seen),
                Err(error) => Err(error.clone()),
            };
            pairs.push((
                *source,
                match rendered {
                    Ok(draft) => {
                        applied |= !rule.fallback;
                        Pair::Declared(
                            crate::fingerprint::EntryKey::of(&draft),
                            crate::fingerprint::EntryBody::of(&draft),
                        )
                    }
                    Err(error) => {
                        failures.push((*source, error));
                        Pair::Failed
                    }
                },
            ));
        }
        for (source, error) in failures {
            let Some(rule) = self.rules.get_mut(&source) else { continue };
            let error = format!("{}: {error}", pod.key());
            if rule.failures.get(&id) == Some(&error) {
                continue;
            }
            if self.nodes.get(&pod.node).is_none_or(|node| node.known.is_none()) {
                // Every pod begins like this.
                tracing::debug!(
                    cluster_spiffe_id = rule.meta.name,
                    error,
                    "The pod has no node yet, or one that is not known yet, and so no entry"
                );
            } else {
                tracing::warn!(
                    cluster_spiffe_id = rule.meta.name,
                    error,
                    "Failed to render an entry"
                );
            }
            rule.failures.insert(id, error);
            self.touched.insert(source);
        }
        pairs
    }

    fn redo(&mut self, pod: PodId, source: SourceId, pair: Pair) {
        self.count(source, true);
        if let Pair::Declared(key, body) = pair {
            self.reconciler.declare(key, Declared { source, pod: Some(pod), body });
        }
    }

    pub(super) fn undo(&mut self, pod: PodId, source: SourceId, pair: Pair) {
        self.count(source, false);
        match pair {
            Pair::Declared(key, _) => self.reconciler.withdraw(key, source, Some(pod)),
            Pair::Failed => {
                if let Some(rule) = self.rules.get_mut(&source) {
                    rule.failures.remove(&pod);
                }
            }
            Pair::Skipped => {}
        }
    }

    fn count(&mut self, source: SourceId, add: bool) {
        let Some(rule) = self.rules.get_mut(&source) else { return };
        let step = |count: &mut usize| {
            *count = if add { count.saturating_add(1) } else { count.saturating_sub(1) };
        };
        step(&mut rule.pods_selected);
        self.touched.insert(source);
    }
}
