//! What every service shares.

use std::sync::Arc;

use signet_daemon::{health::Health, logging::LogHandle, metrics::Metrics};
use tokio::{sync::watch, time::Instant};

use crate::{
    audit::Auditor, config::Config, console::logins::Logins, metrics::Shown, usecase::parts::Parts,
};

/// A running server, as those who serve it see it. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// What use cases are made of.
    pub parts: Parts,
    /// This server's ID: see [`crate::server_id`].
    pub server_id: Arc<str>,
    /// Where the traces of calls go.
    pub auditor: Auditor,
    /// The configuration.
    pub config: Arc<Config>,
    /// How the certificates by ACME of listeners fare.
    pub acme: Arc<[signet_acme::Status]>,
    /// Metrics.
    pub metrics: Metrics,
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

impl Context {
    /// What the metrics show of it: not all, for it holds the metrics, which would then hold
    /// themselves.
    pub fn shown(&self) -> Shown {
        Shown {
            trust_domain: self.parts.trust_domain.clone(),
            cache: Arc::clone(&self.parts.cache),
            authority: self.parts.authority.clone(),
            acme: Arc::clone(&self.acme),
            clock: Arc::clone(&self.parts.clock),
            server_svid: self.server_svid.clone(),
            started: self.started,
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("trust_domain", &self.parts.trust_domain)
            .finish_non_exhaustive()
    }
}
