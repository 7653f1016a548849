//! The outermost layer: how many calls a client may have open, and how much it may send.
//!
//! What is open to everyone takes small messages and little at once. Whoever has an identity has a
//! budget of its own, shared by all its connections, so that nobody else pays for what it does.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use signet_api::{
    MAX_MESSAGE_SIZE, REQUEST_ID,
    intake::{Budget, Budgets, Intake, Messages, NoRoom, Taken, holding},
};
use signet_daemon::{
    listen::{Admission, Caps, Each, Ticket},
    metrics::Metrics,
};
use signet_identity::SpiffeId;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::{
    audit::Auditor,
    grpc::{interceptor::request_id, methods, shared::status},
    listen::{Conn, OpenCall, STRANGER_BUDGET},
    usecase::{
        authorization::Rights,
        error::{Error, ErrorKind},
        principal::{Peer, Principal, Role},
    },
};

/// The longest message to a method that agents call, unless administrators do so too, bytes: SPIRE's
/// agents send up to 500 CSRs at a time.
const AGENT_MESSAGE: usize = 2 * 1024 * 1024;
/// How many bytes of messages a client with a certificate may have under way, over all its
/// connections.
const KNOWN_BUDGET: usize = 2 * MAX_MESSAGE_SIZE;
/// The same for each user on the local socket.
const LOCAL_BUDGET: usize = 4 * MAX_MESSAGE_SIZE;
/// How long a message may take to arrive.
const DEADLINE: Duration = Duration::from_secs(30);
/// How many calls a client with a certificate may have open, over all its connections.
const CALLS: usize = 512;
/// The same for the methods whose answers are large or last.
const CALLS_OF: &[(&str, usize)] = &[
    ("/signet.api.push.v1.Push/Subscribe", 8),
    ("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries", 8),
    ("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries", 8),
];
/// How many calls there may be in all; what is not open yet costs nothing.
const ALL_CALLS: usize = 1 << 20;

/// Whose calls are counted together, and of which method where that has a limit of its own.
type CallKey = (SpiffeId, Option<&'static str>);

/// Whose messages are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Sender {
    Known(Option<SpiffeId>),
    User(u32),
}

/// The limits on calls, shared by all connections.
#[derive(Clone, Debug)]
pub struct CallLimits {
    inner: Arc<Inner>,
    auditor: Auditor,
}

#[derive(Debug)]
struct Inner {
    calls: Admission<CallKey>,
    few_calls: Admission<CallKey>,
    budgets: Budgets<Sender>,
}

impl CallLimits {
    /// Shows how many calls are open, at each reading of `metrics`.
    pub fn show(&self, metrics: &Metrics) {
        let open = metrics.gauge(&["api", "open_calls"], "Calls of clients that are open", &[]);
        let inner = Arc::clone(&self.inner);
        metrics.before_reading(move || open.set_len(&[], inner.calls.taken()));
    }

    /// Limits with no call open. What is refused leaves its traces with `auditor`.
    pub fn new(auditor: Auditor) -> Self {
        let caps =
            |each| Caps { total: ALL_CALLS, each: Each::Fixed(each), idle: None, busy: None };
        let few = CALLS_OF.iter().map(|(_, few)| *few).max().unwrap_or(1);
        let (calls, few_calls) = (Admission::new(caps(CALLS)), Admission::new(caps(few)));
        let inner = Arc::new(Inner { calls, few_calls, budgets: Budgets::default() });
        Self { inner, auditor }
    }

