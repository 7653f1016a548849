//! The agent's half of `k8s_psat`: presents the projected token of its pod.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use signet_identity::SpiffeId;
use signet_pki::files;
use zeroize::Zeroizing;

use super::{KIND, MAX_TOKEN, Payload};
use crate::node::{Answerer, NoChallenge, NodeAttestError, NodeAttestorAgent};

/// Where the token is by default.
pub const DEFAULT_TOKEN_PATH: &str = "/var/run/secrets/tokens/spire-agent";

/// The agent's half; the token is read anew for each attestation, for Kubernetes rotates it.
#[derive(Debug)]
pub struct K8sPsatAgent {
    cluster: String,
    token_path: PathBuf,
}

impl K8sPsatAgent {
    /// An attestor for an agent of `cluster`.
    ///
    /// # Errors
    /// [`NodeAttestError`] when the cluster has no name.
    pub fn new(cluster: &str, token_path: PathBuf) -> Result<Self, NodeAttestError> {
        if cluster.is_empty() {
            return Err(NodeAttestError::invalid("configuration missing cluster"));
        }
        Ok(Self { cluster: cluster.to_owned(), token_path })
    }

    fn token(&self) -> Result<Zeroizing<String>, NodeAttestError> {
        let failed =
            |why: String| NodeAttestError::invalid(format!("unable to load token from {why}"));
        let name = self.token_path.display();
        let bytes = files::read_bounded(&self.token_path, MAX_TOKEN as u64)
            .map_err(|e| failed(e.to_string()))?
            .map(Zeroizing::new)
            .ok_or_else(|| failed(format!("{name}: no such file")))?;
        let token = std::str::from_utf8(&bytes)
            .map(str::trim)
            .map_err(|_| failed(format!("{name}: not text")))?;
        if token.is_empty() {
            return Err(failed(format!("{name}: the file is empty")));
        }
        Ok(Zeroizing::new(token.to_owned()))
    }

    /// The node that the token says it was made for. Nobody has verified it: it is the agent's own.
    fn node_uid(&self) -> Option<String> {
        let token = self.token().ok()?;
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        claims.kubernetes.node.map(|node| node.uid).filter(|uid| !uid.is_empty())
    }
}

/// The part of a projected token that is looked at.
#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "kubernetes.io")]
    kubernetes: KubernetesClaims,
}

#[derive(Deserialize)]
struct KubernetesClaims {
    node: Option<NodeClaim>,
}

#[derive(Deserialize)]
struct NodeClaim {
    #[serde(default)]
    uid: String,
}

#[async_trait::async_trait]
impl NodeAttestorAgent for K8sPsatAgent {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn begin(&self) -> Result<(Vec<u8>, Box<dyn Answerer>), NodeAttestError> {
        let token = self.token()?;
        let payload = Payload { cluster: self.cluster.clone(), token: token.as_str().to_owned() };
        let payload = serde_json::to_vec(&payload)
            .map_err(|e| NodeAttestError::internal(format!("encoding the payload: {e}")))?;
        Ok((payload, Box::new(NoChallenge(KIND))))
    }

    /// A node that was deleted and joined again has another UID, and what its disk or memory kept
    /// is for the one before. Kubernetes 1.30 and later name the node in the token. An ID of
    /// another form (after the pod) says nothing about the node.
    fn may_still_be(&self, id: &SpiffeId) -> bool {
        let after = format!("/spire/agent/{KIND}/{}/", self.cluster);
        match id.path().strip_prefix(&after).filter(|rest| !rest.contains('/')) {
            Some(attested) => self.node_uid().is_none_or(|now| now == attested),
            None => true,
        }
    }
}
