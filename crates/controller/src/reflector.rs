//! A list, and then a watch from where the list ended.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde::Deserialize;
use signet_base::{Backoff, Jitter};
use signet_k8s::{ApiError, ApiServer, query_value};
use tokio::sync::{mpsc, watch};

use crate::{
    cluster::Kind,
    data::Names,
    error_throttle::ApiErrorThrottle,
    objects::{Endpoints, Namespace, Node, Pod},
    resources::{FederationSpec, Resource, SpiffeIdSpec, StaticEntrySpec, resource},
    slices::{elements, members},
};

/// How many objects are asked for at a time. Pods are large.
const PAGE: u32 = 250;
/// How long a watch is asked to last, at most and at least.
const WATCH_AGE: (Duration, f64) = (Duration::from_secs(270), 0.1);

/// An object that was read.
#[derive(Debug)]
pub enum Object {
    /// The pods behind a service.
    Endpoints(Endpoints),
    /// A relationship with a foreign trust domain.
    Federation(Box<Resource<FederationSpec>>),
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A pod.
    Pod(Pod),
    /// A ClusterSPIFFEID.
    Rule(Box<Resource<SpiffeIdSpec>>),
    /// A ClusterStaticEntry.
    Static(Box<Resource<StaticEntrySpec>>),
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A list begins.
    Begin(Kind),
    /// These are there, new or changed.
    There(Vec<Object>),
    /// This one (`name` or `namespace/name`) is gone.
    Gone(Kind, String),
    /// The list is complete; pods were read with these fields.
    Done(Kind, Names),
}

/// Where objects of a kind are listed: a path and, for some, selectors as a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The path of the list.
    pub path: String,
    /// `labelSelector=…&fieldSelector=…`, encoded; may be empty.
    pub query: String,
}

/// Lists and watches one kind of object.
pub struct Reflector {
    api: Arc<ApiServer>,
    kind: Kind,
    scopes: Vec<Scope>,
    names: watch::Receiver<Names>,
    out: mpsc::Sender<Event>,
    error_throttle: ApiErrorThrottle,
}

/// Why a watch cannot go on.
enum Ended {
    /// Everything has to be listed anew.
    Relist,
    /// Nobody listens.
    Unheard,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    r#continue: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Seen {
    metadata: SeenMeta,
    code: u16,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SeenMeta {
    name: String,
    namespace: String,
    resource_version: String,
}

impl Reflector {
    /// What lists `kind` in `scopes` and tells `out`; pods are read with the fields of `names`,
    /// and anew when those change.
    pub fn new(
        api: Arc<ApiServer>,
        kind: Kind,
        scopes: Vec<Scope>,
        names: watch::Receiver<Names>,
        out: mpsc::Sender<Event>,
        error_throttle: ApiErrorThrottle,
    ) -> Self {
        Self { api, kind, scopes, names, out, error_throttle }
    }

