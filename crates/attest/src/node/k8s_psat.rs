//! Node attestor `k8s_psat`: a service account token that Kubernetes projected into the agent's
//! pod for the server's audience.
//!
//! Wire (SPIRE): payload `{"cluster","token"}`, no challenge. The server has the token reviewed by
//! the cluster's API server, and reads the pod it is bound to and that pod's node.

pub mod agent;
#[cfg(feature = "server")]
pub mod server;

use serde::{Deserialize, Serialize};

/// The attestation type.
pub const KIND: &str = "k8s_psat";
/// The longest token that is read, bytes.
pub const MAX_TOKEN: usize = 64 * 1024;

/// What the agent sends.
#[derive(Serialize, Deserialize)]
pub struct Payload {
    /// The name both sides call the cluster by.
    #[serde(default)]
    pub cluster: String,
    /// The projected token: a secret.
    #[serde(default)]
    pub token: String,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload(cluster: {}, ..)", self.cluster)
    }
}
