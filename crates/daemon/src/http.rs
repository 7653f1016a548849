//! A small HTTP/1.1 server for health and metrics, with bounds on what a caller may hold.

use std::{convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use signet_base::Tasks;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use crate::listen::{Incoming, ListenError};

/// How many connections are served at a time; others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a caller may take for a TLS handshake or for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may live in all; scrapers and probes come back.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// A connection, plain or with TLS.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Puts TLS on an accepted connection.
#[async_trait]
pub trait Secure: Send + Sync {
    /// Does the handshake.
    async fn secure(&self, stream: TcpStream) -> io::Result<Box<dyn Duplex>>;
}

/// An HTTP server that is bound but not serving yet.
pub struct HttpServer {
    name: &'static str,
    listener: TcpListener,
    address: SocketAddr,
    secure: Option<Arc<dyn Secure>>,
}

impl HttpServer {
    /// Takes a bound listener; `name` is for logs.
    ///
    /// # Errors
    /// [`ListenError`] when the listener does not know its address.
    pub fn new(name: &'static str, listener: TcpListener) -> Result<Self, ListenError> {
        let address = listener
            .local_addr()
            .map_err(|source| ListenError::Tcp { address: name.to_owned(), source })?;
        Ok(Self { name, listener, address, secure: None })
    }

    /// Puts TLS in front.
    #[must_use]
    pub fn secured(mut self, secure: Arc<dyn Secure>) -> Self {
        self.secure = Some(secure);
        self
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the tasks end; connections are cut then.
    pub fn spawn(self, tasks: &Tasks, router: Router) {
        let Self { name, listener, secure, .. } = self;
        let connections = tasks.clone();
        let mut incoming = Incoming::new(name, listener, MAX_CONNECTIONS, tasks.token().clone());
        tasks.spawn(name, async move {
            while let Some(connection) = incoming.next().await {
                let router = router.clone();
                let secure = secure.clone();
                let token = connections.token().clone();
                connections.spawn(name, async move {
                    let (stream, _permit) = connection.into_parts();
                    let served = serve(stream, secure, router);
                    let served = tokio::time::timeout(CONNECTION_TIMEOUT, served);
                    if let Some(Ok(Err(error))) = token.run_until_cancelled(served).await {
                        tracing::debug!(server = name, %error, "HTTP connection failed");
                    }
                });
            }
        });
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpServer({} on {})", self.name, self.address)
    }
}

async fn serve(
    stream: TcpStream,
    secure: Option<Arc<dyn Secure>>,
    router: Router,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream: Box<dyn Duplex> = match secure {
        Some(secure) => tokio::time::timeout(HEAD_TIMEOUT, secure.secure(stream)).await??,
        None => Box::new(stream),
    };
    let service = TowerToHyperService::new(infallible(router));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

/// Fixes the request's body type, which a router leaves open.
fn infallible(
    router: Router,
) -> impl tower_service::Service<
    hyper::Request<hyper::body::Incoming>,
    Response = axum::response::Response,
    Error = Infallible,
    Future: Send,
> + Clone {
    router
}
