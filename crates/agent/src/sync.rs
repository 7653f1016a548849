//! The manager: the one task that owns what comes from the server.
//!
//! It keeps the agent attested, fetches entries and bundles (at once when the server pushes a
//! notice, else by polling), has SVIDs signed when they are new, due or asked for, and writes all
//! of it into the [`cache`](crate::cache). While the server is away everything that is still
//! valid stays in the cache; nothing but the server's word, or an operator's, ends this task.

use std::{convert::Infallible, sync::Arc, time::Duration};

use signet_base::CancellationToken;
use signet_identity::SpiffeId;

use crate::{
    agent_identity::AgentIdentity,
    client::{ClientError, EVICTED, Notice, SyncMethod},
    entry::EntryMap,
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
pub use shared::{AgentBundles, SealingTrouble, Settings, Shared, Status};

/// How long an agent with a sealed cache waits for its server's first answer before it serves.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

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
    /// The node seems to be another one than was attested, and attesting anew did not change that.
    other_node: bool,
}

impl Manager {
    /// A manager on `shared`; nothing happens before [`Manager::run`].
    pub fn new(shared: Arc<Shared>) -> Self {
        let method = if shared.settings.use_sync { SyncMethod::Sync } else { SyncMethod::Get };
        Self {
            identity: None,
            entries: Arc::default(),
            method,
            synced: None,
            sealer: Sealer::default(),
            tainted: taint::Processed::default(),
            other_node: false,
            shared,
        }
    }

    /// Runs until `stop` is cancelled.
    ///
    /// # Errors
    /// [`Fatal`] when the agent cannot go on.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Fatal> {
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
        self.sealer.finish(&self.shared).await;
        self.shared.data.release();
        result
    }

    async fn live(&mut self, stop: &CancellationToken) -> Result<(), Fatal> {
        self.load_stored().await;
        self.check_rebootstrap_mode()?;
        let mut reason = "it has no SVID yet".to_owned();
        let now = self.shared.clock.unix();
        let can_attest = self.shared.attestor.load().is_some();
        let future = |identity: &AgentIdentity| identity.is_of_the_future(now);
        if self.identity.take_if(|id| can_attest && id.reattestable && future(id)).is_some() {
            SET_BACK.clone_into(&mut reason);
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
        self.shared.tls_identity.set(tls);
        self.shared.client.release();
        self.shared.status.send_modify(|status| status.identity = Some(Arc::clone(&identity)));
        self.identity = Some(identity);
        Ok(())
    }
}
