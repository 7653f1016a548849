//! The layer in front of every service: who calls, may they, and what came of it.
//!
//! For each request: find the action of the method, ask the [`Authorizer`], put the [`Call`] into
//! the request's extensions, and when the answer ends count it and say what the call left behind.
//! Every answer names its request ID in [`REQUEST_ID`]; a caller whose identity is known may give
//! one that it uses itself.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use http::{HeaderMap, HeaderValue};
use signet_api::{REQUEST_ID, outcome};
use signet_daemon::{
    metrics::{Calls, Metrics, rpc_key, status_name},
    spans,
};
use signet_pki::random;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{
    methods::{self, Method},
    shared::status,
};
use crate::{
    audit::Auditor,
    usecase::{
        Call,
        authorization::{Authorized, Authorizer, Unauthorized},
        error::{Denial, Error, ErrorKind},
        principal::{Peer, Principal, Role},
    },
};

/// The layer; its decisions and counters are shared by all connections.
#[derive(Clone)]
pub struct Interceptor {
    inner: Arc<Inner>,
}

struct Inner {
    authorizer: Authorizer,
    auditor: Auditor,
    /// By service and name.
    calls: HashMap<(&'static str, &'static str), Calls>,
}

impl Interceptor {
    /// The layer in front of the services of a server.
    pub fn new(authorizer: Authorizer, auditor: Auditor, metrics: &Metrics) -> Self {
        let calls = methods::methods()
            .map(|method| {
                let key = rpc_key(method.service, method.name);
                let key: Vec<&str> = key.iter().map(String::as_str).collect();
                ((method.service, method.name), metrics.calls(&key, "Calls of an RPC", &[]))
            })
            .collect();
        Self { inner: Arc::new(Inner { authorizer, auditor, calls }) }
    }
}

impl std::fmt::Debug for Interceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interceptor(..)")
    }
}

impl<S> Layer<S> for Interceptor {
    type Service = Intercepted<S>;

    fn layer(&self, service: S) -> Intercepted<S> {
        Intercepted { interceptor: self.clone(), service }
    }
}

/// A service behind the layer.
#[derive(Clone, Debug)]
pub struct Intercepted<S> {
    interceptor: Interceptor,
    service: S,
}

impl<S> Service<http::Request<Body>> for Intercepted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The clone is not polled to readiness; the one that was is used.
        let clone = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, clone);
        let interceptor = self.interceptor.clone();
        Box::pin(async move {
            let Some(method) = methods::method(request.uri().path()) else {
                // Not served: the router says so.
                return service.call(request).await;
            };
            let Some(peer) = request.extensions().get::<Peer>().cloned() else {
                return Ok(Status::internal("no peer information available").into_http());
            };
            if method.local_only && matches!(peer, Peer::Remote(_)) {
                return Ok(Status::unimplemented("unknown service").into_http());
            }
            let Inner { authorizer, auditor, calls } = &*interceptor.inner;
            let timer = calls.get(&(method.service, method.name)).map(|calls| calls.start(&[]));
            let request_id = request_id(request.headers(), &peer);
            let span = tracing::info_span!(
                target: spans::TARGET, "call",
                otel.name = format!("{}/{}", method.logged_service(), method.name),
                otel.kind = "server", rpc.system = "grpc", rpc.service = method.service,
                rpc.method = method.name, signet.request_id = &*request_id
            );
            spans::adopt(&span, traceparent(request.headers(), &peer));
            let header = HeaderValue::from_str(&request_id).ok();
            let action = method.action;
            let authorized = authorizer.authorize(&peer, action).await;
            let (Authorized { role, scope }, refused) = match authorized {
                Ok(authorized) => (authorized, None),
                Err(refused) => (Authorized { role: Role::Anyone, scope: None }, Some(refused)),
            };
            let refused = refused.or_else(|| auditor.must_accept(action).err().map(Into::into));
            let principal = Principal { peer, role, action, scope };
            let service_name = method.logged_service();
            let audit = auditor.call(service_name, method.name, &principal, request_id);
            let mut response = match refused {
                Some(refused) => {
                    let (error, why) = refusal(method, refused);
                    match error.kind() {
                        ErrorKind::Denied => {
                            let code = error.code().or(error.denial().map(Denial::name));
                            audit.unauthorized(&error.to_string(), why.as_deref(), code);
                        }
                        _ => audit.failed(&error),
                    }
                    let status = status(&error);
                    audit.finish(status_name(status.code().into()), status.message());
                    if let Some(timer) = timer {
                        timer.done(status_name(status.code().into()));
                    }
                    status.into_http()
                }
                None => {
                    let call = Call { principal, audit: audit.clone() };
                    request.extensions_mut().insert(call);
                    let response = service.call(request).instrument(span).await?;
                    outcome::watch(response, move |code, message| {
                        let code = status_name(code.into());
                        if let Some(timer) = timer {
                            timer.done(code);
                        }
                        audit.finish(code, message);
                    })
                }
            };
            if let Some(header) = header {
                response.headers_mut().insert(REQUEST_ID, header);
            }
            Ok(response)
        })
    }
}

/// The span that a caller whose identity is known works in.
fn traceparent<'h>(headers: &'h HeaderMap, peer: &Peer) -> Option<&'h str> {
    let is_known = matches!(peer, Peer::Local(_)) || peer.spiffe_id().is_some();
    headers.get(spans::TRACEPARENT).filter(|_| is_known)?.to_str().ok()
}

/// What names this request everywhere: the ID that the caller gave, if its identity is known and
/// it is one; else a new one. Nobody unknown can make requests look like those of others.
pub(crate) fn request_id(headers: &HeaderMap, peer: &Peer) -> Arc<str> {
    let is_known = matches!(peer, Peer::Local(_)) || peer.spiffe_id().is_some();
    let given = headers.get(REQUEST_ID).filter(|_| is_known).and_then(|id| id.to_str().ok());
    match given.and_then(|id| uuid::Uuid::try_parse(id).ok()) {
        Some(id) => id.to_string().into(),
        None => random::uuid_v4().unwrap_or_default().into(),
    }
}

/// The answer to a call that is not authorised, and what only the log says of it.
fn refusal(method: &Method, refused: Unauthorized) -> (Error, Option<String>) {
    match refused {
        Unauthorized::Failed(error) => (error, None),
        Unauthorized::Denied { denial, why } => {
            let text =
                format!("authorization denied for method /{}/{}", method.service, method.name);
            let error = match denial {
                Some(denial) => Error::denied(text, denial),
                None => Error::new(ErrorKind::Denied, text),
            };
            (error, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usecase::principal::{LocalPeer, RemotePeer};

    #[test]
    fn only_those_who_are_known_name_their_requests_and_only_by_uuids() {
        let given = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
        let headers =
            |id: &str| HeaderMap::from_iter([(REQUEST_ID.parse().unwrap(), id.parse().unwrap())]);
        let local = Peer::Local(LocalPeer { pid: None, uid: 0, gid: 0 });
        let nobody = Peer::Remote(RemotePeer { addr: "10.0.0.1:1".parse().unwrap(), svid: None });
        assert_eq!(&*request_id(&headers(given), &local), given);
        for (headers, peer) in [
            (headers(given), &nobody),
            (headers("not-a-uuid level=error"), &local),
            (HeaderMap::new(), &local),
        ] {
            let made: Arc<str> = request_id(&headers, peer);
            assert_ne!(&*made, given);
            assert!(uuid::Uuid::try_parse(&made).is_ok());
        }
    }
}
