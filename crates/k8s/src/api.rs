//! Single requests to an API server.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use signet_base::SharedClock;
use signet_pki::text_file;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    config::{Credentials, KubeConfig, KubeSource},
    error::{ApiError, ConfigError},
    objects::{Namespace, Node, Pod, TokenReviewStatus},
};
use signet_http::{HttpClient, HttpError};

/// After this time the configuration is read again.
const RELOAD: Duration = Duration::from_secs(60);
/// How often a server that is too busy is asked again, and how long is waited at most.
const BUSY_RETRIES: u32 = 3;
const BUSY_PAUSE: Duration = Duration::from_secs(5);
/// How long a page of a list may take, and its largest size, bytes: some hundred of the largest
/// objects.
const PAGE_DEADLINE: Duration = Duration::from_secs(60);
const MAX_PAGE: usize = 256 * 1024 * 1024;
/// The form in which objects are read and written.
const JSON: &str = "application/json";
/// The metadata alone of one object, or of each of a list: the rest is not sent.
pub(super) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
pub(super) const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// An API server and how to authenticate to it.
#[derive(Debug)]
pub struct ApiServer {
    source: KubeSource,
    clock: SharedClock,
    loaded: Mutex<Option<Loaded>>,
}

/// A client made of the configuration, and when it was read.
#[derive(Debug)]
struct Loaded {
    config: KubeConfig,
    connection: Arc<Connection>,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: HttpClient,
    base: String,
    credentials: Credentials,
    impersonate: Vec<(&'static str, String)>,
}

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Server-side apply: what the body names is as it says, and the rest stays.
    Apply,
    /// A new object; the path is that of its collection.
    Create,
    /// Steps by JSON Patch (RFC 6902).
    JsonPatch,
    /// By JSON Merge Patch (RFC 7386): lists are replaced.
    MergePatch,
    /// All of the object. With the `resourceVersion` that was read, only over that version.
    Replace,
    /// A patch that keeps what it does not name; lists are merged by the names of their items.
    StrategicMergePatch,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Call {
    method: &'static str,
    /// Path and query.
    pub(super) path: String,
    verb: &'static str,
    content_type: &'static str,
    /// The form in which the answer is wanted.
    accept: &'static str,
    body: Bytes,
    /// How long it may take, and the largest answer, bytes; unset for the client's own limits.
    limits: Option<(Duration, usize)>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenReview<'a> {
    api_version: &'a str,
    kind: &'a str,
    spec: TokenReviewSpec<'a>,
}

#[derive(Serialize)]
struct TokenReviewSpec<'a> {
    token: &'a str,
    audiences: &'a [String],
}

#[derive(Deserialize)]
struct TokenReviewAnswer {
    #[serde(default)]
    status: TokenReviewStatus,
}

impl Write {
    /// Method, content type, and the verb of permissions.
    fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            // JSON is YAML as well.
            Self::Apply => ("PATCH", "application/apply-patch+yaml", "patch"),
            Self::Create => ("POST", JSON, "create"),
            Self::JsonPatch => ("PATCH", "application/json-patch+json", "patch"),
            Self::MergePatch => ("PATCH", "application/merge-patch+json", "patch"),
            Self::Replace => ("PUT", JSON, "update"),
            Self::StrategicMergePatch => {
                ("PATCH", "application/strategic-merge-patch+json", "patch")
            }
        }
    }
}

impl Call {
    pub(super) fn read(path: impl Into<String>, verb: &'static str) -> Self {
        Self {
            method: "GET",
            path: path.into(),
            verb,
            content_type: JSON,
            accept: JSON,
            body: Bytes::new(),
            limits: None,
        }
    }

    /// A page of a list.
    pub(super) fn page(path: impl Into<String>) -> Self {
        Self { limits: Some((PAGE_DEADLINE, MAX_PAGE)), ..Self::read(path, "list") }
    }

