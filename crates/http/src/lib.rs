//! A bounded HTTP/1.1 client: every request has a deadline, every answer a largest size.
//!
//! No redirects are followed, connections are kept between requests only where a client is told so,
//! and `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` are honoured as Go programs do.

mod connect;
mod error;
mod idle;
mod peers;
mod proxy;
mod redact;
pub mod rest;
mod url;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderValue, Request, Response, Uri,
    header::{ACCEPT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use rustls::{ClientConfig, pki_types::CertificateDer};
use signet_base::SystemClock;
use signet_pki::{
    text_file::{self, TextFileError},
    tls::{WebCheck, web_client_config},
    x509::Certificate,
};

use self::{
    connect::Route,
    idle::{Idle, Link},
    url::Target,
};
pub use self::{
    connect::{ByteStream, connect_via_proxy},
    error::{HttpError, ProxyUrlError},
    peers::{Peers, is_of_no_other_machine},
    proxy::Proxies,
    redact::shown,
    url::{UNRESERVED, is_confidential, is_loopback},
};

/// How long a request may take unless told otherwise, connecting and reading included.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest body of an answer unless told otherwise, in bytes.
const DEFAULT_MAX_BODY: usize = 4 * 1024 * 1024;
/// How many connections without a request are kept at most: as many as signatures are asked of a
/// remote key manager at once.
const MAX_IDLE: usize = 32;
/// The largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Which certificates a server may have.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Trust {
    /// Those that the machine trusts.
    #[default]
    System,
    /// Those that chain to one of these, and no others.
    Roots(Vec<CertificateDer<'static>>),
    /// What this configuration says; for SPIFFE authentication and client certificates.
    Config(Arc<ClientConfig>),
}

/// The client. Clones share its settings.
#[derive(Clone)]
pub struct HttpClient {
    tls: Arc<ClientConfig>,
    peers: Arc<dyn Peers>,
    proxies: Arc<Proxies>,
    socket: Option<PathBuf>,
    server_name: Option<String>,
    timeout: Duration,
    max_body: usize,
    user_agent: HeaderValue,
    idle: Idle,
}

/// How a client is to behave; see [`HttpClient::builder`].
#[derive(Clone, Default)]
pub struct HttpClientBuilder {
    trust: Trust,
    peers: Option<Arc<dyn Peers>>,
    proxies: Option<Proxies>,
    socket: Option<PathBuf>,
    server_name: Option<String>,
    timeout: Option<Duration>,
    max_body: Option<usize>,
    keep_alive: usize,
}

impl HttpClient {
    /// System roots, proxies from the environment, 30 s, 4 MiB.
    pub fn builder() -> HttpClientBuilder {
        HttpClientBuilder::default()
    }

    /// The same client with another deadline and another largest body of an answer, in bytes.
    #[must_use]
    pub fn with_limits(&self, timeout: Duration, max_body: usize) -> Self {
        Self { timeout, max_body, ..self.clone() }
    }

    /// The same client with other proxies; the machine's roots are not read again.
    #[must_use]
    pub fn with_proxies(&self, proxies: Proxies) -> Self {
        Self { proxies: Arc::new(proxies), idle: self.idle.anew(), ..self.clone() }
    }

    /// Fetches `url`.
    ///
    /// # Errors
    /// [`HttpError`]; an answer of any status is no error, see [`expect_success`].
    pub async fn get(&self, url: &str) -> Result<Response<Bytes>, HttpError> {
        self.send(request("GET", url)?.body(Bytes::new()).map_err(|_| HttpError::bad_url(url))?)
            .await
    }

    /// Posts `body` to `url`.
    ///
    /// # Errors
    /// [`HttpError`]; an answer of any status is no error, see [`expect_success`].
    pub async fn post(
        &self,
        url: &str,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Result<Response<Bytes>, HttpError> {
        let request = request("POST", url)?
            .header(CONTENT_TYPE, HeaderValue::from_static(content_type))
            .body(body.into())
            .map_err(|_| HttpError::bad_url(url))?;
        self.send(request).await
    }

    /// Sends a request with an absolute URL and reads the whole answer within the deadline.
    ///
    /// # Errors
    /// [`HttpError`] when the server or proxy cannot be reached or is not trusted, the deadline
    /// passes, or the answer is larger than allowed.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let target = Target::of(request.uri())?;
        let max = self.max_body;
        let whole = async |head: http::response::Parts, body: Incoming| {
            let body = Limited::new(body, max).collect().await;
            let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(source) => HttpError::Exchange { server: target.to_string(), source: *source },
                Err(_) => HttpError::TooLarge { server: target.to_string(), limit: max },
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        self.bounded(&target, self.exchange(&target, request, whole)).await
    }

    /// Sends a request with an absolute URL and hands on the body of a successful answer piece by
    /// piece, without ever holding more than a few pieces; the first piece, which is empty, says that
    /// the answer has begun. Ends early, without an error, when the
    /// receiver has gone. The body of any other answer is returned, cut after 64 KiB.
    ///
    /// # Errors
    /// [`HttpError`] when the server or proxy cannot be reached or is not trusted, the deadline
    /// passes, or the answer is larger than allowed.
    pub async fn stream(
        &self,
        request: Request<Bytes>,
        pieces: tokio::sync::mpsc::Sender<Bytes>,
    ) -> Result<Response<Bytes>, HttpError> {
        let target = Target::of(request.uri())?;
        let max = self.max_body;
        let hand_on = async |head: http::response::Parts, mut body: Incoming| {
            let mut seen = 0usize;
            let mut kept = BytesMut::new();
            if head.status.is_success() && pieces.send(Bytes::new()).await.is_err() {
                return Ok(Response::from_parts(head, Bytes::new()));
            }
            while let Some(frame) = body.frame().await {
                let frame = frame
                    .map_err(|source| HttpError::Exchange { server: target.to_string(), source })?;
                let Ok(data) = frame.into_data() else { continue };
                seen = seen.saturating_add(data.len());
                if !head.status.is_success() {
                    kept.extend_from_slice(&data);
                    if seen >= MAX_HEAD {
                        break;
                    }
                } else if seen > max {
                    return Err(HttpError::TooLarge { server: target.to_string(), limit: max });
                } else if pieces.send(data).await.is_err() {
                    break;
                }
            }
            Ok(Response::from_parts(head, kept.freeze()))
        };
        self.bounded(&target, self.exchange(&target, request, hand_on)).await
    }

    async fn bounded<T>(
        &self,
        target: &Target,
        work: impl Future<Output = Result<T, HttpError>>,
    ) -> Result<T, HttpError> {
        tokio::time::timeout(self.timeout, work)
            .await
            .map_err(|_| HttpError::TimedOut { server: target.to_string(), after: self.timeout })?
    }

    async fn exchange<T>(
        &self,
        target: &Target,
        request: Request<Bytes>,
        read: impl AsyncFnOnce(http::response::Parts, Incoming) -> Result<T, HttpError>,
    ) -> Result<T, HttpError> {
        let route = Route::of(target, self.socket.as_deref(), &self.proxies);
        let name = self.server_name.as_deref().unwrap_or(&target.host);
        let mut request = self.prepare(target, &route, request)?;
        loop {
            let kept = self.idle.take(target).await;
            let is_kept = kept.is_some();
            let mut link = match kept {
                Some(link) => link,
                None => {
                    let stream =
                        connect::open(target, &route, &self.tls, name, &*self.peers).await?;
                    Link::over(stream).await.map_err(|source| failed(target, source))?
                }
            };
            let (sent, ended) =
                driven(&mut link.driver, link.sender.try_send_request(request)).await;
            match (sent, ended) {
                (Ok(answer), Some(_)) => {
                    let (head, body) = answer.into_parts();
                    return read(head, body).await;
                }
                (Ok(answer), None) => {
                    let (head, body) = answer.into_parts();
                    let (answer, ended) = driven(&mut link.driver, read(head, body)).await;
                    if answer.is_ok() && ended.is_none() {
                        self.idle.keep(target.clone(), link).await;
                    }
                    return match (answer, ended) {
                        (Err(_), Some(Err(source))) => Err(failed(target, source)),
                        (answer, _) => answer,
                    };
                }
                (Err(mut error), ended) => match (error.take_message(), ended) {
                    // It had ended while it was kept, and nothing of the request went out.
                    (Some(message), _) if is_kept => request = message,
                    (_, Some(Err(source))) => return Err(failed(target, source)),
                    _ => return Err(failed(target, error.into_error())),
                },
            }
        }
    }

    fn prepare(
        &self,
        target: &Target,
        route: &Route<'_>,
        request: Request<Bytes>,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let (mut head, body) = request.into_parts();
        let bad = || HttpError::bad_url(&target.to_string());
        head.headers.insert(HOST, target.host_header().parse().map_err(|_| bad())?);
        head.headers.entry(USER_AGENT).or_insert_with(|| self.user_agent.clone());
        head.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(authorization) = route.forward_authorization() {
            head.headers.insert(http::header::PROXY_AUTHORIZATION, authorization);
        }
        if !route.is_forwarded() {
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            head.uri = path.parse::<Uri>().map_err(|_| bad())?;
        }
        Ok(Request::from_parts(head, Full::new(body)))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("socket", &self.socket)
            .field("timeout", &self.timeout)
            .field("max_body", &self.max_body)
            .finish_non_exhaustive()
    }
}

impl HttpClientBuilder {
    /// Sets which certificates a server may have.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Sets the proxies in place of the environment's.
    #[must_use]
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = Some(proxies);
        self
    }

    /// Sets who may be connected to; unless set, anybody.
    #[must_use]
    pub fn peers(mut self, peers: Arc<dyn Peers>) -> Self {
        self.peers = Some(peers);
        self
    }

    /// Sends every request through this Unix socket, whatever the host in its URL.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Sets the name that a server's certificate must have, in place of the host of the URL.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets how long a request may take in all.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the largest body of an answer, in bytes.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = Some(bytes);
        self
    }

    /// Keeps connections for the requests that follow, at most 32 and each for 20 seconds; unless
    /// set, none is kept. A request that finds its connection closed, before anything of it went out, is sent
    /// over another; what happens later is for the caller to judge.
    #[must_use]
    pub fn keep_alive(mut self) -> Self {
        self.keep_alive = MAX_IDLE;
        self
    }

    /// Makes the client; the machine's roots are read here.
    ///
    /// # Errors
    /// [`HttpError::Trust`] when there is no usable root certificate, [`HttpError::ProxyUrl`] when
    /// a proxy of the environment is not understood.
    pub fn build(self) -> Result<HttpClient, HttpError> {
        let proxies = match self.proxies {
            Some(proxies) => proxies,
            None => Proxies::from_env()?,
        };
        Ok(HttpClient {
            tls: client_config(self.trust)?,
            peers: self.peers.unwrap_or_else(|| Arc::new(peers::Anybody)),
            proxies: Arc::new(proxies),
            socket: self.socket,
            server_name: self.server_name,
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT),
            max_body: self.max_body.unwrap_or(DEFAULT_MAX_BODY),
            user_agent: HeaderValue::from_static(concat!("signet/", env!("CARGO_PKG_VERSION"))),
            idle: Idle::new(self.keep_alive),
        })
    }
}

