//! `NodeAttestor "k8s_psat"`: the clusters whose agents the server accepts; `Notifier "k8sbundle"`
//! and `BundlePublisher "k8s_configmap"`: where its bundle goes in clusters.

use std::{path::PathBuf, time::Duration};

use signet_daemon::config::Block;
use signet_k8s::bundle::BundleFormat;

use super::plugins::{BundlePublisher, NodeAttestor, Notifier};

/// Refresh hints beyond these are accepted with a warning.
const LONGEST_REFRESH_HINT: Duration = Duration::from_secs(24 * 3600);
const SHORTEST_REFRESH_HINT: Duration = Duration::from_secs(60);

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

pub(super) fn k8s_psat(block: &Block<'_>) -> Option<NodeAttestor> {
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

/// `Notifier "k8sbundle"`: the clusters that get the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sBundle {
    /// The one at the top, where it says anything or stands alone, then `clusters`.
    pub clusters: Vec<K8sBundleCluster>,
}

/// A cluster that gets the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sBundleCluster {
    /// `namespace`, default `spire`.
    pub namespace: String,
    /// `config_map`, default `spire-bundle`.
    pub config_map: String,
    /// `config_map_key`, default `bundle.crt`.
    pub config_map_key: String,
    /// `webhook_label`: webhooks with this label set to `true` get the bundle as well.
    pub webhook_label: Option<String>,
    /// `api_service_label`: APIServices with this one do.
    pub api_service_label: Option<String>,
    /// `kube_config_file_path`: unset is the cluster the server runs in.
    pub kube_config_file_path: Option<PathBuf>,
}

pub(super) fn k8s_bundle(block: &Block<'_>) -> Option<Notifier> {
    let mut clusters = Vec::new();
    let others = block.blocks("clusters");
    let root = bundle_cluster(block);
    if root.is_some() || others.is_empty() {
        clusters.push(with_defaults(root.unwrap_or_default()));
    }
    for other in others {
        let cluster = bundle_cluster(&other).unwrap_or_default();
        if cluster.kube_config_file_path.is_none() {
            other.missing("kube_config_file_path");
        }
        clusters.push(with_defaults(cluster));
        other.finish();
    }
    Some(Notifier::K8sBundle(K8sBundle { clusters }))
}

#[derive(Default)]
struct Given {
    namespace: Option<String>,
    config_map: Option<String>,
    config_map_key: Option<String>,
    webhook_label: Option<String>,
    api_service_label: Option<String>,
    kube_config_file_path: Option<PathBuf>,
}

/// What a block says of a cluster; none when it says nothing.
fn bundle_cluster(block: &Block<'_>) -> Option<Given> {
    let label = |key| {
        let label = block.text(key)?;
        if !is_label_key(&label) {
            let message = format!("found {label:?}, expected a label such as spiffe.io/webhook");
            block.error(key, message);
        }
        Some(label)
    };
    let given = Given {
        namespace: object_name(block, "namespace"),
        config_map: object_name(block, "config_map"),
        config_map_key: data_key(block, "config_map_key"),
        webhook_label: label("webhook_label"),
        api_service_label: label("api_service_label"),
        kube_config_file_path: block.path("kube_config_file_path"),
    };
    let says_something = given.namespace.is_some()
        || given.config_map.is_some()
        || given.config_map_key.is_some()
        || given.webhook_label.is_some()
        || given.api_service_label.is_some()
        || given.kube_config_file_path.is_some();
    says_something.then_some(given)
}

fn with_defaults(given: Given) -> K8sBundleCluster {
    K8sBundleCluster {
        namespace: given.namespace.unwrap_or_else(|| "spire".to_owned()),
        config_map: given.config_map.unwrap_or_else(|| "spire-bundle".to_owned()),
        config_map_key: given.config_map_key.unwrap_or_else(|| "bundle.crt".to_owned()),
        webhook_label: given.webhook_label,
        api_service_label: given.api_service_label,
        kube_config_file_path: given.kube_config_file_path,
    }
}

/// `BundlePublisher "k8s_configmap"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sConfigMap {
    /// `clusters`; none publishes nothing.
    pub clusters: Vec<K8sConfigMapCluster>,
}

/// A cluster that the bundle is published in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sConfigMapCluster {
    /// Its name, for messages.
    pub name: String,
    /// `namespace`, required.
    pub namespace: String,
    /// `configmap_name`, required.
    pub configmap_name: String,
    /// `configmap_key`, required.
    pub configmap_key: String,
    /// `kubeconfig_path`: unset is the cluster the server runs in.
    pub kubeconfig_path: Option<PathBuf>,
    /// `format`, required.
    pub format: BundleFormat,
    /// `refresh_hint`, seconds, for the format `spiffe`.
    pub refresh_hint: Option<i64>,
}

pub(super) fn k8s_config_map(block: &Block<'_>) -> Option<BundlePublisher> {
    let found = block.labelled("clusters");
    if found.is_empty() {
        block.warn("clusters", "no clusters are configured, the bundle will not be published");
    }
    let mut clusters = Vec::new();
    for (name, cluster) in found {
        let required = |key, value: Option<String>| cluster.required(key, value);
        let namespace = required("namespace", object_name(&cluster, "namespace"));
        let configmap_name = required("configmap_name", object_name(&cluster, "configmap_name"));
        let configmap_key = required("configmap_key", data_key(&cluster, "configmap_key"));
        let format = cluster.required("format", cluster.parsed::<BundleFormat>("format"));
        let kubeconfig_path = cluster.path("kubeconfig_path");
        let refresh_hint = cluster.duration("refresh_hint").filter(|hint| !hint.is_zero());
        match refresh_hint {
            Some(hint) if hint >= LONGEST_REFRESH_HINT => cluster.warn(
                "refresh_hint",
                "consumers learn of an unscheduled change late; a value such as 5m is better",
            ),
            Some(hint) if hint < SHORTEST_REFRESH_HINT => {
                cluster.warn("refresh_hint", "consumers do not look more often than once a minute");
            }
            _ => {}
        }
        let refresh_hint =
            refresh_hint.map(|hint| i64::try_from(hint.as_secs()).unwrap_or(i64::MAX));
        cluster.finish();
        let (Some(namespace), Some(configmap_name), Some(configmap_key), Some(format)) =
            (namespace, configmap_name, configmap_key, format)
        else {
            continue;
        };
        clusters.push(K8sConfigMapCluster {
            name,
            namespace,
            configmap_name,
            configmap_key,
            kubeconfig_path,
            format,
            refresh_hint,
        });
    }
    Some(BundlePublisher::K8sConfigMap(K8sConfigMap { clusters }))
}

fn object_name(block: &Block<'_>, key: &'static str) -> Option<String> {
    let name = block.text(key)?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    if name.len() > 253 || name.starts_with('.') || !name.bytes().all(allowed) {
        let message = format!("{name:?} is not the name of a Kubernetes object");
        block.error(key, message);
    }
    Some(name)
}

/// A key of a ConfigMap.
fn data_key(block: &Block<'_>, key: &'static str) -> Option<String> {
    let name = block.text(key)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.len() > 253 || !name.bytes().all(allowed) {
        block.error(key, format!("{name:?} is not a key that a ConfigMap can have"));
    }
    Some(name)
}

/// `name` or `prefix/name`.
fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.rsplit_once('/').map_or((None, text), |(p, n)| (Some(p), n));
    let word = |text: &str, max: usize| {
        !text.is_empty()
            && text.len() <= max
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    word(name, 63) && prefix.is_none_or(|prefix| word(prefix, 253))
}
