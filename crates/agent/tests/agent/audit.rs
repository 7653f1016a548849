//! The audit records of an agent whose callers are other processes.

use serde_json::Value;
use signet_base::SystemClock;
use signet_daemon::logging::{LogFormat, LogSettings, with_writer};
use signet_testkit::Captured;
use tokio::process::Command;

use crate::fixture::{Fixture, PATIENCE, Running, id, own_uid};

/// The log, read as records.
pub struct Lines(Captured);

impl Lines {
    /// The audit records of the API so far.
    fn records(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["type"] == "audit" && line["msg"] == "API accessed").collect()
    }

    pub fn text(&self) -> String {
        self.0.text()
    }
}

/// What this thread logs, which is all that a test's agent does.
pub fn capture() -> (Lines, tracing::subscriber::DefaultGuard) {
    let log = Captured::default();
    let settings = LogSettings { format: LogFormat::Json, ..LogSettings::default() };
    let (subscriber, _) = with_writer(&settings, SystemClock::shared(), log.clone());
    (Lines(log), tracing::subscriber::set_default(subscriber))
}

/// Calls as another process; gives its pid and what it printed.
async fn call(agent: &Running, args: &[&str]) -> (u32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_signet-agent"));
    command.args(args).arg("-socketPath").arg(&agent.socket).kill_on_drop(true);
    let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let pid = child.id().unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("in time");
    (pid, String::from_utf8(output.unwrap().stdout).unwrap())
}

#[tokio::test]
async fn each_answer_with_svids_and_each_refusal_is_recorded() {
    let (lines, _guard) = capture();
    let mut fixture = Fixture::new().await;
    fixture.options.agent.push_str("\n audit_log_enabled = true");
    fixture.server.lock().add_entry("w2", &[&own_uid()]);
    let agent = fixture.serving().await;

    let (pid, _) = call(&agent, &["api", "fetch", "x509", "-silent"]).await;
    let (_, printed) = call(&agent, &["api", "fetch", "jwt", "-audience", "a,b"]).await;
    let token = printed.lines().nth(1).unwrap().trim();
    let records = lines.records();
    for (x509, name) in records.iter().zip(["w1", "w2"]) {
        for (key, value) in [
            ("status", "success"),
            ("service", "SpiffeWorkloadAPI"),
            ("method", "FetchX509SVID"),
            ("entry_id", name),
            ("spiffe_id", &id(name).to_string()),
        ] {
            assert_eq!(x509[key], value, "{key}: {x509}");
        }
        assert_eq!(x509["caller_pid"], pid);
        assert_eq!(x509["caller_uid"].to_string(), own_uid().rsplit(':').next().unwrap());
        assert!(x509["expires_at"].is_number() && x509["audience"].is_null(), "{x509}");
        assert!(x509["serial_num"].as_str().unwrap().parse::<u128>().unwrap() > 0, "{x509}");
    }
    assert_eq!(records[0]["request_id"], records[1]["request_id"], "one answer");
    let jwt = records.iter().find(|record| record["method"] == "FetchJWTSVID").unwrap();
    assert_eq!((&jwt["status"], &jwt["audience"]), (&"success".into(), &"a,b".into()));
    assert!(jwt["kid"].is_string(), "{jwt}");
    assert!(token.len() > 100 && !lines.text().contains(token), "no token is logged");

    fixture.server.lock().entries.clear();
    let refused = loop {
        call(&agent, &["api", "fetch", "x509"]).await;
        let refusal = |one: &Value| one["method"] == "FetchX509SVID" && one["status"] == "error";
        if let Some(refused) = lines.records().into_iter().find(refusal) {
            break refused;
        }
    };
    assert_eq!(refused["status_code"], "PermissionDenied");
    assert!(refused["status_message"].as_str().unwrap().starts_with("no identity issued"));
    agent.stop().await;
}

#[tokio::test]
async fn nothing_is_recorded_unless_it_is_switched_on() {
    let (lines, _guard) = capture();
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    call(&agent, &["api", "fetch", "x509", "-silent"]).await;
    assert!(lines.records().is_empty(), "{}", lines.text());
    agent.stop().await;
}