impl fmt::Debug for HttpClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClientBuilder").finish_non_exhaustive()
    }
}

impl Trust {
    /// The certificates of a PEM file, and no others.
    ///
    /// # Errors
    /// [`TextFileError`], which names the file.
    pub fn file(path: &Path) -> Result<Self, TextFileError> {
        let roots = text_file::certificates(path)?;
        Ok(Self::Roots(roots.into_iter().map(Into::into).collect()))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::Roots(roots) => write!(f, "Roots({})", roots.len()),
            Self::Config(_) => f.write_str("Config(..)"),
        }
    }
}

/// Turns an answer whose status is not 2xx into an error that shows the beginning of its body.
///
/// # Errors
/// [`HttpError::Status`].
pub fn expect_success(answer: Response<Bytes>, url: &str) -> Result<Bytes, HttpError> {
    if answer.status().is_success() {
        return Ok(answer.into_body());
    }
    let body = String::from_utf8_lossy(answer.body());
    let body: String = body.trim().chars().filter(|c| !c.is_control()).take(200).collect();
    Err(HttpError::Status { url: redact::redacted(url), status: answer.status().as_u16(), body })
}

/// Does `work` while `driver` moves the connection: here, and not in a task, so that it ends with the
/// request, come what may. Also how the connection ended, if it did: an answer that came in full
/// counts all the same, as many servers close theirs without the closing words of TLS.
async fn driven<T>(
    driver: impl Future<Output = hyper::Result<()>> + Unpin,
    work: impl Future<Output = T>,
) -> (T, Option<hyper::Result<()>>) {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => (done, None),
        ended = driver => (work.await, Some(ended)),
    }
}

