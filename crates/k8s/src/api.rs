//! Single requests to an API server.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use signet_pki::text_file;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    config::{ConfigError, Credentials, KubeConfig},
    error::ApiError,
    objects::{Namespace, Node, Pod, TokenReviewStatus},
};
use signet_http::{HttpClient, HttpError};

/// After this time the configuration is read again.
const RELOAD: Duration = Duration::from_secs(60);
/// How often a server that is too busy is asked again, and how long is waited at most.
const BUSY_RETRIES: u32 = 3;
const BUSY_PAUSE: Duration = Duration::from_secs(5);

/// A patch that keeps what it does not name; lists are merged by the names of their items.
#[cfg_attr(not(feature = "k8s-bundle"), expect(dead_code, reason = "only bundles are patched"))]
pub(super) const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";
/// Server-side apply; JSON is YAML as well.
#[cfg_attr(not(feature = "k8s-bundle"), expect(dead_code, reason = "only bundles are patched"))]
pub(super) const APPLY: &str = "application/apply-patch+yaml";

/// An API server and how to authenticate to it.
#[derive(Debug)]
pub struct ApiServer {
    loaded: Mutex<Loaded>,
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
    pub(super) base: String,
    credentials: Credentials,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: &'static str,
    /// Path and query.
    pub(super) path: String,
    pub(super) verb: &'static str,
    /// To what, for messages; begins with the resource.
    pub(super) what: String,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
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

impl Call {
    pub(super) fn get(path: String, verb: &'static str, what: String) -> Self {
        let content_type = "application/json";
        Self { method: "GET", path, verb, what, content_type, body: Bytes::new() }
    }
}

impl ApiServer {
    /// Reaches the API server that `config` names.
    ///
    /// # Errors
    /// [`ApiError`] when the configuration cannot be used.
    pub fn new(config: KubeConfig) -> Result<Self, ApiError> {
        let connection = Arc::new(Connection::new(&config)?);
        Ok(Self { loaded: Mutex::new(Loaded { config, connection, at: Instant::now() }) })
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
        let path = "/apis/authentication.k8s.io/v1/tokenreviews".to_owned();
        let body = serde_json::to_vec(&review)
            .map_err(|source| ApiError::Answer { url: path.clone(), source })?;
        let call = Call {
            method: "POST",
            body: body.into(),
            ..Call::get(path, "create", "tokenreviews.authentication.k8s.io".to_owned())
        };
        let answer: TokenReviewAnswer = self.ask(&call).await?;
        Ok(answer.status)
    }

    /// Reads a pod.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get_pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        let (namespace, name) = (object_name(namespace)?, object_name(name)?);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        self.ask(&Call::get(path, "get", format!("pods/{name} in namespace {namespace}"))).await
    }

    /// Reads a node.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get_node(&self, name: &str) -> Result<Node, ApiError> {
        let path = format!("/api/v1/nodes/{}", object_name(name)?);
        self.ask(&Call::get(path, "get", format!("nodes/{name}"))).await
    }

    /// Reads a namespace.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get_namespace(&self, name: &str) -> Result<Namespace, ApiError> {
        let path = format!("/api/v1/namespaces/{}", object_name(name)?);
        self.ask(&Call::get(path, "get", format!("namespaces/{name}"))).await
    }

    /// Sends a request and reads the answer's JSON.
    pub(super) async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ApiError> {
        let answer = self.send(call).await?;
        serde_json::from_slice(&answer).map_err(|source| ApiError::Answer {
            url: call.path.split('?').next().unwrap_or_default().to_owned(),
            source,
        })
    }

    /// Sends a request: again with what the files say now when the server's certificate or the own
    /// credentials are not accepted, and again after the pause that a busy server asks for.
    pub(super) async fn send(&self, call: &Call) -> Result<Bytes, ApiError> {
        let mut busy = 0;
        let mut reloaded = false;
        loop {
            let connection = self.connection();
            let error = match connection.client.send(connection.request(call)?).await {
                Ok(answer) if answer.status().is_success() => return Ok(answer.into_body()),
                Ok(answer) => ApiError::refused(call.verb, &call.what, &answer),
                Err(error) => error.into(),
            };
            if !reloaded && self.refresh_after(&error) {
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
    pub(super) fn refresh_after(&self, error: &ApiError) -> bool {
        let due =
            error.status() == Some(401) || matches!(error, ApiError::Http(HttpError::Tls { .. }));
        due && self.reload()
    }

    /// The client to use now.
    pub(super) fn connection(&self) -> Arc<Connection> {
        let old = {
            let loaded = self.lock();
            (loaded.at.elapsed() >= RELOAD, Arc::clone(&loaded.connection))
        };
        match old {
            (true, _) if self.reload() => Arc::clone(&self.lock().connection),
            (_, connection) => connection,
        }
    }

    fn reload(&self) -> bool {
        let mut loaded = self.lock();
        loaded.at = Instant::now();
        let made = loaded.config.reload().map_err(ApiError::from).and_then(|config| {
            let connection = Connection::new(&config)?;
            Ok((config, connection))
        });
        match made {
            Ok((config, connection)) => {
                loaded.config = config;
                loaded.connection = Arc::new(connection);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "Reading the cluster's configuration again; the last one stays");
                false
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn new(config: &KubeConfig) -> Result<Self, ApiError> {
        Ok(Self {
            client: config.client()?,
            base: config.server.clone(),
            credentials: config.credentials.clone(),
        })
    }

    pub(super) fn request(&self, call: &Call) -> Result<Request<Bytes>, ApiError> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(format!("{}{}", self.base, call.path))
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, call.content_type);
        if let Some(value) = self.authorization()? {
            request = request.header(header::AUTHORIZATION, value);
        }
        request.body(call.body.clone()).map_err(|_| ApiError::Name(call.path.clone()))
    }

    fn authorization(&self) -> Result<Option<http::HeaderValue>, ApiError> {
        let text = match &self.credentials {
            Credentials::Basic { username, password } => {
                let pair = Zeroizing::new(format!("{username}:{}", password.as_str()));
                Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
            }
            Credentials::None => return Ok(None),
            Credentials::Token(token) => Zeroizing::new(format!("Bearer {}", token.as_str())),
            // Kubernetes rotates projected tokens: the file is read each time.
            Credentials::TokenFile(path) => {
                let token = text_file::text(path).map_err(ConfigError::from)?;
                Zeroizing::new(format!("Bearer {}", token.trim()))
            }
        };
        let mut value = http::HeaderValue::from_str(&text)
            .map_err(|_| ConfigError::Invalid("the token holds characters no header can".into()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// A refusal made of the answer to `call`, unless it is a success.
pub(super) fn check(call: &Call, answer: &Response<Bytes>) -> Result<(), ApiError> {
    if answer.status().is_success() {
        return Ok(());
    }
    Err(ApiError::refused(call.verb, &call.what, answer))
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
