//! Node attestor `http_challenge`: the node proves its host name by serving a nonce over HTTP at
//! a well-known path, as ACME does.
//!
//! Wire (SPIRE): payload `{"hostname","agentname","port"}`; one challenge `{"nonce"}` (base64url
//! of 32 random bytes, padded); any response; then the server fetches
//! `http://<hostname>:<port>/.well-known/spiffe/nodeattestor/http_challenge/<agentname>/challenge`
//! and compares.

pub mod agent;
#[cfg(feature = "server")]
mod host;
#[cfg(feature = "server")]
pub mod server;

use serde::{Deserialize, Serialize};

/// The attestation type.
pub const KIND: &str = "http_challenge";

/// What the agent sends first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The host name to prove.
    #[serde(default)]
    pub hostname: String,
    /// The agent's name on that host, part of the path.
    #[serde(default)]
    pub agentname: String,
    /// The port to fetch from.
    #[serde(default)]
    pub port: u32,
}

/// The server's challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The text to serve.
    pub nonce: String,
}

/// The path that is fetched.
pub fn challenge_path(agent_name: &str) -> String {
    format!("/.well-known/spiffe/nodeattestor/http_challenge/{agent_name}/challenge")
}
