//! Following a collection of objects: list, then watch (Kubernetes API concepts, "efficient
//! detection of changes").

use std::{borrow::Cow, fmt, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http::Response;
use percent_encoding::utf8_percent_encode;
use serde::{Deserialize, de::DeserializeOwned};
use signet_http::{HttpError, UNRESERVED};
use tokio::{sync::mpsc, time::Instant};

use super::{
    api::{ApiServer, Call, described},
    error::ApiError,
    objects::{Failure, Metadata, Object},
};

/// How many objects a page of a list has.
pub(super) const PAGE: u32 = 500;
/// How many pages are read at most.
pub(super) const MAX_PAGES: usize = 200;
/// The longest event, bytes: etcd holds objects of 1.5 MiB.
const MAX_EVENT: usize = 8 * 1024 * 1024;
/// How long one watch lasts at most; the server is told, and has some more time for its last words.
pub const WATCH: Duration = Duration::from_secs(300);
const WATCH_GRACE: Duration = Duration::from_secs(30);
/// How long the API server may take to begin to answer a watch.
const WATCH_OPENS: Duration = Duration::from_secs(30);
/// How long a watch may be silent; the API server sends a bookmark about once a minute.
const WATCH_SILENCE: Duration = Duration::from_secs(150);
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
    pub path: Cow<'static, str>,
    /// For example `apiservices.apiregistration.k8s.io`.
    pub resource: &'static str,
    /// A label selector, `key=value`; empty for all objects.
    pub selector: String,
}

/// The lines of a watch as they come. What is sent in all has no bound but its time; each line has.
pub struct Lines<'a> {
    server: &'a ApiServer,
    call: Call,
    /// The exchange as long as it goes on.
    exchange: Option<Exchange>,
    answer: Option<Result<Response<Bytes>, HttpError>>,
    pieces: mpsc::Receiver<Bytes>,
    opened: bool,
    buffer: BytesMut,
}

type Exchange = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send>>;

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

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct List<T> {
    #[serde(default)]
    pub(super) metadata: ListMetadata,
    pub(super) items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMetadata {
    resource_version: String,
    /// Names the next page; empty after the last.
    #[serde(rename = "continue")]
    pub(super) token: String,
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
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
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
            match self.ask::<List<T>>(&Call::read(path, "list")).await {
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
                match self.follow_from(collection, &version, seen).await? {
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

    /// Opens a watch; `path` has its query, with a `timeoutSeconds` of at most [`WATCH`].
    ///
    /// # Errors
    /// [`ApiError`] when the configuration cannot be used; what the server says comes with the
    /// first line.
    pub async fn watch(&self, path: &str) -> Result<Lines<'_>, ApiError> {
        let call = Call::read(path, "watch");
        let connection = self.connection()?;
        let request = connection.request(&call).await?;
        let client = connection.client.with_limits(WATCH + WATCH_GRACE, usize::MAX);
        let (sender, pieces) = mpsc::channel(PIECES);
        let exchange: Exchange = Box::pin(async move { client.stream(request, sender).await });
        Ok(Lines {
            server: self,
            call,
            exchange: Some(exchange),
            answer: None,
            pieces,
            opened: false,
            buffer: BytesMut::new(),
        })
    }

    async fn follow_from<T: DeserializeOwned + Object>(
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
        let mut lines = self.watch(&path).await?;
        match read_events(collection, version, &mut lines, seen).await {
            Err(error) if error.status() == Some(410) => Ok(Ended::Expired),
            ended => ended,
        }
    }
}

impl Lines<'_> {
    /// The next line; none at the end.
    ///
    /// # Errors
    /// [`ApiError`] when the API server refuses, the stream breaks or is silent for too long, or a
    /// line is too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let began = Instant::now();
        let mut searched = 0;
        loop {
            let unread = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = unread.iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(searched + at + 1);
                line.truncate(searched + at);
                return Ok(Some(line.freeze()));
            }
            searched = self.buffer.len();
            if searched > MAX_EVENT {
                return Err(self.broken(format!("an event is longer than {MAX_EVENT} bytes")));
            }
            let patience = if self.opened { WATCH_SILENCE } else { WATCH_OPENS };
            match tokio::time::timeout_at(began + patience, self.piece()).await {
                Ok(Some(piece)) => self.buffer.extend_from_slice(&piece),
                // Half a line at the end is no event.
                Ok(None) => return self.end().await,
                Err(_) => {
                    return Err(self.broken(format!("silent for {} s", patience.as_secs())));
                }
            }
        }
    }

    /// What comes next of the answer; the exchange goes on while it is waited for.
    async fn piece(&mut self) -> Option<Bytes> {
        while let Some(exchange) = &mut self.exchange {
            tokio::select! {
                biased;
                piece = self.pieces.recv() => match piece {
                    Some(piece) => {
                        self.opened = true;
                        return Some(piece);
                    }
                    None => self.answer = Some(exchange.await),
                },
                answer = &mut *exchange => self.answer = Some(answer),
            }
            self.exchange = None;
        }
        self.pieces.recv().await
    }

    async fn end(&mut self) -> Result<Option<Bytes>, ApiError> {
        let error = match self.answer.take() {
            Some(Ok(answer)) if answer.status().is_success() => return Ok(None),
            Some(Ok(answer)) => self.call.refused(&answer),
            Some(Err(error)) => error.into(),
            None => return Ok(None),
        };
        self.server.refresh_after(&error).await;
        Err(error)
    }

    fn broken(&self, reason: String) -> ApiError {
        ApiError::Watch { what: described(&self.call.path), reason }
    }
}

impl fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines({})", described(&self.call.path))
    }
}

/// Reads the events of a watch until it ends; returns early when it cannot go on.
async fn read_events<T: DeserializeOwned + Object>(
    collection: &Collection,
    version: &str,
    lines: &mut Lines<'_>,
    seen: &mpsc::Sender<Seen<T>>,
) -> Result<Ended, ApiError> {
    let mut version = version.to_owned();
    while let Some(line) = lines.next().await? {
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
                let failure: EventObject<Failure> = serde_json::from_slice(&line).map_err(bad)?;
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
    Ok(Ended::At(version))
}

fn broken(collection: &Collection, reason: String) -> ApiError {
    ApiError::Watch { what: collection.resource.to_owned(), reason }
}

/// Adds a parameter to a query that is not empty, unless its value is.
pub(super) fn query(path: &mut String, key: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    path.extend(["&", key, "="]);
    path.push_str(&query_value(value));
}

/// A value of a query, with every byte encoded that could end it.
pub fn query_value(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}
