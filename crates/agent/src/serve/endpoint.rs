//! Serving gRPC on a Unix socket: each connection belongs to one pinned process and ends with it.

mod lenient;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming as RequestBody, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use signet_attest::{peer::PinnedPeer, procfs::ProcRoot};
use signet_base::{CancellationToken, Tasks};
use signet_daemon::listen::{Incoming, UnixSocket};
use tokio::{net::UnixStream, sync::OwnedSemaphorePermit};
use tonic::body::Body;

use crate::{caller::Caller, metrics::AgentMetrics};

/// How many connections are served at once; more wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 16_384;
/// How many calls one connection may have open.
const MAX_STREAMS: u32 = 128;
/// The longest head of a request, bytes.
const MAX_HEAD: u32 = 16 * 1024;
/// How much of a request may be on its way before it is read. Requests are small.
const WINDOW: u32 = 64 * 1024;
/// How much of an answer waits for a slow reader.
const SEND_BUFFER: usize = 64 * 1024;
/// How long open calls may take to end once the program stops.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// How often a connection without traffic is tried.
const IDLE_PING: Duration = Duration::from_secs(600);
/// How long a new connection may take to its first call.
const FIRST_CALL: Duration = Duration::from_secs(30);

/// What answers the requests of a socket.
pub trait Answer: Clone + Send + Sync + 'static {
    /// Answers one request; errors are statuses.
    fn answer(&self, request: Request<RequestBody>) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves a socket until the tasks end.
pub fn serve<A: Answer>(
    name: &'static str,
    socket: UnixSocket,
    answer: A,
    proc_root: ProcRoot,
    metrics: Option<AgentMetrics>,
    tasks: &Tasks,
) {
    let token = tasks.token().clone();
    let mut incoming = Incoming::new(name, socket, MAX_CONNECTIONS, token.clone());
    let spawner = tasks.clone();
    tasks.spawn(name, async move {
        let own_pid = i32::try_from(std::process::id()).unwrap_or(0);
        while let Some(connection) = incoming.next().await {
            let (stream, permit) = connection.into_parts();
            // Pinned before a byte is read: from here on the connection is this process's.
            let peer = PinnedPeer::from_socket(&stream, &proc_root);
            let own = peer.as_ref().is_ok_and(|peer| peer.pid() == own_pid);
            let caller = Caller::new(peer, own);
            if let (Some(metrics), Ok(peer)) = (&metrics, caller.peer()) {
                metrics.pinned.inc(&[peer.mode().as_str()]);
            }
            let guard = metrics.as_ref().filter(|_| !own).map(|metrics| {
                metrics.connection.inc(&[]);
                metrics.connections.hold(&[])
            });
            let work = connection_task(stream, permit, caller, answer.clone(), token.clone());
            spawner.spawn(name, async move {
                work.await;
                drop(guard);
            });
        }
    });
}

async fn connection_task<A: Answer>(
    stream: UnixStream,
    permit: OwnedSemaphorePermit,
    caller: Caller,
    answer: A,
    token: CancellationToken,
) {
    let called = Arc::new(AtomicBool::new(false));
    let service = {
        let (caller, called) = (caller.clone(), Arc::clone(&called));
        service_fn(move |mut request: Request<RequestBody>| {
            called.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(caller.clone());
            let answer = answer.clone();
            async move { Ok::<_, Infallible>(answer.answer(request).await) }
        })
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .max_send_buf_size(SEND_BUFFER)
        .auto_date_header(false)
        .keep_alive_interval(IDLE_PING);
    let mut connection = std::pin::pin!(
        builder.serve_connection(TokioIo::new(lenient::Lenient::new(stream)), service)
    );
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(pid = caller.pid(), error = %error, "Connection ended with an error");
            }
        }
        // Dropping the connection ends its streams: nobody who inherited the socket goes on.
        () = gone(&caller) => tracing::debug!(pid = caller.pid(), "Caller has exited"),
        () = silent(&called) => {
            tracing::debug!(pid = caller.pid(), "Connection without a call is closed");
        }
        () = token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // What is still open after the grace is cut off.
            let _ = tokio::time::timeout(STOP_GRACE, connection).await;
        }
    }
    drop(permit);
}

/// Completes when no call has come for too long after connecting.
async fn silent(called: &AtomicBool) {
    tokio::time::sleep(FIRST_CALL).await;
    if called.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// Completes when the caller's process has exited.
async fn gone(caller: &Caller) {
    match caller.peer() {
        Ok(peer) => peer.exited().await,
        Err(_) => std::future::pending().await,
    }
}
