//! The SPIFFE Workload API on the public socket.

use std::{collections::HashSet, pin::Pin, sync::Arc, time::Duration};

use http::Request as HttpRequest;
use signet_api::{
    encoded::Framed,
    intake::Messages,
    pb::workload as pb,
    workload::{SECURITY_HEADER, WorkloadApi, WorkloadApiServer},
};
use signet_base::{CancellationToken, RateLimiter, SharedClock};
use signet_identity::{SelectorSet, SpiffeId, TrustDomain};
use signet_pki::jwt::{self, AudienceError};
use tokio_stream::Stream;
use tonic::{Request, Status, body::Body, service::Routes};
use tower::Service as _;

use super::{
    endpoint::Answer,
    sds::{self, Sds},
};
use crate::{
    audit::{Audit, Call},
    cache::{Identity, Served, Subscription, WorkloadUpdate},
    config::WorkloadRateLimits,
    entry::{AgentEntry, without_duplicate_hints},
    jwt::JwtService,
    metrics::AgentMetrics,
    server_sets::Issuers,
    trace,
    wit::WitService,
    workload::CallerAttestor,
};

mod encode;
mod validate;
mod wit;

pub use encode::{jwt_bundles, x509_bundle};
use validate::Validator;

const METHODS: &str = "/SpiffeWorkloadAPI/";
/// The longest request, bytes: a token to validate and little else.
const MAX_REQUEST: usize = 256 * 1024;
/// The longest request for health or reflection, bytes: a name.
const MAX_OTHER_REQUEST: usize = 16 * 1024;

/// What the Workload API was told.
#[derive(Clone, Debug)]
pub struct WorkloadApiSettings {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Whether bundles are given to those without an identity.
    pub allow_unauthenticated_verifiers: bool,
    /// Claims of foreign tokens that are passed on besides `sub`, `exp` and `aud`.
    pub allowed_foreign_jwt_claims: Vec<String>,
    /// Limits by selector set.
    pub rate_limits: WorkloadRateLimits,
    /// Writes audit records.
    pub audit: Audit,
}

/// The Workload API.
#[derive(Debug)]
pub struct Handler {
    attestor: Arc<CallerAttestor>,
    cache: Served,
    jwt: Arc<Issuers<JwtService>>,
    /// Absent unless WIT-SVIDs are switched on.
    wit: Option<Arc<Issuers<WitService>>>,
    metrics: AgentMetrics,
    validator: Validator,
    allow_unauthenticated: bool,
    limits: Limits,
    audit: Audit,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Limits {
    x509_svid: Option<RateLimiter<SelectorSet>>,
    jwt_svid: Option<RateLimiter<SelectorSet>>,
    x509_bundles: Option<RateLimiter<SelectorSet>>,
    jwt_bundles: Option<RateLimiter<SelectorSet>>,
}

type Frames = Pin<Box<dyn Stream<Item = Result<Framed, Status>> + Send>>;
type Encode = fn(&WorkloadUpdate) -> Result<Framed, Status>;
type Same = fn(&WorkloadUpdate, &WorkloadUpdate) -> bool;

impl Handler {
    /// A handler that ends its streams when `stop` is cancelled.
    pub fn new(
        settings: WorkloadApiSettings,
        attestor: Arc<CallerAttestor>,
        cache: Served,
        (jwt, wit): (Arc<Issuers<JwtService>>, Option<Arc<Issuers<WitService>>>),
        (metrics, clock): (AgentMetrics, SharedClock),
        stop: CancellationToken,
    ) -> Arc<Self> {
        let limit = |rate: u32| (rate > 0).then(|| RateLimiter::new(rate));
        let rates = settings.rate_limits;
        let allowed: HashSet<String> = settings.allowed_foreign_jwt_claims.into_iter().collect();
        Arc::new(Self {
            attestor,
            cache,
            jwt,
            wit,
            metrics,
            validator: Validator::new(settings.trust_domain, allowed, clock),
            allow_unauthenticated: settings.allow_unauthenticated_verifiers,
            limits: Limits {
                x509_svid: limit(rates.fetch_x509_svid),
                jwt_svid: limit(rates.fetch_jwt_svid),
                x509_bundles: limit(rates.fetch_x509_bundles),
                jwt_bundles: limit(rates.fetch_jwt_bundles),
            },
            audit: settings.audit,
            stop,
        })
    }

