//! `BundlePublisher`: who publishes the bundle.

mod aws;
mod azure_blob;
mod gcp_cloudstorage;

use std::{path::PathBuf, sync::Arc, time::Duration};

use signet_config::{Block, Count, Kind};
use signet_k8s::bundle::{K8sConfigMap as K8sConfigMapPort, PublishTarget};
use signet_pki::{BundlePublisher as BundlePublisherPort, published::BundleFormat};

pub use self::{
    aws::{AwsRolesAnywhere, AwsS3},
    azure_blob::AzureBlob,
    gcp_cloudstorage::GcpCloudStorage,
};
use super::{
    PluginError, Scope,
    kubernetes::{self, api_server, data_key, object_name},
};

/// Refresh hints beyond these are accepted with a warning.
const LONGEST_REFRESH_HINT: Duration = Duration::from_secs(24 * 3600);
const SHORTEST_REFRESH_HINT: Duration = Duration::from_secs(60);

/// `BundlePublisher`.
pub(super) const KIND: Kind<BundlePublisher> = Kind {
    name: "BundlePublisher",
    noun: "bundle publisher",
    count: Count::Any,
    plugins: &[
        ("aws_rolesanywhere_trustanchor", aws::roles_anywhere),
        ("aws_s3", aws::s3),
        ("azure_blob", azure_blob::azure_blob),
        ("gcp_cloudstorage", gcp_cloudstorage::gcp_cloudstorage),
        ("k8s_configmap", k8s_config_map),
    ],
    absent: &[],
};

/// Who publishes the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundlePublisher {
    /// `aws_rolesanywhere_trustanchor`.
    AwsRolesAnywhere(AwsRolesAnywhere),
    /// `aws_s3`.
    AwsS3(AwsS3),
    /// `azure_blob`.
    AzureBlob(AzureBlob),
    /// `gcp_cloudstorage`.
    GcpCloudStorage(GcpCloudStorage),
    /// `k8s_configmap`.
    K8sConfigMap(K8sConfigMap),
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

fn k8s_config_map(block: &Block<'_>) -> Option<BundlePublisher> {
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
        let refresh_hint = refresh_hint(&cluster);
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

/// `refresh_hint`, seconds; unset or zero for what the bundle says.
fn refresh_hint(block: &Block<'_>) -> Option<i64> {
    let hint = block.duration("refresh_hint").filter(|hint| !hint.is_zero())?;
    if hint >= LONGEST_REFRESH_HINT {
        let message = "consumers learn of an unscheduled change late; a value such as 5m is better";
        block.warn("refresh_hint", message);
    } else if hint < SHORTEST_REFRESH_HINT {
        block.warn("refresh_hint", "consumers do not look more often than once a minute");
    }
    Some(i64::try_from(hint.as_secs()).unwrap_or(i64::MAX))
}

/// The bundle publisher of these settings.
///
/// # Errors
/// [`PluginError`] when what they name cannot be used.
pub(crate) fn open(
    settings: &BundlePublisher,
    scope: &Scope<'_>,
) -> Result<Arc<dyn BundlePublisherPort>, PluginError> {
    match settings {
        BundlePublisher::AwsRolesAnywhere(anchor) => aws::open_roles_anywhere(anchor, scope),
        BundlePublisher::AwsS3(s3) => aws::open_s3(s3, scope),
        BundlePublisher::AzureBlob(blob) => azure_blob::open(blob, scope),
        BundlePublisher::GcpCloudStorage(object) => gcp_cloudstorage::open(object, scope),
        BundlePublisher::K8sConfigMap(published) => open_config_map(published, scope),
    }
}

fn open_config_map(
    published: &K8sConfigMap,
    scope: &Scope<'_>,
) -> Result<Arc<dyn BundlePublisherPort>, PluginError> {
    let targets = published.clusters.iter().map(|cluster| {
        let api = api_server(cluster.kubeconfig_path.as_deref(), scope.clock).map_err(|why| {
            let why = format!("cluster {:?}: {why}", cluster.name);
            PluginError::new(KIND.name, "k8s_configmap", why)
        })?;
        Ok(PublishTarget {
            api,
            cluster: cluster.name.clone(),
            namespace: cluster.namespace.clone(),
            config_map: cluster.configmap_name.clone(),
            config_map_key: cluster.configmap_key.clone(),
            format: cluster.format,
            refresh_hint: cluster.refresh_hint,
        })
    });
    Ok(Arc::new(K8sConfigMapPort::new(targets.collect::<Result<_, PluginError>>()?)))
}

/// Reads what the settings name, as [`open`] does.
///
/// # Errors
/// [`PluginError`] for the first file that cannot be used.
pub(super) fn check(settings: &BundlePublisher, scope: &Scope<'_>) -> Result<(), PluginError> {
    let published = match settings {
        BundlePublisher::AwsRolesAnywhere(_) | BundlePublisher::AwsS3(_) => {
            return open(settings, scope).map(drop);
        }
        BundlePublisher::AzureBlob(blob) => return azure_blob::check(blob),
        BundlePublisher::GcpCloudStorage(object) => return gcp_cloudstorage::check(object),
        BundlePublisher::K8sConfigMap(published) => published,
    };
    published.clusters.iter().try_for_each(|cluster| {
        kubernetes::check(cluster.kubeconfig_path.as_deref(), scope.clock).map_err(|why| {
            let why = format!("cluster {:?}: {why}", cluster.name);
            PluginError::new(KIND.name, "k8s_configmap", why)
        })
    })
}
