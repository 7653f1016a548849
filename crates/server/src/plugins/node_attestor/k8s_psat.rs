//! `NodeAttestor "k8s_psat"`: the clusters whose agents the server accepts.

use std::{path::PathBuf, sync::Arc};

use signet_attest::node::{
    NodeAttestorServer,
    k8s_psat::server::{Cluster, K8sPsatServer},
};
use signet_base::chain;
use signet_config::Block;
use signet_k8s::ApiServer;

use super::NodeAttestor;
use crate::plugins::{Scope, kubernetes};

/// `NodeAttestor "k8s_psat"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sPsat {
    /// `clusters`, by the names that agents give; none accepts nobody.
    pub clusters: Vec<K8sCluster>,
}

/// One of the `clusters`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sCluster {
    /// Its name.
    pub name: String,
    /// `service_account_allow_list`, at least one `namespace:name`.
    pub service_account_allow_list: Vec<String>,
    /// `audience`, default `["spire-server"]`.
    pub audience: Vec<String>,
    /// `kube_config_file`: unset is the cluster the server runs in.
    pub kube_config_file: Option<PathBuf>,
    /// `allowed_node_label_keys`: labels of nodes that become selectors.
    pub allowed_node_label_keys: Vec<String>,
    /// `allowed_pod_label_keys`: labels of agents' pods that become selectors.
    pub allowed_pod_label_keys: Vec<String>,
    /// `use_pod_uid_for_agent_id`, default false.
    pub use_pod_uid_for_agent_id: bool,
}

pub(super) fn decode(block: &Block<'_>) -> Option<NodeAttestor> {
    let mut clusters = Vec::new();
    for (name, cluster) in block.labelled("clusters") {
        let accounts = cluster.texts("service_account_allow_list");
        if accounts.is_empty() {
            cluster.missing("service_account_allow_list");
        }
        for account in &accounts {
            let good = account
                .split_once(':')
                .is_some_and(|(ns, sa)| !ns.is_empty() && !sa.is_empty() && !sa.contains(':'));
            if !good {
                let message = format!("found {account:?}, expected namespace:name");
                cluster.error("service_account_allow_list", message);
            }
        }
        let mut audience = cluster.texts("audience");
        if cluster.pos_of("audience").is_none() {
            audience = vec!["spire-server".to_owned()];
        }
        let review = "use_token_review_api_validation";
        if cluster.pos_of(review).is_some() {
            cluster.flag(review);
            cluster.warn(review, "it has no effect: every token is reviewed by the API server");
        }
        clusters.push(K8sCluster {
            name,
            service_account_allow_list: accounts,
            audience,
            kube_config_file: cluster.path("kube_config_file"),
            allowed_node_label_keys: cluster.texts("allowed_node_label_keys"),
            allowed_pod_label_keys: cluster.texts("allowed_pod_label_keys"),
            use_pod_uid_for_agent_id: cluster.flag("use_pod_uid_for_agent_id"),
        });
        cluster.finish();
    }
    Some(NodeAttestor::K8sPsat(K8sPsat { clusters }))
}

pub(super) fn open(settings: &K8sPsat, scope: &Scope<'_>) -> Arc<dyn NodeAttestorServer> {
    let clusters = settings.clusters.iter();
    let clusters = clusters.map(|settings| (settings.name.clone(), cluster(settings, scope)));
    Arc::new(K8sPsatServer::new(scope.trust_domain.clone(), clusters.collect()))
}

/// A configuration of a cluster that cannot be used is a failure of that cluster only: it is said
/// here, and each attestation tries again until it can.
fn cluster(settings: &K8sCluster, scope: &Scope<'_>) -> Cluster {
    let source = kubernetes::source(settings.kube_config_file.as_deref());
    let (api, why) = ApiServer::sooner_or_later(source, Arc::clone(scope.clock));
    if let Some(error) = why {
        tracing::error!(
            plugin_name = "k8s_psat",
            cluster = settings.name,
            error = chain(&error),
            "The configuration of a cluster cannot be used; its agents are refused until it can"
        );
    }
    let set = |all: &[String]| all.iter().cloned().collect();
    Cluster {
        service_account_allow_list: set(&settings.service_account_allow_list),
        audience: settings.audience.clone(),
        allowed_node_label_keys: set(&settings.allowed_node_label_keys),
        allowed_pod_label_keys: set(&settings.allowed_pod_label_keys),
        use_pod_uid_for_agent_id: settings.use_pod_uid_for_agent_id,
        api: Box::new(api),
    }
}

/// Reads what the settings name.
pub(super) fn check(settings: &K8sPsat, scope: &Scope<'_>) -> Result<(), String> {
    settings.clusters.iter().try_for_each(|cluster| {
        kubernetes::check(cluster.kube_config_file.as_deref(), scope.clock)
            .map_err(|why| format!("cluster \"{}\": {why}", cluster.name))
    })
}
