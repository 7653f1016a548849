//! Accepting connections within bounds.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use signet_base::{Backoff, CancellationToken, Tasks};
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use super::UnixSocket;

/// How many finished handshakes may wait to be taken.
const HANDSHAKES_WAITING: usize = 64;

/// A listener of any kind.
pub trait Accept: Send + 'static {
    /// A connection.
    type Stream: Send + 'static;
    /// Who connected, as far as the socket says.
    type Peer: fmt::Debug + Send + 'static;

    /// Waits for a connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Answers are small and awaited.
        stream.set_nodelay(true)?;
        Ok((stream, peer))
    }
}

impl Accept for UnixSocket {
    type Stream = UnixStream;
    type Peer = ();

    async fn accept(&self) -> io::Result<(UnixStream, ())> {
        Ok((UnixSocket::accept(self).await?, ()))
    }
}

/// An accepted connection. It counts towards the listener's limit until the permit is dropped.
#[derive(Debug)]
pub struct Connection<S, P> {
    /// The stream.
    pub stream: S,
    /// Who connected.
    pub peer: P,
    permit: OwnedSemaphorePermit,
}

impl<S, P> Connection<S, P> {
    /// Takes stream and permit apart; keep the permit as long as the stream.
    pub fn into_parts(self) -> (S, OwnedSemaphorePermit) {
        (self.stream, self.permit)
    }
}

/// A listener that takes a permit before it accepts, so that what it cannot serve waits in the
/// kernel's queue, and that survives running out of file descriptors.
pub struct Incoming<L> {
    name: &'static str,
    listener: L,
    permits: Arc<Semaphore>,
    token: CancellationToken,
    backoff: Backoff,
}

impl<L: Accept> Incoming<L> {
    /// Accepts up to `limit` connections at a time until `token` is cancelled; `name` is for logs.
    pub fn new(name: &'static str, listener: L, limit: usize, token: CancellationToken) -> Self {
        let permits = Arc::new(Semaphore::new(limit.clamp(1, Semaphore::MAX_PERMITS)));
        let backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        Self { name, listener, permits, token, backoff }
    }

    /// The listener.
    pub fn listener(&self) -> &L {
        &self.listener
    }

    /// The next connection; `None` once the token is cancelled.
    pub async fn next(&mut self) -> Option<Connection<L::Stream, L::Peer>> {
        let token = self.token.clone();
        token.run_until_cancelled(self.accept()).await
    }

    async fn accept(&mut self) -> Connection<L::Stream, L::Peer> {
        loop {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                // The semaphore is never closed.
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.backoff.reset();
                    return Connection { stream, peer, permit };
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

impl<L> fmt::Debug for Incoming<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({}, {} free)", self.name, self.permits.available_permits())
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
    F: Fn(Connection<L::Stream, L::Peer>) -> Fut + Send + Sync + 'static,
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

    /// Gives the results in turn, then waits for ever.
    struct Scripted(Mutex<Vec<io::Result<u32>>>);

    impl Accept for Scripted {
        type Stream = u32;
        type Peer = ();

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
    async fn takes_a_permit_before_it_accepts() {
        let listener = scripted(vec![Ok(1), Ok(2), Ok(3)]);
        let mut incoming = Incoming::new("test", listener, 2, CancellationToken::new());
        let first = incoming.next().await.unwrap();
        let _second = incoming.next().await.unwrap();
        let third = tokio::time::timeout(Duration::from_secs(9), incoming.next()).await;
        assert!(third.is_err());
        assert_eq!(incoming.listener.0.lock().unwrap().len(), 1, "the third was not accepted");
        drop(first);
        assert_eq!(incoming.next().await.unwrap().stream, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn survives_a_lack_of_descriptors_and_does_not_spin() {
        let mut script: Vec<_> = (0..20).map(|_| errno(rustix::io::Errno::MFILE)).collect();
        script.push(errno(rustix::io::Errno::CONNABORTED));
        script.push(Ok(7));
        let mut incoming = Incoming::new("test", scripted(script), 1, CancellationToken::new());
        let begun = tokio::time::Instant::now();
        assert_eq!(incoming.next().await.unwrap().stream, 7);
        assert!(begun.elapsed() > Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_with_its_token() {
        let token = CancellationToken::new();
        let mut incoming = Incoming::new("test", scripted(vec![]), 1, token.clone());
        token.cancel();
        assert!(incoming.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_handshake_delays_nobody_and_ends_in_time() {
        let tasks = Tasks::new();
        let listener = scripted(vec![Ok(0), Ok(1), Ok(2)]);
        let incoming = Incoming::new("test", listener, 2, tasks.token().clone());
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