    fn limit(
        &self,
        limiter: Option<&RateLimiter<SelectorSet>>,
        call: &Call,
        selectors: &SelectorSet,
    ) -> Result<(), Status> {
        let Some(limiter) = limiter.filter(|_| !call.caller.is_self()) else { return Ok(()) };
        let method = call.method;
        limiter.try_acquire(selectors, 1).map_err(|_| {
            self.metrics.rate_limited.inc(&[method]);
            self.metrics.refusals.inc(&["rate_limited"]);
            Status::unavailable(format!("rate limit exceeded for {METHODS}{method}"))
        })
    }

    /// Whether the update is for nobody, as far as this stream is concerned.
    fn refusal(
        &self,
        stream: &StreamOf,
        update: &WorkloadUpdate,
        selectors: &SelectorSet,
    ) -> Option<Status> {
        let nobody = || Some(self.attestor.no_identity(&stream.call.caller, selectors));
        match stream.kind {
            Kind::Svids if update.matched == 0 => nobody(),
            Kind::Svids if update.identities.is_empty() => {
                Some(self.attestor.no_valid_svid(update.matched))
            }
            Kind::Bundles if update.matched == 0 && !self.allow_unauthenticated => nobody(),
            _ => None,
        }
    }

    /// Subscribes with what the caller is, and answers each update that says something new.
    async fn stream(
        self: Arc<Self>,
        stream: StreamOf,
        limiter: Option<&RateLimiter<SelectorSet>>,
    ) -> Result<Frames, Status> {
        let (audit, call) = (self.audit.clone(), stream.call.clone());
        audit.outcome(&call, self.open(stream, limiter).await)
    }

    async fn open(
        self: Arc<Self>,
        stream: StreamOf,
        limiter: Option<&RateLimiter<SelectorSet>>,
    ) -> Result<Frames, Status> {
        let selectors = self.attestor.attest(&stream.call.caller).await?;
        self.limit(limiter, &stream.call, &selectors)?;
        let mut subscription = self.cache.subscribe(selectors);
        let first = match subscription.ready() {
            Some(update) => update,
            None => {
                let next = self.next(&mut subscription);
                trace::timed("wait_for_svids", next, |_| String::new()).await?
            }
        };
        trace::step("match_entries", Duration::ZERO, || {
            format!("{} entries match, {} SVIDs", first.matched, first.identities.len())
        });
        if let Some(refusal) = self.refusal(&stream, &first, subscription.selectors()) {
            return Err(refusal);
        }
        let frame = (stream.encode)(&first)?;
        self.log(&stream, &first);
        let state = Some((self, stream, subscription, first));
        let rest = futures_util::stream::unfold(state, |state| async move {
            let (handler, stream, mut subscription, last) = state?;
            loop {
                let update = match handler.next(&mut subscription).await {
                    Ok(update) => update,
                    Err(status) => return Some((Err(status), None)),
                };
                if let Some(refusal) = handler.refusal(&stream, &update, subscription.selectors()) {
                    handler.audit.refused(&stream.call, &refusal);
                    return Some((Err(refusal), None));
                }
                if (stream.same)(&last, &update) {
                    continue;
                }
                let frame = (stream.encode)(&update);
                handler.log(&stream, &update);
                return Some((frame, Some((handler, stream, subscription, update))));
            }
        });
        let once = futures_util::stream::once(std::future::ready(Ok(frame)));
        Ok(Box::pin(futures_util::StreamExt::chain(once, rest)))
    }

    /// Says which SVIDs an update hands out.
    fn log(&self, stream: &StreamOf, update: &WorkloadUpdate) {
        if stream.kind != Kind::Svids || stream.call.caller.is_self() {
            return;
        }
        self.metrics.issued.add(&["x509"], update.identities.len() as u64);
        for identity in &update.identities {
            tracing::debug!(
                pid = stream.call.caller.pid(),
                spiffe_id = %identity.entry.spiffe_id,
                expires_at = identity.svid.not_after.seconds(),
                "Fetched X.509 SVID"
            );
        }
        self.audit.issued(&stream.call, |issued| {
            for Identity { entry, svid } in &update.identities {
                issued.x509(&entry.id, svid);
            }
        });
    }

    /// The entries that a caller may have tokens of: those of the SPIFFE ID `wanted`, or all.
    fn entries(&self, selectors: &SelectorSet, wanted: Option<&SpiffeId>) -> Vec<Arc<AgentEntry>> {
        let mut entries = without_duplicate_hints(self.cache.matching(selectors), |entry| entry);
        entries.retain(|entry| wanted.is_none_or(|id| *id == entry.spiffe_id));
        entries
    }

