//! The sockets of the Broker Endpoint: mutual TLS with the agent's SVID, and with those of the brokers
//! that the configuration names, on a Unix socket, over TCP, or both.

use std::{convert::Infallible, hash::Hash, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming as RequestBody, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use signet_api::intake::{Budget, Intake, Messages, NoRoom, holding};
use signet_attest::peer::{PeerError, PinnedPeer};
use signet_base::{SharedClock, Tasks, chain};
use signet_daemon::listen::{
    Accept, Admission, Caps, Each, Incoming, Ticket, UnixOptions, UnixSocket,
};
use signet_pki::tls::{
    ClientPolicy, SwappableIdentity, TlsError, TlsOptions, peer_of, server_config,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tonic::{Status, body::Body, service::Routes};
use tower::Service as _;

use super::{Broker, Peer, routes};
use crate::{
    cache::CacheBundles,
    caller::Caller,
    serve::{endpoint::MAX_REQUEST, workload_api::has_security_header},
    status::Status as AgentStatus,
};

/// Brokers are few; each may have some connections.
const CONNECTIONS: Caps =
    Caps { total: 64, each: Each::Share, idle: Some(Duration::from_secs(5)), busy: None };
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many calls one connection may have open: a stream for each workload of a busy node.
const MAX_STREAMS: u32 = 1_000;
/// The longest head of a request, bytes.
const MAX_HEAD: u32 = 16 * 1024;
/// How much of a request may be on its way before it is read, bytes.
const WINDOW: u32 = 64 * 1024;
/// How many bytes of requests a connection may have under way.
const BUDGET: usize = 1024 * 1024;
/// How long a request may take to arrive.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// Who may come near the socket: SPIRE's mode.
pub(crate) const MODES: UnixOptions =
    UnixOptions { dir_mode: Some(0o750), socket_mode: 0o770, take_over: false };

/// What each request must carry once, with the value `true` (SPIFFE Broker Endpoint, section 4).
const SECURITY_HEADER: &str = "broker.spiffe.io";
/// What the paths of gRPC reflection begin with, in all versions.
const REFLECTION: &str = "/grpc.reflection.";

/// What answers on all sockets.
#[derive(Clone)]
struct Endpoint {
    broker: Broker,
    api: Routes,
    acceptor: TlsAcceptor,
}

/// Serves the sockets until the tasks end.
///
/// # Errors
/// [`TlsError`] when TLS cannot be set up.
pub(crate) fn serve(
    (unix, tcp): (Option<UnixSocket>, Option<TcpListener>),
    broker: Broker,
    status: watch::Receiver<AgentStatus>,
    require_pq_kem: bool,
    tasks: &Tasks,
) -> Result<(), TlsError> {
    let identity = Arc::new(SwappableIdentity::empty());
    let tls = config(&broker, Arc::clone(&identity), require_pq_kem)?;
    follow(status, identity, tasks);
    let api = routes(broker.clone());
    let endpoint = Endpoint { broker, api, acceptor: TlsAcceptor::from(tls) };
    if let Some(socket) = unix {
        let proc_root = endpoint.broker.0.proc_root.clone();
        // Pinned before a byte is read.
        let caller = move |stream: &UnixStream| PinnedPeer::from_socket(stream, &proc_root);
        accept(socket, endpoint.clone(), false, caller, tasks);
    }
    if let Some(listener) = tcp {
        accept(listener, endpoint, true, |_| Err(PeerError::Remote), tasks);
    }
    Ok(())
}

fn accept<L: Accept<Stream: AsyncRead + AsyncWrite + Unpin, Key: Sync>>(
    listener: L,
    endpoint: Endpoint,
    over_tcp: bool,
    caller: impl Fn(&L::Stream) -> Result<PinnedPeer, PeerError> + Send + 'static,
    tasks: &Tasks,
) {
    let token = tasks.token().clone();
    let mut incoming =
        Incoming::new("broker", listener, Admission::new(CONNECTIONS), token.clone());
    let spawner = tasks.clone();
    tasks.spawn("broker", async move {
        while let Some(connection) = incoming.next().await {
            let endpoint = endpoint.clone();
            let (stream, from, ticket) = connection.into_all();
            let (closed, token) = (ticket.closed().clone(), token.clone());
            let caller = Caller::new(caller(&stream), false);
            let work = async move {
                match endpoint.admit(stream, caller, over_tcp).await {
                    Ok((stream, peer)) => {
                        connection_task(stream, peer, endpoint.api, ticket).await;
                    }
                    Err(error) => tracing::warn!(error, ?from, "A broker was turned away"),
                }
            };
            spawner.spawn("broker", async move {
                tokio::select! {
                    () = work => {}
                    () = closed.cancelled() => {}
                    () = token.cancelled() => {}
                }
            });
        }
    });
}

fn config(
    broker: &Broker,
    identity: Arc<SwappableIdentity>,
    require_pq_kem: bool,
) -> Result<Arc<ServerConfig>, TlsError> {
    let view = &broker.0.view;
    let policy = ClientPolicy {
        trust_domain: view.cache.own_bundle().trust_domain.clone(),
        admin_ids: broker.0.settings.brokers.keys().cloned().collect(),
    };
    let clock: SharedClock = Arc::clone(&view.clock);
    // Brokers connect seldom: nothing is kept ready for them.
    let bundles = Arc::new(CacheBundles(view.cache.clone()));
    server_config(identity, bundles, policy, clock, TlsOptions { require_pq_kem })
}

/// Presents the agent's SVID as it is now.
fn follow(mut status: watch::Receiver<AgentStatus>, to: Arc<SwappableIdentity>, tasks: &Tasks) {
    let token = tasks.token().clone();
    tasks.spawn("broker", async move {
        loop {
            let identity = status.borrow_and_update().identity.clone();
            match identity.map(|identity| identity.tls()) {
                Some(Ok(tls)) => to.set(tls),
                Some(Err(error)) => {
                    tracing::error!(error = %chain(&error), "The agent's SVID cannot be presented");
                }
                None => {}
            }
            match token.run_until_cancelled(status.changed()).await {
                Some(Ok(())) => {}
                _ => return,
            }
        }
    });
}

impl Endpoint {
    /// Does the handshake; lets in whom the configuration names.
    async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        caller: Caller,
        over_tcp: bool,
    ) -> Result<(TlsStream<S>, Peer), String> {
        let stream = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream))
            .await
            .map_err(|_| "the handshake takes too long".to_owned())?
            .map_err(|error| error.to_string())?;
        let (_, session) = stream.get_ref();
        let peer = peer_of(session.peer_certificates()).map_err(|error| error.to_string())?;
        let id = peer.ok_or_else(|| "it has shown no X.509-SVID".to_owned())?.id;
        if self.broker.rights(&id).is_none() {
            return Err(format!("{id} is no broker of this agent"));
        }
        Ok((stream, Peer { id, caller, over_tcp }))
    }
}

