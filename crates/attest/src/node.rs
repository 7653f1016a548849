//! Node attestation: one folder per attestor, `agent.rs` for what runs on the node and
//! `server.rs` (feature `server`) for what judges it.

pub mod http_challenge;
pub mod join_token;
pub mod k8s_psat;
pub mod path_template;
pub mod x509pop;

use std::{fmt, net::IpAddr};

use signet_identity::{SelectorSet, SpiffeId};

/// The most bytes of an attestation payload or a challenge response that are read.
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// The agent's half of a node attestor.
#[async_trait::async_trait]
pub trait NodeAttestorAgent: Send + Sync + fmt::Debug {
    /// The attestation type, for example `join_token`.
    fn kind(&self) -> &'static str;

    /// Begins one attestation: the payload to send and the half that answers challenges.
    ///
    /// # Errors
    /// [`NodeAttestError`] when the node's evidence cannot be read.
    async fn begin(&self) -> Result<(Vec<u8>, Box<dyn Answerer>), NodeAttestError>;

    /// Whether this may still be the node that was attested as `id`, by what can be told without
    /// the server. Asked of what an earlier run of the agent left, and now and then while it runs.
    fn may_still_be(&self, _id: &SpiffeId) -> bool {
        true
    }
}

/// Answers the server's challenges during one attestation; dropped when it ends.
#[async_trait::async_trait]
pub trait Answerer: Send {
    /// Answers one challenge.
    ///
    /// # Errors
    /// [`NodeAttestError`] when the challenge is malformed or was not to be expected.
    async fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError>;
}

/// An [`Answerer`] for attestors without challenges.
#[derive(Debug)]
pub struct NoChallenge(pub &'static str);

#[async_trait::async_trait]
impl Answerer for NoChallenge {
    async fn answer(&mut self, _challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError> {
        Err(NodeAttestError::internal(format!(
            "the server sent a challenge, but node attestor {} has none",
            self.0
        )))
    }
}

/// The server's half of a node attestor.
#[async_trait::async_trait]
pub trait NodeAttestorServer: Send + Sync + fmt::Debug {
    /// The attestation type, for example `x509pop`.
    fn kind(&self) -> &'static str;

    /// Judges one attestation.
    ///
    /// # Errors
    /// [`NodeAttestError`] when the evidence is malformed, refused, or cannot be judged.
    async fn attest(
        &self,
        payload: &[u8],
        peer: Option<IpAddr>,
        challenger: &mut dyn Challenger,
    ) -> Result<NodeAttestation, NodeAttestError>;
}

/// Sends challenges to the agent under attestation.
#[async_trait::async_trait]
pub trait Challenger: Send {
    /// Sends one challenge and waits for its response (the caller sets the deadline).
    ///
    /// # Errors
    /// [`NodeAttestError`] when the agent goes away or answers with something else.
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError>;
}

/// What a node attestor found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAttestation {
    /// The agent ID.
    pub agent_id: SpiffeId,
    /// The node selectors.
    pub selectors: SelectorSet,
    /// Whether the agent may attest again with the same evidence. When not, the server refuses an
    /// agent ID that is attested already (trust on first use).
    pub can_reattest: bool,
}

/// Why node attestation failed, with the class a gRPC status is made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NodeAttestError {
    /// The class of the failure.
    pub class: FailureClass,
    /// What went wrong.
    pub message: String,
}

/// The class of a node attestation failure; each is the gRPC code of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// Something on this side failed.
    Internal,
    /// The evidence is malformed.
    InvalidArgument,
    /// The evidence is well-formed and refused.
    PermissionDenied,
    /// Something needed is not there now; trying again may help.
    Unavailable,
}

impl NodeAttestError {
    /// A failure on this side.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { class: FailureClass::Internal, message: message.into() }
    }

    /// Malformed evidence.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { class: FailureClass::InvalidArgument, message: message.into() }
    }

    /// Refused evidence.
    pub fn denied(message: impl Into<String>) -> Self {
        Self { class: FailureClass::PermissionDenied, message: message.into() }
    }

    /// Something is not there now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { class: FailureClass::Unavailable, message: message.into() }
    }
}
