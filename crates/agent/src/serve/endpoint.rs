//! Serving gRPC on a Unix socket: each connection belongs to one pinned process and ends with it.

mod lenient;
mod rounds;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use http::{Request, Response};
use hyper::{body::Incoming as RequestBody, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use signet_api::intake::{Budgets, Intake, Messages, NoRoom, holding};
use signet_attest::{peer::PinnedPeer, procfs::ProcRoot};
use signet_base::{CancellationToken, SharedClock, Tasks};
use signet_daemon::{
    listen::{Admission, Caps, Each, Incoming, Ticket, UnixSocket},
    metrics::status_name,
    process, spans,
};
use tokio::{net::UnixStream, time::Instant};
use tonic::{Status, body::Body};
use tracing::Instrument as _;

// For fuzz/.
#[doc(hidden)]
pub use self::lenient::Lenient;
use rounds::Rounds;

use crate::{
    caller::Caller,
    metrics::{AgentMetrics, Method},
    trace::{Trace, Traces},
};

/// Connections, by user: each takes some 12 KB, and a descriptor beside its own for the process. One
/// without a call makes room for others of its user, after five seconds.
const CONNECTIONS: Caps =
    Caps { total: 3_072, each: Each::Share, idle: Some(Duration::from_secs(5)), busy: None };
/// How many descriptors a connection takes.
const DESCRIPTORS: usize = 2;
/// Open calls, by user; each takes up to 30 KB. With the connections that is less than the 192 MiB that
/// the manifests give an agent.
const CALLS: Caps = Caps { total: 4_096, each: Each::Share, idle: None, busy: None };
/// How many bytes of requests a user may have under way. Requests are small.
const BUDGET: usize = 1024 * 1024;
/// The same for calls that are streams of requests. Proxies begin with tens of kilobytes, and a node
/// full of them comes back at once when the agent has restarted.
const STREAM_BUDGET: usize = 8 * 1024 * 1024;
/// The longest message of the sockets for operators and kubelet, bytes.
pub const MAX_REQUEST: usize = 256 * 1024;
/// How long a request may take to arrive.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
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
/// How long a connection may then be without a call. Its client connects again when it has one.
const IDLE: Duration = Duration::from_secs(300);

/// What answers the requests of a socket.
pub trait Answer: Clone + Send + Sync + 'static {
    /// Answers one request; errors are statuses.
    fn answer(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;

    /// The longest message that the method of `path` takes, bytes.
    fn max_message(&self, path: &str) -> usize;

    /// How many messages the method of `path` takes.
    fn messages(&self, _path: &str) -> Messages {
        Messages::Few
    }
}

/// Users; none where the kernel does not say whose a connection is.
type User = Option<u32>;

/// What the calls of all connections share.
#[derive(Debug)]
struct Limits {
    calls: Admission<User>,
    budgets: Budgets<User>,
    stream_budgets: Budgets<User>,
    rounds: Rounds<User>,
}

impl Limits {
    /// Answers a request within the limits of its user.
    async fn answer<A: Answer>(
        &self,
        api: &A,
        user: User,
        request: Request<RequestBody>,
    ) -> Response<Body> {
        let Ok(call) = self.calls.enter(user) else {
            return Status::resource_exhausted("too many calls of this user are open").into_http();
        };
        let path = request.uri().path();
        let messages = api.messages(path);
        let budget = match messages {
            Messages::Few => self.budgets.of(user, BUDGET),
            Messages::Stream => self.stream_budgets.of(user, STREAM_BUDGET),
        };
        let intake = Intake {
            messages,
            max_message: api.max_message(path),
            deadline: REQUEST_DEADLINE,
            budget: budget.clone(),
            // Waiting would fill the window of the connection, and so keep those of its requests from
            // coming that have room already.
            no_room: NoRoom::Refuse,
        };
        let (head, body) = request.into_parts();
        let (body, taken) = intake.body(body);
        let response = api.answer(Request::from_parts(head, body)).await;
        response.map(|body| holding(body, (call, taken, budget)))
    }
}

/// What is counted and remembered of the calls of a socket.
#[derive(Clone, Debug)]
pub struct Watch {
    /// What is counted.
    pub metrics: AgentMetrics,
    /// The last calls.
    pub traces: Arc<Traces>,
    /// The wall clock.
    pub clock: SharedClock,
}

/// Serves a socket: takes connections until the token beside it is cancelled, and serves them until
/// the tasks end.
pub fn serve<A: Answer>(
    name: &'static str,
    (socket, accept): (UnixSocket, CancellationToken),
    answer: A,
    proc_root: ProcRoot,
    watch: Option<Watch>,
    tasks: &Tasks,
) {
    let token = tasks.token().clone();
    let total = process::connection_limit(CONNECTIONS.total, DESCRIPTORS);
    let admission = Admission::new(Caps { total, ..CONNECTIONS });
    let mut incoming = Incoming::new(name, socket, admission, accept);
    let limits = Arc::new(Limits {
        calls: Admission::new(CALLS),
        budgets: Budgets::default(),
        stream_budgets: Budgets::default(),
        rounds: Rounds::new(),
    });
    let watch = watch.map(Arc::new);
    let spawner = tasks.clone();
    tasks.spawn(name, async move {
        let own_pid = i32::try_from(std::process::id()).unwrap_or(0);
        while let Some(connection) = incoming.next().await {
            let (stream, ticket) = connection.into_parts();
            // Pinned before a byte is read: from here on the connection is this process's.
            let peer = PinnedPeer::from_socket(&stream, &proc_root);
            let own = peer.as_ref().is_ok_and(|peer| peer.pid() == own_pid);
            let caller = Caller::new(peer, own);
            if let (Some(watch), Ok(peer)) = (&watch, caller.peer()) {
                watch.metrics.pinned.inc(&[peer.mode().as_str()]);
            }
            let served = Served {
                ticket: Arc::new(ticket),
                caller,
                limits: Arc::clone(&limits),
                answer: answer.clone(),
                // The agent's own calls (its health check) are nobody's concern.
                watch: watch.clone().filter(|_| !own),
            };
            spawner.spawn(name, connection_task(stream, served, token.clone()));
        }
    });
}

/// A connection that is served.
struct Served<A> {
    ticket: Arc<Ticket<User>>,
    caller: Caller,
    limits: Arc<Limits>,
    answer: A,
    watch: Option<Arc<Watch>>,
}

async fn connection_task<A: Answer>(
    stream: UnixStream,
    served: Served<A>,
    token: CancellationToken,
) {
    let Served { ticket, caller, limits, answer, watch } = served;
    let user = stream.peer_cred().ok().map(|peer| peer.uid());
    let rounds = limits.rounds.clone();
    let service = {
        let (caller, ticket) = (caller.clone(), Arc::clone(&ticket));
        service_fn(move |mut request: Request<RequestBody>| {
            let open = ticket.call();
            request.extensions_mut().insert(caller.clone());
            let (answer, limits) = (answer.clone(), Arc::clone(&limits));
            let (watch, caller) = (watch.clone(), caller.clone());
            // The connection keeps the room of this future for as long as the answer is open; that of
            // a box goes when the answer begins.
            Box::pin(async move {
                let watch = watch.as_deref();
                let method = watch.and_then(|it| it.metrics.rpcs.method(request.uri().path()));
                let traceparent = request.headers().get(spans::TRACEPARENT).cloned();
                let answering = Box::pin(limits.answer(&answer, user, request));
                let response = match (watch, method) {
                    (Some(watch), Some(method)) => {
                        watch.over(method, &caller, traceparent, answering).await
                    }
                    _ => answering.await,
                };
                Ok::<_, Infallible>(response.map(|body| holding(body, open)))
            })
        })
    };
    let mut builder = http2::Builder::new(rounds.executor(user));
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .max_send_buf_size(SEND_BUFFER)
        .auto_date_header(false)
        .keep_alive_interval(IDLE_PING);
    let stream = TokioIo::new(lenient::Lenient::new(stream));
    let mut connection = rounds.of(user, builder.serve_connection(stream, service));
    tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(pid = caller.pid(), error = %error, "Connection ended with an error");
            }
        }
        // Dropping the connection ends its streams: nobody who inherited the socket goes on.
        () = gone(&caller) => tracing::debug!(pid = caller.pid(), "Caller has exited"),
        () = ticket.closed().cancelled() => {
            tracing::debug!(pid = caller.pid(), "Connection made room for another one");
        }
        () = idle(&ticket) => {
            tracing::debug!(pid = caller.pid(), "Connection without a call is closed");
            connection.get_mut().graceful_shutdown();
            let _ = tokio::time::timeout(STOP_GRACE, connection).await;
        }
        () = token.cancelled() => {
            connection.get_mut().graceful_shutdown();
            // What is still open after the grace is cut off.
            let _ = tokio::time::timeout(STOP_GRACE, connection).await;
        }
    }
}

