//! One request and its answer.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;
use tokio::time::{Instant, timeout};

/// How long an answer may take in all, watches excepted.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the API server may take to begin to answer a watch.
const WATCH_OPENS: Duration = Duration::from_secs(30);
/// How long a watch may be silent; the API server sends a bookmark about once a minute.
const WATCH_SILENCE: Duration = Duration::from_secs(150);
/// The longest answer, bytes: a page of the largest objects.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// The longest event of a watch, bytes: etcd holds objects of 1.5 MiB.
const MAX_EVENT: usize = 8 * 1024 * 1024;
/// The longest answer that says what went wrong, bytes.
const MAX_REFUSAL: usize = 64 * 1024;
/// The longest pause that an answer may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// No cluster was found to talk to.
    #[error("finding the cluster's API server (in the pod, or by $KUBECONFIG)")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection or the exchange failed.
    #[error("{method} {path}")]
    Exchange {
        /// Of the request.
        method: Method,
        /// Of the request.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what this request is answered with.
    #[error("{path}: the API server's answer cannot be read: {why}")]
    Malformed {
        /// Of the request.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The API server refused.
    #[error("{path}: the API server answered {code}: {message}")]
    Refused {
        /// Of the request.
        path: String,
        /// The HTTP status.
        code: u16,
        /// What it says about it.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// It took too long.
    #[error("{path}: no answer from the API server within {} s", .after.as_secs())]
    Timeout {
        /// Of the request.
        path: String,
        /// How long was waited.
        after: Duration,
    },
    /// The answer is too long.
    #[error("{path}: the API server's answer is longer than {limit} bytes")]
    TooLong {
        /// Of the request.
        path: String,
        /// How long it may be.
        limit: usize,
    },
}

impl ApiError {
    /// The HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// How long the API server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A cluster's API. Clones share the connections.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

impl Api {
    /// Finds the cluster: `$KUBECONFIG` or `~/.kube/config`, else the pod's service account.
    ///
    /// # Errors
    /// [`ApiError::Config`].
    pub async fn infer() -> Result<Self, ApiError> {
        let config = kube::Config::infer().await;
        let mut config = config.map_err(|error| ApiError::Config(Box::new(error)))?;
        // What is tried again, and when, is decided where it is known what for.
        config.default_retry = false;
        config.read_timeout = None;
        Self::new(config)
    }

    /// The cluster of a kubeconfig file's current context.
    ///
    /// # Errors
    /// [`ApiError::Config`].
    pub async fn from_kubeconfig(path: &std::path::Path) -> Result<Self, ApiError> {
        let file = kube::config::Kubeconfig::read_from(path);
        let file = file.map_err(|error| ApiError::Config(Box::new(error)))?;
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        let mut config = config.map_err(|error| ApiError::Config(Box::new(error)))?;
        config.default_retry = false;
        config.read_timeout = None;
        Self::new(config)
    }

    /// The API at `config`.
    ///
    /// # Errors
    /// [`ApiError::Config`].
    pub fn new(config: kube::Config) -> Result<Self, ApiError> {
        let client = kube::Client::try_from(config);
        Ok(Self { client: client.map_err(|error| ApiError::Config(Box::new(error)))? })
    }

    /// The namespace this program runs in.
    pub fn own_namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Reads an object or a list.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get(&self, path: &str) -> Result<Bytes, ApiError> {
        self.exchange(Method::GET, path, None).await
    }

    /// Reads an object as JSON.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get_json(&self, path: &str) -> Result<Value, ApiError> {
        json(path, &self.get(path).await?)
    }

    /// Writes an object: `method` with `body` of `content_type`; the object as it is then.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn write(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: &Value,
    ) -> Result<Value, ApiError> {
        let body = (content_type, body.to_string().into_bytes());
        json(path, &self.exchange(method, path, Some(body)).await?)
    }

    /// Opens a watch.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn watch(&self, path: &str) -> Result<Lines, ApiError> {
        let request = request(Method::GET, path, None)?;
        let opening = self.send(path, request);
        let answer = timeout(WATCH_OPENS, opening).await;
        let answer = answer
            .map_err(|_| ApiError::Timeout { path: path.to_owned(), after: WATCH_OPENS })??;
        if answer.status() != StatusCode::OK {
            return Err(refusal(path, answer).await);
        }
        Ok(Lines { path: path.to_owned(), body: answer.into_body(), buffer: BytesMut::new() })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Bytes, ApiError> {
        let request = request(method, path, body)?;
        let whole = async {
            let answer = self.send(path, request).await?;
            if !answer.status().is_success() {
                return Err(refusal(path, answer).await);
            }
            collect(path, answer.into_body(), MAX_ANSWER).await
        };
        timeout(DEADLINE, whole)
            .await
            .map_err(|_| ApiError::Timeout { path: path.to_owned(), after: DEADLINE })?
    }

    async fn send(&self, path: &str, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let method = request.method().clone();
        self.client.send(request).await.map_err(|error| ApiError::Exchange {
            method,
            path: path.to_owned(),
            source: Box::new(error),
        })
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Api({})", self.own_namespace())
    }
}

/// The lines of a watch as they come.
pub struct Lines {
    path: String,
    body: Body,
    buffer: BytesMut,
}

impl Lines {
    /// The next line; none at the end.
    ///
    /// # Errors
    /// [`ApiError`] when the stream breaks, is silent for too long, or a line is too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let mut searched = 0;
        let silent_until = Instant::now() + WATCH_SILENCE;
        loop {
            let unread = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = unread.iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(searched + at + 1);
                line.truncate(searched + at);
                return Ok(Some(line.freeze()));
            }
            searched = self.buffer.len();
            if searched > MAX_EVENT {
                return Err(ApiError::TooLong { path: self.path.clone(), limit: MAX_EVENT });
            }
            let frame = tokio::time::timeout_at(silent_until, self.body.frame()).await;
            let frame = frame
                .map_err(|_| ApiError::Timeout { path: self.path.clone(), after: WATCH_SILENCE })?;
            match frame {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => {
                    return Err(ApiError::Exchange {
                        method: Method::GET,
                        path: self.path.clone(),
                        source: Box::new(error),
                    });
                }
                // Half a line at the end is no event.
                None => return Ok(None),
            }
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines({})", self.path)
    }
}

