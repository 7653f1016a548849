//! An API server that speaks the real paths: lists in pages, watches with bookmarks, statuses,
//! leases, and whatever errors it is told to give.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State as AxumState},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// What to do with the next requests whose path and query contain a text.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answer with this status and body.
    Answer(u16, String),
    /// Answer with a list that ends in the middle.
    Truncated,
    /// Never answer.
    Silent,
}

#[derive(Default)]
struct Store {
    version: u64,
    /// Watches that begin before this are told that they are too late.
    oldest: u64,
    objects: BTreeMap<(String, String), Arc<str>>,
    log: Vec<(u64, String, &'static str, Arc<str>)>,
    /// Every object that was ever put, with its resource.
    all: Vec<(String, Arc<str>)>,
    faults: Vec<(String, Fault, usize)>,
    requests: Vec<String>,
    next_uid: u64,
    no_generations: bool,
    openshift: bool,
}

/// The server. Clones are the same one.
#[derive(Clone)]
pub struct FakeKube {
    pub address: SocketAddr,
    store: Arc<Mutex<Store>>,
    news: Arc<watch::Sender<u64>>,
    /// Watches end when this changes.
    cut: Arc<watch::Sender<u64>>,
}

struct Target {
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
    status: bool,
}

impl FakeKube {
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0").await
    }

