//! `NodeAttestor`: how the node proves what it is.

use std::path::PathBuf;

use signet_attest::node::{
    NodeAttestError, NodeAttestorAgent,
    http_challenge::agent::{HttpChallengeAgent, HttpChallengeAgentConfig},
    k8s_psat::agent::{DEFAULT_TOKEN_PATH, K8sPsatAgent},
    x509pop::agent::{FileSource, X509PopAgent},
};
use signet_config::{Block, Count, Kind};

use crate::x509pop_source::WorkloadApiSource;

/// `NodeAttestor`: one, unless a join token takes its place.
pub(super) const KIND: Kind<NodeAttestor> = Kind {
    name: "NodeAttestor",
    noun: "node attestor",
    count: Count::One,
    plugins: &[
        ("http_challenge", http_challenge),
        ("join_token", join_token),
        ("k8s_psat", k8s_psat),
        ("x509pop", x509pop),
    ],
    absent: &[(
        &["aws_iid", "azure_imds", "azure_msi", "gcp_iit", "sshpop", "tpm_devid"],
        "use k8s_psat, x509pop, http_challenge or join_token",
    )],
};

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

/// `NodeAttestor "k8s_psat"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sPsat {
    /// `cluster`, required: the name the server knows the cluster by.
    pub cluster: String,
    /// `token_path`, default `/var/run/secrets/tokens/spire-agent`.
    pub token_path: PathBuf,
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

fn join_token(_: &Block<'_>) -> Option<NodeAttestor> {
    Some(NodeAttestor::JoinToken)
}

fn http_challenge(block: &Block<'_>) -> Option<NodeAttestor> {
    Some(NodeAttestor::HttpChallenge(HttpChallenge {
        hostname: block.text("hostname"),
        agentname: block.text("agentname").unwrap_or_else(|| "default".to_owned()),
        port: block.integer("port").unwrap_or(0),
        advertised_port: block.port("advertised_port"),
    }))
}

fn k8s_psat(block: &Block<'_>) -> Option<NodeAttestor> {
    let cluster = block.required_text("cluster");
    let token_path = block.path("token_path").unwrap_or_else(|| DEFAULT_TOKEN_PATH.into());
    Some(NodeAttestor::K8sPsat(K8sPsat { cluster: cluster?, token_path }))
}

fn x509pop(block: &Block<'_>) -> Option<NodeAttestor> {
    let endpoint = block.text("spiffe_endpoint_socket");
    let private_key_path = block.path("private_key_path");
    let certificate_path = block.path("certificate_path");
    let intermediates_path = block.path("intermediates_path");
    if let Some(endpoint) = endpoint {
        if private_key_path.is_some() || certificate_path.is_some() || intermediates_path.is_some()
        {
            let message = "it takes the place of private_key_path, certificate_path and \
                           intermediates_path; use one or the other";
            block.error("spiffe_endpoint_socket", message);
        }
        if !(endpoint.starts_with("unix:") || endpoint.starts_with("tcp:")) {
            let message = format!("found {endpoint:?}, expected unix:///path or tcp://ip:port");
            block.error("spiffe_endpoint_socket", message);
        }
        return Some(NodeAttestor::X509Pop(X509Pop {
            source: X509PopSource::WorkloadApi { endpoint },
        }));
    }
    let private_key_path = block.required("private_key_path", private_key_path);
    let certificate_path = block.required("certificate_path", certificate_path);
    Some(NodeAttestor::X509Pop(X509Pop {
        source: X509PopSource::Files {
            private_key_path: private_key_path?,
            certificate_path: certificate_path?,
            intermediates_path,
        },
    }))
}

/// Opens the node attestor; none for `join_token`, whose token is not in its settings.
///
/// # Errors
/// [`NodeAttestError`] when what it needs cannot be used.
pub(crate) fn open(
    settings: &NodeAttestor,
) -> Result<Option<Box<dyn NodeAttestorAgent>>, NodeAttestError> {
    Ok(match settings {
        NodeAttestor::JoinToken => None,
        NodeAttestor::HttpChallenge(settings) => {
            Some(Box::new(HttpChallengeAgent::new(HttpChallengeAgentConfig {
                hostname: settings.hostname.clone().unwrap_or_default(),
                agentname: settings.agentname.clone(),
                port: settings.port,
                advertised_port: settings.advertised_port.unwrap_or_default(),
            })?))
        }
        NodeAttestor::K8sPsat(settings) => {
            Some(Box::new(K8sPsatAgent::new(&settings.cluster, settings.token_path.clone())?))
        }
        NodeAttestor::X509Pop(settings) => match &settings.source {
            X509PopSource::Files { private_key_path, certificate_path, intermediates_path } => {
                let source = FileSource {
                    private_key_path: private_key_path.clone(),
                    certificate_path: certificate_path.clone(),
                    intermediates_path: intermediates_path.clone(),
                };
                Some(Box::new(X509PopAgent::new(Box::new(source))))
            }
            X509PopSource::WorkloadApi { endpoint } => {
                Some(Box::new(X509PopAgent::new(Box::new(WorkloadApiSource::new(endpoint)?))))
            }
        },
    })
}
