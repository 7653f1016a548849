//! The server's sockets: TCP with SPIFFE TLS, and the local Unix socket.

mod first_words;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use signet_base::Tasks;
use signet_daemon::{
    config::Cidr,
    listen::{Incoming, UnixSocket, client_address, handshakes},
};
use signet_pki::tls::peer_of;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, mpsc},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig},
    server::TlsStream,
};
use tonic::transport::server::Connected;

use first_words::FirstWords;

use crate::{
    audit,
    caller::{LocalPeer, Peer},
    gate,
};

/// How many network connections are served at a time.
pub const MAX_TCP_CONNECTIONS: usize = 65_536;
/// How many local connections are served at a time.
pub const MAX_LOCAL_CONNECTIONS: usize = 1_024;
/// How long PROXY header and TLS handshake may take together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection with its peer, who is known for good. It counts towards the listener's limit while
/// it lives.
#[derive(Debug)]
pub struct Io<S> {
    stream: S,
    first_words: FirstWords,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

/// A connection over the network.
pub type TcpIo = Io<Box<TlsStream<TcpStream>>>;
/// A connection over the local socket.
pub type LocalIo = Io<UnixStream>;

/// Accepts TLS connections; the receiver ends with the tasks. Where `audited`, a client that is
/// turned away for its certificate leaves a record.
pub fn tcp(
    tasks: &Tasks,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    trusted_proxies: Vec<Cidr>,
    audited: bool,
) -> mpsc::Receiver<TcpIo> {
    let incoming =
        Incoming::new("server_api", listener, MAX_TCP_CONNECTIONS, tasks.token().clone());
    let acceptor = TlsAcceptor::from(tls);
    let trusted: Arc<[Cidr]> = trusted_proxies.into();
    handshakes(tasks, incoming, HANDSHAKE_TIMEOUT, move |connection| {
        let acceptor = acceptor.clone();
        let trusted = Arc::clone(&trusted);
        async move {
            let direct = connection.peer;
            let (mut stream, permit) = connection.into_parts();
            let addr = if trusted.is_empty() {
                direct
            } else {
                client_address(&mut stream, direct, &trusted).await.map_err(io::Error::other)?
            };
            let turned_away = |error: io::Error| {
                if audited && is_of_the_certificate(&error) {
                    audit::turned_away(addr, &error);
                }
                error
            };
            let mut stream = acceptor.accept(stream).await.map_err(turned_away)?;
            if stream.get_ref().1.alpn_protocol().is_none() {
                // As gRPC in Go does: the handshake succeeds, then the connection is closed in
                // order. A client that offers other protocols only fails in the handshake.
                stream.shutdown().await?;
                return Err(io::Error::other("the client offered no ALPN protocol, expected h2"));
            }
            let (_, session) = stream.get_ref();
            let peer = peer_of(session.peer_certificates()).map_err(io::Error::other)?;
            let peer = gate::remote(addr, peer);
            let first_words = FirstWords::awaited();
            Ok(Io { stream: Box::new(stream), first_words, peer, _permit: permit })
        }
    })
}

/// Whether a handshake failed because of the client's certificate, or its proof of owning it.
fn is_of_the_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(error, Some(rustls::Error::InvalidCertificate(_)))
}

/// Accepts local connections; the receiver ends with the tasks.
pub fn local(tasks: &Tasks, socket: UnixSocket) -> mpsc::Receiver<LocalIo> {
    let incoming = Incoming::new("local_api", socket, MAX_LOCAL_CONNECTIONS, tasks.token().clone());
    handshakes(tasks, incoming, HANDSHAKE_TIMEOUT, |connection| async move {
        let (stream, permit) = connection.into_parts();
        let cred = stream.peer_cred()?;
        let peer = LocalPeer { pid: cred.pid(), uid: cred.uid(), gid: cred.gid() };
        let first_words = FirstWords::awaited();
        Ok(Io { stream, first_words, peer: Peer::Local(peer), _permit: permit })
    })
}

impl<S> Connected for Io<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.first_words.poll_read(&mut this.stream, cx, buf)
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
