//! Where audit events go.

use std::{fmt, sync::Arc};

use tracing::Span;

use crate::event::{self, AuditEvent, Field, Outcome, Value};

/// Takes audit events. Cheap to call: what is slow is queued behind it.
pub trait Sink: fmt::Debug + Send + Sync {
    /// Takes one event.
    fn record(&self, event: &AuditEvent);
}

impl<S: Sink + ?Sized> Sink for Arc<S> {
    fn record(&self, event: &AuditEvent) {
        (**self).record(event);
    }
}

/// All of them take each event.
impl Sink for Vec<Arc<dyn Sink>> {
    fn record(&self, event: &AuditEvent) {
        self.iter().for_each(|sink| sink.record(event));
    }
}

/// Writes each event as a line of the log, in the shape of SPIRE's audit log: `type=audit`, and
/// each field under its name with its JSON type.
#[derive(Clone, Copy, Debug)]
pub struct LogSink {
    subsystem: &'static str,
}

impl LogSink {
    /// Lines say that they come from this part of the program (`subsystem_name`).
    pub fn new(subsystem: &'static str) -> Self {
        Self { subsystem }
    }
}

impl Sink for LogSink {
    fn record(&self, event: &AuditEvent) {
        with_fields(&event.fields, || self.write(event));
    }
}

/// Runs `log`; lines that it writes carry `fields` too, each with its JSON type.
pub fn with_fields(fields: &[Field], log: impl FnOnce()) {
    // The names of an event's fields are fixed when the program is built; those of a span may stay
    // empty.
    let subject = event::subject();
    let _subject = subject.enter();
    let detail = event::detail();
    let _detail = detail.enter();
    for field in fields {
        for span in [&subject, &detail] {
            note(span, field.name(), &field.value());
        }
    }
    log();
}

impl LogSink {
    fn write(&self, event: &AuditEvent) {
        let caller = &event.caller;
        let (status, code, reason) = match &event.outcome {
            Outcome::Success => ("success", None, None),
            Outcome::Failure { code, reason } => ("error", Some(*code), Some(reason.as_str())),
        };
        tracing::info!(
            target: "signet_audit",
            subsystem_name = self.subsystem,
            r#type = "audit",
            status,
            status_code = code,
            status_message = reason,
            service = some(&event.service),
            method = some(&event.method),
            request_id = some(&event.request_id),
            tenant = event.tenant.as_deref(),
            reason_code = event.reason_code,
            authorized_as = caller.authorized_as,
            authorized_via = caller.authorized_via,
            caller_id = caller.id.as_ref().map(tracing::field::display),
            caller_addr = caller.addr.map(tracing::field::display),
            caller_pid = caller.pid,
            caller_uid = caller.uid,
            caller_gid = caller.gid,
            suppressed = Some(event.suppressed).filter(|n| *n > 0),
            "{}",
            event.message,
        );
    }
}

/// A name that `span` does not have is not recorded there.
fn note(span: &Span, name: &'static str, value: &Value<'_>) {
    match value {
        Value::Bool(value) => span.record(name, value),
        Value::Int(value) => span.record(name, value),
        Value::Uint(value) => span.record(name, value),
        Value::Text(value) => span.record(name, value.as_ref()),
    };
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use signet_base::SystemClock;
    use signet_daemon::logging::{LogFormat, LogSettings, with_writer};
    use signet_testkit::Captured;
    use signet_time::UnixTime;

    use super::*;
    use crate::Caller;

    /// What the log says of `event`, as JSON.
    fn written(event: &AuditEvent) -> serde_json::Value {
        let lines = Captured::default();
        let settings = LogSettings { format: LogFormat::Json, ..LogSettings::default() };
        let (subscriber, _) = with_writer(&settings, SystemClock::shared(), lines.clone());
        tracing::subscriber::with_default(subscriber, || LogSink::new("api").record(event));
        serde_json::from_str(&lines.text()).unwrap()
    }

    #[test]
    fn a_record_names_caller_call_outcome_and_what_was_done() {
        let caller = Caller {
            authorized_as: Some("local"),
            authorized_via: Some("transport"),
            uid: Some(7),
            ..Caller::default()
        };
        let mut event = AuditEvent::new(caller, "agent.v1.Agent", "BanAgent");
        event.request_id = "r1".into();
        event.outcome = Outcome::Failure { code: "NotFound", reason: "agent not found".into() };
        event.fields = vec![Field::SpiffeId("spiffe://td/a".parse().unwrap())];
        let record = written(&event);
        for (key, value) in [
            ("type", "audit"),
            ("msg", "API accessed"),
            ("level", "info"),
            ("subsystem_name", "api"),
            ("status", "error"),
            ("status_code", "NotFound"),
            ("status_message", "agent not found"),
            ("service", "agent.v1.Agent"),
            ("method", "BanAgent"),
            ("request_id", "r1"),
            ("authorized_as", "local"),
            ("authorized_via", "transport"),
            ("spiffe_id", "spiffe://td/a"),
        ] {
            assert_eq!(record[key], value, "{key}");
        }
        assert_eq!(record["caller_uid"], 7);
        for absent in ["tenant", "caller_id", "caller_addr", "suppressed", "entry_id", "admin"] {
            assert!(record.get(absent).is_none(), "{absent}: {record}");
        }
    }

    #[test]
    fn values_keep_their_type_in_json() {
        let mut event = AuditEvent::new(Caller::default(), "entry.v1.Entry", "BatchCreateEntry");
        event.tenant = Some("t".into());
        event.suppressed = 3;
        event.fields = vec![
            Field::Admin(false),
            Field::ExpiresAt(UnixTime::from_seconds(-1)),
            Field::SequenceNumber(u64::MAX),
            Field::SerialNumber("123456789012345678901234567890".into()),
            Field::Selectors(
                ["a:b".parse().unwrap(), "c:d".parse().unwrap()].into_iter().collect(),
            ),
            Field::DnsNames(Vec::new()),
        ];
        let record = written(&event);
        assert_eq!(record["admin"], false);
        assert_eq!(record["expires_at"], -1);
        assert_eq!(record["sequence_number"], u64::MAX);
        assert_eq!(record["serial_num"], "123456789012345678901234567890");
        assert_eq!(record["selectors"], "a:b,c:d");
        assert_eq!(record["dns_name"], "");
        assert_eq!((&record["tenant"], &record["suppressed"]), (&"t".into(), &3.into()));
    }
}