    /// The same with the answer in another form.
    pub(super) fn answered_as(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    /// A refusal made of the answer.
    pub(super) fn refused(&self, answer: &Response<Bytes>) -> ApiError {
        ApiError::refused(self.verb, described(&self.path), answer)
    }
}

impl ApiServer {
    /// Reaches the API server that `source` names.
    ///
    /// # Errors
    /// [`ApiError`] when the configuration cannot be used.
    pub fn new(source: KubeSource, clock: SharedClock) -> Result<Self, ApiError> {
        let (server, why) = Self::sooner_or_later(source, clock);
        why.map_or(Ok(server), Err)
    }

    /// Reaches the API server of a kubeconfig file's current context.
    ///
    /// # Errors
    /// As [`ApiServer::new`].
    pub fn from_file(path: &Path, clock: SharedClock) -> Result<Self, ApiError> {
        Self::new(KubeSource::Files(vec![path.to_owned()]), clock)
    }

    /// Reaches the API server that `source` names as soon as that can be used; until then every
    /// request tries again, and fails with the reason. The error says why it cannot be used yet.
    pub fn sooner_or_later(source: KubeSource, clock: SharedClock) -> (Self, Option<ApiError>) {
        let server = Self { source, clock, loaded: Mutex::default() };
        let why = server.connection().err();
        (server, why)
    }

    /// The namespace of whom the configuration speaks of: that of the pod, or of the context.
    ///
    /// # Errors
    /// [`ApiError`] when the configuration cannot be used.
    pub fn namespace(&self) -> Result<String, ApiError> {
        self.connection()?;
        let loaded = self.lock();
        Ok(loaded.as_ref().map(|loaded| loaded.config.namespace.clone()).unwrap_or_default())
    }

    /// Reads what is at a path, query included: an object, or a page of a list.
    ///
    /// # Errors
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
    pub async fn get(&self, path: &str) -> Result<Bytes, ApiError> {
        let verb = if path.contains("?limit=") { "list" } else { "get" };
        let limits = Some((PAGE_DEADLINE, MAX_PAGE));
        self.send(&Call { limits, ..Call::read(path, verb) }).await
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
    pub async fn get_object<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.ask(&Call::read(path, "get")).await
    }

    /// Writes an object; the object as it is then.
    ///
    /// # Errors
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
    pub async fn write(&self, how: Write, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.written(how, path, body).await
    }

    /// Writes an object; what is read here of the answer.
    pub(super) async fn written<T: DeserializeOwned>(
        &self,
        how: Write,
        path: &str,
        body: &Value,
    ) -> Result<T, ApiError> {
        let (method, content_type, verb) = how.parts();
        let body = Bytes::from(body.to_string());
        self.ask(&Call { method, content_type, body, ..Call::read(path, verb) }).await
    }

    /// Deletes an object; what it owns goes after it.
    ///
    /// # Errors
    /// [`ApiError`], also when it is not there.
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        let options =
            r#"{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Background"}"#;
        let call =
            Call { method: "DELETE", body: Bytes::from(options), ..Call::read(path, "delete") };
        self.send(&call).await.map(drop)
    }

    /// Has `token` reviewed for `audiences`.
    ///
    /// # Errors
    /// [`ApiError`]; a token that is not valid is an answer, not an error.
    pub async fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<TokenReviewStatus, ApiError> {
        let review = TokenReview {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: TokenReviewSpec { token, audiences },
        };
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let body = serde_json::to_value(&review)
            .map_err(|error| ApiError::Answer { url: path.to_owned(), why: error.to_string() })?;
        let answer: TokenReviewAnswer = self.written(Write::Create, path, &body).await?;
        Ok(answer.status)
    }

    /// Reads a pod.
    ///
    /// # Errors
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
    pub async fn get_pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        let (namespace, name) = (object_name(namespace)?, object_name(name)?);
        self.get_object(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await
    }

