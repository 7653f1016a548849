use signet_audit::LogSink;
use signet_base::SystemClock;
use signet_daemon::logging::{LogFormat, LogSettings, with_writer};
use signet_testkit::Captured;
use signet_time::UnixTime;

use super::*;
use crate::usecase::{
    authorization::Action,
    principal::{LocalPeer, PeerSvid, RemotePeer, Role},
};

/// Keeps what it takes.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<AuditEvent>>);

impl Sink for Kept {
    fn record(&self, event: &AuditEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Kept {
    fn take(&self) -> Vec<AuditEvent> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn kept() -> (Arc<Kept>, Auditor) {
    let kept = Arc::new(Kept::default());
    (Arc::clone(&kept), Auditor::with_sink(Some(kept)))
}

fn local() -> Principal {
    let peer = Peer::Local(LocalPeer { pid: Some(1), uid: 7, gid: 8 });
    Principal { peer, role: Role::Local, action: Action::BanAgent, scope: None }
}

fn remote(addr: &str, id: Option<&str>) -> Principal {
    let svid = id.map(|id| {
        let spiffe_id = id.parse().unwrap();
        Arc::new(PeerSvid { spiffe_id, serial_number: "1".into(), not_after: UnixTime::EPOCH })
    });
    let peer = Peer::Remote(RemotePeer { addr: addr.parse().unwrap(), svid });
    Principal { peer, role: Role::Anyone, action: Action::AttestAgent, scope: None }
}

/// What `act` logs, as JSON. Whatever logs is called in here: a place that first logs without a
/// subscriber may be taken for one that nobody listens to, for other tests too.
fn logged(act: impl FnOnce()) -> Vec<serde_json::Value> {
    let lines = Captured::default();
    let settings = LogSettings { format: LogFormat::Json, ..LogSettings::default() };
    let (subscriber, _) = with_writer(&settings, SystemClock::shared(), lines.clone());
    tracing::subscriber::with_default(subscriber, act);
    lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_event_says_who_did_what_to_what_and_what_came_of_it() {
    let (kept, auditor) = kept();
    let id = || Field::SpiffeId("spiffe://td/a".parse().unwrap());
    logged(|| {
        let audit = auditor.call("agent.v1.Agent", "BanAgent", &local(), "r1".into());
        audit.field(id());
        audit.failed(&Error::not_found("agent not found"));
        audit.finish("NotFound", "agent not found");
        let batch = auditor.call("svid.v1.SVID", "BatchNewX509SVID", &local(), "r2".into());
        batch.item(&Ok(()), || vec![id(), Field::SerialNumber("5".into())]);
        batch.item(&Err::<(), _>(Error::invalid("malformed CSR").because("x")), || vec![id()]);
        batch.finish("OK", "");
    });

    let events = kept.take();
    let caller = signet_audit::Caller {
        authorized_as: Some("local"),
        authorized_via: Some("transport"),
        pid: Some(1),
        uid: Some(7),
        gid: Some(8),
        ..signet_audit::Caller::default()
    };
    assert!(events.iter().all(|event| event.caller == caller));
    let summary: Vec<_> = events
        .iter()
        .map(|event| (&*event.request_id, event.outcome.clone(), event.fields.clone()))
        .collect();
    let failure = |code, reason: &str| Outcome::Failure { code, reason: reason.to_owned() };
    assert_eq!(
        summary,
        [
            ("r1", failure("NotFound", "agent not found"), vec![id()]),
            ("r2", Outcome::Success, vec![id(), Field::SerialNumber("5".into())]),
            ("r2", failure("InvalidArgument", "malformed CSR: x"), vec![id()]),
        ]
    );
}

#[tokio::test]
async fn a_refusal_leaves_spires_line_without_auditing() {
    let lines = logged(|| {
        let auditor = Auditor::to_all(Vec::new());
        let caller = remote("10.0.0.1:5", None);
        let audit = auditor.call("agent.v1.Agent", "AttestAgent", &caller, "r1".into());
        audit.field(Field::NodeAttestorType("join_token".into()));
        audit.failed(&Error::invalid("failed to attest: join token expired"));
        audit.finish("InvalidArgument", "failed to attest: join token expired");
        let audit = auditor.call("bundle.v1.Bundle", "GetBundle", &caller, "r2".into());
        audit.failed(&Error::internal("failed to fetch bundle").because("no disk"));
        audit.finish("Internal", "failed to fetch bundle: no disk");
        let audit = auditor.call("bundle.v1.Bundle", "GetBundle", &caller, "r3".into());
        audit.finish("OK", "");
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (key, value) in [
        ("level", "error"),
        ("msg", "Invalid argument: failed to attest: join token expired"),
        ("subsystem_name", "api"),
        ("service", "agent.v1.Agent"),
        ("method", "AttestAgent"),
        ("caller_addr", "10.0.0.1:5"),
        ("node_attestor_type", "join_token"),
        ("request_id", "r1"),
    ] {
        assert_eq!(lines[0][key], value, "{key}");
    }
    assert_eq!(lines[1]["msg"], "Failed to fetch bundle");
    assert_eq!(lines[1]["error"], "no disk");
}

#[tokio::test(start_paused = true)]
async fn nobody_can_fill_the_log_with_refusals() {
    let auditor = Auditor::to_all(vec![Arc::new(LogSink::new(SUBSYSTEM))]);
    let refuse = |addr: &str| {
        let audit = auditor.call("agent.v1.Agent", "AttestAgent", &remote(addr, None), "r".into());
        audit.failed(&Error::invalid("no"));
        audit.finish("InvalidArgument", "no");
    };
    let flood = logged(|| (0..1000).for_each(|port| refuse(&format!("[2001:db8::{port}]:1"))));
    assert_eq!(flood.len(), 2 * BURST as usize, "a line and an event each");
    let other = logged(|| refuse("10.0.0.1:1"));
    assert_eq!(other.len(), 2, "the next one is seen");
    tokio::time::advance(INTERVAL).await;
    let later = logged(|| refuse("[2001:db8::1]:1"));
    assert!(later.iter().all(|line| line["suppressed"] == 990), "{later:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_issued_is_always_recorded_and_so_is_everyone_who_is_known() {
    let (kept, auditor) = kept();
    logged(|| {
        for _ in 0..100 {
            let nobody = remote("10.0.0.1:1", None);
            let audit = auditor.call("agent.v1.Agent", "AttestAgent", &nobody, "r".into());
            audit.field(Field::SerialNumber("1".into()));
            audit.finish("OK", "");
            let agent = remote("10.0.0.1:1", Some("spiffe://td/a"));
            let audit = auditor.call("entry.v1.Entry", "GetEntry", &agent, "r".into());
            audit.finish("PermissionDenied", "no");
        }
    });
    assert_eq!(kept.take().len(), 200);
}
