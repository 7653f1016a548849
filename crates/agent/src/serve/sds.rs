//! Envoy's Secret Discovery Service on the public socket.
//!
//! A proxy opens a stream for each secret, so what a stream costs is what counts: its task reads
//! requests and waits for updates in one place, and what it sends is encoded once for all streams.

mod delta;
mod peers;
mod protocol;
mod secrets;
mod sotw;

use std::{convert::Infallible, sync::Arc};

use http::{Request as HttpRequest, Response};
use signet_api::{
    duplex::{Requests, respond},
    pb::envoy::{config::core::v3::Node, service::discovery::v3::DiscoveryRequest},
};
use signet_base::{CancellationToken, RateLimiter, SharedClock};
use signet_identity::SelectorSet;
use tonic::{Status, body::Body};

use crate::{
    audit::{Audit, Call},
    cache::{Served, Subscription, WorkloadUpdate},
    caller::Caller,
    config::{SdsSettings, WorkloadRateLimits},
    metrics::AgentMetrics,
    workload::CallerAttestor,
};

use delta::Delta;
use peers::PeerGuard;
pub use peers::{PeerStream, Peers, Sent};
use protocol::{Answer, Protocol, Verdict};
pub use secrets::SecretInfo;
use secrets::{Form, Secrets};
use sotw::Sotw;

/// The gRPC service.
pub const SERVICE: &str = "envoy.service.secret.v3.SecretDiscoveryService";
/// What the paths of its methods begin with.
pub const METHODS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";
/// The longest request, bytes: Envoy sends a description of itself, tens of kilobytes long.
pub const MAX_REQUEST: usize = 512 * 1024;

/// The key in the metadata of a node that says whether it wants plain roots.
const DISABLE_VALIDATOR: &str = "disable_spiffe_cert_validation";
/// The longest name of a node that is kept.
const MAX_NODE_ID: usize = 256;

/// The service.
#[derive(Debug)]
pub struct Sds {
    settings: SdsSettings,
    attestor: Arc<CallerAttestor>,
    cache: Served,
    stream_limit: Option<RateLimiter<SelectorSet>>,
    fetch_limit: Option<RateLimiter<SelectorSet>>,
    audit: Audit,
    metrics: AgentMetrics,
    peers: Peers,
    clock: SharedClock,
    stop: CancellationToken,
}

impl Sds {
    /// A service that ends its streams when `stop` is cancelled, and notes them in `peers`.
    pub fn new(
        (settings, rates): (SdsSettings, WorkloadRateLimits),
        attestor: Arc<CallerAttestor>,
        cache: Served,
        (audit, metrics, peers): (Audit, AgentMetrics, Peers),
        clock: SharedClock,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let limit = |rate: u32| (rate > 0).then(|| RateLimiter::new(rate));
        Arc::new(Self {
            settings,
            attestor,
            cache,
            stream_limit: limit(rates.stream_secrets),
            fetch_limit: limit(rates.fetch_secrets),
            audit,
            metrics,
            peers,
            clock,
            stop,
        })
    }

    /// Answers a request to a method of the service.
    pub async fn answer(self: Arc<Self>, request: HttpRequest<Body>) -> Response<Body> {
        let method = request.uri().path().strip_prefix(METHODS).unwrap_or_default().to_owned();
        let (head, body) = request.into_parts();
        let Some(caller) = head.extensions.get::<Caller>() else {
            return Status::internal("the connection has no caller").into_http();
        };
        let call = |method| Call::new(SERVICE, method, caller.clone());
        match method.as_str() {
            Sotw::METHOD => {
                let protocol = Sotw::new(self.settings.unknown_names);
                self.stream(call(Sotw::METHOD), body, protocol).await
            }
            Delta::METHOD => self.stream(call(Delta::METHOD), body, Delta::default()).await,
            "FetchSecrets" => self.fetch(call("FetchSecrets"), body).await,
            _ => Status::unimplemented(format!("unknown method {method} for service {SERVICE}"))
                .into_http(),
        }
    }

