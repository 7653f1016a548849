//! The layer in front of every service: who calls, may they, and what came of it.
//!
//! For each request: find the rule of the method, find the caller's right (anyone, local, admin by
//! configuration, admin by entry, downstream, agent: in this order), put [`Caller`] and [`Audit`]
//! into the request's extensions, and when the answer ends count it and write the audit record.

mod agent;
mod body;

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use signet_daemon::metrics::Calls;
use signet_identity::SpiffeId;
use signet_pki::random;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{
    audit::Audit,
    authz::{self, Rule},
    caller::{Caller, Peer, RemotePeer, Role},
    context::Context,
};

pub use agent::authorize_agent;
use body::Watched;

/// The decisions of the layer, shared by all connections.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

struct Inner {
    context: Context,
    admin_ids: HashSet<SpiffeId>,
    calls: HashMap<&'static str, Calls>,
}

impl Gate {
    /// A gate for the services of this server.
    pub fn new(context: Context) -> Self {
        let admin_ids = context.config.admin_ids.iter().cloned().collect();
        let calls = authz::methods()
            .map(|rule| {
                let key = metric_key(rule.method);
                let key: Vec<&str> = key.iter().map(String::as_str).collect();
                (rule.method, context.metrics.calls(&key, "Calls of an RPC", &[]))
            })
            .collect();
        Self { inner: Arc::new(Inner { context, admin_ids, calls }) }
    }

    /// By which right `peer` may call the method of `rule`.
    ///
    /// # Errors
    /// `PermissionDenied`, with the detail that agents act on where there is one, or the status
    /// of a store that cannot be asked.
    async fn role(&self, rule: &Rule, peer: &Peer) -> Result<Role, Status> {
        if rule.allows(authz::ANYONE) {
            return Ok(Role::Anyone);
        }
        let remote = match peer {
            Peer::Local(_) if rule.allows(authz::LOCAL) => return Ok(Role::Local),
            Peer::Local(_) => return Err(denied(rule)),
            Peer::Remote(remote) => remote,
        };
        let Some(svid) = &remote.svid else { return Err(denied(rule)) };
        let context = &self.inner.context;
        if rule.allows(authz::ADMIN) && self.inner.admin_ids.contains(&svid.spiffe_id) {
            return Ok(Role::AdminByConfig);
        }
        let by_entry = svid.spiffe_id.is_member_of(&context.trust_domain)
            && rule.allows(authz::ADMIN | authz::DOWNSTREAM);
        if by_entry {
            context.cache.fresh().await?;
            self.must_not_be_stale()?;
            let entries = context.cache.entries_of(&svid.spiffe_id);
            if rule.allows(authz::ADMIN) && entries.iter().any(|entry| entry.admin) {
                return Ok(Role::AdminByEntry);
            }
            if rule.allows(authz::DOWNSTREAM) {
                let found: Vec<_> = entries.into_iter().filter(|entry| entry.downstream).collect();
                if !found.is_empty() {
                    return Ok(Role::Downstream(found));
                }
            }
        }
        if rule.allows(authz::AGENT) && svid.spiffe_id.is_member_of(&context.trust_domain) {
            self.must_not_be_stale()?;
            authorize_agent(context, svid).await.map_err(|refusal| {
                tracing::warn!(
                    agent_id = %svid.spiffe_id, method = rule.method, refusal.log, "Agent refused"
                );
                match refusal.reason {
                    Some(reason) => {
                        signet_api::status::permission_denied(denied_text(rule), reason)
                    }
                    None => Status::new(refusal.code, refusal.log),
                }
            })?;
            return Ok(Role::Agent);
        }
        Err(denied(rule))
    }

