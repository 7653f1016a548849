//! `doctor`, `support-bundle` and `debug trace`: how people find out what is wrong.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use e2e::{TestDir, cli};
use serde_json::Value;

use crate::monitoring::Site;

#[test]
fn doctor_finds_what_is_wrong_and_says_what_to_do_next() {
    let mut site = Site::start("");
    let server_config = site.server.config_file();
    let agent_config = site.agent.config_file();
    let ask = |program: PathBuf, config: &Path| {
        e2e::Cli::bare(program).run([
            "doctor".into(),
            "-output".into(),
            "json".into(),
            "-config".into(),
            config.to_owned(),
        ])
    };
    let findings = |output: &cli::Output| -> BTreeMap<String, (String, String)> {
        let report: Value = serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output}"));
        let text =
            |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let all = report["findings"].as_array().expect("findings");
        all.iter().map(|f| (text(f, "check"), (text(f, "level"), text(f, "next")))).collect()
    };
    let server = ask(e2e::bins::server(), &server_config).ok();
    let well = findings(&server);
    for check in ["server", "API port", "X.509 authority", "JWT authority", "database", "agents"] {
        assert_eq!(well[check].0, "ok", "{check}: {server}");
    }
    let agent = ask(e2e::bins::agent(), &agent_config).ok();
    let well = findings(&agent);
    for check in ["agent SVID", "TLS", "trust bundle", "server", "sync", "Workload API"] {
        assert_eq!(well[check].0, "ok", "{check}: {agent}");
    }

    // A key that others can read, and a server that is gone.
    let keys = site.server.data().join("keys.json");
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&keys, open).expect("rights");
    let server = ask(e2e::bins::server(), &server_config).exits(1);
    let wrong = findings(&server);
    assert_eq!(wrong["keys"].0, "failed", "{server}");
    assert!(wrong["keys"].1.contains("chmod 0600"), "{server}");
    site.server.stop();
    assert_eq!(findings(&ask(e2e::bins::server(), &server_config).exits(1))["server"].0, "failed");
    let agent = ask(e2e::bins::agent(), &agent_config).exits(1);
    let wrong = findings(&agent);
    assert_eq!((wrong["server"].0.as_str(), wrong["Workload API"].0.as_str()), ("failed", "ok"));
    assert!(!wrong["server"].1.is_empty(), "{agent}");
    e2e::Cli::bare(e2e::bins::agent()).line("doctor -config /nonexistent.conf").exits(64);
}

#[test]
fn a_support_bundle_holds_what_helps_and_no_secret() {
    let site = Site::start("");
    let dir = TestDir::new();
    let token = site.server.token("/another");
    let config = fs::read_to_string(site.agent.config_file()).expect("a file");
    let config = config.replace("agent {", &format!("agent {{\n join_token = \"{token}\""));
    let config = dir.write("agent.conf", config);
    let files = [dir.path().join("server.json"), dir.path().join("agent.json")];
    let write = |program: PathBuf, config: PathBuf, to: &Path| {
        let args =
            ["support-bundle".into(), "-config".into(), config, "-write".into(), to.to_owned()];
        e2e::Cli::bare(program).run(args).ok();
    };
    write(e2e::bins::server(), site.server.config_file(), &files[0]);
    write(e2e::bins::agent(), config, &files[1]);
    let keys = fs::read_to_string(site.server.data().join("keys.json")).expect("keys");
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    let keys = keys["keys"].as_object().expect("keys").values();
    let secrets: Vec<&str> = keys.filter_map(Value::as_str).chain([token.as_str()]).collect();
    assert!(secrets.len() > 1 && secrets.iter().all(|secret| secret.len() > 20));
    for file in files {
        let text = fs::read_to_string(&file).expect("a bundle");
        for secret in &secrets {
            assert!(!text.contains(secret), "{}", file.display());
        }
        assert!(!text.contains("PRIVATE KEY"), "{}", file.display());
        for helps in
            ["\"findings\"", "\"version\"", "\"configuration\"", "example.org", "\"kernel\""]
        {
            assert!(text.contains(helps), "{helps}: {}", file.display());
        }
    }
}

#[test]
fn a_trace_tells_what_the_last_calls_of_a_process_did_under_one_request_id() {
    let site = Site::start("");
    let admin = site.agent.admin_cli();
    let all = admin.json("debug trace");
    let calls = all["calls"].as_array().expect("calls");
    let refused = calls
        .iter()
        .find(|call| call["status"] == "PermissionDenied")
        .unwrap_or_else(|| panic!("{all}"));
    assert_eq!(
        (refused["service"].as_str(), refused["method"].as_str()),
        (Some("WorkloadAPI"), Some("FetchX509SVID"))
    );
    let steps = refused["steps"].as_array().expect("steps");
    assert!(steps.iter().any(|step| step["name"] == "workload_attestor"), "{refused}");
    let pid = refused["pid"].as_i64().expect("a pid");
    admin.line(&format!("debug trace -pid {pid}")).ok().says("no identity issued");
    // The agent's log names it; a token that the server signed is named alike on both sides.
    let id = refused["request_id"].as_str().expect("an ID");
    assert!(site.agent.log().contains(id), "the agent's log");
    let signed =
        calls.iter().find(|call| call["method"] == "FetchJWTSVID" && call["status"] == "OK");
    let signed = signed.unwrap_or_else(|| panic!("{all}"));
    let names: Vec<_> =
        signed["steps"].as_array().expect("steps").iter().map(|s| &s["name"]).collect();
    assert!(names.iter().any(|name| **name == "NewJWTSVID"), "{signed}");
}
