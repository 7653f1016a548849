//! The cluster as this controller sees it, and the entries that follow from it.
//!
//! Pure: objects come in one by one, and what they declare goes into the [`EntryReconciler`]. A
//! change is worked out for the pods it touches and no others.

mod explain;
mod pods;
mod render;
mod rules;
mod scope;
mod status;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use regex::Regex;
use signet_identity::{EntrySpec, SpiffeId, TrustDomain};
use signet_template::Value;

pub(crate) use self::render::never_renders;
pub use self::{
    explain::Finding,
    scope::Kind,
    status::{ResourceStatus, condition},
};
use crate::{
    data::Names,
    fingerprint::EntryKey,
    objects::{Endpoints, Node, Pod},
    reconciler::{Declared, EntryReconciler, PodId, SourceId},
    resources::{Labels, Meta, Resource, Rule, SpiffeIdSpec, StaticEntrySpec},
    template::Template,
};

/// What the configuration says about the cluster.
#[derive(Debug)]
pub struct ClusterSettings {
    /// Ours.
    pub trust_domain: TrustDomain,
    /// The cluster's name.
    pub name: String,
    /// The cluster's DNS domain; may be empty.
    pub domain: String,
    /// Makes the parent ID of a node's pods.
    pub parent_id: Template,
    /// Namespaces whose name one of these matches, anywhere in it, are left alone.
    pub ignored: Vec<Regex>,
    /// Which resources are ours.
    pub class: Class,
}

/// Which resources a controller acts on.
#[derive(Clone, Debug, Default)]
pub struct Class {
    /// Those of this class.
    pub name: String,
    /// And those of none.
    pub classless: bool,
}

impl Class {
    /// Whether a resource of `class` is ours.
    pub fn is_ours(&self, class: &str) -> bool {
        (class.is_empty() && self.classless) || class == self.name
    }
}

/// What one resource makes of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pair {
    /// An entry.
    Declared(EntryKey, crate::fingerprint::EntryBody),
    /// None: it cannot be rendered.
    Failed,
    /// None: another resource did, and this one is a fallback.
    Skipped,
}

#[derive(Debug)]
struct PodState {
    pod: Pod,
    pairs: Vec<(SourceId, Pair)>,
    stale: bool,
    seen: u32,
}

#[derive(Debug, Default)]
struct NamespaceState {
    /// Without it, pods came before their namespace.
    labels: Option<Labels>,
    ignored: bool,
    /// The rules that select it; fallbacks last.
    rules: Vec<SourceId>,
    pods: HashSet<PodId>,
    seen: u32,
}

#[derive(Debug, Default)]
struct NodeState {
    /// Without it, pods came before their node.
    known: Option<KnownNode>,
    pods: HashSet<PodId>,
    seen: u32,
}

#[derive(Debug)]
struct KnownNode {
    node: Node,
    /// What templates see, and the parent ID; or why that cannot be had.
    made: Result<(Value, Value, SpiffeId), String>,
}

#[derive(Debug)]
struct RuleState {
    meta: Meta,
    spec: Result<SpiffeIdSpec, String>,
    rule: Result<Rule, String>,
    status: serde_json::Value,
    namespaces_selected: usize,
    namespaces_ignored: usize,
    pods_selected: usize,
    /// Why a pod gets no entry, for each that gets none.
    failures: BTreeMap<PodId, String>,
    seen: u32,
}

#[derive(Debug)]
struct StaticState {
    meta: Meta,
    spec: Result<StaticEntrySpec, String>,
    entry: Result<(EntryKey, EntrySpec), String>,
    status: serde_json::Value,
    seen: u32,
}

/// What is known of the cluster, and the entries that follow from it.
#[derive(Debug)]
pub struct ClusterState {
    settings: ClusterSettings,
    /// The fields that pods were read with.
    names: Names,
    /// The fields that they should be read with.
    wanted: Names,
    /// Resources that need fields which pods were not read with.
    waiting: HashMap<String, Resource<SpiffeIdSpec>>,
    namespaces: HashMap<Box<str>, NamespaceState>,
    nodes: HashMap<Box<str>, NodeState>,
    pods: HashMap<PodId, PodState>,
    pod_names: HashMap<String, PodId>,
    pod_uids: HashMap<Box<str>, PodId>,
    services: HashMap<String, (Endpoints, u32)>,
    services_of: HashMap<Box<str>, BTreeSet<String>>,
    rules: BTreeMap<SourceId, RuleState>,
    statics: BTreeMap<SourceId, StaticState>,
    sources: HashMap<(Kind, String), SourceId>,
    stale: VecDeque<PodId>,
    next_source: u32,
    next_pod: u32,
    /// Counts the lists of each kind: what a list does not show was not seen in it.
    lists: HashMap<Kind, u32>,
    synced: HashSet<Kind>,
    /// Resources whose own numbers have changed.
    touched: HashSet<SourceId>,
    /// Entries wanted and entries there.
    pub reconciler: EntryReconciler,
}

