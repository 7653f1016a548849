//! The agent's half of `http_challenge`: serves the nonce while the attestation runs.

use std::{convert::Infallible, net::Ipv6Addr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{Challenge, KIND, Payload, challenge_path};
use crate::node::{Answerer, NodeAttestError, NodeAttestorAgent};

/// How long one request for the nonce may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How many requests are answered at once.
const MAX_CONNECTIONS: usize = 16;
/// The longest nonce that is served, bytes.
const MAX_NONCE: usize = 1024;

/// Settings of the agent's half, with SPIRE's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpChallengeAgentConfig {
    /// The host name to prove; empty for the machine's own.
    pub hostname: String,
    /// The agent's name on that host; empty for `default`.
    pub agentname: String,
    /// The port to listen on; 0 for any.
    pub port: u16,
    /// The port to tell the server; 0 for the one listened on.
    pub advertised_port: u16,
}

/// The agent's half.
#[derive(Debug)]
pub struct HttpChallengeAgent {
    config: HttpChallengeAgentConfig,
}

impl HttpChallengeAgent {
    /// An attestor with these settings; the empty ones get their defaults.
    ///
    /// # Errors
    /// [`NodeAttestError`] when no host name is set and the machine's cannot be read.
    pub fn new(mut config: HttpChallengeAgentConfig) -> Result<Self, NodeAttestError> {
        if config.hostname.is_empty() {
            let name = nix::unistd::gethostname()
                .map_err(|e| NodeAttestError::internal(format!("reading the host name: {e}")))?;
            config.hostname = name.into_string().map_err(|_| {
                NodeAttestError::internal("the machine's host name is not UTF-8; set hostname")
            })?;
        }
        if config.agentname.is_empty() {
            "default".clone_into(&mut config.agentname);
        }
        Ok(Self { config })
    }
}

#[async_trait::async_trait]
impl NodeAttestorAgent for HttpChallengeAgent {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn begin(&self) -> Result<(Vec<u8>, Box<dyn Answerer>), NodeAttestError> {
        let port = self.config.port;
        let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Ok(listener) => listener,
            // A kernel without IPv6.
            Err(_) => TcpListener::bind(("0.0.0.0", port)).await.map_err(|e| {
                NodeAttestError::internal(format!("could not listen on port {port}: {e}"))
            })?,
        };
        let local = listener
            .local_addr()
            .map_err(|e| NodeAttestError::internal(format!("reading the local port: {e}")))?;
        let advertised = match self.config.advertised_port {
            0 => local.port(),
            port => port,
        };
        let payload = Payload {
            hostname: self.config.hostname.clone(),
            agentname: self.config.agentname.clone(),
            port: advertised.into(),
        };
        let payload = serde_json::to_vec(&payload)
            .map_err(|e| NodeAttestError::internal(format!("encoding the payload: {e}")))?;
        let path = challenge_path(&self.config.agentname);
        Ok((payload, Box::new(Serving { listener: Some(listener), path, server: None })))
    }
}

/// Holds the listener; once challenged, serves the nonce until dropped.
struct Serving {
    listener: Option<TcpListener>,
    path: String,
    server: Option<AbortOnDropHandle<()>>,
}

#[async_trait::async_trait]
impl Answerer for Serving {
    async fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError> {
        let challenge: Challenge = serde_json::from_slice(challenge)
            .map_err(|e| NodeAttestError::internal(format!("unable to read challenge: {e}")))?;
        if challenge.nonce.len() > MAX_NONCE {
            return Err(NodeAttestError::internal("the server's nonce is too long"));
        }
        let Some(listener) = self.listener.take() else {
            return Err(NodeAttestError::internal("the server sent a second challenge"));
        };
        let path: Arc<str> = self.path.as_str().into();
        let body = Bytes::from(format!("{}\n", challenge.nonce));
        self.server = Some(AbortOnDropHandle::new(tokio::spawn(serve(listener, path, body))));
        // SPIRE's plugin protocol refuses an empty response; so its server expects something.
        Ok(b"\n".to_vec())
    }
}

async fn serve(listener: TcpListener, path: Arc<str>, body: Bytes) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (path, body) = (Arc::clone(&path), body.clone());
        connections.spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request: Request<Incoming>| {
                let (path, body) = (Arc::clone(&path), body.clone());
                async move { Ok::<_, Infallible>(respond(&request, &path, body)) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_DEADLINE)
                .max_buf_size(16 * 1024)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(REQUEST_DEADLINE, connection).await {
                tracing::debug!(%error, "Challenge request failed");
            }
        });
    }
}

fn respond(request: &Request<Incoming>, path: &str, body: Bytes) -> Response<Full<Bytes>> {
    let (status, body) = if request.uri().path() == path {
        (StatusCode::OK, body)
    } else {
        (StatusCode::NOT_FOUND, Bytes::new())
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}
