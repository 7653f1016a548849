//! Making the plugins that pass on the bundle.

use std::{path::Path, sync::Arc};

use signet_base::SharedClock;
use signet_k8s::{
    ApiServer, KubeConfig,
    bundle::{BundleTarget, K8sBundle, K8sConfigMap, PublishTarget},
};
use signet_pki::{BundlePublisher, Notifier};

use super::PluginError;
use crate::config;

/// The notifier of these settings.
///
/// # Errors
/// [`PluginError`] when a cluster's configuration cannot be used.
pub fn notifier(
    settings: &config::Notifier,
    clock: &SharedClock,
) -> Result<Arc<dyn Notifier>, PluginError> {
    let config::Notifier::K8sBundle(bundle) = settings;
    let targets = bundle.clusters.iter().map(|cluster| {
        let file = cluster.kube_config_file_path.as_deref();
        let api = api_server(file, clock)
            .map_err(|why| PluginError::new("Notifier", "k8sbundle", why))?;
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
    Ok(Arc::new(K8sBundle::new(targets.collect::<Result<_, PluginError>>()?)))
}

/// The bundle publisher of these settings.
///
/// # Errors
/// [`PluginError`] when a cluster's configuration cannot be used.
pub fn publisher(
    settings: &config::BundlePublisher,
    clock: &SharedClock,
) -> Result<Arc<dyn BundlePublisher>, PluginError> {
    let config::BundlePublisher::K8sConfigMap(published) = settings;
    let targets = published.clusters.iter().map(|cluster| {
        let api = api_server(cluster.kubeconfig_path.as_deref(), clock).map_err(|why| {
            let why = format!("cluster {:?}: {why}", cluster.name);
            PluginError::new("BundlePublisher", "k8s_configmap", why)
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
    Ok(Arc::new(K8sConfigMap::new(targets.collect::<Result<_, PluginError>>()?)))
}

/// The API server of a kubeconfig file, or of the cluster this server runs in.
pub(super) fn api_server(file: Option<&Path>, clock: &SharedClock) -> Result<ApiServer, String> {
    let clock = Arc::clone(clock);
    let config = match file {
        Some(path) => KubeConfig::from_file(path, clock),
        None => KubeConfig::in_cluster(clock),
    };
    let config = config.map_err(|error| signet_base::chain(&error))?;
    ApiServer::new(config).map_err(|error| signet_base::chain(&error))
}
