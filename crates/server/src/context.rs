//! What every service shares.

use std::sync::Arc;

use signet_authority::Authority;
use signet_base::SharedClock;
use signet_daemon::{health::Health, logging::LogHandle, metrics::Metrics};
use signet_identity::TrustDomain;
use signet_store::Store;
use tokio::{sync::watch, time::Instant};

use crate::{
    audit::Auditor, cache::Cache, config::Config, console::Logins, federation::Federator,
    limits::Limits, metrics::ServerMetrics, policy::Policy,
};

/// The parts of a running server, shared by its services. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// This server's ID: see [`crate::server_id`].
    pub server_id: Arc<str>,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Where the traces of calls go.
    pub auditor: Auditor,
    /// Who may do what to what.
    pub policy: Policy,
    /// The configuration.
    pub config: Arc<Config>,
    /// The registration store: all writes, and reads that page or filter.
    pub store: Store,
    /// What is answered from memory. After a write, await [`Cache::fresh`] before answering, so
    /// that the caller's next call sees it.
    pub cache: Arc<Cache>,
    /// Signs, and manages the authorities.
    pub authority: Authority,
    /// How the certificates by ACME of listeners fare.
    pub acme: Arc<[signet_acme::Status]>,
    /// Fetches the bundles of others.
    pub federator: Federator,
    /// Rate limits.
    pub limits: Limits,
    /// The wall clock.
    pub clock: SharedClock,
    /// Metrics.
    pub metrics: Metrics,
    /// What is counted where it happens.
    pub counted: ServerMetrics,
    /// Health checks of all parts.
    pub health: Health,
    /// The log level at run time.
    pub log: LogHandle,
    /// The chain of the server's own SVID, DER, leaf first.
    pub server_svid: watch::Receiver<Arc<[Arc<[u8]>]>>,
    /// Who may open the console, and who has.
    pub logins: Logins,
    /// When the server started.
    pub started: Instant,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}
