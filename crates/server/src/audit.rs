//! What a call leaves behind: audit events (with `audit_log_enabled`), and a line of the log for
//! each refusal and failure in any case.
//!
//! Lines of refusals are SPIRE's: `Invalid argument: <what>`, or what failed with its first letter
//! large, at level error with `error`, `service`, `method`, `request_id`, `caller_id`,
//! `caller_addr` and what the call was about. Nobody can fill the log with them: of the same
//! refusal of the same caller, [`BURST`] are written in [`INTERVAL`], and the next one says how
//! many were not (`suppressed`). So it is with audit events of callers without identity or SVID.

mod authorities;
mod kind;

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use signet_audit::{AuditEvent, Chain, Field, Kind, Outcome, Sink, with_fields};
use signet_base::Throttle;
use signet_daemon::metrics::Counter;
use signet_identity::SpiffeId;

use self::kind::kind;
use crate::usecase::{
    authorization::Action,
    error::{Error, ErrorKind},
    principal::{Peer, Principal},
};

/// How many of the same refusals of one caller are written in [`INTERVAL`].
const BURST: u32 = 10;
/// How long refusals are counted together.
const INTERVAL: Duration = Duration::from_secs(10);

/// As the log calls the part of the server that answers calls: SPIRE's name.
pub(crate) const SUBSYSTEM: &str = "api";

/// Where the traces of calls go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Auditor {
    inner: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sink: Option<Arc<dyn Sink>>,
    refusals: Option<Counter>,
    failures: Throttle<Key>,
    unknown: Throttle<Key>,
    /// Refusals by reason code.
    denied: Option<Counter>,
    /// The log that has to take what is done.
    chain: Option<Chain>,
}

/// What is counted together.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    method: Cow<'static, str>,
    code: &'static str,
    who: Who,
}

/// Who is counted as one.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Who {
    Address(IpAddr),
    Identity(SpiffeId),
    User(u32),
}

impl Auditor {
    /// Events go to each of `sinks`; lines of refusals go to the log in any case.
    pub fn to_all(sinks: Vec<Arc<dyn Sink>>) -> Self {
        Self::with_sink((!sinks.is_empty()).then(|| Arc::new(sinks) as Arc<dyn Sink>))
    }

    /// Events go to `sink`, if there is one.
    pub fn with_sink(sink: Option<Arc<dyn Sink>>) -> Self {
        let throttle = || Throttle::new(BURST, INTERVAL);
        let shared = Shared {
            sink,
            refusals: None,
            failures: throttle(),
            unknown: throttle(),
            denied: None,
            chain: None,
        };
        Self { inner: Arc::new(shared) }
    }

    /// The same, before anything was recorded, and every refusal and failure is counted by method,
    /// code and reason.
    #[must_use]
    pub fn counting(self, refusals: Counter) -> Self {
        self.with(|shared| shared.refusals = Some(refusals))
    }

    /// The same, before anything was recorded, with a counter of what is refused for its tenant
    /// by reason code.
    #[must_use]
    pub fn counting_tenants(self, denied: Counter) -> Self {
        self.with(|shared| shared.denied = Some(denied))
    }

    /// The same, before anything was recorded; what has to be recorded is refused while this log
    /// cannot be written.
    #[must_use]
    pub fn relying_on(self, chain: Option<Chain>) -> Self {
        self.with(|shared| shared.chain = chain)
    }

