//! A Kubernetes API server as far as the bundle plugins need one: real paths, content types,
//! versions, watches and errors.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with these words in a `Status` object.
    Refuse(u16, &'static str),
    /// 429 with `Retry-After` in seconds.
    Busy(u64),
    /// Somebody else writes first.
    Overtaken,
    /// The body ends early.
    Truncated,
    /// The body goes on for ever.
    Huge,
    /// No answer at all.
    Silent,
}

#[derive(Debug, Default)]
struct State {
    /// By path, `/api/v1/namespaces/spire/configmaps/spire-bundle`.
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Versions up to this one cannot be watched from.
    compacted: u64,
    events: Vec<(u64, String, &'static str, Value)>,
    /// Method and beginning of the path, then what goes wrong; each once.
    faults: VecDeque<(&'static str, String, Fault)>,
    requests: Vec<Asked>,
    token: String,
    watches: usize,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub content_type: String,
    pub body: Value,
}

#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
    pub port: u16,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            state: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
            port: listener.local_addr().unwrap().port(),
        };
        fake.state.lock().unwrap().token = "first".to_owned();
        let accepting = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = accepting.clone();
                // A client may go away at any time.
                tokio::spawn(async move { drop(fake.serve(stream).await) });
            }
        });
        fake
    }

    /// A kubeconfig file for this server with an inline token.
    pub fn kubeconfig(&self, dir: &Path, token: &str) -> PathBuf {
        let path = dir.join("kubeconfig");
        let port = self.port;
        let yaml = format!(
            "current-context: x\nclusters: [{{name: c, cluster: {{server: \
             'http://127.0.0.1:{port}'}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: \
             u}}}}]\nusers: [{{name: u, user: {{token: {token}}}}}]\n"
        );
        std::fs::write(&path, yaml).unwrap();
        path
    }

    pub fn set_token(&self, token: &str) {
        self.state.lock().unwrap().token = token.to_owned();
    }

    /// The next request of this kind goes wrong.
    pub fn fault(&self, method: &'static str, path: impl Into<String>, fault: Fault) {
        self.state.lock().unwrap().faults.push_back((method, path.into(), fault));
    }

    /// Puts an object there.
    pub fn put(&self, path: &str, object: Value) {
        self.write(path, object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    pub fn delete(&self, path: &str) {
        let mut state = self.state.lock().unwrap();
        if let Some(object) = state.objects.remove(path) {
            state.version += 1;
            let version = state.version;
            state.events.push((version, path.to_owned(), "DELETED", object));
            drop(state);
            self.changed.send_replace(version);
        }
    }

    /// The paths of all objects below one.
    pub fn below(&self, path: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.objects.keys().filter(|at| is_in(at, path)).cloned().collect()
    }

    /// Changes an object, as a controller does.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(path).unwrap();
        change(&mut object);
        self.write(path, object);
    }

    /// Forgets the past: watches from before are told that they are too old.
    pub fn compact(&self) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        state.compacted = state.version;
        state.events.clear();
        let version = state.version;
        drop(state);
        self.changed.send_replace(version);
    }

    pub fn requests(&self, method: &str) -> Vec<Asked> {
        let state = self.state.lock().unwrap();
        state.requests.iter().filter(|asked| asked.method == method).cloned().collect()
    }

    /// Waits until `done` holds; it is looked at after every change.
    pub async fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !done(self) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), waiting)
            .await
            .unwrap_or_else(|_| panic!("never happened: {what}"));
    }

    /// How many watches have begun.
    pub fn watches(&self) -> usize {
        self.state.lock().unwrap().watches
    }

    fn write(&self, path: &str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["name"] = json!(path.rsplit('/').next().unwrap());
        let kind = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(path.to_owned(), object.clone());
        state.events.push((version, path.to_owned(), kind, object));
        drop(state);
        self.changed.send_replace(version);
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let (head, body) = read_request(&mut stream).await?;
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let header = |name: &str| {
            head.lines()
                .find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                })
                .unwrap_or_default()
        };
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (fault, known) = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(Asked {
                method: method.to_owned(),
                target: target.to_owned(),
                content_type: header("content-type"),
                body: body.clone(),
            });
            let known = header("authorization") == format!("Bearer {}", state.token);
            let at = state
                .faults
                .iter()
                .position(|(m, start, _)| *m == method && target.starts_with(start.as_str()));
            let fault = at.filter(|_| known).and_then(|at| state.faults.remove(at));
            (fault.map(|(.., fault)| fault), known)
        };
        if !known {
            return refuse(&mut stream, 401, "Unauthorized", "").await;
        }
        match fault {
            None => {}
            Some(Fault::Refuse(status, words)) => {
                return refuse(&mut stream, status, words, "").await;
            }
            Some(Fault::Busy(seconds)) => {
                let header = format!("Retry-After: {seconds}\r\n");
                return refuse(&mut stream, 429, "too many requests", &header).await;
            }
            Some(Fault::Overtaken) => {
                let object = self.get(path).unwrap();
                self.write(path, object);
            }
            Some(Fault::Truncated) => {
                return stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"metadata\":")
                    .await;
            }
            Some(Fault::Huge) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"a\":\"").await?;
                loop {
                    stream.write_all(&[b'x'; 65536]).await?;
                }
            }
            Some(Fault::Silent) => return std::future::pending().await,
        }
        if query.contains("watch=true") {
            return self.watch(&mut stream, path, query).await;
        }
        match method {
            "GET" => match self.get(path) {
                Some(object) => answer(&mut stream, 200, &object).await,
                None if is_collection(path) => self.list(&mut stream, path, query).await,
                None => refuse(&mut stream, 404, &not_found(path), "").await,
            },
            "POST" if body["metadata"]["generateName"].is_string() => {
                let count = self.state.lock().unwrap().version;
                let begin = body["metadata"]["generateName"].as_str().unwrap();
                let path = format!("{path}/{begin}{count:05}");
                let mut object = body;
                object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
                self.write(&path, object);
                answer(&mut stream, 201, &self.get(&path).unwrap()).await
            }
            "DELETE" if self.get(path).is_some() => {
                self.delete(path);
                answer(&mut stream, 200, &json!({ "kind": "Status", "status": "Success" })).await
            }
            "DELETE" => refuse(&mut stream, 404, &not_found(path), "").await,
            "PATCH" => self.patch(&mut stream, path, query, &header("content-type"), &body).await,
            _ => refuse(&mut stream, 405, "no such method", "").await,
        }
    }

    async fn list(&self, stream: &mut TcpStream, path: &str, query: &str) -> std::io::Result<()> {
        let list = {
            let state = self.state.lock().unwrap();
            let items: Vec<&Value> = state
                .objects
                .iter()
                .filter(|(at, object)| is_in(at, path) && is_selected(object, query))
                .map(|(_, object)| object)
                .collect();
            json!({
                "kind": "List",
                "metadata": { "resourceVersion": state.version.to_string() },
                "items": items,
            })
        };
        answer(stream, 200, &list).await
    }

    async fn watch(&self, stream: &mut TcpStream, path: &str, query: &str) -> std::io::Result<()> {
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
        let mut from: u64 = from.unwrap_or("0").parse().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n").await?;
        let mut changed = self.changed.subscribe();
        self.state.lock().unwrap().watches += 1;
        self.changed.send_modify(|_| {});
        loop {
            let mut lines = String::new();
            {
                let state = self.state.lock().unwrap();
                if from < state.compacted {
                    lines.push_str(
                        "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"message\":\"too old \
                         resource version\",\"reason\":\"Expired\",\"code\":410}}\n",
                    );
                }
                for (version, at, kind, object) in &state.events {
                    if *version > from && is_in(at, path) && is_selected(object, query) {
                        let event = json!({ "type": kind, "object": object });
                        lines.push_str(&format!("{event}\n"));
                    }
                }
                from = state.version;
                let bookmark = json!({"type": "BOOKMARK", "object": {"metadata":
                    {"resourceVersion": from.to_string()}}});
                lines.push_str(&format!("{bookmark}\n"));
            }
            // In two pieces, so that lines are put together again.
            let middle = lines.len() / 2;
            stream.write_all(&lines.as_bytes()[..middle]).await?;
            stream.flush().await?;
            stream.write_all(&lines.as_bytes()[middle..]).await?;
            if lines.contains("\"ERROR\"") {
                return Ok(());
            }
            changed.changed().await.unwrap();
        }
    }

    async fn patch(
        &self,
        stream: &mut TcpStream,
        path: &str,
        query: &str,
        content_type: &str,
        patch: &Value,
    ) -> std::io::Result<()> {
        let old = self.get(path);
        let merged = match (content_type, old) {
            ("application/apply-patch+yaml", old) => {
                if !query.contains("fieldManager=") {
                    return refuse(stream, 400, "fieldManager is required", "").await;
                }
                let mut object = old.unwrap_or_else(|| json!({}));
                merge(&mut object, patch);
                object
            }
            ("application/strategic-merge-patch+json", Some(mut object)) => {
                let wanted = &patch["metadata"]["resourceVersion"];
                if *wanted != object["metadata"]["resourceVersion"] {
                    let words = "the object has been modified; please apply your changes to the \
                                 latest version";
                    return refuse(stream, 409, words, "").await;
                }
                merge(&mut object, patch);
                object
            }
            ("application/strategic-merge-patch+json", None) => {
                return refuse(stream, 404, &not_found(path), "").await;
            }
            _ => return refuse(stream, 415, "the body is of an unknown type", "").await,
        };
        self.write(path, merged);
        answer(stream, 200, &self.get(path).unwrap()).await
    }
}

