//! What use cases are made of.

use std::{sync::Arc, time::Duration};

use signet_authority::Authority;
use signet_base::SharedClock;
use signet_identity::{SpiffeId, TrustDomain};
use signet_store::Store;

use crate::{
    cache::Cache, config::Config, federation::Federator, limits::Limits, metrics::ServerMetrics,
    policy::Policy,
};

/// What use cases are made of; each takes what it needs. Cheap to clone.
#[derive(Clone)]
pub struct Parts {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Who may do what to what.
    pub policy: Policy,
    /// The registration store: all writes, and reads that page or filter.
    pub store: Store,
    /// What is answered from memory. After a write, await [`Cache::fresh`] before answering, so
    /// that the caller's next call sees it.
    pub cache: Arc<Cache>,
    /// Signs, and manages the authorities.
    pub authority: Authority,
    /// Fetches the bundles of others.
    pub federator: Federator,
    /// Rate limits.
    pub limits: Limits,
    /// The wall clock.
    pub clock: SharedClock,
    /// What is counted where it happens.
    pub counted: ServerMetrics,
    /// What the configuration says about the rules.
    pub rules: Rules,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// What the configuration says about the rules.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whose SVIDs are those of administrators.
    pub admin_ids: Arc<[SpiffeId]>,
    /// How long what is known counts while the store is away.
    pub max_staleness: Duration,
    /// Whether the SPIFFE ID of an agent is one of its selectors.
    pub agent_id_as_selector: bool,
}

impl Rules {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            admin_ids: config.admin_ids.clone().into(),
            max_staleness: config.max_store_staleness,
            agent_id_as_selector: config.experimental.agent_spiffe_id_as_selector,
        }
    }
}