impl ClusterState {
    /// An empty cluster.
    pub fn new(settings: ClusterSettings) -> Self {
        let names = settings.parent_id.names().clone();
        Self {
            names: names.clone(),
            wanted: names,
            settings,
            waiting: HashMap::new(),
            namespaces: HashMap::new(),
            nodes: HashMap::new(),
            pods: HashMap::new(),
            pod_names: HashMap::new(),
            pod_uids: HashMap::new(),
            services: HashMap::new(),
            services_of: HashMap::new(),
            rules: BTreeMap::new(),
            statics: BTreeMap::new(),
            sources: HashMap::new(),
            stale: VecDeque::new(),
            next_source: 0,
            next_pod: 0,
            lists: HashMap::new(),
            synced: HashSet::new(),
            touched: HashSet::new(),
            reconciler: EntryReconciler::new(),
        }
    }

    /// The fields that pods should be read with from now on.
    pub fn wanted_names(&self) -> &Names {
        &self.wanted
    }

    /// Whether some resource waits for pods to be read with more fields.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether some resource asks for the DNS names of services.
    pub fn needs_services(&self) -> bool {
        let asks = |rule: &RuleState| rule.rule.as_ref().is_ok_and(|rule| rule.service_names);
        self.rules.values().any(asks)
    }

    /// Whether everything of `kinds` was listed and nothing waits: before that, what a pod gets
    /// cannot be worked out.
    pub fn is_known(&self, kinds: &[Kind]) -> bool {
        self.waiting.is_empty() && kinds.iter().all(|kind| self.synced.contains(kind))
    }

    /// Whether what is declared can be acted upon: everything is known, and every pod that was
    /// touched has been worked out.
    pub fn is_complete(&self, kinds: &[Kind]) -> bool {
        self.is_known(kinds) && self.stale.is_empty()
    }

    /// Whether a kind was listed once.
    pub fn is_synced(&self, kind: Kind) -> bool {
        self.synced.contains(&kind)
    }

    /// Works out up to `limit` pods that were touched; whether more are left.
    pub fn work(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            let Some(id) = self.stale.pop_front() else { return false };
            self.refresh(id);
        }
        !self.stale.is_empty()
    }

    /// The entry that was declared, written out; `None` when it is declared no more, or otherwise.
    pub fn draft(&self, key: EntryKey, declared: &Declared) -> Option<EntrySpec> {
        let draft = match declared.pod {
            None => self.statics.get(&declared.source)?.entry.as_ref().ok()?.1.clone(),
            Some(pod) => {
                let rule = self.rules.get(&declared.source)?.rule.as_ref().ok()?;
                let pod = &self.pods.get(&pod)?.pod;
                let seen = self.view(pod).ok()?;
                self.render(rule, pod, &seen).ok()?
            }
        };
        let same = EntryKey::of(&draft) == key
            && crate::fingerprint::EntryBody::of(&draft) == declared.body;
        same.then_some(draft)
    }

    /// The pod (`namespace/name`) that an entry is declared for.
    pub fn pod_name(&self, key: EntryKey) -> Option<String> {
        let pod = self.reconciler.pod_of(key)?;
        Some(self.pods.get(&pod)?.pod.key())
    }

    /// The name of the resource that declares something, for logs.
    pub fn source_name(&self, source: SourceId) -> &str {
        let rule = self.rules.get(&source).map(|rule| rule.meta.name.as_str());
        let fixed = self.statics.get(&source).map(|one| one.meta.name.as_str());
        rule.or(fixed).unwrap_or_default()
    }

    /// How many pods, of namespaces that are not ignored.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// How many resources have a specification that cannot be used.
    pub fn invalid_count(&self) -> usize {
        self.rules.values().filter(|rule| rule.rule.is_err()).count()
            + self.statics.values().filter(|one| one.entry.is_err()).count()
    }

    /// How many ClusterStaticEntries are invalid.
    pub fn invalid_statics(&self) -> usize {
        self.statics.values().filter(|one| one.entry.is_err()).count()
    }

    /// How many entries could not be rendered.
    pub fn render_failures(&self) -> usize {
        self.rules.values().map(|rule| rule.failures.len()).sum()
    }

    /// Whether a namespace is left alone.
    pub fn is_ignored(&self, namespace: &str) -> bool {
        self.settings.ignored.iter().any(|pattern| pattern.is_match(namespace))
    }

    fn touch(&mut self, id: PodId) {
        if let Some(state) = self.pods.get_mut(&id)
            && !state.stale
        {
            state.stale = true;
            self.stale.push_back(id);
        }
    }

    fn touch_all(&mut self, ids: impl IntoIterator<Item = PodId>) {
        for id in ids {
            self.touch(id);
        }
    }
}

#[cfg(test)]
mod tests;
