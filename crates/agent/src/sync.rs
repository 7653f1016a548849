//! The manager: the one task that owns what comes from the server.
//!
//! It keeps the agent attested, fetches entries and bundles (at once when the server pushes a
//! notice, else by polling), has SVIDs signed when they are new, due or asked for, and writes all
//! of it into the [`cache`](crate::cache). While the server is away everything that is still
//! valid stays in the cache; nothing but the server's word, or an operator's, ends this task.

use std::{convert::Infallible, sync::Arc, time::Duration};

use signet_attest::node::NodeAttestorAgent;
use signet_base::{CancellationToken, SharedClock};
use signet_identity::{Bundle, SpiffeId};
use signet_pki::tls::SwappableIdentity;
use tokio::sync::watch;

use crate::{
    agent_identity::AgentIdentity,
    cache::Cache,
    client::{ClientError, EVICTED, Notice, SyncMethod, Target},
    data_dir::DataDir,
    entry::EntryMap,
    jwt::JwtService,
    jwt_cache::JwtCache,
    metrics::{AgentMetrics, ShownSet},
    server_sets::{Alive, Issuer},
    status::Status,
    wit::WitService,
};

mod attest;
mod fetch;
mod push;
mod seal;
mod session;
mod shared;
mod signing;
mod taint;

use seal::Sealer;
use session::Session;
pub use shared::{CurrentAttestor, Settings};
use shared::{SealingTrouble, Server, Shared};

/// How long an agent with a sealed cache waits for its server's first answer before it serves.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// When an agent that goes on with its other server sets asks again one that has ended.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// Why an agent attests for the first time.
const NO_SVID: &str = "it has no SVID yet";

/// Why an agent attests anew whose SVID is valid only later.
const SET_BACK: &str = "the clock was set back to before its SVID's validity";

/// Why an agent attests anew that is on another node than the one that was attested.
const OTHER_NODE: &str = "the node was replaced by another one of its name";

/// Why the agent cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fatal {
    /// The server has banned this agent.
    #[error(
        "agent {id} is banned: its SVID and cache were removed; once the ban is lifted \
         (signet-server agent evict -spiffeID {id}) the agent can attest again"
    )]
    Banned {
        /// The agent ID.
        id: SpiffeId,
    },
    /// The agent must attest anew and cannot by itself.
    #[error("the agent must attest anew because {reason}; {advice}")]
    MustAttest {
        /// Why.
        reason: String,
        /// What an operator can do.
        advice: String,
    },
    /// `rebootstrap_mode = "always"` with an attestor that cannot attest again.
    #[error(
        "rebootstrap_mode is \"always\", but the node attestor or the server does not allow this \
         agent to attest again; use \"auto\" or \"never\", or another node attestor"
    )]
    NotReattestable,
    /// The server refuses this node.
    #[error("node attestation was refused: {0}")]
    Refused(ClientError),
    /// The agent's own state cannot be kept.
    #[error("{0}")]
    State(String),
}

/// How a session with the server ended.
enum SessionEnd {
    Banned,
    Rebootstrap,
    Reattest(String),
    Stopped,
}

/// The manager. [`Manager::run`] is its task.
#[derive(Debug)]
pub struct Manager {
    shared: Arc<Shared>,
    identity: Option<Arc<AgentIdentity>>,
    entries: Arc<EntryMap>,
    method: SyncMethod,
    synced: Option<Notice>,
    sealer: Sealer,
    tainted: taint::Processed,
    alive: Arc<Alive>,
    /// The node seems to be another one than was attested, and attesting anew did not change that.
    other_node: bool,
}

/// What a manager is made of.
#[derive(Debug)]
pub struct Parts {
    /// What it is told.
    pub settings: Settings,
    /// The wall clock.
    pub clock: SharedClock,
    /// Where the server is.
    pub target: Target,
    /// How the node proves what it is; none without a join token.
    pub attestor: Option<Box<dyn NodeAttestorAgent>>,
    /// What is kept over a restart.
    pub data: Arc<DataDir>,
    /// How many X.509-SVIDs are kept.
    pub max_x509_svids: usize,
    /// How many JWT-SVIDs are kept.
    pub max_jwt_svids: usize,
    /// What is measured.
    pub metrics: AgentMetrics,
    /// How many server sets the agent has that go on.
    pub alive: Arc<Alive>,
}

