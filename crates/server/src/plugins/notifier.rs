//! `Notifier`: who is told of each new bundle.

use std::{path::PathBuf, sync::Arc};

use signet_config::{Block, Count, Kind};
use signet_k8s::bundle::{BundleTarget, K8sBundle as K8sBundlePort};
use signet_pki::Notifier as NotifierPort;

use super::{
    PluginError, Scope,
    kubernetes::{self, api_server, data_key, is_label_key, object_name},
};

/// `Notifier`.
pub(super) const KIND: Kind<Notifier> = Kind {
    name: "Notifier",
    noun: "notifier",
    count: Count::Any,
    plugins: &[("k8sbundle", k8s_bundle)],
    absent: &[(&["gcs_bundle"], "use Notifier \"k8sbundle\", or upload what `bundle show` prints")],
};

/// Who is told of each new bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notifier {
    /// `k8sbundle`.
    K8sBundle(K8sBundle),
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

fn k8s_bundle(block: &Block<'_>) -> Option<Notifier> {
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

/// The notifier of these settings.
///
/// # Errors
/// [`PluginError`] when a cluster's configuration cannot be used.
pub(crate) fn open(
    settings: &Notifier,
    scope: &Scope<'_>,
) -> Result<Arc<dyn NotifierPort>, PluginError> {
    let Notifier::K8sBundle(bundle) = settings;
    let targets = bundle.clusters.iter().map(|cluster| {
        let file = cluster.kube_config_file_path.as_deref();
        let api = api_server(file, scope.clock)
            .map_err(|why| PluginError::new(KIND.name, "k8sbundle", why))?;
        Ok(BundleTarget {
            api,
            cluster: file.map_or_else(|| "own".to_owned(), |file| file.display().to_string()),
            namespace: cluster.namespace.clone(),
            config_map: cluster.config_map.clone(),
            config_map_key: cluster.config_map_key.clone(),
            webhook_label: cluster.webhook_label.clone(),
            api_service_label: cluster.api_service_label.clone(),
        })
    });
    Ok(Arc::new(K8sBundlePort::new(targets.collect::<Result<_, PluginError>>()?)))
}

/// Reads what the settings name, as [`open`] does.
///
/// # Errors
/// [`PluginError`] for the first cluster whose kubeconfig cannot be used.
pub(super) fn check(settings: &Notifier, scope: &Scope<'_>) -> Result<(), PluginError> {
    let Notifier::K8sBundle(bundle) = settings;
    bundle.clusters.iter().try_for_each(|cluster| {
        kubernetes::check(cluster.kube_config_file_path.as_deref(), scope.clock)
            .map_err(|why| PluginError::new(KIND.name, "k8sbundle", why))
    })
}