    fn with(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.inner) {
            change(shared);
        }
        self
    }

    /// That `action` may be done now: what it leaves behind can be written, or need not be.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn must_accept(&self, action: Action) -> Result<(), Error> {
        let full = self.inner.chain.as_ref().is_some_and(|chain| !chain.accepts());
        if !full || kind(action) == Kind::Read {
            return Ok(());
        }
        let why = "[audit_unwritable] the audit log cannot be written, and on_failure is stop";
        Err(Error::unavailable(why).coded("audit_unwritable"))
    }

    /// The log in a chain of hashes, if there is one.
    pub fn chain(&self) -> Option<&Chain> {
        self.inner.chain.as_ref()
    }

    /// Something happened that nobody called for.
    pub(crate) fn happened(&self, kind: Kind, message: &'static str, fields: Vec<Field>) {
        let Some(sink) = &self.inner.sink else { return };
        let mut event = AuditEvent::new(signet_audit::Caller::default(), "", "");
        (event.kind, event.message, event.fields) = (kind, message, fields);
        sink.record(&event);
    }

    /// What the call of `principal` to `service` and `method` leaves behind.
    pub fn call(
        &self,
        service: &'static str,
        method: &'static str,
        principal: &Principal,
        request_id: Arc<str>,
    ) -> Audit {
        let (authorized_as, authorized_via) = principal.role.audit_names();
        let mut caller = signet_audit::Caller {
            authorized_as: Some(authorized_as),
            authorized_via: Some(authorized_via),
            id: principal.spiffe_id().cloned(),
            addr: principal.addr(),
            ..signet_audit::Caller::default()
        };
        if let Peer::Local(local) = &principal.peer {
            (caller.pid, caller.uid, caller.gid) = (local.pid, Some(local.uid), Some(local.gid));
        }
        let mut event = AuditEvent::new(caller, service, method);
        event.request_id = request_id;
        event.kind = kind(principal.action);
        Audit {
            inner: Arc::new(Inner {
                shared: Arc::clone(&self.inner),
                event,
                state: Mutex::default(),
            }),
        }
    }

    /// A client got no connection because of its certificate. Who it says it is was not proven, and
    /// is not in the event.
    pub(crate) fn turned_away(&self, addr: SocketAddr, why: &dyn fmt::Display) {
        let Some(sink) = &self.inner.sink else { return };
        let code = "Unauthenticated";
        let key = Key { method: "".into(), code, who: Who::of_address(addr) };
        let Some(suppressed) = self.inner.unknown.admit(&key) else { return };
        let caller = signet_audit::Caller { addr: Some(addr), ..signet_audit::Caller::default() };
        let mut event = AuditEvent::new(caller, "", "");
        event.message = "Connection refused";
        event.outcome = Outcome::Failure { code, reason: why.to_string() };
        event.suppressed = suppressed;
        sink.record(&event);
    }
}

/// What one call leaves behind. Cheap to clone.
///
/// One event with the collected fields is made when the call ends. A batch makes one event for
/// each item instead, with [`Audit::item`].
#[derive(Clone)]
pub struct Audit {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    /// Who, and which call: what all events of the call have in common.
    event: AuditEvent,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fields: Vec<Field>,
    has_items: bool,
    has_failed: bool,
    /// Of the failure.
    code: Option<&'static str>,
}

impl Audit {
    /// Whether events are made: to spare the making of costly fields.
    pub fn is_on(&self) -> bool {
        self.inner.shared.sink.is_some()
    }

    /// The same in everything that the call leaves behind.
    pub fn request_id(&self) -> &Arc<str> {
        &self.inner.event.request_id
    }

    /// Adds what the call is about. Never a secret.
    pub fn field(&self, field: Field) {
        self.state().fields.push(field);
    }

    /// What came of one item of a batch, and what it was about.
    pub fn item<T>(&self, outcome: &Result<T, Error>, fields: impl FnOnce() -> Vec<Field>) {
        if outcome.is_ok() && !self.is_on() {
            return;
        }
        let mut all = {
            let mut state = self.state();
            state.has_items = true;
            state.fields.clone()
        };
        all.extend(fields());
        if let Err(error) = outcome {
            self.count(error.kind().name(), error.reason());
            self.log(error.kind().name(), error.what(), error.cause(), &all);
        }
        let code = outcome.as_ref().err().and_then(Error::code);
        self.count_tenant(code);
        let outcome = match outcome {
            Ok(_) => Outcome::Success,
            Err(error) => Outcome::Failure { code: error.kind().name(), reason: error.to_string() },
        };
        self.record(outcome, all, code);
    }

    /// The call is refused, or failed.
    pub fn failed(&self, error: &Error) {
        let fields = {
            let mut state = self.state();
            state.has_failed = true;
            state.code = error.code();
            state.fields.clone()
        };
        self.count(error.kind().name(), error.reason());
        self.count_tenant(error.code());
        self.log(error.kind().name(), error.what(), error.cause(), &fields);
    }

    /// The call is over: with this gRPC code (its name; `OK` when it went well) and text.
    pub fn finish(&self, code: &'static str, message: &str) {
        let (fields, has_items, has_failed, reason) = {
            let mut state = self.state();
            let fields = std::mem::take(&mut state.fields);
            (fields, state.has_items, state.has_failed, state.code)
        };
        // What went wrong between the edge and the use case: a message that is too long or cannot
        // be decoded. A caller that went away is no failure, nor is a stream that ends in time.
        if !has_failed && !matches!(code, "OK" | "Canceled" | "Unavailable") {
            self.count(code, code);
            self.log(code, message, None, &fields);
        }
        match code {
            "OK" if has_items => {}
            "OK" => self.record(Outcome::Success, fields, None),
            code => {
                let outcome = Outcome::Failure { code, reason: message.to_owned() };
                self.record(outcome, fields, reason);
            }
        }
    }

