//! `/v1`: what can be asked.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
    request::Parts,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming as Body;
use serde_json::{Map, Value, json};
use signet_audit::{AuditEvent, Caller as AuditCaller, Field, Outcome, Sink};
use signet_config::parse_duration;
use signet_daemon::spans;
use signet_pki::{key_manager::is_uuid, random};
use signet_time::UnixTime;
use tracing::Instrument as _;

use super::{Attested, Origin};
use crate::{
    caller::{Caller, Proofs, Proven, Replays, TokenRules},
    identity::Identity,
    issue::{Ask, Issuer},
    reason::{Denial, Reason},
    revoke::Revoker,
};

/// The largest body of a request, bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long a request may take in all.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long one who asks too often waits to be told.
const FLOOD_PAUSE: Duration = Duration::from_millis(100);
/// The headers that name a request, the first that is there counts.
const CORRELATION: &[&str] = &["x-correlation-id", "x-request-id"];
/// By which one of several identities is chosen, on the Unix socket.
const IDENTITY: &str = "x-spiffe-id";
/// The headers of a WIT-SVID, of its proof (draft-ietf-wimse-wpt), and of a transaction token.
const WIT: &str = "workload-identity-token";
const PROOF: &str = "workload-proof-token";
const TRANSACTION: &str = "txn-token";

/// Answers requests.
pub struct Api {
    /// Hands out.
    pub issuer: Issuer,
    /// Takes back.
    pub revoker: Revoker,
    /// The bundles to check tokens by.
    pub identity: Arc<Identity>,
    /// What is asked of tokens.
    pub tokens: TokenRules,
    /// Whether tokens must have a `jti`.
    pub require_jti: bool,
    /// Tokens that were used.
    pub replays: Replays,
    /// Checks WIT-SVIDs.
    pub proofs: Proofs,
    /// Who a process of this node is; `None` when the agent is not asked.
    pub attested: Option<Attested>,
    /// Where decisions are recorded.
    pub audit: Arc<dyn Sink>,
}