    /// A yes from memory holds only as long as the store was seen lately.
    fn must_not_be_stale(&self) -> Result<(), Status> {
        let context = &self.inner.context;
        let staleness = context.cache.staleness();
        if staleness <= context.config.max_store_staleness {
            return Ok(());
        }
        Err(Status::unavailable(format!(
            "the registration store has not answered for {} s",
            staleness.as_secs()
        )))
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate(..)")
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

/// A service behind the gate.
#[derive(Clone, Debug)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Gated<S>
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
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The clone is not polled to readiness; the one that was is used.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let gate = self.gate.clone();
        Box::pin(async move {
            let Some(rule) = authz::rule(request.uri().path()) else {
                // Not served: the router says so.
                return inner.call(request).await;
            };
            let Some(peer) = request.extensions().get::<Peer>().cloned() else {
                return Ok(Status::internal("no peer information available").into_http());
            };
            if rule.allows(authz::LOCAL_ONLY) && matches!(peer, Peer::Remote(_)) {
                return Ok(Status::unimplemented("unknown service").into_http());
            }
            let context = &gate.inner.context;
            let timer = gate.inner.calls.get(rule.method).map(|calls| calls.start(&[]));
            let request_id: Arc<str> = random::uuid_v4().unwrap_or_default().into();
            let role = match gate.role(rule, &peer).await {
                Ok(role) => role,
                Err(status) => {
                    let caller = Caller { peer, role: Role::Anyone, request_id };
                    tracing::info!(
                        method = rule.method,
                        caller_id = caller.spiffe_id().map(tracing::field::display),
                        caller_addr = caller.addr().map(tracing::field::display),
                        code = ?status.code(),
                        error = status.message(),
                        "Failed to authenticate caller"
                    );
                    if context.config.audit_log_enabled {
                        Audit::new(rule.method, caller).finish(status.code(), status.message());
                    }
                    if let Some(timer) = timer {
                        timer.done(signet_daemon::metrics::status_name(status.code().into()));
                    }
                    return Ok(status.into_http());
                }
            };
            let caller = Caller { peer, role, request_id };
            let audit = match context.config.audit_log_enabled {
                true => Audit::new(rule.method, caller.clone()),
                false => Audit::off(),
            };
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(audit.clone());
            let response = inner.call(request).await?;
            Ok(Watched::watch(response, timer, audit))
        })
    }
}

fn denied(rule: &Rule) -> Status {
    Status::new(Code::PermissionDenied, denied_text(rule))
}

fn denied_text(rule: &Rule) -> String {
    format!("authorization denied for method /{}", rule.method)
}

/// `rpc` and the parts of the method's name in snake case, as SPIRE names its call counters.
fn metric_key(method: &str) -> Vec<String> {
    let short = method.strip_prefix("spire.api.server.").unwrap_or(method);
    let mut key = vec!["rpc".to_owned()];
    for part in short.split(['.', '/']) {
        key.push(snake(part));
    }
    key
}

/// `NewX509SVID` → `new_x509_svid`, `MintJWTSVID` → `mint_jwt_svid`.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 8);
    let known = ["AuthorizedEntries", "JWT", "SVID", "X509", "WIT", "CA"];
    let mut rest = name;
    while !rest.is_empty() {
        let word = known.iter().find(|word| rest.starts_with(**word)).map_or_else(
            || {
                let end = rest
                    .char_indices()
                    .skip(1)
                    .find(|(_, c)| c.is_ascii_uppercase())
                    .map_or(rest.len(), |(at, _)| at);
                rest.split_at(end).0
            },
            |word| *word,
        );
        if !out.is_empty() {
            out.push('_');
        }
        match word {
            "AuthorizedEntries" => out.push_str("authorized_entries"),
            _ => out.push_str(&word.to_ascii_lowercase()),
        }
        rest = rest.strip_prefix(word).unwrap_or_default();
    }
    out
}

/// The peer of a connection on the network.
pub(crate) fn remote(addr: std::net::SocketAddr, peer: Option<signet_pki::tls::Peer>) -> Peer {
    let svid = peer.map(|peer| {
        Arc::new(crate::caller::PeerSvid {
            serial_number: peer.leaf.serial().to_string(),
            not_after: peer.leaf.not_after(),
            spiffe_id: peer.id,
        })
    });
    Peer::Remote(RemotePeer { addr, svid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_follow_spire() {
        for (method, key) in [
            (
                "spire.api.server.svid.v1.SVID/BatchNewX509SVID",
                "rpc.svid.v1.svid.batch_new_x509_svid",
            ),
            ("spire.api.server.agent.v1.Agent/AttestAgent", "rpc.agent.v1.agent.attest_agent"),
            (
                "spire.api.server.svid.v1.SVID/NewDownstreamX509CA",
                "rpc.svid.v1.svid.new_downstream_x509_ca",
            ),
            ("grpc.health.v1.Health/Check", "rpc.grpc.health.v1.health.check"),
        ] {
            assert_eq!(metric_key(method).join("."), key);
        }
    }
}
