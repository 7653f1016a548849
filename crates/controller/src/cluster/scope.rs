//! Lists: what they show, and what has gone since the last one.

use super::ClusterState;

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `spire.spiffe.io` ClusterFederatedTrustDomain.
    ClusterFederatedTrustDomain,
    /// `spire.spiffe.io` ClusterSPIFFEID.
    ClusterSpiffeId,
    /// `spire.spiffe.io` ClusterStaticEntry.
    ClusterStaticEntry,
    /// Endpoints of services.
    Endpoints,
    /// Namespaces.
    Namespace,
    /// Nodes.
    Node,
    /// Pods.
    Pod,
}

impl Kind {
    /// The kind's name, as Kubernetes spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterFederatedTrustDomain => "ClusterFederatedTrustDomain",
            Self::ClusterSpiffeId => "ClusterSPIFFEID",
            Self::ClusterStaticEntry => "ClusterStaticEntry",
            Self::Endpoints => "Endpoints",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
        }
    }
}

impl ClusterState {
    /// A list of `kind` begins: what it does not show by its end is gone.
    pub fn begin(&mut self, kind: Kind) {
        let count = self.lists.entry(kind).or_default();
        *count = count.wrapping_add(1);
    }

    /// The list is complete. Only of a list that is complete is anything concluded.
    pub fn finish(&mut self, kind: Kind) {
        let now = self.list(kind);
        match kind {
            Kind::Pod => {
                let gone = self.pods.values().filter(|state| state.seen != now);
                let gone: Vec<String> = gone.map(|state| state.pod.key()).collect();
                gone.iter().for_each(|key| self.remove_pod(key));
            }
            Kind::Namespace => {
                let gone = self.namespaces.iter();
                let gone = gone.filter(|(_, state)| state.labels.is_some() && state.seen != now);
                let gone: Vec<Box<str>> = gone.map(|(name, _)| name.clone()).collect();
                gone.iter().for_each(|name| self.remove_namespace(name));
            }
            Kind::Node => {
                let gone = self.nodes.iter();
                let gone = gone.filter(|(_, state)| state.known.is_some() && state.seen != now);
                let gone: Vec<Box<str>> = gone.map(|(name, _)| name.clone()).collect();
                gone.iter().for_each(|name| self.remove_node(name));
            }
            Kind::Endpoints => {
                let gone = self.services.iter().filter(|(_, (_, seen))| *seen != now);
                let gone: Vec<String> = gone.map(|(key, _)| key.clone()).collect();
                gone.iter().for_each(|key| self.remove_endpoints(key));
            }
            Kind::ClusterSpiffeId => {
                let gone = self.rules.values().filter(|rule| rule.seen != now);
                let gone: Vec<String> = gone.map(|rule| rule.meta.name.clone()).collect();
                gone.iter().for_each(|name| self.remove_rule(name));
            }
            Kind::ClusterStaticEntry => {
                let gone = self.statics.values().filter(|one| one.seen != now);
                let gone: Vec<String> = gone.map(|one| one.meta.name.clone()).collect();
                gone.iter().for_each(|name| self.remove_static(name));
            }
            Kind::ClusterFederatedTrustDomain => {}
        }
        self.synced.insert(kind);
    }

    pub(super) fn list(&self, kind: Kind) -> u32 {
        self.lists.get(&kind).copied().unwrap_or_default()
    }
}