    async fn stream<P: Protocol>(
        self: Arc<Self>,
        call: Call,
        body: Body,
        protocol: P,
    ) -> Response<Body> {
        let subscription = self.subscribe(&call, self.stream_limit.as_ref()).await;
        let subscription = match self.audit.outcome(&call, subscription) {
            Ok(subscription) => subscription,
            Err(status) => return status.into_http(),
        };
        let held = self.metrics.sds_streams.hold(&[P::METHOD]);
        let stream = Stream {
            peer: self.peers.open(call.caller.pid(), P::METHOD, self.clock.unix()),
            sds: self,
            call,
            requests: Requests::new(body, MAX_REQUEST),
            subscription,
            update: None,
            form: None,
            protocol,
        };
        let answers = futures_util::stream::unfold(Some((stream, held)), |state| async move {
            let (mut stream, held) = state?;
            match stream.next().await {
                Ok(Some(answer)) => Some((Ok(answer.parts), Some((stream, held)))),
                Ok(None) => None,
                Err(status) => {
                    stream.sds.audit.refused(&stream.call, &status);
                    Some((Err(status), None))
                }
            }
        });
        respond(answers)
    }

    async fn fetch(self: Arc<Self>, call: Call, body: Body) -> Response<Body> {
        let answer = self.audit.outcome(&call, self.fetched(&call, body).await);
        match answer {
            Ok(answer) => respond(futures_util::stream::iter([Ok(answer.parts)])),
            Err(status) => status.into_http(),
        }
    }

    async fn fetched(&self, call: &Call, body: Body) -> Result<Answer, Status> {
        let mut requests = Requests::<DiscoveryRequest>::new(body, MAX_REQUEST);
        let request = requests.next().await?;
        let request = request.ok_or_else(|| Status::internal("missing request message"))?;
        let mut subscription = self.subscribe(call, self.fetch_limit.as_ref()).await?;
        let update = self.next(&mut subscription).await?;
        let form = self.form(request.node.as_ref());
        let secrets = Secrets { update: &update, settings: &self.settings, form };
        let answer = sotw::fetch(&request, &secrets);
        self.look_at(call, &answer.as_ref().err(), &update, &subscription);
        let answer = answer?;
        self.note(call, &answer);
        Ok(answer)
    }

    async fn subscribe(
        &self,
        call: &Call,
        limiter: Option<&RateLimiter<SelectorSet>>,
    ) -> Result<Subscription, Status> {
        let selectors = self.attestor.attest(&call.caller).await?;
        if let Some(limiter) = limiter.filter(|_| !call.caller.is_self()) {
            limiter.try_acquire(&selectors, 1).map_err(|_| {
                self.metrics.rate_limited.inc(&[call.method]);
                self.metrics.refusals.inc(&["rate_limited"]);
                Status::unavailable(format!("rate limit exceeded for {METHODS}{}", call.method))
            })?;
        }
        Ok(self.cache.subscribe(selectors))
    }

    async fn next(&self, subscription: &mut Subscription) -> Result<Arc<WorkloadUpdate>, Status> {
        let stopping = || Status::unavailable("the agent is stopping");
        tokio::select! {
            update = subscription.next() => update.ok_or_else(stopping),
            () = self.stop.cancelled() => Err(stopping()),
        }
    }

    /// In which form a node is given bundles: that of the validator, unless it says, or it is
    /// configured, otherwise, or it is too old to have one.
    fn form(&self, node: Option<&Node>) -> Form {
        let metadata = node.and_then(|node| node.metadata.as_ref());
        let wish = metadata.and_then(|metadata| metadata.fields.get(DISABLE_VALIDATOR));
        let disabled = wish
            .and_then(|value| value.kind.as_ref())
            .and_then(boolean)
            .unwrap_or(self.settings.disable_spiffe_cert_validation);
        let build = node.and_then(|node| node.user_agent_build_version.as_ref());
        let has_validator = build.is_none_or(|build| {
            let version = build.version.unwrap_or_default();
            (version.major_number, version.minor_number) > (1, 17)
        });
        if disabled || !has_validator { Form::Roots } else { Form::Validator }
    }

    /// Remembers a caller that got nothing, so that `explain` can say why.
    fn look_at(
        &self,
        call: &Call,
        refused: &Option<&Status>,
        update: &WorkloadUpdate,
        subscription: &Subscription,
    ) {
        if refused.is_some() && update.matched == 0 {
            let _for_workloads = self.attestor.no_identity(&call.caller, subscription.selectors());
        }
    }

    /// Counts an answer, and says which SVIDs it hands out.
    fn note(&self, call: &Call, answer: &Answer) {
        self.metrics.sds_answers.inc(&[call.method]);
        let bytes = u64::try_from(answer.parts.len()).unwrap_or(u64::MAX);
        self.metrics.sds_bytes.add(&[call.method], bytes);
        tracing::debug!(
            pid = call.caller.pid(),
            method = call.method,
            count = answer.secrets.len(),
            removed = answer.removed.len(),
            "Sending secrets"
        );
        self.audit.issued(call, |issued| {
            for identity in answer.secrets.iter().filter_map(|secret| secret.identity.as_ref()) {
                issued.x509(&identity.entry.id, &identity.svid);
            }
        });
    }
}