fn request(
    method: Method,
    path: &str,
    body: Option<(&'static str, Vec<u8>)>,
) -> Result<Request<Body>, ApiError> {
    let mut builder = Request::builder().method(method.clone()).uri(path);
    builder = builder.header(header::ACCEPT, "application/json");
    let body = match body {
        Some((kind, bytes)) => {
            builder = builder.header(header::CONTENT_TYPE, kind);
            Body::from(bytes)
        }
        None => Body::empty(),
    };
    builder.body(body).map_err(|error| ApiError::Exchange {
        method,
        path: path.to_owned(),
        source: Box::new(error),
    })
}

async fn collect(path: &str, mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::Exchange {
            method: Method::GET,
            path: path.to_owned(),
            source: Box::new(error),
        })?;
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > limit {
                return Err(ApiError::TooLong { path: path.to_owned(), limit });
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(whole.freeze())
}

async fn refusal(path: &str, answer: Response<Body>) -> ApiError {
    let code = answer.status().as_u16();
    let retry_after = answer.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    let retry_after = retry_after.map(|secs| Duration::from_secs(secs).min(MAX_RETRY_AFTER));
    let body = timeout(DEADLINE, collect(path, answer.into_body(), MAX_REFUSAL)).await;
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    let message = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|status| Some(status.get("message")?.as_str()?.to_owned()));
    let message = message.unwrap_or_else(|| {
        let text = String::from_utf8_lossy(&body);
        text.trim().chars().take(200).collect()
    });
    ApiError::Refused { path: path.to_owned(), code, message, retry_after }
}

fn json(path: &str, body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::Malformed { path: path.to_owned(), why: error.to_string() })
}
