//! What there is in the cluster, of the kinds that concern the operator: lists, and then watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use signet_base::{Backoff, Tasks};
use signet_k8s::{ApiServer, Collection, Metadata, Object, Seen};
use tokio::{sync::mpsc, time::Instant};

use super::{kinds::Kind, settings::Settings};
use crate::error_throttle::ApiErrorThrottle;

/// How many events of a kind may wait.
const EVENTS: usize = 16;
/// How long to wait after a failure, at least and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// An object, whole but for what the API server notes about its writers.
#[derive(Clone, Debug)]
pub struct Stored {
    metadata: Metadata,
    /// It.
    pub value: Value,
}

/// What was seen of a kind.
#[derive(Debug)]
pub struct Event(pub Kind, pub Seen<Stored>);

/// The objects there are, by kind and name: what is in a namespace is in the operator's.
#[derive(Debug, Default)]
pub struct Cache {
    objects: BTreeMap<Kind, BTreeMap<String, Value>>,
    listed: BTreeSet<Kind>,
}

impl Stored {
    fn read(mut value: Value) -> Result<Self, serde_json::Error> {
        if let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let metadata = value.get("metadata").cloned().unwrap_or_default();
        Ok(Self { metadata: serde_json::from_value(metadata)?, value })
    }
}

impl<'de> Deserialize<'de> for Stored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Object for Stored {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Cache {
    /// Takes what was seen.
    pub fn take(&mut self, Event(kind, seen): Event) {
        match seen {
            Seen::All(all) => {
                let named = all.into_iter().map(|one| (one.metadata.name, one.value));
                self.objects.insert(kind, named.collect());
                self.listed.insert(kind);
            }
            // A write's answer may have come before the watch shows what was before it.
            Seen::Changed(one) if self.has_newer(kind, &one) => {}
            Seen::Changed(one) => self.put(kind, one.value),
            Seen::Gone(one) => self.remove(kind, &one.metadata.name),
        }
    }

    /// Whether a newer version of an object is here. Versions of one kind are comparable numbers
    /// (Kubernetes API concepts, "resource versions").
    fn has_newer(&self, kind: Kind, one: &Stored) -> bool {
        let number = |text: &str| text.parse::<u64>().ok();
        let held = self.get(kind, &one.metadata.name);
        let held = held.and_then(|held| held.pointer("/metadata/resourceVersion")?.as_str());
        match (held.and_then(number), number(&one.metadata.resource_version)) {
            (Some(held), Some(seen)) => held > seen,
            _ => false,
        }
    }

    /// Whether everything was listed that the platform has.
    pub fn is_complete(&self, settings: &Settings) -> bool {
        kinds(settings).all(|kind| self.listed.contains(&kind))
    }

    /// An object.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.objects.get(&kind)?.get(name)
    }

    /// All objects of a kind.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&String, &Value)> {
        self.objects.get(&kind).into_iter().flatten()
    }

    /// Takes an object as a write has returned it.
    pub fn put(&mut self, kind: Kind, object: Value) {
        if let Some(name) = object.pointer("/metadata/name").and_then(Value::as_str) {
            self.objects.entry(kind).or_default().insert(name.to_owned(), object);
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        if let Some(objects) = self.objects.get_mut(&kind) {
            objects.remove(name);
        }
    }
}

/// The kinds that a platform has.
pub fn kinds(settings: &Settings) -> impl Iterator<Item = Kind> {
    let openshift = settings.platform.openshift;
    Kind::ALL.into_iter().filter(move |kind| openshift || !kind.is_of_openshift())
}

/// Follows every kind of object, for as long as `out` is heard.
pub fn follow(
    tasks: &Tasks,
    api: &Arc<ApiServer>,
    settings: &Settings,
    error_throttle: &ApiErrorThrottle,
    out: &mpsc::Sender<Event>,
) {
    for kind in kinds(settings) {
        let collection = Collection {
            path: kind.collection(&settings.namespace).into(),
            resource: kind.resource(),
            selector: kind.selector(),
        };
        let (sender, mut seen) = mpsc::channel(EVENTS);
        let (api, error_throttle) = (Arc::clone(api), error_throttle.clone());
        let following = async move {
            let mut backoff = Backoff::new(RETRY.0, RETRY.1).with_jitter(0.3);
            loop {
                let began = Instant::now();
                let Err(error) = api.follow::<Stored>(&collection, &sender).await else { return };
                // It went well for a while: this is no further failure of the last ones.
                if began.elapsed() > RETRY.1 {
                    backoff.reset();
                }
                let delay = backoff.next_delay().max(error.retry_after().unwrap_or_default());
                if let Some(untold) = error_throttle.tell(kind.resource(), &error) {
                    tracing::error!(
                        kind = kind.name(),
                        error = &error as &dyn std::error::Error,
                        untold,
                        "Cannot follow the API server; what is known stays as it is"
                    );
                }
                tokio::time::sleep(delay).await;
            }
        };
        let out = out.clone();
        let handing = async move {
            while let Some(one) = seen.recv().await {
                if out.send(Event(kind, one)).await.is_err() {
                    return;
                }
            }
        };
        tasks.spawn_until_end("operator_follows", async move {
            tokio::join!(following, handing);
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_write_has_returned_is_not_undone_by_an_event_from_before_it() {
        let stored = |version: &str, data: &str| {
            let object = json!({"metadata": {"name": "a", "resourceVersion": version,
                "managedFields": [{}]}, "data": data});
            Stored::read(object).unwrap()
        };
        let mut cache = Cache::default();
        cache.take(Event(Kind::ConfigMap, Seen::All(vec![stored("4", "listed")])));
        cache.put(Kind::ConfigMap, stored("10", "written").value);
        let data = |cache: &Cache| cache.get(Kind::ConfigMap, "a").unwrap()["data"].clone();
        cache.take(Event(Kind::ConfigMap, Seen::Changed(stored("9", "older"))));
        assert_eq!(data(&cache), "written");
        cache.take(Event(Kind::ConfigMap, Seen::Changed(stored("11", "newer"))));
        assert_eq!(data(&cache), "newer");
        assert!(
            cache.get(Kind::ConfigMap, "a").unwrap()["metadata"].get("managedFields").is_none()
        );
        cache.take(Event(Kind::ConfigMap, Seen::Gone(stored("12", "newer"))));
        assert!(cache.get(Kind::ConfigMap, "a").is_none());
    }
}