    pub async fn at(address: &str) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            store: Arc::default(),
            news: Arc::new(watch::Sender::new(0)),
            cut: Arc::new(watch::Sender::new(0)),
        };
        let router = Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        fake
    }

    /// Creates or replaces an object; metadata is completed.
    pub fn put(&self, resource: &str, mut object: Value) {
        let mut store = self.store.lock().unwrap();
        let key = key_of(&object);
        let before = store.objects.get(&(resource.to_owned(), key.clone())).cloned();
        store.version += 1;
        let version = store.version;
        let before: Option<Value> = before.map(|text| serde_json::from_str(&text).unwrap());
        let uid = before.as_ref().map(|old| old["metadata"]["uid"].clone());
        let uid = uid.unwrap_or_else(|| {
            store.next_uid += 1;
            json!(format!("00000000-0000-4000-8000-{:012}", store.next_uid))
        });
        let store_has_no_generations = store.no_generations;
        let generation = match &before {
            Some(old) if old["spec"] == object["spec"] => old["metadata"]["generation"].clone(),
            Some(old) => json!(old["metadata"]["generation"].as_u64().unwrap_or(1) + 1),
            None => json!(1),
        };
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.insert("resourceVersion".into(), json!(version.to_string()));
        meta.entry("uid").or_insert(uid);
        if !store_has_no_generations {
            meta.insert("generation".into(), generation);
        }
        let seconds = version % 60;
        let created = before.as_ref().map(|old| old["metadata"]["creationTimestamp"].clone());
        let created = created.unwrap_or_else(|| json!(format!("2026-01-01T00:00:{seconds:02}Z")));
        meta.entry("creationTimestamp").or_insert(created);
        let text: Arc<str> = object.to_string().into();
        store.objects.insert((resource.to_owned(), key), Arc::clone(&text));
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        store.all.push((resource.to_owned(), Arc::clone(&text)));
        store.log.push((version, resource.to_owned(), kind, text));
        drop(store);
        self.news.send_replace(version);
    }

    /// Objects are without generations from now on, as in files.
    pub fn without_generations(&self) {
        self.store.lock().unwrap().no_generations = true;
    }

    /// What an object was, oldest first.
    pub fn history(&self, resource: &str, name: &str) -> Vec<Value> {
        let store = self.store.lock().unwrap();
        let events = store.all.iter().filter(|(kind, _)| kind == resource);
        let objects = events.map(|(_, text)| serde_json::from_str::<Value>(text).unwrap());
        objects.filter(|object| object["metadata"]["name"] == name).collect()
    }

    pub fn delete(&self, resource: &str, key: &str) {
        let mut store = self.store.lock().unwrap();
        let Some(text) = store.objects.remove(&(resource.to_owned(), key.to_owned())) else {
            return;
        };
        store.version += 1;
        let version = store.version;
        let mut object: Value = serde_json::from_str(&text).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        store.log.push((version, resource.to_owned(), "DELETED", object.to_string().into()));
        drop(store);
        self.news.send_replace(version);
    }

    pub fn get(&self, resource: &str, key: &str) -> Option<Value> {
        let store = self.store.lock().unwrap();
        let text = store.objects.get(&(resource.to_owned(), key.to_owned()))?;
        Some(serde_json::from_str(text).unwrap())
    }

    /// Gives `fault` to the next `times` requests whose path and query contain `part`.
    pub fn fail(&self, part: &str, fault: Fault, times: usize) {
        self.store.lock().unwrap().faults.push((part.to_owned(), fault, times));
    }

    pub fn heal(&self) {
        self.store.lock().unwrap().faults.clear();
    }

    /// Forgets the past: watches have to list anew.
    pub fn compact(&self) {
        let mut store = self.store.lock().unwrap();
        store.version += 1;
        store.oldest = store.version;
        store.log.clear();
        drop(store);
        self.cut_watches();
    }

    /// From now on it is OpenShift.
    pub fn is_openshift(&self) {
        self.store.lock().unwrap().openshift = true;
    }

    /// What the server says of itself.
    fn about(&self, path: &str) -> Option<Response> {
        let openshift = self.store.lock().unwrap().openshift;
        match path {
            "/version" => Some(r#"{"major": "1", "minor": "34"}"#.into_response()),
            "/apis/route.openshift.io/v1" | "/apis/security.openshift.io/v1" => {
                Some(if openshift { "{}".into_response() } else { refuse(404, "not found") })
            }
            _ => None,
        }
    }

    /// Ends every watch.
    pub fn cut_watches(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// The requests so far whose path and query contain `part`.
    pub fn requests(&self, part: &str) -> usize {
        let store = self.store.lock().unwrap();
        store.requests.iter().filter(|request| request.contains(part)).count()
    }

    fn fault(&self, uri: &str) -> Option<Fault> {
        let mut store = self.store.lock().unwrap();
        store.requests.push(uri.to_owned());
        let at = store.faults.iter().position(|(part, _, _)| uri.contains(part.as_str()))?;
        let (_, fault, left) = &mut store.faults[at];
        let fault = fault.clone();
        *left -= 1;
        if *left == 0 {
            store.faults.remove(at);
        }
        Some(fault)
    }

    fn list(&self, target: &Target, query: &BTreeMap<String, String>) -> String {
        let store = self.store.lock().unwrap();
        let limit: usize = query.get("limit").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let after = query.get("continue").cloned().unwrap_or_default();
        let from = (target.resource.clone(), after.clone());
        let label = query.get("labelSelector").and_then(|pair| pair.split_once('='));
        let mut items = Vec::new();
        let mut next = String::new();
        for ((resource, key), text) in store.objects.range(from..) {
            if *resource != target.resource {
                break;
            }
            let inside = target.namespace.as_ref().is_none_or(|namespace| {
                key.strip_prefix(namespace.as_str()).is_some_and(|rest| rest.starts_with('/'))
            });
            let field = query.get("fieldSelector").map(String::as_str).unwrap_or_default();
            let named = field
                .strip_prefix("metadata.name=")
                .is_none_or(|name| key.rsplit('/').next() == Some(name));
            if *key == after || !inside || !named || !has(text, label) {
                continue;
            }
            if items.len() == limit {
                break;
            }
            items.push(Arc::clone(text));
            next = key.clone();
        }
        let more = items.len() == limit;
        let token = if more { next } else { String::new() };
        let meta = json!({ "resourceVersion": store.version.to_string(), "continue": token });
        drop(store);
        let items: Vec<&str> = items.iter().map(|text| &**text).collect();
        format!(
            "{{\"kind\":\"List\",\"apiVersion\":\"v1\",\"metadata\":{meta},\"items\":[{}]}}\n",
            items.join(",")
        )
    }

    fn watch(&self, target: Target, from: u64, selector: Option<String>) -> Response {
        if from < self.store.lock().unwrap().oldest {
            let expired = json!({"type": "ERROR", "object": {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410,
            }});
            return Body::from(format!("{expired}\n")).into_response();
        }
        let (out, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(64);
        let fake = self.clone();
        tokio::spawn(async move {
            let mut at = from;
            let mut news = fake.news.subscribe();
            let mut cut = fake.cut.subscribe();
            loop {
                let events: Vec<_> = {
                    let store = fake.store.lock().unwrap();
                    let start = store.log.partition_point(|(version, ..)| *version <= at);
                    let new = &store.log[start..];
                    at = new.last().map_or(at, |(version, ..)| *version);
                    let label = selector.as_deref().and_then(|pair| pair.split_once('='));
                    new.iter()
                        .filter(|(_, resource, ..)| *resource == target.resource)
                        .filter(|(.., text)| has(text, label))
                        .map(|(_, _, kind, text)| {
                            format!("{{\"type\":\"{kind}\",\"object\":{text}}}\n")
                        })
                        .collect()
                };
                for event in events {
                    // In two pieces, as a network may deliver it.
                    let (a, b) = event.split_at(event.len() / 3);
                    for part in [a, b] {
                        if out.send(Ok(Bytes::copy_from_slice(part.as_bytes()))).await.is_err() {
                            return;
                        }
                    }
                }
                tokio::select! {
                    _ = news.changed() => {}
                    _ = cut.changed() => return,
                    () = out.closed() => return,
                    () = tokio::time::sleep(Duration::from_secs(5)) => {
                        let bookmark = json!({"type": "BOOKMARK", "object": {
                            "metadata": {"resourceVersion": at.to_string()}}});
                        let _ = out.send(Ok(Bytes::from(format!("{bookmark}\n")))).await;
                    }
                }
            }
        });
        Body::from_stream(ReceiverStream::new(body)).into_response()
    }

    fn write(&self, method: &Method, target: &Target, kind: &str, body: &[u8]) -> Response {
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return refuse(400, "no JSON");
        };
        let name = target
            .name
            .clone()
            .or_else(|| body.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned));
        let key = match (&target.namespace, name.unwrap_or_default()) {
            (Some(namespace), name) => format!("{namespace}/{name}"),
            (None, name) => name,
        };
        let old = self.get(&target.resource, &key);
        let new = match (method, old) {
            (&Method::PATCH, old) if kind.starts_with("application/apply-patch") => {
                let mut new = old.clone().unwrap_or_else(|| json!({}));
                apply(&mut new, &body);
                // What changes nothing is no new version.
                if let Some(old) = old.filter(|old| *old == new) {
                    return (StatusCode::OK, old.to_string()).into_response();
                }
                new
            }
            (&Method::POST, Some(_)) => return refuse(409, "it exists"),
            (&Method::POST, None) => body,
            (_, None) => return refuse(404, "it does not exist"),
            (&Method::PUT, Some(old)) => {
                let version = |of: &Value| of.pointer("/metadata/resourceVersion").cloned();
                if version(&body) != version(&old) {
                    return refuse(409, "the object has been modified");
                }
                body
            }
            (_, Some(mut old)) if kind.starts_with("application/merge-patch") => {
                if target.status {
                    merge(&mut old["status"], &body["status"]);
                } else {
                    merge(&mut old, &body);
                }
                old
            }
            (_, Some(mut old)) => {
                for step in body.as_array().into_iter().flatten() {
                    let path = step["path"].as_str().unwrap_or_default();
                    if step["op"] == "test" {
                        if old.pointer(path) != Some(&step["value"]) {
                            return refuse(422, "the test failed");
                        }
                    } else {
                        let (parent, last) = path.rsplit_once('/').unwrap();
                        old.pointer_mut(parent).unwrap()[last] = step["value"].clone();
                    }
                }
                old
            }
        };
        self.put(&target.resource, new);
        let now = self.get(&target.resource, &key).unwrap_or_default();
        let code = if *method == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
        (code, now.to_string()).into_response()
    }
}

