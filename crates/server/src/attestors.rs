//! The node attestors of a server, exchanged on SIGUSR1.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use signet_attest::node::NodeAttestorServer;

/// The attestors in force. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Attestors {
    all: Arc<ArcSwap<Vec<Arc<dyn NodeAttestorServer>>>>,
}

impl Attestors {
    /// These attestors.
    pub fn new(all: Vec<Arc<dyn NodeAttestorServer>>) -> Self {
        Self { all: Arc::new(ArcSwap::from_pointee(all)) }
    }

    /// The attestor of this type.
    pub fn find(&self, kind: &str) -> Option<Arc<dyn NodeAttestorServer>> {
        self.all.load().iter().find(|attestor| attestor.kind() == kind).cloned()
    }

    /// Replaces them all; attestations under way end with the ones they began with.
    pub fn replace(&self, all: Vec<Arc<dyn NodeAttestorServer>>) {
        self.all.store(Arc::new(all));
    }
}

impl fmt::Debug for Attestors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all.load();
        f.debug_list().entries(all.iter().map(|attestor| attestor.kind())).finish()
    }
}
