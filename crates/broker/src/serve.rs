//! The HTTP interface: over mTLS for workloads anywhere, on a Unix socket for those of this node.

mod api;
mod attested;

use std::{convert::Infallible, fmt, hash::Hash, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{body::Incoming as Body, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use signet_attest::{peer::PinnedPeer, procfs::ProcRoot};
use signet_base::Tasks;
use signet_daemon::listen::{Accept, Admission, Caps, Each, Incoming, Ticket, UnixSocket};
use signet_pki::tls::{
    ALPN_HTTP1, ClientPolicy, Peer, SwappableIdentity, TlsError, TlsOptions, peer_of, server_config,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

pub use self::{api::Api, attested::Attested};

/// How many connections are served at a time.
const CAPS: Caps = Caps {
    total: 4096,
    each: Each::Share,
    idle: Some(Duration::from_millis(200)),
    busy: Some(Duration::from_secs(60)),
};
/// How long a caller may take for a handshake, or for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection lives: certificates are verified once for each.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);
/// The largest head of a request, bytes: a token is in it.
const MAX_HEAD: usize = 96 * 1024;

/// Where a request comes from: all that a connection proves.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A process of this machine.
    Local(Arc<PinnedPeer>),
    /// Over TLS, with the certificate that was verified, if there was one.
    Remote {
        /// Whence.
        addr: SocketAddr,
        /// Who.
        peer: Option<Arc<Peer>>,
    },
}

/// The TLS settings of the broker: its own SVID, and clients of its trust domain, with or without a
/// certificate.
///
/// # Errors
/// [`TlsError`] when the SVID is no certificate with its key.
pub fn tls(
    identity: Arc<SwappableIdentity>,
    bundles: Arc<dyn signet_pki::tls::BundleSource>,
    trust_domain: signet_identity::TrustDomain,
    clock: signet_base::SharedClock,
) -> Result<Arc<ServerConfig>, TlsError> {
    let policy = ClientPolicy { trust_domain, admin_ids: Arc::from([]) };
    let config = server_config(identity, bundles, policy, clock, TlsOptions::default())?;
    let mut config = ServerConfig::clone(&config);
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    Ok(Arc::new(config))
}

/// Serves over TLS until the tasks end.
pub fn spawn_tls(tasks: &Tasks, listener: TcpListener, tls: Arc<ServerConfig>, api: Arc<Api>) {
    let acceptor = TlsAcceptor::from(tls);
    accept(tasks, "broker", listener, move |stream: tokio::net::TcpStream, addr, ticket| {
        let (acceptor, api) = (acceptor.clone(), Arc::clone(&api));
        async move {
            let stream = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await??;
            let certificates = stream.get_ref().1.peer_certificates();
            let peer = peer_of(certificates).map_err(io::Error::other)?.map(Arc::new);
            serve(stream, Origin::Remote { addr, peer }, api, ticket).await
        }
    });
}

/// Serves on a Unix socket until the tasks end.
pub fn spawn_local(tasks: &Tasks, socket: UnixSocket, proc_root: ProcRoot, api: Arc<Api>) {
    accept(tasks, "broker_local", socket, move |stream: tokio::net::UnixStream, (), ticket| {
        let api = Arc::clone(&api);
        // Who it is, is fixed before a byte is read.
        let peer = PinnedPeer::from_socket(&stream, &proc_root);
        async move {
            let peer = Arc::new(peer.map_err(io::Error::other)?);
            serve(stream, Origin::Local(peer), api, ticket).await
        }
    });
}

fn accept<L, F, Fut>(tasks: &Tasks, name: &'static str, listener: L, handle: F)
where
    L: Accept + Sync,
    F: Fn(L::Stream, L::Peer, Ticket<L::Key>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failed>> + Send + 'static,
{
    let mut incoming = Incoming::new(name, listener, Admission::new(CAPS), tasks.token().clone());
    let connections = tasks.clone();
    tasks.spawn(name, async move {
        while let Some(connection) = incoming.next().await {
            let peer = format!("{:?}", connection.peer);
            let (stream, peer_of, ticket) = connection.into_all();
            let closed = ticket.closed().clone();
            let served = handle(stream, peer_of, ticket);
            let token = connections.token().clone();
            connections.spawn(name, async move {
                let served = tokio::time::timeout(CONNECTION_TIMEOUT, served);
                let served = closed.run_until_cancelled(served);
                if let Some(Some(Ok(Err(error)))) = token.run_until_cancelled(served).await {
                    tracing::debug!(listener = name, peer, %error, "Connection failed");
                }
            });
        }
    });
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn serve<S, K>(
    stream: S,
    origin: Origin,
    api: Arc<Api>,
    ticket: Ticket<K>,
) -> Result<(), Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
    K: Clone + Eq + Hash,
{
    let service = service_fn(|request: hyper::Request<Body>| {
        let call = ticket.call();
        let (api, origin) = (Arc::clone(&api), origin.clone());
        async move {
            let answer: Result<http::Response<Full<Bytes>>, Infallible> =
                Ok(api.answer(&origin, request).await);
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

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(peer) => write!(f, "pid {}", peer.pid()),
            Self::Remote { addr, .. } => addr.fmt(f),
        }
    }
}
