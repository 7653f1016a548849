//! What people type on a node.

use std::{fs, os::unix::fs::PermissionsExt};

use e2e::{AgentOptions, Cli, Node, eventually};
use serde_json::{Value, json};

fn node() -> Node {
    let node = Node::start();
    node.register_caller("/workload", "");
    eventually("the identity is served", || {
        (node.agent.cli().line("api fetch x509").code == 0).then_some(())
    });
    node
}

#[test]
fn api_fetch_x509_prints_and_writes_identities() {
    let node = node();
    let cli = node.agent.cli();
    cli.line("api fetch x509")
        .ok()
        .says("Received 1 svid after")
        .says("SPIFFE ID:\t\tspiffe://example.org/workload")
        .says("SVID Valid Until:\t")
        .says("CA #1 Valid After:\t");
    cli.line("api fetch").ok().says("spiffe://example.org/workload");
    assert!(cli.line("api fetch x509 -silent").ok().stdout.is_empty());
    let fetched = cli.json("api fetch x509");
    let svid = &fetched["svids"][0];
    assert_eq!(svid["spiffe_id"], "spiffe://example.org/workload");
    for field in ["x509_svid", "x509_svid_key", "bundle"] {
        assert!(svid[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {svid}");
    }
    assert_eq!((&fetched["crl"], &fetched["federated_bundles"]), (&json!([]), &json!({})));
    let dir = node.server.dir().subdir("written");
    cli.line(&format!("api fetch x509 -write {}", dir.display())).ok().says("Writing SVID #0");
    for (file, mode, text) in [
        ("svid.0.pem", 0o644, "BEGIN CERTIFICATE"),
        ("svid.0.key", 0o600, "BEGIN PRIVATE KEY"),
        ("bundle.0.pem", 0o644, "BEGIN CERTIFICATE"),
    ] {
        let path = dir.join(file);
        assert!(fs::read_to_string(&path).expect(file).contains(text), "{file}");
        assert_eq!(fs::metadata(&path).expect(file).permissions().mode() & 0o777, mode, "{file}");
    }
    cli.line("api fetch x509 -write /nonexistent").exits(1).says("/nonexistent");
}

#[test]
fn api_fetch_and_validate_jwt_print_tokens_and_claims() {
    let node = node();
    let cli = node.agent.cli();
    cli.line("api fetch jwt -audience one,two")
        .ok()
        .says("token(spiffe://example.org/workload):")
        .says("bundle(spiffe://example.org):");
    let fetched = cli.json("api fetch jwt -audience one,two");
    let token = fetched[0]["svids"][0]["svid"].as_str().expect("a token").to_owned();
    assert!(fetched[1]["bundles"]["spiffe://example.org"].is_string(), "{fetched}");
    cli.line(&format!("api validate jwt -audience one -svid {token}"))
        .ok()
        .says("SVID is valid.")
        .says("SPIFFE ID : spiffe://example.org/workload");
    let valid = cli.json(&format!("api validate jwt -audience two -svid {token}"));
    assert_eq!(valid["spiffe_id"], "spiffe://example.org/workload");
    assert_eq!(valid["claims"]["aud"], json!(["one", "two"]));
    cli.line(&format!("api validate jwt -audience three -svid {token}")).exits(1);
    cli.line("api validate jwt -audience one -svid nonsense").exits(1);
    cli.line("api fetch jwt -audience a -spiffeID spiffe://example.org/other").exits(1);
    assert_ne!(cli.line("api fetch jwt").code, 0, "an audience is needed");
}

#[test]
fn admin_commands_show_what_the_agent_holds() {
    let node = node();
    let (cli, admin) = (node.agent.cli(), node.agent.admin_cli());
    cli.line("healthcheck").ok().says("Agent is healthy.");
    cli.line("healthcheck -verbose").ok().says("Checking agent health...");
    let info = admin.json("debug getinfo");
    assert_eq!(info["svid_chain"][0]["id"]["trust_domain"], "example.org");
    assert!(info["last_sync_success"].is_string() && info["uptime"].is_number(), "{info}");
    admin.line("debug getinfo").ok().says("Agent Debug Info:").says("Cached X.509 SVIDs:");
    assert_eq!(
        admin.json("logger get"),
        json!({"current_level": "DEBUG", "launch_level": "DEBUG"})
    );
    admin.line("logger set -level warn").ok().says("Logger Level : warning");
    admin.line("logger reset").ok().says("Logger Level : debug");
    admin.line("logger set -level loud").exits(64);
    cli.line("debug getinfo").exits(1);
}

#[test]
fn without_an_agent_commands_fail_and_name_the_socket() {
    let cli = Cli::new(e2e::bins::agent(), std::path::Path::new("/nonexistent/api.sock"));
    for line in
        ["api fetch x509", "api fetch jwt -audience a", "healthcheck -verbose", "debug getinfo"]
    {
        cli.line(line).exits(1);
    }
    cli.line("api fetch x509").says("/nonexistent/api.sock");
    let bare = Cli::bare(e2e::bins::agent());
    for line in ["nosuch", "api nosuch", "api fetch x509 -nosuch", "run -nosuch"] {
        bare.line(line).exits(64);
    }
    for line in ["--help", "api fetch x509 --help", "run --help"] {
        let help = bare.line(line).ok();
        assert!(help.stdout.len() + help.stderr.len() > 100, "{line}: {help}");
    }
}

#[test]
fn explain_shows_selectors_matches_and_what_is_lacking() {
    let node = node();
    node.register("/nearly", &[&e2e::node::caller(), "unix:gid:424242"], "");
    let admin = node.agent.admin_cli();
    let line = format!("explain -pid {}", std::process::id());
    let told = eventually("the second entry is known", || {
        let told = admin.line(&line).ok();
        told.stdout.contains("/nearly").then_some(told)
    });
    told.says("unix")
        .says(&e2e::node::caller())
        .says("spiffe://example.org/workload")
        .says("unix:gid:424242");
    let told = admin.json(&line);
    assert_eq!(told["matches"][0]["spiffe_id"]["path"], "/workload", "{told}");
    assert_eq!(told["near_misses"][0]["spiffe_id"]["path"], "/nearly", "{told}");
    assert_eq!(
        told["near_misses"][0]["missing"],
        json!([{"type": "unix", "value": "gid:424242"}]),
        "{told}"
    );
    admin.line("explain -selector unix:uid:77").ok();
    admin.line("explain -pid 99999999").exits(1);
    assert_ne!(admin.line("explain").code, 0);
    // Only the admin socket tells: workloads learn nothing of others.
    node.agent.cli().line(&line).exits(1);

    let server = node.server.cli();
    let agent = node.agent_id();
    node.server.register("/elsewhere", "/far", &[&e2e::node::caller()], "");
    let ask = format!("entry explain -agent {agent} -selectors {}", e2e::node::caller());
    server.line(&ask).ok().says("spiffe://example.org/workload").says("/nearly").says("/far");
    let told: Value = server.json(&ask);
    assert!(
        told.to_string().contains("unix:gid:424242") || told.to_string().contains("gid:424242")
    );
    server.line("entry explain -agent spiffe://example.org/spire/agent/x/y -selectors a:b").ok();
}

#[test]
fn a_refused_workload_is_told_where_to_ask_and_nothing_else() {
    let node = Node::start();
    node.register("/secret", &["unix:uid:424242"], "");
    let refused = node.agent.cli().line("api fetch x509").exits(1);
    assert!(refused.stderr.contains("no identity issued"), "{refused}");
    assert!(refused.stderr.contains("signet-agent explain"), "{refused}");
    assert!(!refused.stderr.contains("secret") && !refused.stderr.contains("424242"), "{refused}");
    // By now the process is gone; the command that it was told is good nevertheless.
    let hint = refused.stderr.split('`').nth(1).expect("a command in backticks");
    let told = Cli::bare(e2e::bins::agent()).line(hint.trim_start_matches("signet-agent "));
    told.ok().says("is gone. Selectors it had when it was refused at").says(&e2e::node::caller());
}

#[test]
fn the_socket_of_another_program_is_named_as_such() {
    let node = Node::start();
    let (agent, server) = (e2e::bins::agent(), e2e::bins::server());
    let on_server = Cli::new(agent.clone(), &node.server.socket());
    for line in ["api fetch x509", "debug getinfo"] {
        on_server.line(line).exits(1).says("and not the server's?");
    }
    on_server.line("healthcheck").exits(1).says("this is the socket of a server, not of an agent");
    let on_agent = Cli::new(server, &node.agent.socket());
    on_agent.line("entry show").exits(1).says("and not the agent's?");
    on_agent.line("healthcheck").exits(1).says("this is the socket of an agent, not of a server");
    Cli::new(agent, &node.agent.socket()).line("debug getinfo").exits(1).says("-socketPath");
    node.agent.cli().line("healthcheck").ok();
    node.server.cli().line("healthcheck").ok();
}

#[test]
fn what_keeps_an_agent_from_starting_is_said_once_and_by_its_name() {
    let node = Node::start();
    let ends = |name: &str, options: AgentOptions, code: i32, wanted: &str| {
        let options = Node::agent_options(&node.server, options);
        let agent = e2e::Agent::prepare_in(node.agent.dir(), name, options);
        let output = e2e::cli::run(&mut agent.command(), "").exits(code);
        // What only debugging shows does not count.
        let said = output.to_string();
        let said = said.lines().filter(|line| !line.contains("level=debug"));
        let times = said.filter(|line| line.contains(wanted)).count();
        assert_eq!(times, 1, "{wanted}: {output}");
    };
    let port = node.server.port();
    let none = AgentOptions::default;
    let telemetry = format!("telemetry {{ Prometheus {{ host = \"127.0.0.1\" port = {port} }} }}");
    let in_use = format!("telemetry Prometheus: port {port} is in use by another process");
    ends("metrics", AgentOptions { top: telemetry, ..none() }, 1, &in_use);
    let agent = "join_token_file = \"/nonexistent/token\"".to_owned();
    let missing = "cannot read the join token: /nonexistent/token: No such file";
    ends("file", AgentOptions { agent, token: Some(String::new()), ..none() }, 64, missing);
    let token = Some("4ee2d6a1-0000-4000-8000-000000000000".to_owned());
    ends("token", AgentOptions { token, ..none() }, 1, "its join token was refused");
}