/// What a method and path ask for.
enum Route<'a> {
    Draw(&'a str),
    Read(&'a str),
    Granted,
    Leases,
    Renew(&'a str),
    GiveBack(&'a str),
}

impl Route<'_> {
    fn method(&self) -> &'static str {
        match self {
            Self::Draw(_) | Self::Read(_) => "IssueCredential",
            Self::Granted => "ListCredentials",
            Self::Leases => "ListLeases",
            Self::Renew(_) => "RenewLease",
            Self::GiveBack(_) => "RevokeLease",
        }
    }
}

/// What an answer is made of.
struct Done {
    body: Value,
    fields: Vec<Field>,
    tenant: Option<String>,
}

impl Api {
    /// Answers one request. Nothing of it or of the answer is logged but names.
    pub async fn answer(
        &self,
        origin: &Origin,
        request: hyper::Request<Body>,
    ) -> Response<Full<Bytes>> {
        let correlation = correlation(request.headers());
        let span = tracing::info_span!(
            target: spans::TARGET, "request",
            otel.name = format!("{} {}", request.method(), request.uri().path()),
            otel.kind = "server", signet.request_id = correlation
        );
        let traceparent = request.headers().get(spans::TRACEPARENT);
        spans::adopt(&span, traceparent.and_then(|value| value.to_str().ok()));
        let work = self.handle(origin, request, &correlation).instrument(span);
        let answer = tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| {
            let text = format!("no answer within {} s", DEADLINE.as_secs());
            Err(Denial::new(Reason::OpenBaoUnavailable, text))
        });
        let (status, body) = match answer {
            Ok(body) => (StatusCode::OK, body),
            Err(denial) => {
                if denial.reason.status() == 429 {
                    // Who asks again at once makes no work but on as many connections as it has.
                    tokio::time::sleep(FLOOD_PAUSE).await;
                }
                let body = json!({
                    "error": { "code": denial.reason.code(), "message": denial.text },
                    "correlation_id": correlation,
                });
                (StatusCode::from_u16(denial.reason.status()).unwrap_or_default(), body)
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(value) = HeaderValue::from_str(&correlation) {
            headers.insert("x-correlation-id", value);
        }
        if matches!(status.as_u16(), 429 | 503) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    async fn handle(
        &self,
        origin: &Origin,
        request: hyper::Request<Body>,
        correlation: &str,
    ) -> Result<Value, Denial> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let Some(ask) = asked(&head.method, &path) else {
            return Err(Denial::new(Reason::NotFound, "there is no such place or method"));
        };
        let method = ask.method();
        let mut known = None;
        let result = self.decide(origin, &head, body, ask, correlation, &mut known).await;
        let reason = result.as_ref().err().map_or("ok", |denial| denial.reason.code());
        self.issuer.metrics().requests.inc(&[method, reason]);
        self.record(origin, method, known.as_ref(), &result, correlation);
        result.map(|done| done.body)
    }

    async fn decide(
        &self,
        origin: &Origin,
        head: &Parts,
        body: Body,
        ask: Route<'_>,
        correlation: &str,
        known: &mut Option<Caller>,
    ) -> Result<Done, Denial> {
        let name = match ask {
            Route::Draw(name) | Route::Read(name) => Some(name),
            _ => None,
        };
        let caller = self.caller(origin, head, name, correlation).await?;
        let caller = &*known.insert(caller);
        let done = |body: Value| Done { body, fields: Vec::new(), tenant: None };
        match ask {
            Route::Draw(name) | Route::Read(name) => {
                let ask_body = if matches!(ask, Route::Read(_)) {
                    let policy = self.issuer.policy();
                    let grant = policy.decide(&caller.subject(), name)?;
                    if grant.credential.tier() == 1 {
                        let text = "each request makes a new credential: use POST";
                        return Err(Denial::new(Reason::Get, text));
                    }
                    Ask::default()
                } else {
                    read(body).await?
                };
                let issued = self.issuer.issue(caller, name, &ask_body, correlation).await?;
                let lease = &issued.lease;
                let fields = vec![
                    Field::Credential(lease.credential.clone()),
                    Field::LeaseId(lease.lease_id.clone()),
                    Field::Rule(issued.rule.clone()),
                    Field::ExpiresAt(lease.expires_at),
                ];
                let body = json!({
                    "credential": lease.credential,
                    "lease_id": lease.lease_id,
                    "issued_at": lease.issued_at,
                    "expires_at": lease.expires_at,
                    "ttl": lease.expires_at - lease.issued_at,
                    "renewable": issued.renewable,
                    "tenant": issued.tenant,
                    "data": issued.data,
                    "correlation_id": correlation,
                });
                Ok(Done { body, fields, tenant: Some(issued.tenant) })
            }
            Route::Granted => {
                self.issuer.admit(caller)?;
                let policy = self.issuer.policy();
                let granted: Vec<Value> = policy
                    .granted(&caller.subject())
                    .into_iter()
                    .map(|credential| {
                        json!({
                            "name": credential.name,
                            "tier": credential.tier(),
                            "ttl": credential.ttl.as_secs(),
                        })
                    })
                    .collect();
                Ok(done(json!({ "credentials": granted })))
            }
            Route::Leases => Ok(done(json!({ "leases": self.issuer.leases(caller)? }))),
            Route::Renew(lease) => {
                let lease = self.issuer.renew(caller, lease, correlation).await?;
                let fields = vec![
                    Field::Credential(lease.credential.clone()),
                    Field::LeaseId(lease.lease_id.clone()),
                    Field::ExpiresAt(lease.expires_at),
                ];
                Ok(Done { body: json!(lease), fields, tenant: None })
            }
            Route::GiveBack(lease) => {
                let (lease, holder) = self.issuer.give_back(caller, lease)?;
                self.revoker.take_back(Vec::new(), vec![(lease.clone(), holder)]);
                let fields = vec![
                    Field::Credential(lease.credential.clone()),
                    Field::LeaseId(lease.lease_id.clone()),
                ];
                Ok(Done { body: json!({ "lease_id": lease.lease_id }), fields, tenant: None })
            }
        }
    }

    /// Who asks. `credential` tells which of several identities is meant, if it is one.
    async fn caller(
        &self,
        origin: &Origin,
        head: &Parts,
        credential: Option<&str>,
        correlation: &str,
    ) -> Result<Caller, Denial> {
        let headers = &head.headers;
        let now = self.issuer.clock().unix();
        let token = bearer(headers)?;
        let proven = proven(headers, head.uri.path())?;
        let certificate = match origin {
            Origin::Remote { peer: Some(peer), .. } => Some(Caller::from_certificate(
                &self.tokens.trust_domain,
                &peer.id,
                &peer.leaf,
                now,
            )?),
            Origin::Remote { peer: None, .. } => None,
            Origin::Local(_) => None,
        };
        if let Some(proven) = proven {
            if token.is_some() {
                let text = "either a WIT-SVID or a JWT-SVID, not both";
                return Err(Denial::new(Reason::TokenMalformed, text));
            }
            let bundles = self.identity.wit_bundles();
            let caller = self.proofs.caller(&self.tokens.trust_domain, proven, &bundles, now)?;
            return match certificate {
                Some(certificate) => Caller::both(&certificate, caller),
                None => Ok(caller),
            };
        }
        match (certificate, token, origin) {
            (certificate, Some(token), _) => {
                let caller = self.token(token, now)?;
                let (id, expires) = caller.token_id(token, self.require_jti)?;
                self.replays.take(id, expires, now, self.tokens.max_uses)?;
                match certificate {
                    Some(certificate) => Caller::both(&certificate, caller),
                    None => Ok(caller),
                }
            }
            (Some(certificate), None, _) => Ok(certificate),
            (None, None, Origin::Local(peer)) => {
                let Some(attested) = &self.attested else {
                    let text = "the agent of this node is not asked (agent_admin_socket_path)";
                    return Err(Denial::new(Reason::NoEvidence, text));
                };
                let tokens = attested.tokens(peer, correlation).await?;
                self.of_several(&tokens, headers, credential, now)
            }
            (None, None, Origin::Remote { .. }) => Err(Denial::new(
                Reason::NoEvidence,
                "an X.509-SVID, a JWT-SVID (Authorization: Bearer) or a WIT-SVID with a proof is \
                 needed",
            )),
        }
    }

    fn token(&self, token: &str, now: UnixTime) -> Result<Caller, Denial> {
        let bundles = self.identity.jwt_bundles();
        Caller::from_token(&self.tokens, token, now, |trust_domain| bundles.get(trust_domain))
    }

    /// Of several identities of one process, the one that is named, or the only one that gets what
    /// is asked for.
    fn of_several(
        &self,
        tokens: &[String],
        headers: &HeaderMap,
        credential: Option<&str>,
        now: UnixTime,
    ) -> Result<Caller, Denial> {
        let mut callers = Vec::new();
        let mut refused = None;
        for token in tokens {
            match self.token(token, now) {
                Ok(caller) => callers.push(Caller { via: "socket", ..caller }),
                Err(denial) => refused = Some(denial),
            }
        }
        if let Some(wanted) = headers.get(IDENTITY) {
            let wanted = wanted.to_str().unwrap_or_default();
            callers.retain(|caller| caller.id.to_string() == wanted);
            return callers.pop().ok_or_else(|| {
                Denial::new(Reason::Unattested, "the process does not have that identity")
            });
        }
        if callers.len() > 1
            && let Some(name) = credential
        {
            let policy = self.issuer.policy();
            let gets: Vec<_> = callers
                .iter()
                .filter(|caller| policy.decide(&caller.subject(), name).is_ok())
                .cloned()
                .collect();
            if !gets.is_empty() {
                callers = gets;
            }
        }
        match (callers.len(), callers.pop()) {
            (1, Some(caller)) => Ok(caller),
            (_, Some(_)) => Err(Denial::new(
                Reason::IdentityAmbiguous,
                format!("the process has several identities: name one in {IDENTITY}"),
            )),
            (_, None) => Err(refused
                .unwrap_or_else(|| Denial::new(Reason::Unattested, "the process has no identity"))),
        }
    }

    fn record(
        &self,
        origin: &Origin,
        method: &'static str,
        caller: Option<&Caller>,
        result: &Result<Done, Denial>,
        correlation: &str,
    ) {
        let mut who = AuditCaller {
            id: caller.map(|caller| caller.id.clone()),
            authorized_via: caller.map(|caller| caller.via),
            ..AuditCaller::default()
        };
        match origin {
            Origin::Local(peer) => {
                who.pid = Some(peer.pid());
                who.uid = Some(peer.uid());
                who.gid = Some(peer.gid());
            }
            Origin::Remote { addr, .. } => who.addr = Some(*addr),
        }
        let mut event = AuditEvent::new(who, "broker", method);
        event.message = "Credential decision";
        event.request_id = correlation.into();
        let tenant = result.as_ref().ok().and_then(|done| done.tenant.clone()).or_else(|| {
            let policy = self.issuer.policy();
            let tenant = caller.and_then(|caller| policy.tenant_of(&caller.subject()).ok());
            tenant.map(|tenant| tenant.name.clone())
        });
        event.tenant = tenant.map(Into::into);
        match result {
            Ok(done) => event.fields.clone_from(&done.fields),
            Err(denial) => {
                let code = match denial.reason.status() {
                    401 => "Unauthenticated",
                    429 => "ResourceExhausted",
                    400 | 405 => "InvalidArgument",
                    404 => "NotFound",
                    500.. => "Unavailable",
                    _ => "PermissionDenied",
                };
                event.outcome = Outcome::Failure { code, reason: denial.to_string() };
            }
        }
        self.audit.record(&event);
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

fn asked<'a>(method: &Method, path: &'a str) -> Option<Route<'a>> {
    let parts: Vec<&str> = path.strip_prefix("/v1/")?.split('/').collect();
    let ask = match (method.as_str(), parts.as_slice()) {
        ("POST", ["credentials", name]) => Route::Draw(name),
        ("GET", ["credentials", name]) => Route::Read(name),
        ("GET", ["credentials"]) => Route::Granted,
        ("GET", ["leases"]) => Route::Leases,
        ("POST", ["leases", lease, "renew"]) => Route::Renew(lease),
        ("POST", ["leases", lease, "revoke"]) | ("DELETE", ["leases", lease]) => {
            Route::GiveBack(lease)
        }
        _ => return None,
    };
    Some(ask)
}

/// The token of `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denial> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let malformed =
        || Denial::new(Reason::TokenMalformed, "expected one Authorization: Bearer header");
    if values.next().is_some() {
        return Err(malformed());
    }
    let text = value.to_str().map_err(|_| malformed())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(malformed());
    }
    Ok(Some(token.trim()))
}

