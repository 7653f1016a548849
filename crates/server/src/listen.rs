//! The server's sockets: TCP with SPIFFE TLS, and the local Unix socket.

mod watch;

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use signet_api::intake::Budget;
use signet_base::Tasks;
use signet_config::Cidr;
use signet_daemon::{
    listen::{
        Admission, Call, Caps, Each, Incoming, Ticket, UnixSocket, client_address, counted_address,
        handshakes,
    },
    process,
};
use signet_identity::SpiffeId;
use signet_pki::tls::peer_of;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream, UnixStream},
    sync::mpsc,
    time::Instant,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig},
    server::TlsStream,
};
use tonic::transport::server::Connected;

use watch::Watch;

use crate::{
    audit::Auditor,
    usecase::principal::{LocalPeer, Peer},
};

/// Connections over the network whose client has shown no certificate (yet), by address. Each takes
/// some 30 KB, and up to 220 KB with messages on it: 110 MB for all, half of it for one address. What
/// has no call makes room for others after two seconds, what has one after ten: an attestation takes
/// less than one, unless the agent is slow to answer.
const STRANGERS: Caps = Caps {
    total: 512,
    each: Each::Share,
    idle: Some(Duration::from_secs(2)),
    busy: Some(Duration::from_secs(10)),
};
/// How many bytes of messages a client without a certificate may have under way on a connection: one
/// message of the longest, evidence and a CSR.
pub const STRANGER_BUDGET: usize = 128 * 1024;
/// A connection without a certificate ends when it had no open call for so long.
const STRANGER_IDLE: Duration = Duration::from_secs(15);
/// Connections over the network by the SPIFFE ID of the client's certificate. An agent has one or
/// two; a client with many replicas may have many. Descriptors are kept back for the database, keys
/// and connections to others.
const KNOWN: Caps =
    Caps { total: 65_536, each: Each::Fixed(64), idle: Some(Duration::from_secs(5)), busy: None };
/// Connections over the local socket, by user.
const LOCAL: Caps =
    Caps { total: 1_024, each: Each::Share, idle: Some(Duration::from_secs(5)), busy: None };
/// How long PROXY header and TLS handshake may take together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection with its peer, who is known for good. It counts towards the listener's limits while
/// it or one of its calls lives.
#[derive(Debug)]
pub struct Io<S> {
    stream: S,
    watch: Watch,
    conn: Conn,
}

/// A connection over the network.
pub type TcpIo = Io<Box<TlsStream<TcpStream>>>;
/// A connection over the local socket.
pub type LocalIo = Io<UnixStream>;

/// Whose connection it is: in the extensions of each of its requests.
#[derive(Clone, Debug)]
pub struct Conn {
    /// The other end.
    pub peer: Peer,
    place: Arc<Place>,
}

/// What a connection counts towards.
#[derive(Debug)]
enum Place {
    Stranger(Ticket<IpAddr>, Budget),
    Known(Ticket<SpiffeId>),
    Local(Ticket<Option<u32>>),
}

/// An open call of a connection, until it is dropped.
#[derive(Debug)]
pub struct OpenCall {
    _call: AnyCall,
}

#[derive(Debug)]
#[allow(dead_code, reason = "held for what its drop does")]
enum AnyCall {
    Stranger(Call<IpAddr>),
    Known(Call<SpiffeId>),
    Local(Call<Option<u32>>),
}

impl Conn {
    /// Says that a call of this connection is open.
    pub fn call(&self) -> OpenCall {
        let _call = match &*self.place {
            Place::Stranger(ticket, _) => AnyCall::Stranger(ticket.call()),
            Place::Known(ticket) => AnyCall::Known(ticket.call()),
            Place::Local(ticket) => AnyCall::Local(ticket.call()),
        };
        OpenCall { _call }
    }

