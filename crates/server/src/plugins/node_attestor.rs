//! `NodeAttestor`: how nodes prove what they are.

mod http_challenge;
mod k8s_psat;
mod x509pop;

use std::sync::Arc;

use signet_attest::node::NodeAttestorServer;
use signet_config::{Block, Configured, Count, Kind};

use super::{PluginError, Scope};

pub use http_challenge::HttpChallenge;
pub use k8s_psat::{K8sCluster, K8sPsat};
pub use x509pop::{X509Pop, X509PopMode};

/// `NodeAttestor`.
pub(super) const KIND: Kind<NodeAttestor> = Kind {
    name: "NodeAttestor",
    noun: "node attestor",
    count: Count::Any,
    plugins: &[
        ("http_challenge", http_challenge::decode),
        ("join_token", join_token),
        ("k8s_psat", k8s_psat::decode),
        ("x509pop", x509pop::decode),
    ],
    absent: &[(
        &["aws_iid", "azure_imds", "azure_msi", "gcp_iit", "sshpop", "tpm_devid"],
        "use k8s_psat, x509pop, http_challenge or join_token",
    )],
};

/// How nodes prove what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAttestor {
    /// `http_challenge`.
    HttpChallenge(HttpChallenge),
    /// `join_token`.
    JoinToken,
    /// `k8s_psat`.
    K8sPsat(K8sPsat),
    /// `x509pop`.
    X509Pop(X509Pop),
}

fn join_token(_: &Block<'_>) -> Option<NodeAttestor> {
    Some(NodeAttestor::JoinToken)
}

/// Opens the node attestors but `join_token`, which is part of attesting itself.
///
/// # Errors
/// [`PluginError`] when a CA bundle cannot be read or settings contradict each other.
pub(crate) fn open(
    plugins: &[Configured<NodeAttestor>],
    scope: &Scope<'_>,
) -> Result<Vec<Arc<dyn NodeAttestorServer>>, PluginError> {
    let mut all: Vec<Arc<dyn NodeAttestorServer>> = Vec::with_capacity(plugins.len());
    for plugin in plugins {
        let opened = match &plugin.settings {
            NodeAttestor::HttpChallenge(settings) => http_challenge::open(settings, scope),
            NodeAttestor::JoinToken => continue,
            NodeAttestor::K8sPsat(settings) => Ok(k8s_psat::open(settings, scope)),
            NodeAttestor::X509Pop(settings) => x509pop::open(settings, scope),
        };
        all.push(opened.map_err(|why| PluginError::new(KIND.name, plugin.name, why))?);
    }
    Ok(all)
}

/// Reads what the settings name, as [`open`] does.
///
/// # Errors
/// [`PluginError`] when something cannot be read or settings contradict each other.
pub(super) fn check(
    plugin: &Configured<NodeAttestor>,
    scope: &Scope<'_>,
) -> Result<(), PluginError> {
    let checked = match &plugin.settings {
        NodeAttestor::HttpChallenge(settings) => http_challenge::open(settings, scope).map(drop),
        NodeAttestor::JoinToken => Ok(()),
        NodeAttestor::K8sPsat(settings) => k8s_psat::check(settings, scope),
        NodeAttestor::X509Pop(settings) => x509pop::open(settings, scope).map(drop),
    };
    checked.map_err(|why| PluginError::new(KIND.name, plugin.name, why))
}
