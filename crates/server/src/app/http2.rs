//! How HTTP/2 is spoken.

use std::time::Duration;

use tonic::transport::Server;

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
