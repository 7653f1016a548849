//! OpenBao and Vault: one bounded call at a time, and what its answers mean.
//!
//! Nothing of what is read is kept here. Several addresses may be given: a call that reached none
//! of what it names (no connection, a standby that sends elsewhere, a sealed node) is tried at the
//! next; one that may have been carried out is not.

mod health;
mod open;
mod session;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header::LOCATION};
use serde_json::Value;
use signet_daemon::spans;
use signet_http::{HttpClient, HttpError};
use tracing::Instrument as _;
use zeroize::Zeroizing;

pub use self::{
    health::{Health, MIN_OPENBAO, VersionError, check_version},
    open::open,
    session::{LoginError, Sessions, TokenSource},
};

/// The header that carries a correlation ID into OpenBao's audit log.
pub const CORRELATION_HEADER: &str = "x-correlation-id";
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaoError {
    /// The answer is not what this call is answered with.
    #[error("OpenBao's answer to {path} cannot be used: {why}")]
    Malformed {
        /// The path that was asked for.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The request cannot be written.
    #[error("{0} cannot be asked for")]
    Path(String),
    /// It refused.
    #[error("OpenBao answers {path} with status {status}: {errors}")]
    Refused {
        /// The path that was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// In its words.
        errors: String,
    },
    /// It is sealed, or not initialised.
    #[error("OpenBao is sealed: {0}")]
    Sealed(String),
    /// It is a standby, which has requests made elsewhere; and no address that is configured is the
    /// active one.
    #[error(
        "OpenBao at {address} is a standby that sends requests to {to}; name the active server in \
         addresses"
    )]
    Standby {
        /// Who was asked.
        address: String,
        /// Where it sends: an origin, or what is known of one.
        to: String,
    },
    /// No answer.
    #[error("OpenBao cannot be reached")]
    Unreachable(#[from] HttpError),
}

impl BaoError {
    /// Whether the token was not accepted, or may not do this.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { status: 403, .. })
    }

    /// Whether it is OpenBao's state, not the request, that is at fault: asking again may help.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Sealed(_) | Self::Standby { .. } | Self::Unreachable(_) => true,
            Self::Refused { status, .. } => *status == 429 || *status == 412 || *status >= 500,
            Self::Malformed { .. } | Self::Path(_) => false,
        }
    }
}

/// One call.
#[derive(Clone, Copy)]
pub struct BaoCall<'a> {
    /// The namespace; empty for the root.
    pub namespace: &'a str,
    /// By which token, if by any.
    pub token: Option<&'a str>,
    /// GET, POST, LIST or DELETE.
    pub method: &'static str,
    /// The path below `/v1/`.
    pub path: &'a str,
    /// The body.
    pub body: Option<&'a Value>,
    /// How long a wrapping token of the answer lives.
    pub wrap: Option<Duration>,
    /// The ID that its audit log shows.
    pub correlation: &'a str,
}

impl<'a> BaoCall<'a> {
    /// A GET without a token.
    pub fn get(namespace: &'a str, path: &'a str) -> Self {
        Self {
            namespace,
            token: None,
            method: "GET",
            path,
            body: None,
            wrap: None,
            correlation: "",
        }
    }

    /// A POST of `body` without a token.
    pub fn post(namespace: &'a str, path: &'a str, body: &'a Value) -> Self {
        Self { method: "POST", body: Some(body), ..Self::get(namespace, path) }
    }

    /// By a token.
    #[must_use]
    pub fn by(self, token: &'a str) -> Self {
        Self { token: Some(token), ..self }
    }

    /// With a correlation ID.
    #[must_use]
    pub fn correlated(self, correlation: &'a str) -> Self {
        Self { correlation, ..self }
    }
}

/// An answer: its status and its JSON, `Null` when it has no body.
pub type Answer = (u16, Value);

/// The client. Clones share its settings.
#[derive(Clone)]
pub struct Bao {
    http: HttpClient,
    addresses: Arc<[String]>,
    preferred: Arc<AtomicUsize>,
}

impl Bao {
    /// For servers at these URLs.
    pub fn new(http: &HttpClient, addresses: Vec<String>, timeout: Duration) -> Self {
        Self {
            http: http.with_limits(timeout, MAX_ANSWER),
            addresses: addresses.into(),
            preferred: Arc::default(),
        }
    }