/// What Go reads as a boolean, in a value that is one or text.
fn boolean(kind: &prost_types::value::Kind) -> Option<bool> {
    use prost_types::value::Kind;

    match kind {
        Kind::BoolValue(value) => Some(*value),
        Kind::StringValue(text) => match text.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// An open stream.
struct Stream<P: Protocol> {
    sds: Arc<Sds>,
    call: Call,
    requests: Requests<P::Request>,
    subscription: Subscription,
    update: Option<Arc<WorkloadUpdate>>,
    /// None before the peer has said who it is.
    form: Option<Form>,
    protocol: P,
    peer: PeerGuard,
}

impl<P: Protocol> Stream<P> {
    /// The next answer; none when the peer has ended the stream.
    async fn next(&mut self) -> Result<Option<Answer>, Status> {
        loop {
            tokio::select! {
                request = self.requests.next() => match request {
                    Ok(Some(request)) => self.asked(request)?,
                    Ok(None) => return Ok(None),
                    Err(status) => {
                        tracing::debug!(pid = self.call.caller.pid(), %status, "Stream failed");
                        return Err(status);
                    }
                },
                update = self.sds.next(&mut self.subscription) => {
                    self.update = Some(update?);
                    self.protocol.updated();
                }
            }
            if let Some(answer) = self.answer()? {
                self.sds.note(&self.call, &answer);
                return Ok(Some(answer));
            }
        }
    }

    fn asked(&mut self, request: P::Request) -> Result<(), Status> {
        let asked = self.protocol.asked(request)?;
        if self.form.is_none() || asked.node.is_some() {
            // Envoy may say who it is in the first request only.
            self.form = Some(self.sds.form(asked.node.as_ref()));
        }
        if let Some(node) = &asked.node {
            let end = node.id.floor_char_boundary(MAX_NODE_ID);
            self.peer.is_node(node.id.get(..end).unwrap_or_default());
        }
        if let Some(names) = asked.names {
            self.peer.subscribes(names);
        }
        match asked.verdict {
            Verdict::None => {}
            Verdict::Accepted(nonce) => self.peer.accepted(nonce, self.sds.clock.unix()),
            Verdict::Rejected(nonce, error) => {
                let names = self.peer.rejected(nonce.unwrap_or(0), &error);
                self.sds.metrics.sds_rejected.inc(&[self.call.method]);
                tracing::error!(
                    pid = self.call.caller.pid(),
                    resource_names = ?names,
                    error,
                    "Envoy reported errors applying secrets"
                );
            }
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<Option<Answer>, Status> {
        let (Some(update), Some(form)) = (&self.update, self.form) else { return Ok(None) };
        let secrets = Secrets { update, settings: &self.sds.settings, form };
        let answer = self.protocol.answer(&secrets);
        self.sds.look_at(&self.call, &answer.as_ref().err(), update, &self.subscription);
        let now = self.sds.clock.unix();
        for secret in self.protocol.known(&secrets) {
            self.peer.has(Arc::clone(&secret.info), now);
        }
        let Some(answer) = answer? else { return Ok(None) };
        let info = answer.secrets.iter().map(|secret| Arc::clone(&secret.info)).collect();
        self.peer.sent(answer.nonce, info, &answer.removed);
        Ok(Some(answer))
    }
}

/// Serves `sds`, where there is one.
///
/// # Errors
/// Never.
pub async fn serve(
    sds: Option<&Arc<Sds>>,
    request: HttpRequest<Body>,
) -> Result<Response<Body>, Infallible> {
    Ok(match sds {
        // As large as all protocols together; few callers are proxies.
        Some(sds) => Box::pin(Arc::clone(sds).answer(request)).await,
        None => Status::unimplemented(format!("unknown service {SERVICE}")).into_http(),
    })
}

#[cfg(test)]
mod tests {
    use prost_types::value::Kind;

    use super::*;

    #[test]
    fn booleans_are_those_of_go() {
        assert_eq!(boolean(&Kind::BoolValue(true)), Some(true));
        assert_eq!(boolean(&Kind::StringValue("T".into())), Some(true));
        assert_eq!(boolean(&Kind::StringValue("False".into())), Some(false));
        assert_eq!(boolean(&Kind::StringValue("yes".into())), None);
        assert_eq!(boolean(&Kind::NumberValue(1.0)), None);
    }
}
