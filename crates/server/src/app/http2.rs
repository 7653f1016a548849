//! How HTTP/2 is spoken.

use std::time::Duration;

use signet_base::Tasks;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{service::Routes, transport::Server};
use tower::layer::util::{Identity, Stack};

use crate::{grpc::interceptor::Interceptor, limits::CallLimits, listen};

/// After this age a network connection is asked to go away, so that agents spread over servers.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(3 * 60);
/// It ends at the latest after this much longer: push streams last for ten minutes.
const MAX_CONNECTION_GRACE: Duration = Duration::from_secs(12 * 60);
/// The same for a client without a certificate: an attestation may take two minutes.
const MAX_STRANGER_AGE: Duration = Duration::from_secs(30);
const MAX_STRANGER_GRACE: Duration = Duration::from_secs(130);
/// How many calls one connection may have open; fewer where the client has shown no certificate.
const MAX_STREAMS: u32 = 100;
const MAX_STRANGER_STREAMS: u32 = 8;
/// Flow control: how much a peer may send ahead on a connection and on a stream, bytes.
const WINDOW: u32 = 512 * 1024;
const STREAM_WINDOW: u32 = 256 * 1024;
/// What HTTP/2 gives to everyone; less cannot be asked for.
const STRANGER_WINDOW: u32 = 65_535;
/// The longest head of a request, bytes.
const MAX_HEAD: u32 = 16 * 1024;
/// How often a silent connection is asked whether it still lives, and how long it may take.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// For the local socket.
pub(super) fn local() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEAD)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
}

/// For clients with a certificate.
pub(super) fn known() -> Server {
    local().max_connection_age(MAX_CONNECTION_AGE).max_connection_age_grace(MAX_CONNECTION_GRACE)
}

/// For clients without one.
pub(super) fn stranger() -> Server {
    local()
        .max_connection_age(MAX_STRANGER_AGE)
        .max_connection_age_grace(MAX_STRANGER_GRACE)
        .initial_connection_window_size(STRANGER_WINDOW)
        .initial_stream_window_size(STRANGER_WINDOW)
        .max_concurrent_streams(MAX_STRANGER_STREAMS)
}

/// Serves what is accepted until the tasks end.
pub(super) fn serve<S>(
    tasks: &Tasks,
    name: &'static str,
    mut server: Server<Stack<Interceptor, Stack<CallLimits, Identity>>>,
    routes: Routes,
    accepted: mpsc::Receiver<listen::Io<S>>,
) where
    listen::Io<S>: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let accepted = ReceiverStream::new(accepted).map(Ok::<_, std::io::Error>);
    let stopped = tasks.token().clone().cancelled_owned();
    let served = server.add_routes(routes).serve_with_incoming_shutdown(accepted, stopped);
    tasks.spawn_critical(name, served);
}