async fn answer(AxumState(fake): AxumState<FakeKube>, request: Request) -> Response {
    let uri = request.uri().to_string();
    let method = request.method().clone();
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), decode(value)))
        .collect();
    if let Some(answer) = fake.about(request.uri().path()) {
        return answer;
    }
    let Some(target) = target(request.uri().path()) else { return refuse(404, "no such path") };
    match fake.fault(&format!("{method} {uri}")) {
        Some(Fault::Answer(code, body)) => {
            let code = StatusCode::from_u16(code).unwrap();
            return (code, [("retry-after", "0")], body).into_response();
        }
        Some(Fault::Truncated) => {
            let whole = fake.list(&target, &query);
            return whole[..whole.len() * 2 / 3].to_owned().into_response();
        }
        Some(Fault::Silent) => std::future::pending::<()>().await,
        None => {}
    }
    if method == Method::GET {
        if query.get("watch").is_some_and(|value| value == "true") {
            let from = query.get("resourceVersion").and_then(|n| n.parse().ok()).unwrap_or(0);
            return fake.watch(target, from, query.get("labelSelector").cloned());
        }
        let Some(name) = &target.name else { return fake.list(&target, &query).into_response() };
        let key = match &target.namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.clone(),
        };
        return match fake.get(&target.resource, &key) {
            Some(object) => object.to_string().into_response(),
            None => refuse(404, "not found"),
        };
    }
    if method == Method::DELETE {
        let key = match (&target.namespace, &target.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            (None, Some(name)) => name.clone(),
            (_, None) => return refuse(405, "collections are not deleted"),
        };
        if fake.get(&target.resource, &key).is_none() {
            return refuse(404, "not found");
        }
        fake.delete(&target.resource, &key);
        return "{}".into_response();
    }
    let kind = request.headers().get("content-type").and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default().to_owned();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    fake.write(&method, &target, &kind, &body)
}

