//! How the agent stands, as its manager tells those who serve.

use std::sync::Arc;

use signet_base::SharedClock;
use signet_time::UnixTime;
use tokio::sync::watch;

use crate::{agent_identity::AgentIdentity, cache::Served};

/// How the agent stands.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Who the agent is, once attested.
    pub identity: Option<Arc<AgentIdentity>>,
    /// The last successful sync, Unix seconds; 0 for never.
    pub last_sync: UnixTime,
    /// Whether the server answered at the last try.
    pub server_reachable: bool,
    /// Whether there is something to serve workloads from.
    pub serving: bool,
    /// What kept the agent from having an SVID at the last try; none once that went well.
    pub trouble: Option<Arc<str>>,
}

/// What those outside see of the managers.
#[derive(Clone, Debug)]
pub struct View {
    /// What workloads are served from.
    pub cache: Served,
    /// How the agent stands.
    pub status: watch::Receiver<Status>,
    /// The wall clock.
    pub clock: SharedClock,
}