    /// The JWT-SVIDs of a caller.
    async fn jwt_svids(
        &self,
        call: &Call,
        request: pb::JwtsvidRequest,
    ) -> Result<pb::JwtsvidResponse, Status> {
        check_audience(&request.audience)?;
        let wanted = wanted_id(&request.spiffe_id)?;
        let caller = &call.caller;
        let selectors = self.attestor.attest(caller).await?;
        self.limit(self.limits.jwt_svid.as_ref(), call, &selectors)?;
        let entries = self.entries(&selectors, wanted.as_ref());
        let fetching = call.in_its_name(self.jwt.fetch_all(entries, &request.audience));
        let found = trace::timed("jwt_svids", fetching, |found| match found {
            Ok(found) => format!("{} JWT-SVIDs", found.len()),
            Err(error) => error.message().to_owned(),
        });
        let found = found.await?;
        self.metrics.issued.add(&["jwt"], found.len() as u64);
        for (entry, _) in &found {
            tracing::debug!(spiffe_id = %entry.spiffe_id, pid = caller.pid(), "Fetched JWT SVID");
        }
        if found.is_empty() {
            return Err(self.attestor.no_identity(caller, &selectors));
        }
        self.audit.issued(call, |issued| {
            for (entry, svid) in &found {
                issued.jwt(&entry.id, svid, &request.audience);
            }
        });
        let svids = found.into_iter().map(|(entry, svid)| pb::Jwtsvid {
            spiffe_id: entry.spiffe_id.to_string(),
            svid: svid.token.to_string(),
            hint: entry.hint.to_string(),
        });
        Ok(pb::JwtsvidResponse { svids: svids.collect() })
    }

    async fn next(&self, subscription: &mut Subscription) -> Result<Arc<WorkloadUpdate>, Status> {
        let stopping = || Status::unavailable("the agent is stopping");
        tokio::select! {
            update = subscription.next() => update.ok_or_else(stopping),
            () = self.stop.cancelled() => Err(stopping()),
        }
    }
}

/// One open stream.
struct StreamOf {
    call: Call,
    kind: Kind,
    encode: Encode,
    same: Same,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Svids,
    Bundles,
}

/// The API as tonic serves it: a handle on the shared [`Handler`].
#[derive(Clone, Debug)]
pub struct Api(pub Arc<Handler>);

#[tonic::async_trait]
impl WorkloadApi for Api {
    type Frames = Frames;

    async fn fetch_x509_svid(
        &self,
        request: Request<pb::X509svidRequest>,
    ) -> Result<Frames, Status> {
        let stream = StreamOf {
            call: Call::workload("FetchX509SVID", &CallerAttestor::caller(&request)?),
            kind: Kind::Svids,
            encode: encode::x509_svids,
            same: |_, _| false,
        };
        Arc::clone(&self.0).stream(stream, self.0.limits.x509_svid.as_ref()).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<pb::X509BundlesRequest>,
    ) -> Result<Frames, Status> {
        let stream = StreamOf {
            call: Call::workload("FetchX509Bundles", &CallerAttestor::caller(&request)?),
            kind: Kind::Bundles,
            encode: encode::x509_bundles,
            same: encode::same_x509_bundles,
        };
        Arc::clone(&self.0).stream(stream, self.0.limits.x509_bundles.as_ref()).await
    }

    async fn fetch_jwt_svid(
        &self,
        request: Request<pb::JwtsvidRequest>,
    ) -> Result<pb::JwtsvidResponse, Status> {
        let call = Call::workload("FetchJWTSVID", &CallerAttestor::caller(&request)?);
        let result = self.0.jwt_svids(&call, request.into_inner()).await;
        self.0.audit.outcome(&call, result)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<pb::JwtBundlesRequest>,
    ) -> Result<Frames, Status> {
        let stream = StreamOf {
            call: Call::workload("FetchJWTBundles", &CallerAttestor::caller(&request)?),
            kind: Kind::Bundles,
            encode: encode::jwt_bundles_of,
            same: encode::same_jwt_bundles,
        };
        Arc::clone(&self.0).stream(stream, self.0.limits.jwt_bundles.as_ref()).await
    }

    async fn validate_jwt_svid(
        &self,
        request: Request<pb::ValidateJwtsvidRequest>,
    ) -> Result<pb::ValidateJwtsvidResponse, Status> {
        let caller = CallerAttestor::caller(&request)?;
        let request = request.into_inner();
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if request.svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let selectors = self.0.attestor.attest(&caller).await?;
        let bundles = self.0.cache.bundles_for(&selectors);
        if let Some(trust_domain) = self.0.validator.unknown_key(&request.svid, &bundles) {
            self.0.jwt.unknown_key(&trust_domain).await;
        }
        self.0.validator.validate(&request.svid, &request.audience, &bundles)
    }