impl Watch {
    /// Counts and remembers a call while it is answered; the logs name it by one ID.
    async fn over(
        &self,
        method: &Method,
        caller: &Caller,
        traceparent: Option<http::HeaderValue>,
        answering: impl Future<Output = Response<Body>>,
    ) -> Response<Body> {
        let open = method.begin();
        let uid = caller.peer().ok().map(PinnedPeer::uid);
        let at = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
        let trace = Trace::new((method.service, method.name), (caller.pid(), uid), at);
        self.traces.note(&trace);
        let span = tracing::info_span!(
            target: spans::TARGET, "call", otel.name = method.name, otel.kind = "server",
            rpc.system = "grpc", rpc.service = method.service, rpc.method = method.name,
            signet.request_id = &*trace.request_id, signet.caller.pid = caller.pid()
        );
        spans::adopt(&span, traceparent.as_ref().and_then(|it| it.to_str().ok()));
        let response = trace.scope(answering.instrument(span)).await;
        match Status::from_header_map(response.headers()) {
            Some(status) => trace.answered(status_name(status.code().into()), status.message()),
            None => trace.answered("OK", ""),
        }
        open.watch(response)
    }
}

/// Completes when no call has been open for too long.
async fn idle(ticket: &Ticket<User>) {
    let begun = Instant::now();
    let mut look = begun + FIRST_CALL;
    loop {
        tokio::time::sleep_until(look).await;
        let now = Instant::now();
        look = match ticket.idle_since() {
            // No call has come yet.
            Some(since) if since <= begun => return,
            Some(since) if since + IDLE <= now => return,
            Some(since) => since + IDLE,
            None => now + IDLE,
        };
    }
}

/// Completes when the caller's process has exited.
async fn gone(caller: &Caller) {
    match caller.peer() {
        Ok(peer) => peer.exited().await,
        Err(_) => std::future::pending().await,
    }
}
