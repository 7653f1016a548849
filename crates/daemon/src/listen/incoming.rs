//! Accepting connections within bounds.

use std::{
    fmt,
    hash::Hash,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use signet_base::{Backoff, CancellationToken, Tasks};
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    sync::mpsc,
};

use super::{Admission, Ticket, UnixSocket};

/// How many finished handshakes may wait to be taken.
const HANDSHAKES_WAITING: usize = 64;

/// A listener of any kind.
pub trait Accept: Send + 'static {
    /// A connection.
    type Stream: Send + 'static;
    /// Who connected, as far as the socket says.
    type Peer: fmt::Debug + Send + 'static;
    /// Whose connections are counted together.
    type Key: Clone + Eq + Hash + fmt::Debug + Send + 'static;

    /// Waits for a connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;

    /// By what a connection is counted.
    fn key(stream: &Self::Stream, peer: &Self::Peer) -> Self::Key;
}

/// The address by which connections are counted: an IPv6 one stands for its network of 64 bits,
/// all of which one machine may use.
pub fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;
    type Key = IpAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Answers are small and awaited.
        stream.set_nodelay(true)?;
        Ok((stream, peer))
    }

    fn key(_: &TcpStream, peer: &SocketAddr) -> IpAddr {
        counted_address(peer.ip())
    }
}

impl Accept for UnixSocket {
    type Stream = UnixStream;
    type Peer = ();
    /// The user; none when the kernel does not say.
    type Key = Option<u32>;

    async fn accept(&self) -> io::Result<(UnixStream, ())> {
        Ok((UnixSocket::accept(self).await?, ()))
    }

    fn key(stream: &UnixStream, (): &()) -> Option<u32> {
        stream.peer_cred().ok().map(|peer| peer.uid())
    }
}

/// An accepted connection. It counts towards the listener's limits until the ticket is dropped.
#[derive(Debug)]
pub struct Connection<L: Accept> {
    /// The stream.
    pub stream: L::Stream,
    /// Who connected.
    pub peer: L::Peer,
    ticket: Ticket<L::Key>,
}

impl<L: Accept> Connection<L> {
    /// Takes stream and ticket apart; keep the ticket as long as the stream, and close the stream
    /// when the ticket says so.
    pub fn into_parts(self) -> (L::Stream, Ticket<L::Key>) {
        (self.stream, self.ticket)
    }

    /// As [`Connection::into_parts`], with who connected.
    pub fn into_all(self) -> (L::Stream, L::Peer, Ticket<L::Key>) {
        (self.stream, self.peer, self.ticket)
    }
}

/// A listener that waits for room before it accepts, so that what it cannot serve waits in the
/// kernel's queue, that turns away who holds too much, and that survives running out of file
/// descriptors.
pub struct Incoming<L: Accept> {
    name: &'static str,
    listener: L,
    admission: Admission<L::Key>,
    token: CancellationToken,
    backoff: Backoff,
}

impl<L: Accept> Incoming<L> {
    /// Accepts whoever is admitted until `token` is cancelled; `name` is for logs.
    pub fn new(
        name: &'static str,
        listener: L,
        admission: Admission<L::Key>,
        token: CancellationToken,
    ) -> Self {
        let backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        Self { name, listener, admission, token, backoff }
    }

    /// The listener.
    pub fn listener(&self) -> &L {
        &self.listener
    }

    /// The next connection; `None` once the token is cancelled.
    pub async fn next(&mut self) -> Option<Connection<L>> {
        let token = self.token.clone();
        token.run_until_cancelled(self.accept()).await
    }

    async fn accept(&mut self) -> Connection<L> {
        loop {
            self.admission.room().await;
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.backoff.reset();
                    let key = L::key(&stream, &peer);
                    match self.admission.enter(key.clone()) {
                        Ok(ticket) => return Connection { stream, peer, ticket },
                        Err(error) => tracing::debug!(
                            listener = self.name, from = ?key, %error, "Connection was turned away"
                        ),
                    }
                    // A flood of them must not keep others on this thread from their turn.
                    tokio::task::consume_budget().await;
                }
                Err(error) if is_of_the_connection(&error) => {
                    tracing::debug!(listener = self.name, %error, "Connection was not accepted");
                }
                Err(error) => {
                    let delay = self.backoff.next_delay();
                    tracing::warn!(
                        listener = self.name, %error, retry_ms = delay.as_millis() as u64,
                        "Cannot accept connections"
                    );
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
}

impl<L: Accept> fmt::Debug for Incoming<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({}, {} connections)", self.name, self.admission.taken())
    }
}

