//! Where the keys come from. A source runs until it is told to stop, and tells whatever it finds to
//! [`Keys`]; while it finds nothing, what was published stays.

mod file;
mod server_api;
mod workload_api;

use std::{path::PathBuf, time::Duration};

use signet_base::Tasks;
use signet_identity::TrustDomain;

use crate::keys::Keys;

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer that is read, bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A source, with how often it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `file`: a file in the SPIFFE bundle format.
    File {
        /// `path`.
        path: PathBuf,
        /// `poll_interval`, default 10 s.
        poll_interval: Duration,
    },
    /// `server_api`: the local socket of a Signet or SPIRE server.
    ServerApi {
        /// `address`, without `unix://`.
        socket: PathBuf,
        /// `poll_interval`, default 10 s; a Signet server tells of changes at once.
        poll_interval: Duration,
    },
    /// `workload_api`: the Workload API of an agent, which tells of changes at once.
    WorkloadApi {
        /// `socket_path`, without `unix://`.
        socket: PathBuf,
        /// `trust_domain`: whose keys are published.
        trust_domain: TrustDomain,
        /// `poll_interval`, default 10 s: how soon a broken stream is opened again, at most.
        poll_interval: Duration,
    },
}

impl Source {
    /// How often it is asked.
    pub fn poll_interval(&self) -> Duration {
        match self {
            Self::File { poll_interval, .. }
            | Self::ServerApi { poll_interval, .. }
            | Self::WorkloadApi { poll_interval, .. } => *poll_interval,
        }
    }

    /// Feeds `keys` until the tasks end.
    pub fn spawn(self, tasks: &Tasks, keys: Keys) {
        tasks.spawn_until_end("oidc_source", async move {
            match self {
                Self::File { path, poll_interval } => file::run(&path, poll_interval, &keys).await,
                Self::ServerApi { socket, poll_interval } => {
                    server_api::run(&socket, poll_interval, &keys).await;
                }
                Self::WorkloadApi { socket, trust_domain, poll_interval } => {
                    workload_api::run(&socket, &trust_domain, poll_interval, &keys).await;
                }
            }
        });
    }
}

/// Says a failure once, and again when it is another one.
#[derive(Debug, Default)]
struct Complaint(Option<String>);

impl Complaint {
    fn say(&mut self, source: &'static str, why: String) {
        if self.0.as_ref() == Some(&why) {
            return;
        }
        tracing::warn!(source, reason = why, "Cannot get the keys; those that are published stay");
        self.0 = Some(why);
    }

    fn over(&mut self) {
        self.0 = None;
    }
}