impl Manager {
    /// A manager; nothing happens before [`Manager::run`].
    ///
    /// # Errors
    /// [`ClientError::Local`] when TLS cannot be set up.
    pub fn new(parts: Parts) -> Result<Self, ClientError> {
        let Parts { settings, clock, target, attestor, data, metrics, .. } = parts;
        let server = Server::new(target, &settings, &clock)?;
        let empty = Arc::new(Bundle::empty(settings.trust_domain.clone()));
        let shared = Arc::new(Shared {
            cache: Cache::new(empty, parts.max_x509_svids, Arc::clone(&clock)),
            jwt_cache: Arc::new(JwtCache::new(parts.max_jwt_svids)),
            wit_cache: settings.wit_svids.then(Arc::default),
            data,
            server,
            attestor: Arc::new(CurrentAttestor::from(attestor.map(Arc::new))),
            status: watch::Sender::new(Status::default()),
            wake: Arc::default(),
            sealing: SealingTrouble::default(),
            metrics,
            settings,
            clock,
        });
        let method = if shared.settings.use_sync { SyncMethod::Sync } else { SyncMethod::Get };
        Ok(Self {
            identity: None,
            entries: Arc::default(),
            method,
            synced: None,
            sealer: Sealer::default(),
            tainted: taint::Processed::default(),
            alive: parts.alive,
            other_node: false,
            shared,
        })
    }

    /// The entries, SVIDs and bundles of its servers.
    pub fn cache(&self) -> Arc<Cache> {
        Arc::clone(&self.shared.cache)
    }

    /// How the agent stands with its servers.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// What metrics look at.
    pub fn shown(&self) -> ShownSet {
        ShownSet {
            jwt_cache: Arc::clone(&self.shared.jwt_cache),
            status: self.status(),
            data: Arc::clone(&self.shared.data),
        }
    }

    /// What the agent presents to its servers.
    pub fn tls_identity(&self) -> Arc<SwappableIdentity> {
        Arc::clone(&self.shared.server.tls_identity)
    }

    /// Gives out JWT-SVIDs; a renewal takes at most `hit_timeout` while the cached one is valid.
    pub fn jwt_issuer(&self, hit_timeout: Duration) -> Issuer<JwtService> {
        let service = JwtService::new(
            Arc::clone(&self.shared.server.client),
            Arc::clone(&self.shared.jwt_cache),
            Arc::clone(&self.shared.wake),
            Arc::clone(&self.shared.clock),
            hit_timeout,
        );
        Issuer { service, cache: self.cache(), status: self.status() }
    }

    /// Gives out WIT-SVIDs, where there are any.
    pub fn wit_issuer(&self) -> Option<Issuer<WitService>> {
        let service = WitService::new(
            Arc::clone(&self.shared.server.client),
            Arc::clone(self.shared.wit_cache.as_ref()?),
            Arc::clone(&self.shared.wake),
            Arc::clone(&self.shared.clock),
            self.shared.settings.workload_key_type,
        );
        Some(Issuer { service, cache: self.cache(), status: self.status() })
    }

    /// The node attestor, to be exchanged for one with new settings.
    pub fn attestor(&self) -> Arc<CurrentAttestor> {
        Arc::clone(&self.shared.attestor)
    }

