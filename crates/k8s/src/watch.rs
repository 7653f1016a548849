//! Following a collection of objects: list, then watch (Kubernetes API concepts, "efficient
//! detection of changes").

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::mpsc, time::Instant};

use super::{
    api::{ApiServer, Call, check},
    error::ApiError,
    objects::{Failure, Metadata, Object},
};

/// How many objects a page of a list has.
const PAGE: u32 = 500;
/// How many pages are read at most.
const MAX_PAGES: usize = 200;
/// The longest event, bytes: an object has at most some 2 MiB.
const MAX_EVENT: usize = 8 * 1024 * 1024;
/// How long one watch lasts; the server is told, and has some more time for its last words.
const WATCH: Duration = Duration::from_secs(300);
const WATCH_GRACE: Duration = Duration::from_secs(30);
/// The most that one watch may send, bytes.
const MAX_WATCH: usize = 512 * 1024 * 1024;
/// After this time everything is listed anew, come what may.
const RELIST: Duration = Duration::from_secs(3600);
/// The least time that one watch takes: a server that ends them at once is not asked in a loop.
const LEAST: Duration = Duration::from_secs(1);
/// Pieces of a stream that wait to be read.
const PIECES: usize = 4;

/// A collection of objects, all or those with a label.
#[derive(Clone, Debug)]
pub struct Collection {
    /// For example `/apis/apiregistration.k8s.io/v1/apiservices`.
    pub path: &'static str,
    /// For example `apiservices.apiregistration.k8s.io`.
    pub resource: &'static str,
    /// A label selector, `key=value`; empty for all objects.
    pub selector: String,
}

/// What following a collection shows.
#[derive(Debug)]
pub enum Seen<T> {
    /// All objects there are; those seen before and not among them are gone.
    All(Vec<T>),
    /// One that is new or changed.
    Changed(T),
    /// One that was deleted, or no longer has the label.
    Gone(T),
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default)]
    metadata: ListMetadata,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    token: String,
}

#[derive(Deserialize)]
struct EventType {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct EventObject<T> {
    object: T,
}

#[derive(Deserialize)]
struct Bare {
    #[serde(default)]
    metadata: Metadata,
}

/// How a watch ended.
enum Ended {
    /// By itself; goes on from this version.
    At(String),
    /// The version is too old: everything must be listed anew.
    Expired,
}

impl ApiServer {
    /// Reads all objects of a collection and the version of the list.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn list<T: DeserializeOwned>(
        &self,
        collection: &Collection,
    ) -> Result<(Vec<T>, String), ApiError> {
        let mut all = Vec::new();
        let mut token = String::new();
        for _ in 0..MAX_PAGES {
            let mut path = format!("{}?limit={PAGE}", collection.path);
            query(&mut path, "labelSelector", &collection.selector);
            query(&mut path, "continue", &token);
            let call = Call::get(path, "list", collection.resource.to_owned());
            match self.ask::<List<T>>(&call).await {
                Ok(page) => {
                    all.extend(page.items.unwrap_or_default());
                    token = page.metadata.token;
                    if token.is_empty() {
                        return Ok((all, page.metadata.resource_version));
                    }
                }
                // The list has changed too much since its first page.
                Err(error) if error.status() == Some(410) && !token.is_empty() => {
                    all.clear();
                    token.clear();
                }
                Err(error) => return Err(error),
            }
        }
        Err(broken(collection, format!("it has more than {MAX_PAGES} pages")))
    }

    /// Shows what is in a collection, and every change from then on. Ends with an error only; then
    /// it can be called again, after a pause. Ends also when the receiver has gone.
    ///
    /// # Errors
    /// [`ApiError`] when the server cannot be reached or refuses.
    pub async fn follow<T: DeserializeOwned + Object>(
        &self,
        collection: &Collection,
        seen: &mpsc::Sender<Seen<T>>,
    ) -> Result<(), ApiError> {
        loop {
            let listed = Instant::now();
            let (all, mut version) = self.list::<T>(collection).await?;
            if seen.send(Seen::All(all)).await.is_err() {
                return Ok(());
            }
            while listed.elapsed() < RELIST {
                let began = Instant::now();
                match self.watch(collection, &version, seen).await? {
                    Ended::At(newer) => version = newer,
                    Ended::Expired => break,
                }
                if seen.is_closed() {
                    return Ok(());
                }
                tokio::time::sleep_until(began + LEAST).await;
            }
        }
    }