/// The WIT-SVID and its proof: exactly one of each, or neither.
fn proven<'a>(headers: &'a HeaderMap, path: &'a str) -> Result<Option<Proven<'a>>, Denial> {
    let one = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let value = values.next().map(HeaderValue::to_str).transpose().ok();
        value.filter(|_| values.next().is_none()).ok_or_else(|| {
            Denial::new(Reason::TokenMalformed, format!("expected one {name} header"))
        })
    };
    let transaction_token = one(TRANSACTION)?;
    match (one(WIT)?, one(PROOF)?) {
        (None, None) => Ok(None),
        (Some(token), Some(proof)) => Ok(Some(Proven { token, proof, transaction_token, path })),
        _ => {
            let text = format!("{WIT} and {PROOF} go together");
            Err(Denial::new(Reason::TokenMalformed, text))
        }
    }
}

/// The body of a POST: `{"ttl": "5m", "parameters": {…}}`, both optional.
async fn read(body: Body) -> Result<Ask, Denial> {
    let refused = |text: String| Denial::new(Reason::Parameter, text);
    let body = Limited::new(body, MAX_BODY)
        .collect()
        .await
        .map_err(|_| refused(format!("expected a body of at most {MAX_BODY} bytes")))?
        .to_bytes();
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Ask::default());
    }
    let mut object: Map<String, Value> = serde_json::from_slice(&body)
        .map_err(|error| refused(format!("expected a JSON object: {error}")))?;
    let mut ask = Ask::default();
    match object.remove("ttl") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => {
            let ttl = parse_duration(&text).map_err(|error| refused(format!("ttl: {error}")))?;
            if ttl < Duration::from_secs(1) {
                return Err(refused("ttl: expected at least a second".to_owned()));
            }
            ask.ttl = Some(ttl);
        }
        Some(_) => return Err(refused("ttl: expected a text such as \"5m\"".to_owned())),
    }
    match object.remove("parameters") {
        None | Some(Value::Null) => {}
        Some(Value::Object(parameters)) => ask.parameters = parameters,
        Some(_) => return Err(refused("parameters: expected an object".to_owned())),
    }
    if !object.is_empty() {
        return Err(refused("expected ttl and parameters, and nothing else".to_owned()));
    }
    Ok(ask)
}

