//! The commands of the built program, against a running agent.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::fixture::{Fixture, PATIENCE, Running, id, own_uid};

/// What a command printed, and its exit code.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn command(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_signet-agent"));
    command.args(args).arg("-socketPath").arg(socket).kill_on_drop(true);
    command
}

async fn run(socket: &Path, args: &[&str]) -> Ran {
    let output = tokio::time::timeout(PATIENCE, command(socket, args).output());
    let output = output.await.expect("in time").unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a command that is to succeed.
async fn done(socket: &Path, args: &[&str]) -> String {
    let ran = run(socket, args).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}: {}", ran.out);
    ran.out
}

async fn json_of(socket: &Path, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["-output", "json"]).collect();
    let out = done(socket, &args).await;
    assert_eq!(out.matches('\n').count(), 1, "one line: {out}");
    serde_json::from_str(&out).unwrap()
}

async fn fixture() -> (Fixture, Running) {
    let fixture = Fixture::new().await;
    fixture.server.lock().add_entry("w2", &[&own_uid()]).hint = "second".into();
    let agent = fixture.serving().await;
    (fixture, agent)
}

#[tokio::test]
async fn x509_svids_are_printed_and_written() {
    let (fixture, agent) = fixture().await;
    let dir = fixture.dir.path().join("out");
    std::fs::create_dir(&dir).unwrap();
    let out = done(&agent.socket, &["api", "fetch", "-write", dir.to_str().unwrap()]).await;
    assert!(out.starts_with("Received 2 svids after "), "{out}");
    for wanted in [
        format!("\nSPIFFE ID:\t\t{}\nSVID Valid After:\t", id("w1")),
        format!("\nSPIFFE ID:\t\t{}\nHint:\t\t\tsecond\nSVID Valid After:\t", id("w2")),
        " +0000 UTC\nCA #1 Valid After:\t".to_owned(),
        format!("Writing key #1 to file {}/svid.1.key.\n", dir.display()),
    ] {
        assert!(out.contains(&wanted), "{wanted:?} in {out}");
    }
    for (file, mode, label) in [
        ("svid.0.pem", 0o644, "CERTIFICATE"),
        ("svid.1.key", 0o600, "PRIVATE KEY"),
        ("bundle.1.pem", 0o644, "CERTIFICATE"),
    ] {
        let path = dir.join(file);
        let begin = format!("-----BEGIN {label}-----\n");
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(&begin), "{file}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{file}");
    }
    assert_eq!(done(&agent.socket, &["api", "fetch", "x509", "-silent"]).await, "");
    let value = json_of(&agent.socket, &["api", "fetch", "x509"]).await;
    assert_eq!(value["svids"][1]["hint"], "second");
    assert_eq!((&value["crl"], &value["federated_bundles"]), (&json!([]), &json!({})));
    agent.stop().await;
}

#[tokio::test]
async fn jwt_svids_are_fetched_and_validated() {
    let (_fixture, agent) = fixture().await;
    let w1 = id("w1");
    let args = ["api", "fetch", "jwt", "-audience", "a,b", "-spiffeID", &w1];
    let out = done(&agent.socket, &args).await;
    let token = out.lines().nth(1).unwrap().trim().to_owned();
    assert!(out.starts_with(&format!("token({w1}):\n\t")), "{out}");
    assert!(out.contains("\nbundle(spiffe://"), "{out}");
    let value = json_of(&agent.socket, &["api", "fetch", "jwt", "-audience", "a"]).await;
    assert_eq!(value[0]["svids"][1]["spiffe_id"], id("w2"));
    assert_eq!(value[1]["bundles"].as_object().unwrap().len(), 1);

    let valid = ["api", "validate", "jwt", "-audience", "b", "-svid", &token];
    let out = done(&agent.socket, &valid).await;
    assert!(out.starts_with(&format!("SVID is valid.\nSPIFFE ID : {w1}\nClaims    : {{")), "{out}");
    let value = json_of(&agent.socket, &valid).await;
    assert_eq!(value["claims"]["aud"], Value::from(vec!["a", "b"]));
    let wrong = ["api", "validate", "jwt", "-audience", "c", "-svid", &token];
    let refused = run(&agent.socket, &wrong).await;
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    assert!(refused.err.starts_with("SVID is not valid: "), "{}", refused.err);
    let refused =
        run(&agent.socket, &["api", "fetch", "jwt", "-audience", "a", "-spiffeID", "bad"]).await;
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.starts_with("rpc error: code = InvalidArgument desc = "),
        "{}",
        refused.err
    );
    agent.stop().await;
}

#[tokio::test]
async fn watch_prints_each_change() {
    let (fixture, agent) = fixture().await;
    let mut child =
        command(&agent.socket, &["api", "watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut received = async || loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time");
        let line = line.unwrap().expect("a line");
        if let Some(rest) = line.strip_prefix("Received ") {
            return rest.split(' ').next().unwrap().to_owned();
        }
    };
    assert_eq!(received().await, "2");
    fixture.server.lock().entries.remove("w2");
    fixture.notify(2);
    while received().await != "1" {}
    child.kill().await.unwrap();
    agent.stop().await;
}

#[tokio::test]
async fn operators_see_health_state_and_log_level() {
    let (_fixture, agent) = fixture().await;
    let (public, admin) = (&agent.socket, &agent.admin);
    assert_eq!(
        done(public, &["healthcheck", "-verbose"]).await,
        "Checking agent health...\nAgent is healthy.\n"
    );
    let out = done(admin, &["debug", "getinfo"]).await;
    assert!(out.starts_with("Agent Debug Info:\n  Uptime:                          "), "{out}");
    assert!(out.contains("    [0] SPIFFE ID:  spiffe://"), "{out}");
    let value = json_of(admin, &["debug", "getinfo"]).await;
    assert!(value["uptime"].is_number() && value["last_sync_success"].is_string(), "{value}");
    let gone = agent.socket.clone();
    agent.stop().await;
    let ran = run(&gone, &["healthcheck"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(ran.err, "Agent is unhealthy: unable to determine health\n");
}

#[tokio::test]
async fn explain_names_matches_and_what_others_lack() {
    let (fixture, agent) = fixture().await;
    fixture.server.lock().add_entry("w3", &[&own_uid(), "unix:gid:4000000000"]);
    fixture.notify(2);
    let pid = std::process::id().to_string();
    // Once the change has come.
    let out = loop {
        let out = done(&agent.admin, &["explain", "-pid", &pid]).await;
        if out.contains(&id("w3")) {
            break out;
        }
    };
    assert!(out.contains("Matching entries: 2\n"), "{out}");
    assert!(out.contains("    lacks unix:gid:4000000000\n"), "{out}");
    let value = json_of(&agent.admin, &["explain", "-selector", "unix:uid:4000000001"]).await;
    assert_eq!(value["matches"], Value::Array(Vec::new()), "{value}");
    let out = done(&agent.admin, &["explain", "-selector", "unix:uid:4000000001"]).await;
    assert!(out.contains("signet-server entry explain -agent spiffe://"), "{out}");
    agent.stop().await;
}
