//! Connecting: channels over Unix sockets, and over any byte stream (TLS, say).

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tonic::transport::{Channel, Endpoint};

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The HTTP/2 connection could not be set up.
    #[error("connecting to {to}")]
    Transport {
        /// Where to.
        to: String,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// The Unix socket could not be opened.
    #[error("connecting to the socket {path}")]
    Unix {
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// How long a watched peer may be silent before it is pinged.
const PING_AFTER: Duration = Duration::from_secs(60);
/// How long it may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long setting up a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the Unix socket `path`, made now. When it breaks, the next call connects anew.
///
/// # Errors
/// [`ConnectError`] when the socket is not there, refuses, or does not speak HTTP/2 in 30 s.
pub async fn unix(path: impl AsRef<Path>) -> Result<Channel, ConnectError> {
    let path = path.as_ref().to_owned();
    let at = path.clone();
    over("http://localhost", move || UnixStream::connect(at.clone())).await.map_err(|error| {
        match error {
            ConnectError::Transport { to, source } => match io_cause(&source) {
                Some(cause) => ConnectError::Unix { path, source: cause },
                None => ConnectError::Transport { to, source },
            },
            other => other,
        }
    })
}

/// A channel to the Unix socket `path` that connects when it is first used, and whenever needed.
pub fn unix_lazy(path: impl AsRef<Path>) -> Channel {
    let path = path.as_ref().to_owned();
    over_lazy("http://localhost", move || UnixStream::connect(path.clone()))
}

/// A channel over the byte streams that `connect` opens, one at a time: the first now, another
/// whenever the one before broke. `authority` is what the server reads as `:authority`, a URL
/// such as `http://localhost` or `https://spire-server:8081`; nothing is resolved from it.
///
/// # Errors
/// [`ConnectError::Transport`] when the first connection fails.
pub async fn over<C, F, S>(authority: &'static str, connect: C) -> Result<Channel, ConnectError>
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    endpoint(authority)
        .connect_with_connector(connector(connect))
        .await
        .map_err(|source| ConnectError::Transport { to: authority.to_owned(), source })
}

/// As [`over`], connecting when first used.
pub fn over_lazy<C, F, S>(authority: &'static str, connect: C) -> Channel
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    endpoint(authority).connect_with_connector_lazy(connector(connect))
}

/// As [`over_lazy`], and while a call is open the peer is pinged after each minute of silence: a
/// peer that vanished without a word is noticed. Not for SPIRE's programs in calls that last:
/// gRPC's Go library takes such pings amiss.
pub fn over_lazy_watched<C, F, S>(authority: &'static str, connect: C) -> Channel
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    endpoint(authority)
        .http2_keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false)
        .connect_with_connector_lazy(connector(connect))
}

/// The first I/O error among the causes of a failed call or connection.
pub fn io_cause(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(match io.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(io.kind(), io.to_string()),
            });
        }
        next = error.source();
    }
    None
}

/// Whether a call failed because there was no connection, and why.
pub fn connection_failure(status: &tonic::Status) -> Option<io::Error> {
    status.source().and_then(io_cause)
}

fn endpoint(authority: &'static str) -> Endpoint {
    Endpoint::from_static(authority)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_adaptive_window(false)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
}

fn connector<C, F, S>(
    connect: C,
) -> impl tower::Service<
    http::Uri,
    Response = TokioIo<S>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<S>>> + Send,
> + Send
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tower::service_fn(move |_: http::Uri| {
        let opening = connect();
        async move { opening.await.map(TokioIo::new) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_socket_is_named_with_its_cause() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.sock");
        match unix(&path).await {
            Err(ConnectError::Unix { path: named, source }) => {
                assert_eq!(named, path);
                assert_eq!(source.kind(), io::ErrorKind::NotFound);
            }
            other => panic!("{other:?}"),
        }
    }
}
