//! The authorities in webhooks and APIServices that carry a label, also in those that come later
//! or are reset.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use signet_base::Backoff;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    super::{
        api::{Write, object_name},
        error::ApiError,
        objects::{Metadata, Object, null_as_default},
        watch::{Collection, Seen},
    },
    CONFLICT_PAUSE, CONFLICT_TRIES, chain,
    target::{Authorities, BundleTarget},
};

/// Changes that wait to be looked at.
const WAITING: usize = 64;
/// Pauses after the watch of a cluster failed.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Somebody else may write its own authorities into the same object again and again: after this
/// many patches of one object within a minute, each further one waits.
const PATCHES_A_MINUTE: u32 = 10;
const FIGHT_PAUSE: Duration = Duration::from_secs(5);

/// What kind of object is injected into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ApiService,
    MutatingWebhook,
    ValidatingWebhook,
}

/// Injects into the objects of one kind in one cluster.
#[derive(Debug)]
pub(super) struct Injector {
    target: Arc<BundleTarget>,
    kind: Kind,
    collection: Collection,
    newest: watch::Receiver<Option<Authorities>>,
}

/// A webhook configuration or an APIService, as far as needed.
#[derive(Debug, Deserialize)]
struct Injected {
    metadata: Metadata,
    /// Of webhook configurations.
    #[serde(default, deserialize_with = "null_as_default")]
    webhooks: Vec<Webhook>,
    /// Of APIServices.
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Webhook {
    name: String,
    #[serde(deserialize_with = "null_as_default")]
    client_config: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(deserialize_with = "null_as_default")]
    ca_bundle: String,
}

impl Object for Injected {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::ApiService => "/apis/apiregistration.k8s.io/v1/apiservices",
            Self::MutatingWebhook => {
                "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
            }
            Self::ValidatingWebhook => {
                "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
            }
        }
    }

    fn resource(self) -> &'static str {
        match self {
            Self::ApiService => "apiservices.apiregistration.k8s.io",
            Self::MutatingWebhook => "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            Self::ValidatingWebhook => {
                "validatingwebhookconfigurations.admissionregistration.k8s.io"
            }
        }
    }

    /// What to change of `object`; none when it has the authorities.
    fn patch(self, object: &Injected, wanted: &Authorities) -> Option<Value> {
        let metadata = json!({ "resourceVersion": object.metadata.resource_version });
        let ca_bundle = &*wanted.ca_bundle;
        if self == Self::ApiService {
            let missing = object.spec.ca_bundle != ca_bundle;
            return missing
                .then(|| json!({ "metadata": metadata, "spec": { "caBundle": ca_bundle } }));
        }
        if object.webhooks.iter().all(|webhook| webhook.client_config.ca_bundle == ca_bundle) {
            return None;
        }
        // Merged by their names: what is not named here stays.
        let webhooks: Vec<Value> = object
            .webhooks
            .iter()
            .map(|hook| json!({ "name": hook.name, "clientConfig": { "caBundle": ca_bundle } }))
            .collect();
        Some(json!({ "metadata": metadata, "webhooks": webhooks }))
    }
}

impl Injector {
    pub(super) fn new(
        target: Arc<BundleTarget>,
        kind: Kind,
        label: &str,
        newest: watch::Receiver<Option<Authorities>>,
    ) -> Self {
        let collection = Collection {
            path: kind.path().into(),
            resource: kind.resource(),
            selector: format!("{label}=true"),
        };
        Self { target, kind, collection, newest }
    }

    /// Gives the newest authorities to every object there is.
    ///
    /// # Errors
    /// What went wrong, with the cluster and the objects.
    pub(super) async fn inject_all(&self) -> Result<(), String> {
        let cluster = &self.target.cluster;
        let listed = self.target.api.list::<Injected>(&self.collection).await;
        let (all, _) = listed.map_err(|error| format!("cluster {cluster}: {}", chain(&error)))?;
        let mut failures = Vec::new();
        for object in all {
            if let Err(error) = self.inject(object).await {
                failures.push(chain(&error));
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(format!("cluster {cluster}: {}", failures.join("; ")))
    }

    /// Watches, and gives the authorities to each object that comes or loses them.
    pub(super) async fn run(&self) {
        // Before there is a bundle there is nothing to give.
        if self.newest.clone().wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut backoff = Backoff::new(MIN_PAUSE, MAX_PAUSE);
        loop {
            let began = Instant::now();
            let (sender, changes) = mpsc::channel(WAITING);
            let followed = tokio::select! {
                followed = self.target.api.follow(&self.collection, &sender) => followed,
                () = self.handle(changes) => return,
            };
            let Err(error) = followed else { return };
            if began.elapsed() > MAX_PAUSE {
                backoff.reset();
            }
            let pause = backoff.next_delay();
            tracing::warn!(
                cluster = self.target.cluster,
                error = chain(&error),
                retry_ms = pause.as_millis() as u64,
                "Cannot watch objects that are to have the bundle"
            );
            tokio::time::sleep(pause).await;
        }
    }

    async fn handle(&self, mut changes: mpsc::Receiver<Seen<Injected>>) {
        let mut patched: HashMap<String, (Instant, u32)> = HashMap::new();
        while let Some(seen) = changes.recv().await {
            let objects = match seen {
                Seen::All(all) => all,
                Seen::Changed(object) => vec![object],
                Seen::Gone(_) => continue,
            };
            patched.retain(|_, (since, _)| since.elapsed() < Duration::from_secs(60));
            for object in objects {
                let name = object.metadata.name.clone();
                let fights = patched.get(&name).is_some_and(|(_, n)| *n >= PATCHES_A_MINUTE);
                if fights {
                    tracing::warn!(
                        cluster = self.target.cluster,
                        resource = self.kind.resource(),
                        name,
                        "Somebody else keeps changing the CA bundle of this object"
                    );
                    tokio::time::sleep(FIGHT_PAUSE).await;
                }
                match self.inject(object).await {
                    Ok(false) => {}
                    Ok(true) => {
                        patched.entry(name.clone()).or_insert((Instant::now(), 0)).1 += 1;
                        tracing::debug!(
                            cluster = self.target.cluster,
                            resource = self.kind.resource(),
                            name,
                            "Bundle set"
                        );
                    }
                    Err(error) => tracing::error!(
                        cluster = self.target.cluster,
                        error = chain(&error),
                        "Unable to set the bundle of an object"
                    ),
                }
            }
        }
    }

    /// Gives the newest authorities to one object; whether it lacked them.
    async fn inject(&self, mut object: Injected) -> Result<bool, ApiError> {
        let name = object.metadata.name.clone();
        let path = format!("{}/{}", self.kind.path(), object_name(&name)?);
        let mut pause = CONFLICT_PAUSE;
        for _ in 1..CONFLICT_TRIES {
            match self.inject_once(&path, &object).await {
                Err(error) if error.is_conflict() => {}
                // Deleted meanwhile.
                Err(error) if error.is_not_found() => return Ok(false),
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            object = match self.target.api.get_object(&path).await {
                Err(error) if error.is_not_found() => return Ok(false),
                found => found?,
            };
        }
        self.inject_once(&path, &object).await
    }

    async fn inject_once(&self, path: &str, object: &Injected) -> Result<bool, ApiError> {
        let newest = self.newest.borrow().clone();
        let Some(patch) = newest.and_then(|newest| self.kind.patch(object, &newest)) else {
            return Ok(false);
        };
        self.target.api.write(Write::StrategicMergePatch, path, &patch).await?;
        Ok(true)
    }
}