/// Why a request is not even looked at: the API is described on the Unix socket alone, and nothing is
/// answered to a request that was made to be sent elsewhere.
fn refusal<B>(request: &Request<B>, over_tcp: bool) -> Option<Status> {
    if over_tcp && request.uri().path().starts_with(REFLECTION) {
        let message = "server reflection is only available over Unix sockets";
        return Some(Status::permission_denied(message));
    }
    (!has_security_header(request, SECURITY_HEADER))
        .then(|| Status::invalid_argument("security header missing from request"))
}

async fn connection_task<S, K>(stream: TlsStream<S>, peer: Peer, api: Routes, ticket: Ticket<K>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    K: Clone + Eq + Hash + Send + Sync + 'static,
{
    let budget = Budget::new(BUDGET);
    let id = peer.id.clone();
    let service = service_fn(move |mut request: Request<RequestBody>| {
        let open = ticket.call();
        let refusal = refusal(&request, peer.over_tcp);
        request.extensions_mut().insert(peer.clone());
        let (mut api, budget) = (api.clone(), budget.clone());
        async move {
            if let Some(status) = refusal {
                return Ok(status.into_http::<Body>().map(|body| holding(body, open)));
            }
            let intake = Intake {
                messages: Messages::Few,
                max_message: MAX_REQUEST,
                deadline: REQUEST_DEADLINE,
                budget,
                no_room: NoRoom::Refuse,
            };
            let (head, body) = request.into_parts();
            let (body, taken) = intake.body(body);
            let response = match api.call(Request::from_parts(head, body)).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            Ok::<_, Infallible>(response.map(|body| holding(body, (open, taken))))
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .auto_date_header(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(broker = %id, error = %error, "Connection of a broker ended with an error");
    }
}