    /// What a client without a certificate may send.
    pub fn budget(&self) -> Option<&Budget> {
        match &*self.place {
            Place::Stranger(_, budget) => Some(budget),
            Place::Known(_) | Place::Local(_) => None,
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        match &*self.place {
            Place::Stranger(ticket, _) => ticket.idle_since(),
            Place::Known(ticket) => ticket.idle_since(),
            Place::Local(ticket) => ticket.idle_since(),
        }
    }
}

impl<S> Io<S> {
    fn new(stream: S, peer: Peer, place: Place) -> Self {
        let (closed, idle) = match &place {
            Place::Stranger(ticket, _) => (ticket.closed().clone(), Some(STRANGER_IDLE)),
            Place::Known(ticket) => (ticket.closed().clone(), None),
            Place::Local(ticket) => (ticket.closed().clone(), None),
        };
        let conn = Conn { peer, place: Arc::new(place) };
        Self { stream, watch: Watch::begin(idle, closed), conn }
    }
}

/// What [`tcp`] accepts.
#[derive(Debug)]
pub struct Accepted {
    /// Connections of clients with a certificate.
    pub known: mpsc::Receiver<TcpIo>,
    /// Those of clients without one.
    pub strangers: mpsc::Receiver<TcpIo>,
}

/// Accepts TLS connections; the receivers end with the tasks. A client that is turned away for its
/// certificate leaves an audit event.
pub fn tcp(
    tasks: &Tasks,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    trusted_proxies: Vec<Cidr>,
    auditor: Auditor,
) -> Accepted {
    let admission = Admission::new(STRANGERS);
    let total = process::connection_limit(KNOWN.total, 1);
    let known = Admission::new(Caps { total, ..KNOWN });
    let incoming = Incoming::new("server_api", listener, admission, tasks.token().clone());
    let acceptor = TlsAcceptor::from(tls);
    let trusted: Arc<[Cidr]> = trusted_proxies.into();
    let accepted = handshakes(tasks, incoming, HANDSHAKE_TIMEOUT, move |connection| {
        let acceptor = acceptor.clone();
        let (trusted, known) = (Arc::clone(&trusted), known.clone());
        let auditor = auditor.clone();
        async move {
            let direct = connection.peer;
            let (mut stream, ticket) = connection.into_parts();
            let closed = ticket.closed().clone();
            let work = async move {
                let addr = if trusted.is_empty() {
                    direct
                } else {
                    client_address(&mut stream, direct, &trusted).await.map_err(io::Error::other)?
                };
                if addr.ip() != direct.ip() {
                    // Clients of a proxy do not count as one.
                    ticket.belongs_to(counted_address(addr.ip())).map_err(io::Error::other)?;
                }
                let turned_away = |error: io::Error| {
                    if is_of_the_certificate(&error) {
                        auditor.turned_away(addr, &error);
                    }
                    error
                };
                let mut stream = acceptor.accept(stream).await.map_err(turned_away)?;
                if stream.get_ref().1.alpn_protocol().is_none() {
                    // As gRPC in Go does: the handshake succeeds, then the connection is closed in
                    // order. A client that offers other protocols only fails in the handshake.
                    stream.shutdown().await?;
                    let why = "the client offered no ALPN protocol, expected h2";
                    return Err(io::Error::other(why));
                }
                let (_, session) = stream.get_ref();
                let peer = peer_of(session.peer_certificates()).map_err(io::Error::other)?;
                let place = match &peer {
                    // Whoever is known does not count towards an address: many may be behind one.
                    Some(peer) => {
                        Place::Known(known.enter(peer.id.clone()).map_err(io::Error::other)?)
                    }
                    None => Place::Stranger(ticket, Budget::new(STRANGER_BUDGET)),
                };
                Ok(Io::new(Box::new(stream), Peer::remote(addr, peer), place))
            };
            closed.run_until_cancelled(work).await.unwrap_or_else(|| {
                Err(io::Error::other("the connection made room for another one"))
            })
        }
    });
    sorted(tasks, accepted)
}

/// Hands those who are known and those who are not to a server each: they have other limits.
fn sorted(tasks: &Tasks, mut accepted: mpsc::Receiver<TcpIo>) -> Accepted {
    let (to_known, known) = mpsc::channel(1);
    let (to_strangers, strangers) = mpsc::channel(1);
    tasks.spawn("server_api", async move {
        while let Some(io) = accepted.recv().await {
            let to = match &*io.conn.place {
                Place::Stranger(..) => &to_strangers,
                Place::Known(_) | Place::Local(_) => &to_known,
            };
            // The receivers are gone when the servers are.
            let _ = to.send(io).await;
        }
    });
    Accepted { known, strangers }
}

/// Whether a handshake failed because of the client's certificate, or its proof of owning it.
fn is_of_the_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(error, Some(rustls::Error::InvalidCertificate(_)))
}

/// Accepts local connections; the receiver ends with the tasks.
pub fn local(tasks: &Tasks, socket: UnixSocket) -> mpsc::Receiver<LocalIo> {
    let total = process::connection_limit(LOCAL.total, 1);
    let admission = Admission::new(Caps { total, ..LOCAL });
    let incoming = Incoming::new("local_api", socket, admission, tasks.token().clone());
    handshakes(tasks, incoming, HANDSHAKE_TIMEOUT, |connection| async move {
        let (stream, ticket) = connection.into_parts();
        let cred = stream.peer_cred()?;
        let peer = LocalPeer { pid: cred.pid(), uid: cred.uid(), gid: cred.gid() };
        Ok(Io::new(stream, Peer::Local(peer), Place::Local(ticket)))
    })
}

impl<S> Connected for Io<S> {
    type ConnectInfo = Conn;

    fn connect_info(&self) -> Conn {
        self.conn.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, watch, conn } = &mut *self;
        watch.poll_read(stream, || conn.idle_since(), cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