/// The ID of a request: the caller's if it is a UUID, which agent and server take as well, else a
/// new one.
fn correlation(headers: &HeaderMap) -> String {
    let given = CORRELATION.iter().find_map(|name| headers.get(*name)?.to_str().ok());
    match given.filter(|id| is_uuid(id)) {
        Some(given) => given.to_ascii_lowercase(),
        None => random::uuid_v4().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_places_that_there_are_are_answered() {
        let name = |method: &str, path: &str| {
            asked(&method.parse().unwrap(), path).map(|ask| ask.method())
        };
        assert_eq!(name("POST", "/v1/credentials/db"), Some("IssueCredential"));
        assert_eq!(name("GET", "/v1/leases"), Some("ListLeases"));
        assert_eq!(name("DELETE", "/v1/leases/x"), Some("RevokeLease"));
        for (method, path) in [
            ("PUT", "/v1/credentials/db"),
            ("POST", "/v1/credentials/db/x"),
            ("POST", "/v1/leases/x"),
            ("GET", "/v2/leases"),
            ("GET", "/"),
        ] {
            assert_eq!(name(method, path), None, "{method} {path}");
        }
    }

    #[test]
    fn a_correlation_id_that_is_no_uuid_is_replaced() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-correlation-id", HeaderValue::from_static(value));
            correlation(&headers)
        };
        let own = "0c6f798a-202f-044e-742d-EE98e5216578";
        assert_eq!(with(own), own.to_lowercase());
        for bad in ["", "a b", "a\"b", "{}", "0c6f798a-202f-044e-742d-ee98e521657\"", "x"] {
            let made = with(bad);
            assert!(is_uuid(&made) && made != bad, "{bad}");
        }
    }

    #[test]
    fn there_is_one_bearer_token_or_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), Ok(None));
        headers.append(AUTHORIZATION, HeaderValue::from_static("bearer a.b.c"));
        assert_eq!(bearer(&headers), Ok(Some("a.b.c")));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer d.e.f"));
        assert!(bearer(&headers).is_err());
        headers.clear();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic x"));
        assert!(bearer(&headers).is_err());
    }

    #[test]
    fn a_wit_svid_comes_with_one_proof() {
        let mut headers = HeaderMap::new();
        assert!(proven(&headers, "/v1/leases").unwrap().is_none());
        headers.append(WIT, HeaderValue::from_static("a.b.c"));
        assert!(proven(&headers, "/v1/leases").is_err(), "without a proof");
        headers.append(PROOF, HeaderValue::from_static("d.e.f"));
        let both = proven(&headers, "/v1/leases").unwrap().expect("both");
        assert_eq!((both.token, both.proof, both.path), ("a.b.c", "d.e.f", "/v1/leases"));
        headers.append(PROOF, HeaderValue::from_static("d.e.f"));
        assert!(proven(&headers, "/v1/leases").is_err(), "two proofs");
    }
}
