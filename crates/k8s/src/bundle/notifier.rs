//! The notifier `k8sbundle`, as SPIRE has it.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::json;
use signet_identity::Bundle;
use signet_pki::ports::PortError;
use tokio::sync::watch;

use super::{
    super::{
        api::{Write, object_name},
        error::ApiError,
        objects::{Metadata, null_as_default},
    },
    CONFLICT_PAUSE, CONFLICT_TRIES, chain,
    inject::{Injector, Kind},
    target::{Authorities, BundleTarget},
};

/// The plugin's name.
const NAME: &str = "k8sbundle";

/// The notifier.
#[derive(Debug)]
pub struct K8sBundle {
    targets: Vec<Arc<BundleTarget>>,
    injectors: Vec<Injector>,
    newest: watch::Sender<Option<Authorities>>,
}

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default, deserialize_with = "null_as_default")]
    data: BTreeMap<String, String>,
}

impl K8sBundle {
    /// A notifier that writes to these clusters. Nothing is sent yet.
    pub fn new(targets: Vec<BundleTarget>) -> Self {
        let newest = watch::Sender::new(None);
        let targets: Vec<_> = targets.into_iter().map(Arc::new).collect();
        let mut injectors = Vec::new();
        for target in &targets {
            let mut add = |kind, label: &Option<String>| {
                if let Some(label) = label {
                    let newest = newest.subscribe();
                    injectors.push(Injector::new(Arc::clone(target), kind, label, newest));
                }
            };
            add(Kind::MutatingWebhook, &target.webhook_label);
            add(Kind::ValidatingWebhook, &target.webhook_label);
            add(Kind::ApiService, &target.api_service_label);
        }
        Self { targets, injectors, newest }
    }

    /// Writes to all objects of all clusters; what fails does not keep the others from it.
    async fn write_all(&self, bundle: &Bundle) -> Result<(), PortError> {
        self.newest.send_replace(Some(Authorities::of(bundle)));
        let maps = self.targets.iter().map(|target| self.write_config_map(target));
        let maps = join_all(maps);
        let objects = join_all(self.injectors.iter().map(Injector::inject_all));
        let (maps, objects) = tokio::join!(maps, objects);
        let clusters = self.targets.iter().map(|target| &target.cluster);
        let maps = clusters.zip(maps).filter_map(|(cluster, result)| {
            result.err().map(|error| format!("cluster {cluster}: {}", chain(&error)))
        });
        let failures: Vec<String> =
            maps.chain(objects.into_iter().filter_map(Result::err)).collect();
        if failures.is_empty() {
            return Ok(());
        }
        let message = format!("unable to update: {}", failures.join("; "));
        Err(PortError::Failed { name: NAME, message })
    }

    async fn write_config_map(&self, target: &BundleTarget) -> Result<(), ApiError> {
        let BundleTarget { api, namespace, config_map, config_map_key, .. } = target;
        let (namespace, name) = (object_name(namespace)?, object_name(config_map)?);
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
        let mut pause = CONFLICT_PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            let found: ConfigMap = api.get_object(&path).await?;
            // Read after the object: whoever gets ahead of this write had an older bundle, or its
            // version makes the write fail.
            let Some(newest) = self.newest.borrow().clone() else { return Ok(()) };
            if found.data.get(config_map_key).is_some_and(|held| *held == *newest.pem) {
                return Ok(());
            }
            let patch = json!({
                "metadata": { "resourceVersion": found.metadata.resource_version },
                "data": { config_map_key: &*newest.pem },
            });
            match api.write(Write::StrategicMergePatch, &path, &patch).await {
                Err(error) if error.is_conflict() && tries < CONFLICT_TRIES => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
                Ok(_) => {
                    tracing::debug!(cluster = target.cluster, config_map, "Bundle written");
                    return Ok(());
                }
            }
        }
    }
}

#[async_trait]
impl signet_pki::Notifier for K8sBundle {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn bundle_loaded(&self, bundle: &Bundle) -> Result<(), PortError> {
        self.write_all(bundle).await
    }

    async fn bundle_updated(&self, bundle: &Bundle) -> Result<(), PortError> {
        self.write_all(bundle).await
    }

    async fn run(&self) {
        join_all(self.injectors.iter().map(Injector::run)).await;
        std::future::pending().await
    }
}