    async fn fetch_wit_svid(&self, request: Request<pb::WitsvidRequest>) -> Result<Frames, Status> {
        let Some(wit) = &self.0.wit else {
            return Err(Status::unimplemented("fetching WIT-SVIDs is not implemented"));
        };
        let call = Call::workload("FetchWITSVID", &CallerAttestor::caller(&request)?);
        let stream =
            Arc::clone(&self.0).wit_svids(Arc::clone(wit), call.clone(), request.into_inner());
        self.0.audit.outcome(&call, stream.await)
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<pb::WitBundlesRequest>,
    ) -> Result<Frames, Status> {
        if self.0.wit.is_none() {
            return Err(Status::unimplemented("fetching WIT bundles is not implemented"));
        }
        let stream = StreamOf {
            call: Call::workload("FetchWITBundles", &CallerAttestor::caller(&request)?),
            kind: Kind::Bundles,
            encode: encode::wit_bundles_of,
            same: encode::same_wit_bundles,
        };
        Arc::clone(&self.0).stream(stream, None).await
    }
}

/// The SPIFFE ID that was asked for; empty for any.
fn wanted_id(text: &str) -> Result<Option<SpiffeId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map(Some);
    parsed
        .map_err(|error| Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}")))
}

/// Audiences are needed, and few and short enough to be kept in a cache.
pub(crate) fn check_audience(audience: &[String]) -> Result<(), Status> {
    jwt::check_audience(audience).map_err(|error| match error {
        AudienceError::None => Status::invalid_argument("audience must be specified"),
        other => Status::invalid_argument(other.to_string()),
    })
}

/// The public socket: the Workload API, which demands its header, SDS, and whatever else is routed.
#[derive(Clone)]
pub struct PublicApi {
    workload: Option<WorkloadApiServer<Api>>,
    sds: Option<Arc<Sds>>,
    others: Routes,
}

impl PublicApi {
    /// Serves `workload` and `sds` (unless disabled) and `others`.
    pub fn new(workload: Option<Arc<Handler>>, sds: Option<Arc<Sds>>, others: Routes) -> Self {
        let server =
            |handler| WorkloadApiServer::new(Arc::new(Api(handler))).max_request_size(MAX_REQUEST);
        Self { workload: workload.map(server), sds, others }
    }
}

impl Answer for PublicApi {
    async fn answer(&self, request: HttpRequest<Body>) -> http::Response<Body> {
        let answer = if request.uri().path().starts_with(METHODS) {
            if !has_security_header(&request, SECURITY_HEADER) {
                return Status::invalid_argument("security header missing from request")
                    .into_http();
            }
            match &self.workload {
                Some(server) => server.clone().call(request).await,
                None => {
                    return Status::unimplemented("unknown service SpiffeWorkloadAPI").into_http();
                }
            }
        } else if request.uri().path().starts_with(sds::METHODS) {
            sds::serve(self.sds.as_ref(), request).await
        } else {
            self.others.clone().call(request).await
        };
        match answer {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    fn max_message(&self, path: &str) -> usize {
        match path {
            path if path.starts_with(METHODS) => MAX_REQUEST,
            path if path.starts_with(sds::METHODS) => sds::MAX_REQUEST,
            _ => MAX_OTHER_REQUEST,
        }
    }

    fn messages(&self, path: &str) -> Messages {
        if path.starts_with(sds::METHODS) { Messages::Stream } else { Messages::Few }
    }
}

/// Exactly one header `name: true`.
pub(super) fn has_security_header<B>(request: &HttpRequest<B>, name: &str) -> bool {
    let mut values = request.headers().get_all(name).iter();
    values.next().is_some_and(|value| value == "true") && values.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_security_header_is_exactly_one_true() {
        let request = |values: &[&str]| {
            let mut request = HttpRequest::builder();
            for value in values {
                request = request.header(SECURITY_HEADER, *value);
            }
            request.body(()).unwrap()
        };
        assert!(has_security_header(&request(&["true"]), SECURITY_HEADER));
        for bad in [&[][..], &["false"], &["True"], &["true", "true"], &["true,true"]] {
            assert!(!has_security_header(&request(bad), SECURITY_HEADER), "{bad:?}");
        }
    }

    #[test]
    fn audiences_are_needed_and_bounded() {
        assert!(check_audience(&["a".into()]).is_ok());
        assert!(check_audience(&[]).is_err());
        assert!(check_audience(&[String::new()]).is_err());
        assert!(check_audience(&vec!["a".into(); jwt::MAX_AUDIENCES + 1]).is_err());
        assert!(check_audience(&["a".repeat(jwt::MAX_AUDIENCE_LEN + 1)]).is_err());
    }
}
