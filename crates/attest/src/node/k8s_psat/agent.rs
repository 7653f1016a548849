//! The agent's half of `k8s_psat`: presents the projected token of its pod.

use std::path::PathBuf;

use signet_pki::files;

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
}

#[async_trait::async_trait]
impl NodeAttestorAgent for K8sPsatAgent {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn begin(&self) -> Result<(Vec<u8>, Box<dyn Answerer>), NodeAttestError> {
        let failed =
            |why: String| NodeAttestError::invalid(format!("unable to load token from {}", why));
        let name = self.token_path.display();
        let bytes = files::read_bounded(&self.token_path, MAX_TOKEN as u64)
            .map_err(|e| failed(e.to_string()))?
            .map(zeroize::Zeroizing::new)
            .ok_or_else(|| failed(format!("{name}: no such file")))?;
        let token = std::str::from_utf8(&bytes)
            .map(str::trim)
            .map_err(|_| failed(format!("{name}: not text")))?;
        if token.is_empty() {
            return Err(failed(format!("{name}: the file is empty")));
        }
        let payload = Payload { cluster: self.cluster.clone(), token: token.to_owned() };
        let payload = serde_json::to_vec(&payload)
            .map_err(|e| NodeAttestError::internal(format!("encoding the payload: {e}")))?;
        Ok((payload, Box::new(NoChallenge(KIND))))
    }
}