    /// Goes on until nobody listens.
    pub async fn run(mut self) {
        let mut backoff =
            Backoff::new(Duration::from_millis(500), Duration::from_secs(30)).with_jitter(0.3);
        loop {
            let names = self.names.borrow_and_update().clone();
            match self.list(&names).await {
                Ok(Some(from)) => {
                    backoff.reset();
                    if let Ended::Unheard = self.watch(from, &names).await {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    let delay = backoff.next_delay().max(error.retry_after().unwrap_or_default());
                    self.complain(&error, delay);
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Where each watch has to begin; none when nobody listens.
    async fn list(&self, names: &Names) -> Result<Option<Vec<String>>, ApiError> {
        if self.out.send(Event::Begin(self.kind)).await.is_err() {
            return Ok(None);
        }
        let mut from = Vec::with_capacity(self.scopes.len());
        for Scope { path, query } in &self.scopes {
            let mut token = String::new();
            loop {
                let url = format!("{path}?limit={PAGE}{}{token}", and(query));
                let page = self.api.get(&url).await?;
                let malformed = |why: String| ApiError::Answer { url: path.clone(), why };
                let text = std::str::from_utf8(&page).map_err(|e| malformed(e.to_string()))?;
                let (meta, items) = list(text).map_err(malformed)?;
                let objects: Vec<Object> =
                    items.into_iter().filter_map(|json| self.read(json, names)).collect();
                if self.out.send(Event::There(objects)).await.is_err() {
                    return Ok(None);
                }
                if meta.r#continue.is_empty() {
                    if meta.resource_version.is_empty() {
                        return Err(malformed("a list without resourceVersion".to_owned()));
                    }
                    from.push(meta.resource_version);
                    break;
                }
                token = format!("&continue={}", query_value(&meta.r#continue));
            }
        }
        let done = self.out.send(Event::Done(self.kind, names.clone())).await;
        Ok(done.is_ok().then_some(from))
    }

    async fn watch(&self, from: Vec<String>, names: &Names) -> Ended {
        let watches = self.scopes.iter().zip(from);
        let mut watches: FuturesUnordered<_> =
            watches.map(|(scope, from)| self.watch_one(scope, from, names)).collect();
        // The first to end ends all: what follows is a list of everything.
        watches.next().await.unwrap_or(Ended::Relist)
    }

    async fn watch_one(&self, scope: &Scope, mut from: String, names: &Names) -> Ended {
        let mut names_changed = self.names.clone();
        let mut random = Jitter::new();
        let mut backoff =
            Backoff::new(Duration::from_millis(200), Duration::from_secs(30)).with_jitter(0.3);
        loop {
            let age = random.spread(WATCH_AGE.0, WATCH_AGE.1).as_secs();
            let url = format!(
                "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={age}&resourceVersion={}{}",
                scope.path,
                query_value(&from),
                and(&scope.query)
            );
            let before = from.clone();
            let following = self.follow(&url, &mut from, names);
            let ended = tokio::select! {
                ended = following => ended,
                // Read everything anew, with more fields.
                _ = async {
                    let _ = names_changed.wait_for(|wanted| wanted != names).await;
                }, if self.kind == Kind::Pod => return Ended::Relist,
            };
            match ended {
                Ok(None) => {}
                Ok(Some(ended)) => return ended,
                Err(error) if error.status() == Some(410) => return Ended::Relist,
                Err(error) => {
                    if from != before {
                        backoff.reset();
                    }
                    let delay = backoff.next_delay().max(error.retry_after().unwrap_or_default());
                    self.complain(&error, delay);
                    tokio::time::sleep(delay).await;
                    continue;
                }
            }
            backoff.reset();
            if from == before {
                // A watch that ends at once, again and again, must not become a loop.
                tokio::time::sleep(random.spread(Duration::from_secs(1), 0.5)).await;
            }
        }
    }

    /// Follows one watch to its end; `from` moves along.
    async fn follow(
        &self,
        url: &str,
        from: &mut String,
        names: &Names,
    ) -> Result<Option<Ended>, ApiError> {
        let mut lines = self.api.watch(url).await?;
        while let Some(line) = lines.next().await? {
            if line.is_empty() {
                continue;
            }
            let malformed = |why: String| ApiError::Answer { url: url.to_owned(), why };
            let text = std::str::from_utf8(&line).map_err(|e| malformed(e.to_string()))?;
            let (kind, object) = event(text).map_err(malformed)?;
            let seen: Seen =
                serde_json::from_str(object).map_err(|error| malformed(error.to_string()))?;
            let event = match kind.as_str() {
                "ADDED" | "MODIFIED" => {
                    let object = self.read(object, names);
                    object.map(|object| Event::There(vec![object]))
                }
                "DELETED" => {
                    let SeenMeta { name, namespace, .. } = &seen.metadata;
                    let key = match namespace.as_str() {
                        "" => name.clone(),
                        namespace => format!("{namespace}/{name}"),
                    };
                    Some(Event::Gone(self.kind, key))
                }
                "BOOKMARK" => None,
                "ERROR" => {
                    return Err(ApiError::Refused {
                        verb: "watch",
                        what: self.kind.name().to_owned(),
                        status: seen.code,
                        message: seen.message,
                        retry_after: None,
                    });
                }
                other => return Err(malformed(format!("an event of type {other:?}"))),
            };
            if let Some(event) = event
                && self.out.send(event).await.is_err()
            {
                return Ok(Some(Ended::Unheard));
            }
            if !seen.metadata.resource_version.is_empty() {
                *from = seen.metadata.resource_version;
            }
        }
        Ok(None)
    }

    /// Reads an object; one that cannot be read is reported and left out.
    fn read(&self, json: &str, names: &Names) -> Option<Object> {
        match read(self.kind, json, names) {
            Ok(object) => Some(object),
            Err(error) => {
                let seen: Seen = serde_json::from_str(json).unwrap_or_default();
                tracing::error!(
                    kind = self.kind.name(),
                    name = seen.metadata.name,
                    namespace = seen.metadata.namespace,
                    error,
                    "An object of the API server cannot be read"
                );
                None
            }
        }
    }

    fn complain(&self, error: &ApiError, delay: Duration) {
        let Some(untold) = self.error_throttle.tell(self.kind.name(), error) else {
            tracing::debug!(kind = self.kind.name(), %error, "Cannot follow the API server");
            return;
        };
        let hint = match error.status() {
            Some(403) => "grant the controller's service account list and watch on it",
            Some(404) => "install the custom resource definitions (deploy/kubernetes/crds)",
            _ => "",
        };
        tracing::error!(
            kind = self.kind.name(),
            error = error as &dyn std::error::Error,
            hint,
            retry_ms = delay.as_millis() as u64,
            untold,
            "Cannot follow the API server; what is known stays as it is"
        );
    }
}

impl fmt::Debug for Reflector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reflector({})", self.kind.name())
    }
}

/// A list's metadata and its items.
fn list(json: &str) -> Result<(ListMeta, Vec<&str>), String> {
    let parts = members(json).ok_or("not a JSON object, or not all of one")?;
    let meta = parts.get("metadata").ok_or("a list without metadata")?;
    let meta = serde_json::from_str(meta).map_err(|error| error.to_string())?;
    let items = match parts.get("items") {
        None | Some(&"null") => Vec::new(),
        Some(items) => elements(items).ok_or("items are no list")?,
    };
    Ok((meta, items))
}

/// A watch event's type and object.
fn event(json: &str) -> Result<(String, &str), String> {
    let parts = members(json).ok_or("not a JSON object, or not all of one")?;
    let kind = parts.get("type").ok_or("an event without a type")?;
    let kind = serde_json::from_str(kind).map_err(|error| error.to_string())?;
    let object = parts.get("object").ok_or("an event without an object")?;
    Ok((kind, object))
}

fn read(kind: Kind, json: &str, names: &Names) -> Result<Object, String> {
    let text = |error: serde_json::Error| error.to_string();
    let value = || serde_json::from_str(json).map_err(text);
    Ok(match kind {
        Kind::Endpoints => Object::Endpoints(Endpoints::read(json).map_err(text)?),
        Kind::Namespace => Object::Namespace(Namespace::read(json).map_err(text)?),
        Kind::Node => Object::Node(Node::read(json).map_err(text)?),
        Kind::Pod => Object::Pod(Pod::read(json, names).map_err(text)?),
        Kind::ClusterFederatedTrustDomain => Object::Federation(Box::new(resource(value()?)?)),
        Kind::ClusterSpiffeId => Object::Rule(Box::new(resource(value()?)?)),
        Kind::ClusterStaticEntry => Object::Static(Box::new(resource(value()?)?)),
    })
}

fn and(query: &str) -> String {
    if query.is_empty() { String::new() } else { format!("&{query}") }
}
