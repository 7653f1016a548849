//! The bundle publisher `k8s_configmap`, as SPIRE has it.

use std::fmt;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::json;
use signet_identity::Bundle;
use signet_pki::{
    ports::PortError,
    published::{BundleFormat, Published},
};

use super::{
    super::api::{ApiServer, Write, object_name},
    chain,
};

/// The plugin's name.
const NAME: &str = "k8s_configmap";
/// Who owns the key of the ConfigMap, by the rules of server-side apply: SPIRE's name, so that
/// either program goes on where the other stopped.
const FIELD_MANAGER: &str = "spire-bundlepublisher-k8s_configmap";

/// Where the bundle goes in one cluster.
#[derive(Debug)]
pub struct PublishTarget {
    /// The cluster.
    pub api: ApiServer,
    /// What the cluster is called.
    pub cluster: String,
    /// The namespace of the ConfigMap.
    pub namespace: String,
    /// The name of the ConfigMap; it is made if it is not there.
    pub config_map: String,
    /// Its key that takes the bundle.
    pub config_map_key: String,
    /// In which form.
    pub format: BundleFormat,
    /// How often a consumer should look again, seconds; unset for what the bundle says.
    pub refresh_hint: Option<i64>,
}

/// The publisher.
pub struct K8sConfigMap {
    targets: Vec<(PublishTarget, Published)>,
}

impl fmt::Debug for K8sConfigMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.targets.iter().map(|(target, _)| target)).finish()
    }
}

impl PublishTarget {
    async fn publish(&self, bundle: &Bundle) -> Result<(), String> {
        let document = self.format.document(bundle, self.refresh_hint);
        let document = document.map_err(|error| error.to_string())?;
        let names = object_name(&self.namespace)
            .and_then(|namespace| object_name(&self.config_map).map(|name| (namespace, name)));
        let (namespace, name) = names.map_err(|error| error.to_string())?;
        let applied = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": name, "namespace": namespace },
            "data": { self.config_map_key.as_str(): document },
        });
        let path = format!(
            "/api/v1/namespaces/{namespace}/configmaps/{name}?fieldManager={FIELD_MANAGER}"
        );
        let written = self.api.write(Write::Apply, &path, &applied).await;
        written.map(drop).map_err(|error| chain(&error))
    }
}

impl K8sConfigMap {
    /// A publisher to these clusters. Nothing is sent yet.
    pub fn new(targets: Vec<PublishTarget>) -> Self {
        Self { targets: targets.into_iter().map(|target| (target, Published::default())).collect() }
    }
}

#[async_trait]
impl signet_pki::BundlePublisher for K8sConfigMap {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn publish(&self, bundle: &Bundle) -> Result<(), PortError> {
        let attempts = self.targets.iter().map(|(target, published)| async move {
            if published.is(bundle) {
                return Ok(());
            }
            target.publish(bundle).await.map_err(|error| {
                format!("failed to apply ConfigMap for cluster {:?}: {error}", target.cluster)
            })?;
            published.set(bundle);
            tracing::debug!(
                cluster_id = target.cluster,
                namespace = target.namespace,
                configmap = target.config_map,
                "Bundle published to Kubernetes ConfigMap"
            );
            Ok(())
        });
        let failures: Vec<String> =
            join_all(attempts).await.into_iter().filter_map(Result::err).collect();
        if failures.is_empty() {
            return Ok(());
        }
        Err(PortError::Failed { name: NAME, message: failures.join("; ") })
    }
}
