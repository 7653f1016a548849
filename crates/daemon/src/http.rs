//! A small HTTP/1.1 server, with bounds on what a caller may hold.

mod document;
mod tls;

use std::{convert::Infallible, fmt, hash::Hash, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{Router, http::Extensions};
use hyper::{body::Incoming as RequestBody, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use signet_base::Tasks;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
};
use tower_service::Service as _;

pub use self::{
    document::{Document, not_allowed, text},
    tls::{Https, HttpsError, SvidSource},
};
use crate::listen::{Accept, Admission, Caps, Each, Incoming, ListenError, Ticket, UnixSocket};

/// How many connections are served at a time, and who makes room when there are more: a kept
/// connection without a request after a tenth of a second, one with a request after ten seconds.
const CAPS: Caps = Caps {
    total: 64,
    each: Each::Share,
    idle: Some(Duration::from_millis(100)),
    busy: Some(Duration::from_secs(10)),
};
/// The same for what is there for everyone, as a bundle endpoint is: behind a load balancer all of
/// them come from one address.
pub const PUBLIC: Caps = Caps {
    total: 1024,
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

    /// Does the handshake with `addr`, and says what each request of the connection carries: who
    /// the client is, say. Nothing unless it is overridden.
    async fn identify(
        &self,
        stream: TcpStream,
        _addr: SocketAddr,
    ) -> io::Result<(Box<dyn Duplex>, Extensions)> {
        Ok((self.secure(stream).await?, Extensions::new()))
    }
}

/// An HTTP server that is bound but not serving yet.
pub struct HttpServer {
    name: &'static str,
    listener: TcpListener,
    address: SocketAddr,
    secure: Option<Arc<dyn Secure>>,
    caps: Caps,
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
        Ok(Self { name, listener, address, secure: None, caps: CAPS })
    }

    /// Puts TLS in front.
    #[must_use]
    pub fn secured(mut self, secure: Arc<dyn Secure>) -> Self {
        self.secure = Some(secure);
        self
    }

    /// Sets how many connections are served at a time.
    #[must_use]
    pub fn capped(mut self, caps: Caps) -> Self {
        self.caps = caps;
        self
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the tasks end; connections are cut then.
    pub fn spawn(self, tasks: &Tasks, router: Router) {
        let Self { name, listener, secure, caps, .. } = self;
        let shake = move |stream: TcpStream| {
            let secure = secure.clone();
            async move {
                let Some(secure) = secure else {
                    return Ok((Box::new(stream) as Box<dyn Duplex>, Extensions::new()));
                };
                let addr = stream.peer_addr()?;
                Ok(tokio::time::timeout(HEAD_TIMEOUT, secure.identify(stream, addr)).await??)
            }
        };
        accept(name, listener, caps, tasks, router, shake);
    }
}

/// Serves plain HTTP on a Unix socket until the tasks end; `name` is for logs.
pub fn spawn_on_socket(
    name: &'static str,
    socket: UnixSocket,
    caps: Caps,
    tasks: &Tasks,
    router: Router,
) {
    let plain = |stream: UnixStream| async move {
        Ok((Box::new(stream) as Box<dyn Duplex>, Extensions::new()))
    };
    accept(name, socket, caps, tasks, router, plain);
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn accept<L, Shake, Shaken>(
    name: &'static str,
    listener: L,
    caps: Caps,
    tasks: &Tasks,
    router: Router,
    shake: Shake,
) where
    L: Accept + Sync,
    Shake: Fn(L::Stream) -> Shaken + Clone + Send + Sync + 'static,
    Shaken: Future<Output = Result<(Box<dyn Duplex>, Extensions), Failure>> + Send + 'static,
{
    let connections = tasks.clone();
    let mut incoming = Incoming::new(name, listener, Admission::new(caps), tasks.token().clone());
    tasks.spawn(name, async move {
        while let Some(connection) = incoming.next().await {
            let (router, shake) = (router.clone(), shake.clone());
            let token = connections.token().clone();
            connections.spawn(name, async move {
                let (stream, ticket) = connection.into_parts();
                let closed = ticket.closed().clone();
                let served = async {
                    let (stream, carried) = shake(stream).await?;
                    serve(stream, carried, router, ticket).await
                };
                let served = tokio::time::timeout(CONNECTION_TIMEOUT, served);
                let served = closed.run_until_cancelled(served);
                if let Some(Some(Ok(Err(error)))) = token.run_until_cancelled(served).await {
                    tracing::debug!(server = name, %error, "HTTP connection failed");
                }
            });
        }
    });
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpServer({} on {})", self.name, self.address)
    }
}

async fn serve<K: Clone + Eq + Hash>(
    stream: Box<dyn Duplex>,
    carried: Extensions,
    router: Router,
    ticket: Ticket<K>,
) -> Result<(), Failure> {
    let service = service_fn(|mut request: hyper::Request<RequestBody>| {
        request.extensions_mut().extend(carried.clone());
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