    /// Runs until `stop` is cancelled.
    ///
    /// # Errors
    /// [`Fatal`] when the agent cannot go on. While other server sets go on, this one is asked again
    /// from time to time instead, and what it gave is served no more.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Fatal> {
        let result = loop {
            let shared = Arc::clone(&self.shared);
            let late = async move {
                tokio::time::sleep(FIRST_ANSWER).await;
                shared.late();
                std::future::pending::<Infallible>().await
            };
            let result = tokio::select! {
                result = self.live(&stop) => result,
                never = late => match never {},
            };
            let Err(fatal) = result else { break result };
            if self.alive.ends() {
                break Err(fatal);
            }
            tracing::error!(
                error = %fatal,
                retry_in = ?ASK_AGAIN,
                "The agent goes on with its other server sets"
            );
            self.forget(&fatal).await;
            if stop.run_until_cancelled(tokio::time::sleep(ASK_AGAIN)).await.is_none() {
                break Ok(());
            }
            self.alive.tries_again();
        };
        self.sealer.finish(&self.shared).await;
        self.shared.data.release();
        result
    }

    /// Serves nothing more of what these servers gave.
    async fn forget(&mut self, why: &Fatal) {
        self.erase_sealed().await;
        self.identity = None;
        self.entries = Arc::default();
        self.synced = None;
        self.tainted = taint::Processed::default();
        self.other_node = false;
        let shared = &self.shared;
        shared.server.tls_identity.clear();
        shared.server.client.release();
        shared.cache.forget();
        shared.forget_tokens();
        shared.status.send_modify(|status| {
            status.identity = None;
            status.server_reachable = false;
            status.trouble = Some(why.to_string().into());
        });
    }

    async fn live(&mut self, stop: &CancellationToken) -> Result<(), Fatal> {
        self.load_stored().await;
        self.check_rebootstrap_mode()?;
        let mut reason = NO_SVID.to_owned();
        let now = self.shared.clock.unix();
        let can_attest = self.shared.attestor.load().is_some();
        let future = |identity: &AgentIdentity| identity.is_not_yet_valid(now);
        if self.identity.take_if(|id| can_attest && id.reattestable && future(id)).is_some() {
            SET_BACK.clone_into(&mut reason);
        }
        if let Some(identity) = self.identity.as_ref().filter(|identity| identity.expired(now)) {
            reason = format!("its SVID expired at {}", identity.not_after());
        }
        loop {
            let now = self.shared.clock.unix();
            let identity = match self.identity.clone() {
                Some(identity) if !identity.expired(now) => identity,
                _ => {
                    let attesting = self.attest_until_done(&reason);
                    match stop.run_until_cancelled(attesting).await {
                        Some(identity) => identity?,
                        None => return Ok(()),
                    }
                }
            };
            self.use_identity(Arc::clone(&identity))?;
            self.check_rebootstrap_mode()?;
            match self.session(identity, stop).await {
                SessionEnd::Stopped => return Ok(()),
                SessionEnd::Banned => return Err(self.banned().await),
                SessionEnd::Reattest(why) => {
                    tracing::warn!(reason = %why, "Agent needs to re-attest; will attempt to re-attest");
                    if why == EVICTED || why == OTHER_NODE {
                        self.erase_sealed().await;
                    }
                    self.identity = None;
                    reason = why;
                }
                SessionEnd::Rebootstrap => {
                    tracing::warn!("Trust bundle and server do not agree, rebootstrapping");
                    self.erase_sealed().await;
                    self.forget_trust().await;
                    "its trust bundle no longer fits the server".clone_into(&mut reason);
                }
            }
        }
    }

    /// Talks with the server as `identity` until something ends it.
    async fn session(
        &mut self,
        identity: Arc<AgentIdentity>,
        stop: &CancellationToken,
    ) -> SessionEnd {
        let mut session = Session::new(self, identity);
        loop {
            let end = tokio::select! {
                () = stop.cancelled() => Some(SessionEnd::Stopped),
                end = session.step() => end,
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Presents `identity` from now on.
    fn use_identity(&mut self, identity: Arc<AgentIdentity>) -> Result<(), Fatal> {
        let tls = identity.tls().map_err(|error| Fatal::State(error.to_string()))?;
        self.shared.server.tls_identity.set(tls);
        self.shared.server.client.release();
        self.shared.status.send_modify(|status| {
            status.identity = Some(Arc::clone(&identity));
            status.trouble = None;
        });
        self.identity = Some(identity);
        Ok(())
    }
}