fn target(path: &str) -> Option<Target> {
    let mut parts = path.trim_start_matches('/').split('/');
    match parts.next()? {
        "api" => parts.next().map(|_| ()),
        "apis" => parts.next().and_then(|_| parts.next()).map(|_| ()),
        _ => None,
    }?;
    let mut rest: Vec<&str> = parts.collect();
    let mut namespace = None;
    if rest.len() >= 3 && rest[0] == "namespaces" {
        namespace = Some(rest[1].to_owned());
        rest.drain(..2);
    }
    Some(Target {
        resource: (*rest.first()?).to_owned(),
        namespace,
        name: rest.get(1).map(|name| (*name).to_owned()),
        status: rest.get(2) == Some(&"status"),
    })
}

/// Whether an object has a label.
fn has(object: &str, label: Option<(&str, &str)>) -> bool {
    let Some((key, value)) = label else { return true };
    let object: Value = serde_json::from_str(object).unwrap();
    object["metadata"]["labels"][key] == value
}

fn key_of(object: &Value) -> String {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().unwrap();
    match meta["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

/// Server-side apply, by one who forces: maps are merged, and lists by what their items are known
/// by, as those of pods, services and owners are. Nothing is taken away.
fn apply(into: &mut Value, patch: &Value) {
    let known_by = |item: &Value| {
        let keys = ["mountPath", "name", "uid", "containerPort", "port"];
        keys.iter().find_map(|key| item.get(*key).cloned())
    };
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                apply(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(patch))
            if !patch.is_empty() && patch.iter().all(|item| known_by(item).is_some()) =>
        {
            for item in patch {
                match into.iter_mut().find(|old| known_by(old) == known_by(item)) {
                    Some(old) => apply(old, item),
                    None => into.push(item.clone()),
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn refuse(code: u16, message: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code,
    });
    (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
}

fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let hex = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
            let hex = std::str::from_utf8(&hex).unwrap_or("00");
            out.push(u8::from_str_radix(hex, 16).unwrap_or(b'?'));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