    /// The caller has no right to the call: SPIRE's line, with what it is not told.
    pub(crate) fn unauthorized(
        &self,
        message: &str,
        why: Option<&str>,
        code: Option<&'static str>,
    ) {
        self.denied(message, why, code.unwrap_or("not_authorized"));
        self.state().code = code;
    }

    /// The same, for a reason that is counted.
    pub(crate) fn denied(&self, message: &str, why: Option<&str>, reason: &'static str) {
        self.state().has_failed = true;
        self.count(ErrorKind::Denied.name(), reason);
        self.count_tenant(Some(reason));
        let Some(suppressed) = self.admit_line("PermissionDenied") else { return };
        self.line("Failed to authenticate caller", Some(message), why, suppressed);
    }

    fn count(&self, code: &'static str, reason: &'static str) {
        if let Some(refusals) = &self.inner.shared.refusals {
            refusals.inc(&[&self.inner.event.method, code, reason]);
        }
    }

    fn log(&self, code: &'static str, what: &str, cause: Option<&str>, fields: &[Field]) {
        let Some(suppressed) = self.admit_line(code) else { return };
        // As SPIRE has it: of what is not there, the cause says nothing.
        let cause = cause.filter(|_| code != ErrorKind::NotFound.name());
        let message = match code {
            "InvalidArgument" => format!("Invalid argument: {what}"),
            _ => capitalized(what),
        };
        with_fields(fields, || self.line(&message, cause, None, suppressed));
    }

    fn line(&self, message: &str, error: Option<&str>, reason: Option<&str>, suppressed: u64) {
        let AuditEvent { service, method, request_id, caller, .. } = &self.inner.event;
        tracing::error!(
            subsystem_name = SUBSYSTEM,
            error,
            reason,
            service = service.as_ref(),
            method = method.as_ref(),
            request_id = request_id.as_ref(),
            caller_id = caller.id.as_ref().map(tracing::field::display),
            caller_addr = caller.addr.map(tracing::field::display),
            caller_uid = caller.uid,
            suppressed = Some(suppressed).filter(|n| *n > 0),
            "{message}"
        );
    }

    fn count_tenant(&self, code: Option<&'static str>) {
        let code = code.filter(|code| code.starts_with("tenant_"));
        if let (Some(counter), Some(code)) = (&self.inner.shared.denied, code) {
            counter.inc(&[code]);
        }
    }

    fn record(&self, outcome: Outcome, mut fields: Vec<Field>, code: Option<&'static str>) {
        let Some(sink) = &self.inner.shared.sink else { return };
        let is_tenant = |field: &Field| matches!(field, Field::Tenant(_));
        let tenant = fields.iter().rposition(is_tenant).map(|at| fields.remove(at));
        fields.retain(|field| !is_tenant(field));
        let mut event = AuditEvent { outcome, fields, ..self.inner.event.clone() };
        if let Some(Field::Tenant(tenant)) = tenant {
            event.tenant = Some(tenant.to_shared());
        }
        event.reason_code = code;
        let unknown = event.caller.id.is_none() && event.caller.uid.is_none();
        let issued = event.outcome == Outcome::Success
            && event.fields.iter().any(|field| matches!(field, Field::SerialNumber(_)));
        if unknown && !issued {
            let code = match &event.outcome {
                Outcome::Success => "OK",
                Outcome::Failure { code, .. } => code,
            };
            let admitted = self.inner.shared.unknown.admit(&self.key(code));
            let Some(suppressed) = admitted else { return };
            event.suppressed = suppressed;
        }
        sink.record(&event);
    }

    fn admit_line(&self, code: &'static str) -> Option<u64> {
        self.inner.shared.failures.admit(&self.key(code))
    }

    fn key(&self, code: &'static str) -> Key {
        let AuditEvent { method, caller, .. } = &self.inner.event;
        let who = match (&caller.id, caller.addr) {
            (Some(id), _) => Who::Identity(id.clone()),
            (None, Some(addr)) => Who::of_address(addr),
            (None, None) => Who::User(caller.uid.unwrap_or_default()),
        };
        Key { method: method.clone(), code, who }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Audit(on)" } else { "Audit(off)" })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {})", self.method, self.code)
    }
}

impl Who {
    /// One subscriber's IPv6 network counts as one: it has 2^64 addresses.
    fn of_address(addr: SocketAddr) -> Self {
        Self::Address(match addr.ip().to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        })
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