/// Runs `handshake` on every connection, each in a task of its own and for at most `timeout`, and
/// hands on what comes of it. A slow or failing peer delays nobody else.
///
/// The receiver ends when `incoming` does.
pub fn handshakes<L, T, F, Fut>(
    tasks: &Tasks,
    mut incoming: Incoming<L>,
    timeout: Duration,
    handshake: F,
) -> mpsc::Receiver<T>
where
    L: Accept + Sync,
    T: Send + 'static,
    F: Fn(Connection<L>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<T>> + Send + 'static,
{
    let (done, receiver) = mpsc::channel(HANDSHAKES_WAITING);
    let name = incoming.name;
    let spawner = tasks.clone();
    tasks.spawn(name, async move {
        while let Some(connection) = incoming.next().await {
            let peer = format!("{:?}", connection.peer);
            let work = handshake(connection);
            let done = done.clone();
            let token = incoming.token.clone();
            spawner.spawn(name, async move {
                let work = async {
                    match tokio::time::timeout(timeout, work).await {
                        // The receiver is gone when the server is.
                        Ok(Ok(stream)) => drop(done.send(stream).await),
                        Ok(Err(error)) => {
                            tracing::debug!(listener = name, peer, %error, "Handshake failed");
                        }
                        Err(_) => tracing::debug!(listener = name, peer, "Handshake timed out"),
                    }
                };
                token.run_until_cancelled(work).await;
            });
        }
    });
    receiver
}

/// Errors of one connection, not of the listener (accept(2)).
fn is_of_the_connection(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const OF_CONNECTION: &[Errno] = &[
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::INTR,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::NONET,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::PERM,
        Errno::PROTO,
    ];
    Errno::from_io_error(error).is_some_and(|errno| OF_CONNECTION.contains(&errno))
        || matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::InvalidInput)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::listen::{Caps, Each};

    fn admission(total: usize) -> Admission<()> {
        Admission::new(Caps { total, each: Each::Fixed(total), idle: None, busy: None })
    }

    /// Gives the results in turn, then waits for ever.
    struct Scripted(Mutex<Vec<io::Result<u32>>>);

    impl Accept for Scripted {
        type Stream = u32;
        type Peer = ();
        type Key = ();

        fn key(_: &u32, (): &()) {}

        async fn accept(&self) -> io::Result<(u32, ())> {
            let next = self.0.lock().unwrap().pop();
            match next {
                Some(result) => result.map(|n| (n, ())),
                None => std::future::pending().await,
            }
        }
    }

    fn scripted(mut results: Vec<io::Result<u32>>) -> Scripted {
        results.reverse();
        Scripted(Mutex::new(results))
    }

    fn errno(errno: rustix::io::Errno) -> io::Result<u32> {
        Err(errno.into())
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_room_before_it_accepts() {
        let listener = scripted(vec![Ok(1), Ok(2), Ok(3)]);
        let mut incoming = Incoming::new("test", listener, admission(2), CancellationToken::new());
        let first = incoming.next().await.unwrap();
        let _second = incoming.next().await.unwrap();
        let third = tokio::time::timeout(Duration::from_secs(9), incoming.next()).await;
        assert!(third.is_err());
        assert_eq!(incoming.listener.0.lock().unwrap().len(), 1, "the third was not accepted");
        drop(first);
        assert_eq!(incoming.next().await.unwrap().stream, 3);
    }

    #[test]
    fn addresses_are_counted_by_machine() {
        for (address, counted) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            assert_eq!(counted_address(address.parse().unwrap()).to_string(), counted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn survives_a_lack_of_descriptors_and_does_not_spin() {
        let mut script: Vec<_> = (0..20).map(|_| errno(rustix::io::Errno::MFILE)).collect();
        script.push(errno(rustix::io::Errno::CONNABORTED));
        script.push(Ok(7));
        let mut incoming =
            Incoming::new("test", scripted(script), admission(1), CancellationToken::new());
        let begun = tokio::time::Instant::now();
        assert_eq!(incoming.next().await.unwrap().stream, 7);
        assert!(begun.elapsed() > Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_with_its_token() {
        let token = CancellationToken::new();
        let mut incoming = Incoming::new("test", scripted(vec![]), admission(1), token.clone());
        token.cancel();
        assert!(incoming.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_handshake_delays_nobody_and_ends_in_time() {
        let tasks = Tasks::new();
        let listener = scripted(vec![Ok(0), Ok(1), Ok(2)]);
        let incoming = Incoming::new("test", listener, admission(2), tasks.token().clone());
        let mut done =
            handshakes(&tasks, incoming, Duration::from_secs(5), |connection| async move {
                let (stream, permit) = connection.into_parts();
                match stream {
                    0 => std::future::pending().await,
                    n => Ok((n, permit)),
                }
            });
        let (one, permit) = done.recv().await.unwrap();
        assert_eq!(one, 1);
        drop(permit);
        assert_eq!(done.recv().await.unwrap().0, 2);
        tasks.shutdown(Duration::from_secs(1)).await.unwrap();
        assert!(done.recv().await.is_none());
    }
}