    /// Reads a node.
    ///
    /// # Errors
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
    pub async fn get_node(&self, name: &str) -> Result<Node, ApiError> {
        self.get_object(&format!("/api/v1/nodes/{}", object_name(name)?)).await
    }

    /// Reads a namespace.
    ///
    /// # Errors
    /// [`ApiError`] when the API server cannot be reached or refuses, or its answer cannot be read.
    pub async fn get_namespace(&self, name: &str) -> Result<Namespace, ApiError> {
        self.get_object(&format!("/api/v1/namespaces/{}", object_name(name)?)).await
    }

    /// Sends a request and reads the answer's JSON.
    pub(super) async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ApiError> {
        let answer = self.send(call).await?;
        serde_json::from_slice(&answer).map_err(|error| ApiError::Answer {
            url: call.path.split('?').next().unwrap_or_default().to_owned(),
            why: error.to_string(),
        })
    }

    /// Sends a request: again with what the files say now when the server's certificate or the own
    /// credentials are not accepted, and again after the pause that a busy server asks for.
    pub(super) async fn send(&self, call: &Call) -> Result<Bytes, ApiError> {
        let mut busy = 0;
        let mut reloaded = false;
        loop {
            let connection = self.connection()?;
            let request = connection.request(call).await?;
            let sent = match call.limits {
                Some((timeout, max)) => {
                    connection.client.with_limits(timeout, max).send(request).await
                }
                None => connection.client.send(request).await,
            };
            let error = match sent {
                Ok(answer) if answer.status().is_success() => return Ok(answer.into_body()),
                Ok(answer) => call.refused(&answer),
                Err(error) => error.into(),
            };
            if !reloaded && self.refresh_after(&error).await {
                reloaded = true;
                continue;
            }
            match pause_of(&error) {
                Some(pause) if busy < BUSY_RETRIES => {
                    busy += 1;
                    tracing::debug!(%error, "The API server is busy");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// Reads the configuration again if `error` may be due to an old one.
    pub(super) async fn refresh_after(&self, error: &ApiError) -> bool {
        let unauthorized = error.status() == Some(401);
        if unauthorized {
            let credentials = self.lock().as_ref().map(|held| held.config.credentials.clone());
            if let Some(Credentials::Exec(exec)) = credentials {
                exec.forget().await;
            }
        }
        let due = unauthorized || matches!(error, ApiError::Http(HttpError::Tls { .. }));
        due && self.reload().is_ok_and(|(_, fresh)| fresh)
    }

    /// The client to use now.
    pub(super) fn connection(&self) -> Result<Arc<Connection>, ApiError> {
        let held = self.lock().as_ref().map(|held| (held.at, Arc::clone(&held.connection)));
        match held {
            Some((at, connection)) if at.elapsed() < RELOAD => Ok(connection),
            _ => Ok(self.reload()?.0),
        }
    }

    /// Reads the configuration: the client to use now, and whether it was made anew. A
    /// configuration that cannot be used now leaves the last one in its place.
    ///
    /// # Errors
    /// [`ApiError`] when it never could be used.
    fn reload(&self) -> Result<(Arc<Connection>, bool), ApiError> {
        let mut loaded = self.lock();
        let config = match &*loaded {
            Some(held) => held.config.reload(),
            None => self.source.read(Arc::clone(&self.clock)),
        };
        let made = config.map_err(ApiError::from).and_then(|config| {
            let connection = Arc::new(Connection::new(&config)?);
            Ok(Loaded { config, connection, at: Instant::now() })
        });
        match (made, loaded.as_mut()) {
            (Ok(fresh), _) => {
                let connection = Arc::clone(&fresh.connection);
                *loaded = Some(fresh);
                Ok((connection, true))
            }
            (Err(error), Some(held)) => {
                held.at = Instant::now();
                tracing::warn!(%error, "Reading the cluster's configuration again; the last one stays");
                Ok((Arc::clone(&held.connection), false))
            }
            (Err(error), None) => Err(error),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn new(config: &KubeConfig) -> Result<Self, ApiError> {
        Ok(Self {
            client: config.client()?,
            base: config.server.clone(),
            credentials: config.credentials.clone(),
            impersonate: config.impersonate.clone(),
        })
    }

    pub(super) async fn request(&self, call: &Call) -> Result<Request<Bytes>, ApiError> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(format!("{}{}", self.base, call.path))
            .header(header::ACCEPT, call.accept)
            .header(header::CONTENT_TYPE, call.content_type);
        if let Some(value) = self.authorization().await? {
            request = request.header(header::AUTHORIZATION, value);
        }
        for (name, value) in &self.impersonate {
            request = request.header(*name, value);
        }
        request.body(call.body.clone()).map_err(|_| ApiError::Name(call.path.clone()))
    }

    async fn authorization(&self) -> Result<Option<http::HeaderValue>, ApiError> {
        let bearer = |token: &str| Zeroizing::new(format!("Bearer {}", token.trim()));
        let text = match &self.credentials {
            Credentials::Basic { username, password } => {
                let pair = Zeroizing::new(format!("{username}:{}", password.as_str()));
                Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
            }
            Credentials::Exec(program) => bearer(&program.token().await?),
            Credentials::None => return Ok(None),
            Credentials::Token(token) => bearer(token),
            // Kubernetes rotates projected tokens: the file is read each time.
            Credentials::TokenFile(path) => {
                bearer(&text_file::text(path).map_err(ConfigError::from)?)
            }
        };
        let mut value = http::HeaderValue::from_str(&text)
            .map_err(|_| ConfigError::Invalid("the token holds characters no header can".into()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// What a path leads to, in words that begin with the resource as permissions name it:
/// `configmaps/spire-bundle in namespace spire`, `tokenreviews.authentication.k8s.io`.
pub(super) fn described(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let mut parts = path.trim_matches('/').split('/');
    let group = match (parts.next(), parts.next()) {
        (Some("apis"), Some(group)) => {
            // The version.
            parts.next();
            format!(".{group}")
        }
        (Some("api"), Some(_)) => String::new(),
        _ => return path.to_owned(),
    };
    let rest: Vec<&str> = parts.collect();
    let (namespace, rest) = match rest.as_slice() {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let Some((resource, rest)) = rest.split_first() else { return path.to_owned() };
    let mut text = format!("{resource}{group}");
    for part in rest {
        text.push('/');
        text.push_str(part);
    }
    if let Some(namespace) = namespace {
        text.push_str(" in namespace ");
        text.push_str(namespace);
    }
    text
}

/// How long to wait before the same is asked again, if that is any use.
fn pause_of(error: &ApiError) -> Option<Duration> {
    match error {
        ApiError::Refused { status: 429, retry_after, .. } => {
            Some(retry_after.unwrap_or(Duration::from_secs(1)).min(BUSY_PAUSE))
        }
        // Without the header the server may have done it, or may be down for long.
        ApiError::Refused { status: 503, retry_after: Some(after), .. } => {
            Some((*after).min(BUSY_PAUSE))
        }
        _ => None,
    }
}

/// A name that is safe in a path: what Kubernetes allows in names and namespaces.
pub(super) fn object_name(name: &str) -> Result<&str, ApiError> {
    let good = !name.is_empty()
        && name.len() <= 253
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b));
    if good { Ok(name) } else { Err(ApiError::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_leads_to_is_said_as_permissions_name_it() {
        for (path, words) in [
            ("/api/v1/pods?limit=5", "pods"),
            ("/api/v1/namespaces/a", "namespaces/a"),
            ("/api/v1/namespaces/a/pods?limit=5", "pods in namespace a"),
            ("/api/v1/namespaces/a/pods/p", "pods/p in namespace a"),
            ("/apis/x.io/v1/things/t/status", "things.x.io/t/status"),
            ("/healthz", "/healthz"),
        ] {
            assert_eq!(described(path), words);
        }
    }
}