/// A strategic merge: lists by the names of their items.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(patch)) => {
            for item in patch {
                match into.iter_mut().find(|old| old["name"] == item["name"]) {
                    Some(old) => merge(old, item),
                    None => into.push(item.clone()),
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn is_collection(path: &str) -> bool {
    ["webhookconfigurations", "apiservices", "certificaterequests"]
        .iter()
        .any(|end| path.ends_with(end))
}

fn is_in(at: &str, collection: &str) -> bool {
    at.strip_prefix(collection).is_some_and(|rest| rest.starts_with('/'))
}

fn is_selected(object: &Value, query: &str) -> bool {
    let Some(selector) = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector="))
    else {
        return true;
    };
    let selector = selector.replace("%2F", "/").replace("%3D", "=");
    let (key, value) = selector.split_once('=').unwrap();
    object["metadata"]["labels"][key] == value
}

fn not_found(path: &str) -> String {
    let mut parts = path.rsplit('/');
    let (name, resource) = (parts.next().unwrap(), parts.next().unwrap());
    format!("{resource} \"{name}\" not found")
}

async fn refuse(
    stream: &mut TcpStream,
    status: u16,
    message: &str,
    headers: &str,
) -> std::io::Result<()> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "code": status});
    respond(stream, status, headers, &body).await
}

async fn answer(stream: &mut TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    respond(stream, status, "", body).await
}

async fn respond(
    stream: &mut TcpStream,
    status: u16,
    headers: &str,
    body: &Value,
) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut data = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let end = data.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&data[..end]).into_owned();
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase().strip_prefix("content-length:").map(str::to_owned)
                })
                .map_or(0, |text| text.trim().parse().unwrap());
            if data.len() >= end + 4 + length {
                return Ok((head, data[end + 4..].to_vec()));
            }
        }
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        data.extend_from_slice(&chunk[..read]);
    }
}
