//! The agent's `plugins {}`: one typed value for each plugin that this build has.

use std::path::PathBuf;

pub use super::kubernetes::{K8sAttestor, K8sPsat};
pub use signet_attest::workload::docker::DockerConfig;
pub use signet_daemon::config::{Configured, PluginSource};

/// Why `sigstore {}` is refused: docs/adr/0004-sigstore.md.
pub(super) const SIGSTORE: &str = "signatures of images are not verified by Signet; let an \
     admission policy (sigstore policy-controller, Kyverno) admit signed images only, use the \
     selectors of the image's digest, and remove the block";

/// The agent's plugins, each kind with as many as it allows.
#[derive(Clone, Debug)]
pub struct Plugins {
    /// `KeyManager`: exactly one.
    pub key_manager: Configured<KeyManager>,
    /// `NodeAttestor`: exactly one, unless a join token takes its place.
    pub node_attestor: Option<Configured<NodeAttestor>>,
    /// `WorkloadAttestor`: at least one.
    pub workload_attestors: Vec<Configured<WorkloadAttestor>>,
}

/// Where the agent's private key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyManager {
    /// In the file `keys.json` of a directory.
    Disk {
        /// `directory`, required.
        directory: PathBuf,
    },
    /// In memory: the agent attests anew at each start.
    Memory,
}

/// How the node proves what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAttestor {
    /// `http_challenge`.
    HttpChallenge(HttpChallenge),
    /// `join_token`: the token comes from the flag, the key or the file.
    JoinToken,
    /// `k8s_psat`.
    K8sPsat(K8sPsat),
    /// `x509pop`.
    X509Pop(X509Pop),
}

impl NodeAttestor {
    /// The plugin's name, which is also the attestation type.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HttpChallenge(_) => "http_challenge",
            Self::JoinToken => "join_token",
            Self::K8sPsat(_) => "k8s_psat",
            Self::X509Pop(_) => "x509pop",
        }
    }
}

/// `NodeAttestor "http_challenge"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpChallenge {
    /// `hostname`: none is the machine's own name.
    pub hostname: Option<String>,
    /// `agentname`, default `default`.
    pub agentname: String,
    /// `port`, default 0: the port to listen on; 0 is any.
    pub port: u16,
    /// `advertised_port`: the port the server asks; none is the one listened on.
    pub advertised_port: Option<u16>,
}

/// `NodeAttestor "x509pop"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Pop {
    /// Where the certificate and its key come from.
    pub source: X509PopSource,
}

/// Where x509pop's certificate and key come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum X509PopSource {
    /// Files.
    Files {
        /// `private_key_path`, required.
        private_key_path: PathBuf,
        /// `certificate_path`, required: the leaf, then intermediates.
        certificate_path: PathBuf,
        /// `intermediates_path`: more intermediates.
        intermediates_path: Option<PathBuf>,
    },
    /// `spiffe_endpoint_socket`: the X.509-SVID that this Workload API gives the agent.
    WorkloadApi {
        /// The endpoint, such as `unix:///run/upstream/api.sock`.
        endpoint: String,
    },
}

/// How workloads are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadAttestor {
    /// `docker`, also for Podman.
    Docker(DockerConfig),
    /// `k8s`.
    K8s(K8sAttestor),
    /// `systemd`.
    Systemd,
    /// `unix`.
    Unix(UnixAttestor),
}

impl WorkloadAttestor {
    /// The plugin's name, which is also its selectors' type.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Docker(_) => "docker",
            Self::K8s(_) => "k8s",
            Self::Systemd => "systemd",
            Self::Unix(_) => "unix",
        }
    }
}

/// `WorkloadAttestor "unix"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UnixAttestor {
    /// `discover_workload_path`, default false: whether `path` and `sha256` selectors are made.
    pub discover_workload_path: bool,
    /// `workload_size_limit` in bytes: an executable larger than this is an error; 0 is no limit;
    /// below 0 the `sha256` selector is never made. Unset, one of more than 512 MiB has none.
    pub workload_size_limit: Option<i64>,
}