    /// The limits on the messages of a call.
    fn intake(&self, conn: &Conn, path: &str) -> Intake {
        let budgets = &self.inner.budgets;
        let rights = methods::method(path).map(|method| method.action.rights());
        let allows = |who| rights.is_some_and(|rights| rights.meets(who));
        let most = match allows(Rights::ADMIN) || allows(Rights::LOCAL) {
            true => MAX_MESSAGE_SIZE,
            false => AGENT_MESSAGE,
        };
        let (max_message, no_room, budget) = match (&conn.peer, conn.budget()) {
            (_, Some(budget)) => (STRANGER_BUDGET, NoRoom::Refuse, budget.clone()),
            _ if allows(Rights::ANYONE) => {
                (STRANGER_BUDGET, NoRoom::Refuse, Budget::new(STRANGER_BUDGET))
            }
            (Peer::Local(local), None) => {
                (most, NoRoom::Wait, budgets.of(Sender::User(local.uid), LOCAL_BUDGET))
            }
            (Peer::Remote(remote), None) => {
                let id = remote.svid.as_ref().map(|svid| svid.spiffe_id.clone());
                (most, NoRoom::Wait, budgets.of(Sender::Known(id), KNOWN_BUDGET))
            }
        };
        Intake { messages: Messages::Few, max_message, deadline: DEADLINE, budget, no_room }
    }

    /// Counts a call of a client with a certificate.
    fn count(&self, peer: &Peer, path: &str) -> Result<Vec<Ticket<CallKey>>, Error> {
        let Peer::Remote(remote) = peer else { return Ok(Vec::new()) };
        let Some(svid) = &remote.svid else { return Ok(Vec::new()) };
        let refused = |_| {
            let what = format!("too many calls of \"{}\" are open", svid.spiffe_id);
            Error::new(ErrorKind::Exhausted, what)
        };
        let mut tickets = Vec::with_capacity(1);
        let inner = &self.inner;
        if let Some((method, _)) = CALLS_OF.iter().find(|(method, _)| *method == path) {
            let key = (svid.spiffe_id.clone(), Some(*method));
            tickets.push(inner.few_calls.enter(key).map_err(refused)?);
        }
        tickets.push(inner.calls.enter((svid.spiffe_id.clone(), None)).map_err(refused)?);
        Ok(tickets)
    }

    /// The answer to a call that is one too many, of which nobody asked yet whether it may be.
    fn refuse(
        &self,
        peer: Peer,
        request: &http::Request<Body>,
        error: &Error,
    ) -> http::Response<Body> {
        let status = status(error);
        let id = request_id(request.headers(), &peer);
        let header = http::HeaderValue::from_str(&id).ok();
        if let Some(method) = methods::method(request.uri().path()) {
            let (role, action) = (Role::Anyone, method.action);
            let principal = Principal { peer, role, action, scope: None };
            let audit = self.auditor.call(method.logged_service(), method.name, &principal, id);
            audit.failed(error);
            audit.finish(error.kind().name(), status.message());
        }
        let mut response = status.into_http();
        if let Some(header) = header {
            response.headers_mut().insert(REQUEST_ID, header);
        }
        response
    }
}

impl<S> Layer<S> for CallLimits {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { limits: self.clone(), inner }
    }
}

/// A service behind [`CallLimits`].
#[derive(Clone, Debug)]
pub struct Limited<S> {
    limits: CallLimits,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Limited<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Some(conn) = request.extensions_mut().remove::<Conn>() else {
            let status = Status::internal("no connection information available");
            return Box::pin(std::future::ready(Ok(status.into_http())));
        };
        let path = request.uri().path().to_owned();
        let tickets = match self.limits.count(&conn.peer, &path) {
            Ok(tickets) => tickets,
            Err(error) => {
                let response = self.limits.refuse(conn.peer, &request, &error);
                return Box::pin(std::future::ready(Ok(response)));
            }
        };
        let intake = self.limits.intake(&conn, &path);
        let budget = intake.budget.clone();
        let open = conn.call();
        request.extensions_mut().insert(conn.peer);
        let (head, body) = request.into_parts();
        let (body, taken) = intake.body(body);
        let held = Held { _open: open, _tickets: tickets, _taken: taken, _budget: budget };
        let answer = self.inner.call(http::Request::from_parts(head, body));
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| holding(body, held)))
        })
    }
}

/// What a call takes until its answer is read or given up.
struct Held {
    _open: OpenCall,
    _tickets: Vec<Ticket<CallKey>>,
    _taken: Taken,
    _budget: Budget,
}