    /// Makes a call.
    ///
    /// # Errors
    /// [`BaoError`] when no address answers, OpenBao is sealed or refuses, or its answer cannot be
    /// read.
    pub async fn call(&self, call: BaoCall<'_>) -> Result<Answer, BaoError> {
        let count = self.addresses.len().max(1);
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = None;
        for turn in 0..count {
            let at = (first + turn) % count;
            let Some(address) = self.addresses.get(at) else { break };
            match self.call_at(address, call).await {
                Ok(answer) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Missed::Elsewhere(error)) => last = Some(error),
                Err(Missed::Final(error)) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| BaoError::Path("no address".to_owned())))
    }

    async fn call_at(&self, address: &str, call: BaoCall<'_>) -> Result<Answer, Missed> {
        let url = format!("{}/v1/{}", address.trim_end_matches('/'), call.path);
        let refused = || Missed::Final(BaoError::Path(call.path.to_owned()));
        let body = match call.body {
            Some(body) => Bytes::from(serde_json::to_vec(body).map_err(|_| refused())?),
            None => Bytes::new(),
        };
        let method = Method::from_bytes(call.method.as_bytes()).map_err(|_| refused())?;
        let mut request = Request::builder().method(method).uri(&url);
        // Against browsers and confused proxies: OpenBao can be told to ask for it.
        request = request.header("x-vault-request", "true");
        if !call.namespace.is_empty() {
            request = request.header("x-vault-namespace", call.namespace);
        }
        if let Some(token) = call.token {
            let mut value = HeaderValue::from_str(token).map_err(|_| refused())?;
            value.set_sensitive(true);
            request = request.header("x-vault-token", value);
        }
        if let Some(wrap) = call.wrap {
            request = request.header("x-vault-wrap-ttl", wrap.as_secs());
        }
        if !call.correlation.is_empty() {
            request = request.header(CORRELATION_HEADER, call.correlation);
        }
        let span = tracing::info_span!(
            target: spans::TARGET, "openbao", otel.name = format!("{} {}", call.method, call.path),
            otel.kind = "client", http.request.method = call.method
        );
        if let Some(traceparent) = span.in_scope(spans::traceparent) {
            request = request.header(spans::TRACEPARENT, traceparent);
        }
        let request = request.body(body).map_err(|_| refused())?;
        let answer =
            self.http.send(request).instrument(span).await.map_err(|error| match error {
                HttpError::Connect { .. } | HttpError::Tls { .. } => {
                    Missed::Elsewhere(BaoError::Unreachable(error))
                }
                other => Missed::Final(BaoError::Unreachable(other)),
            })?;
        let status = answer.status().as_u16();
        if (300..400).contains(&status) {
            // It is not followed: the token is for the addresses that are configured, all of which
            // are asked in turn.
            let to = origin_of(answer.headers().get(LOCATION));
            let error = BaoError::Standby { address: address.to_owned(), to };
            return Err(Missed::Elsewhere(error));
        }
        let json: Value = if answer.body().is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(answer.body()).map_err(|error| {
                let why = format!("status {status}, {error}");
                Missed::Final(BaoError::Malformed { path: call.path.to_owned(), why })
            })?
        };
        // A standby says by its status what it is (429, 472, 473), and in the body how it is.
        let is_health = call.path.starts_with("sys/health") && json.get("version").is_some();
        if answer.status().is_success() || is_health {
            return Ok((status, json));
        }
        let errors = errors_of(&json);
        if status == 503 && (errors.contains("sealed") || errors.contains("not initialized")) {
            return Err(Missed::Elsewhere(BaoError::Sealed(errors)));
        }
        Err(Missed::Final(BaoError::Refused { path: call.path.to_owned(), status, errors }))
    }
}

impl fmt::Debug for Bao {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bao").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Whether another address may be asked.
enum Missed {
    Elsewhere(BaoError),
    Final(BaoError),
}

/// Where a redirect leads, without its path, which may hold names.
fn origin_of(location: Option<&HeaderValue>) -> String {
    let uri = location.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let origin = uri.and_then(|uri: Uri| {
        let (scheme, authority) = (uri.scheme_str()?.to_owned(), uri.authority()?);
        let port = authority.port().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{scheme}://{}{port}", authority.host()))
    });
    origin.map_or_else(
        || "an address that it does not name".to_owned(),
        |origin| origin.chars().take(200).collect(),
    )
}

/// OpenBao's words, cut and without control characters.
fn errors_of(answer: &Value) -> String {
    let errors = answer.get("errors").and_then(Value::as_array);
    let all: Vec<&str> = errors.into_iter().flatten().filter_map(Value::as_str).collect();
    let text = all.join("; ");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

/// A text of an answer that must be there.
///
/// # Errors
/// [`BaoError::Malformed`].
pub(crate) fn text_of(answer: &Value, pointer: &str, path: &str) -> Result<String, BaoError> {
    let text = answer.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.map(str::to_owned)
        .ok_or_else(|| BaoError::Malformed { path: path.to_owned(), why: format!("no {pointer}") })
}

/// A token that is wiped when it is dropped.
pub type Secret = Zeroizing<String>;