    async fn watch<T: DeserializeOwned + Object>(
        &self,
        collection: &Collection,
        version: &str,
        seen: &mpsc::Sender<Seen<T>>,
    ) -> Result<Ended, ApiError> {
        let mut path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}",
            collection.path,
            WATCH.as_secs()
        );
        query(&mut path, "labelSelector", &collection.selector);
        query(&mut path, "resourceVersion", version);
        let call = Call::get(path, "watch", collection.resource.to_owned());
        let connection = self.connection();
        let client = connection.client.with_limits(WATCH + WATCH_GRACE, MAX_WATCH);
        let (sender, pieces) = mpsc::channel(PIECES);
        let request = connection.request(&call)?;
        let mut reading = std::pin::pin!(read_events(collection, version, pieces, seen));
        let answer = tokio::select! {
            biased;
            answer = client.stream(request, sender) => answer,
            // Read before the stream ended: there is no use in the rest of it.
            ended = &mut reading => return ended,
        };
        let ended = reading.await?;
        let refused = answer.map_err(ApiError::from).and_then(|answer| check(&call, &answer));
        match (refused, ended) {
            (_, Ended::Expired) => Ok(Ended::Expired),
            (Err(error), _) if error.status() == Some(410) => Ok(Ended::Expired),
            (Err(error), _) => {
                self.refresh_after(&error);
                Err(error)
            }
            (Ok(()), ended) => Ok(ended),
        }
    }
}

/// Reads the events of a watch until it ends; returns early when it cannot go on.
async fn read_events<T: DeserializeOwned + Object>(
    collection: &Collection,
    version: &str,
    mut pieces: mpsc::Receiver<Bytes>,
    seen: &mpsc::Sender<Seen<T>>,
) -> Result<Ended, ApiError> {
    let mut version = version.to_owned();
    let mut rest = BytesMut::new();
    while let Some(piece) = pieces.recv().await {
        let mut piece = &piece[..];
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = piece.split_at(end);
            rest.extend_from_slice(head);
            piece = tail.get(1..).unwrap_or_default();
            let line = rest.split();
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let bad = |error: serde_json::Error| broken(collection, error.to_string());
            let kind = serde_json::from_slice::<EventType>(&line).map_err(bad)?.kind;
            let object = || serde_json::from_slice::<EventObject<T>>(&line).map_err(bad);
            let event = match kind.as_str() {
                "ADDED" | "MODIFIED" => Seen::Changed(object()?.object),
                "DELETED" => Seen::Gone(object()?.object),
                "BOOKMARK" => {
                    let bare: EventObject<Bare> = serde_json::from_slice(&line).map_err(bad)?;
                    version = bare.object.metadata.resource_version;
                    continue;
                }
                "ERROR" => {
                    let failure: EventObject<Failure> =
                        serde_json::from_slice(&line).map_err(bad)?;
                    let Failure { code, message, reason, .. } = failure.object;
                    if code == 410 || reason == "Expired" {
                        return Ok(Ended::Expired);
                    }
                    return Err(broken(collection, format!("{code} {message}")));
                }
                // Kinds of events that are not known yet say nothing of the objects.
                _ => continue,
            };
            let (Seen::Changed(object) | Seen::Gone(object)) = &event else { continue };
            version.clone_from(&object.metadata().resource_version);
            if seen.send(event).await.is_err() {
                break;
            }
        }
        rest.extend_from_slice(piece);
        if rest.len() > MAX_EVENT {
            return Err(broken(collection, format!("an event is longer than {MAX_EVENT} bytes")));
        }
    }
    Ok(Ended::At(version))
}

fn broken(collection: &Collection, reason: String) -> ApiError {
    ApiError::Watch { what: collection.resource.to_owned(), reason }
}

/// Adds a parameter to a query that is not empty, unless its value is.
fn query(path: &mut String, key: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    path.extend(["&", key, "="]);
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}
