//! Audit events: one for each SVID that an answer hands out, and one for each refusal.
//!
//! Events and their fields are those of the server ([`signet_audit`]); `docs/operations.md` lists
//! them. They are made when `audit_log_enabled` is set, and cost nothing otherwise.

use std::sync::Arc;

use signet_audit::{AuditEvent, Field, LogSink, Outcome, Sink};
use signet_daemon::metrics::status_name;
use signet_identity::{EntryId, SpiffeId};
use signet_pki::x509::Certificate;
use signet_time::UnixTime;
use tonic::Status;

use crate::{
    caller::Caller, jwt_cache::JwtSvid, request_id, svid::X509Svid, trace, wit_cache::WitSvid,
};

/// The Workload API, as events name it.
pub const WORKLOAD_API: &str = "SpiffeWorkloadAPI";
/// The Delegated Identity API, as events name it.
pub const DELEGATED_IDENTITY: &str = "delegatedidentity.v1.DelegatedIdentity";

/// The Broker API, as events name it.
pub const BROKER: &str = "spiffe.broker.API";

/// Where events go, if anywhere. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    sink: Option<Arc<dyn Sink>>,
}

/// Which call an event is about.
#[derive(Clone, Debug)]
pub struct Call {
    /// [`WORKLOAD_API`] or [`DELEGATED_IDENTITY`].
    pub service: &'static str,
    /// The method's name.
    pub method: &'static str,
    /// Who called. The agent's own calls (its health check) make no events.
    pub caller: Caller,
    /// The broker that called, by the SPIFFE ID that it proved.
    pub broker: Option<SpiffeId>,
    /// The process on whose behalf a delegate or broker asks by pid.
    pub subject_pid: Option<i32>,
    /// The object of Kubernetes that a broker named.
    pub subject_object: Option<Arc<str>>,
    /// The same in all events of this call.
    pub request_id: Arc<str>,
}

impl Call {
    /// A call of `service`.
    pub fn new(service: &'static str, method: &'static str, caller: Caller) -> Self {
        let request_id =
            trace::current_request_id().unwrap_or_else(|| uuid::Uuid::new_v4().to_string().into());
        Self {
            service,
            method,
            caller,
            broker: None,
            subject_pid: None,
            subject_object: None,
            request_id,
        }
    }

    /// Named as the caller names it (`x-request-id`), if that is a UUID: only for callers that the
    /// operator trusts, since the logs of both are read together.
    #[must_use]
    pub fn named_by(mut self, metadata: &tonic::metadata::MetadataMap) -> Self {
        let given = metadata.get(signet_api::REQUEST_ID).and_then(|id| id.to_str().ok());
        if let Some(id) = given.and_then(|id| uuid::Uuid::try_parse(id).ok()) {
            self.request_id = id.to_string().into();
        }
        self
    }

    /// A call of the Workload API.
    pub fn workload(method: &'static str, caller: &Caller) -> Self {
        Self::new(WORKLOAD_API, method, caller.clone())
    }

    /// Does `work` for this call: what the server is asked meanwhile carries its request ID.
    pub async fn in_its_name<F: Future>(&self, work: F) -> F::Output {
        request_id::scope(Arc::clone(&self.request_id), work).await
    }

    fn event(&self) -> AuditEvent {
        let peer = self.caller.peer().ok();
        let caller = signet_audit::Caller {
            id: self.broker.clone(),
            pid: Some(self.caller.pid()),
            uid: peer.map(signet_attest::peer::PinnedPeer::uid),
            gid: peer.map(signet_attest::peer::PinnedPeer::gid),
            ..signet_audit::Caller::default()
        };
        let mut event = AuditEvent::new(caller, self.service, self.method);
        event.request_id = Arc::clone(&self.request_id);
        event.fields.extend(self.subject_pid.map(Field::SubjectPid));
        let object = self.subject_object.as_deref().map(str::to_owned);
        event.fields.extend(object.map(Field::SubjectObject));
        event
    }
}

/// What an answer hands out, gathered for its events.
#[derive(Debug, Default)]
pub struct Issued {
    all: Vec<Vec<Field>>,
}

impl Issued {
    /// Adds an X.509-SVID.
    pub fn x509(&mut self, entry: &EntryId, svid: &X509Svid) {
        let mut fields = about(entry, &svid.spiffe_id, svid.not_after);
        let leaf = svid.chain.first().and_then(|leaf| Certificate::from_der(leaf).ok());
        fields.extend(leaf.map(|leaf| Field::SerialNumber(leaf.serial().to_string())));
        self.all.push(fields);
    }

    /// Adds a JWT-SVID for `audience`.
    pub fn jwt(&mut self, entry: &EntryId, svid: &JwtSvid, audience: &[String]) {
        let mut fields = about(entry, &svid.spiffe_id, svid.expires_at);
        fields.push(Field::Audience(audience.to_vec()));
        fields.push(Field::KeyId(svid.key_id.to_string()));
        self.all.push(fields);
    }

    /// Adds a WIT-SVID.
    pub fn wit(&mut self, entry: &EntryId, svid: &WitSvid) {
        let mut fields = about(entry, &svid.spiffe_id, svid.expires_at);
        fields.push(Field::KeyId(svid.key_id.to_string()));
        self.all.push(fields);
    }
}

fn about(entry: &EntryId, id: &SpiffeId, expires_at: UnixTime) -> Vec<Field> {
    vec![
        Field::EntryId(entry.to_string()),
        Field::SpiffeId(id.clone()),
        Field::ExpiresAt(expires_at),
    ]
}

impl Audit {
    /// Events go to the log if `on`.
    pub fn new(on: bool) -> Self {
        Self { sink: on.then(|| Arc::new(LogSink::new("endpoints")) as Arc<dyn Sink>) }
    }

    /// An event for each SVID of an answer; `gather` is asked only when there is a sink.
    pub fn issued(&self, call: &Call, gather: impl FnOnce(&mut Issued)) {
        let Some(sink) = self.sink(call) else { return };
        let mut issued = Issued::default();
        gather(&mut issued);
        for fields in issued.all {
            let mut event = call.event();
            event.fields.extend(fields);
            sink.record(&event);
        }
    }

    /// The event of a call that was refused or failed.
    pub fn refused(&self, call: &Call, status: &Status) {
        let Some(sink) = self.sink(call) else { return };
        let mut event = call.event();
        let (code, reason) = (status_name(status.code().into()), status.message().to_owned());
        event.outcome = Outcome::Failure { code, reason };
        sink.record(&event);
    }

    /// Records the failure that `result` may be, and passes it on.
    ///
    /// # Errors
    /// Those of `result`.
    pub fn outcome<T>(&self, call: &Call, result: Result<T, Status>) -> Result<T, Status> {
        if let Err(status) = &result {
            self.refused(call, status);
        }
        result
    }

    fn sink(&self, call: &Call) -> Option<&Arc<dyn Sink>> {
        self.sink.as_ref().filter(|_| !call.caller.is_self())
    }
}
