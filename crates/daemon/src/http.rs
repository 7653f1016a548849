//! A small HTTP/1.1 server for health and metrics, with bounds on what a caller may hold.

use std::{
    convert::Infallible,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use axum::Router;
use hyper::{body::Incoming as RequestBody, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use signet_base::Tasks;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tower_service::Service as _;

use crate::listen::{Admission, Caps, Each, Incoming, ListenError, Ticket};

/// How many connections are served at a time, and who makes room when there are more: a kept
/// connection without a request after a tenth of a second, one with a request after ten seconds.
const CAPS: Caps = Caps {
    total: 64,
    each: Each::Share,
    idle: Some(Duration::from_millis(100)),
    busy: Some(Duration::from_secs(10)),
};
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
        let admission = Admission::new(CAPS);
        let mut incoming = Incoming::new(name, listener, admission, tasks.token().clone());
        tasks.spawn(name, async move {
            while let Some(connection) = incoming.next().await {
                let router = router.clone();
                let secure = secure.clone();
                let token = connections.token().clone();
                connections.spawn(name, async move {
                    let (stream, ticket) = connection.into_parts();
                    let closed = ticket.closed().clone();
                    let served = serve(stream, secure, router, ticket);
                    let served = tokio::time::timeout(CONNECTION_TIMEOUT, served);
                    let served = closed.run_until_cancelled(served);
                    if let Some(Some(Ok(Err(error)))) = token.run_until_cancelled(served).await {
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
    ticket: Ticket<IpAddr>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream: Box<dyn Duplex> = match secure {
        Some(secure) => tokio::time::timeout(HEAD_TIMEOUT, secure.secure(stream)).await??,
        None => Box::new(stream),
    };
    let service = service_fn(|request: hyper::Request<RequestBody>| {
        let call = ticket.call();
        let mut router = router.clone();
        async move {
            let answer: Result<_, Infallible> = router.call(request).await;
            // Answers are small: what is left is for the kernel to send.
            drop(call);
            answer
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}