fn failed(target: &Target, source: hyper::Error) -> HttpError {
    HttpError::Exchange { server: target.to_string(), source }
}

fn request(method: &str, url: &str) -> Result<http::request::Builder, HttpError> {
    let uri: Uri = url.parse().map_err(|_| HttpError::bad_url(url))?;
    Ok(Request::builder().method(method).uri(uri))
}

/// The certificates that the machine trusts, DER; those that are not understood are left out, so
/// that one does not take the others with it.
pub fn system_roots() -> Vec<Vec<u8>> {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::debug!(%error, "Cannot read a root certificate of the system");
    }
    let ders = found.certs.iter().map(|root| root.to_vec());
    ders.filter(|der| Certificate::from_der(der).is_ok()).collect()
}

fn client_config(trust: Trust) -> Result<Arc<ClientConfig>, HttpError> {
    let roots: Vec<Vec<u8>> = match trust {
        Trust::Config(config) => return Ok(config),
        Trust::Roots(roots) => roots.iter().map(|root| root.to_vec()).collect(),
        Trust::System => system_roots(),
    };
    // Without roots plain HTTP still works; TLS fails when it is tried, with its own words.
    web_client_config(WebCheck::ChainAndName, &roots, None, Arc::new(SystemClock))
        .map_err(|e| HttpError::Trust(e.to_string()))
}
