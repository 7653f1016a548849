//! A trust domain moves between SPIRE's files and ours, and nobody attests anew.

use std::{fs, sync::Arc};

use e2e::{
    Agent, AgentOptions, Cli, Node, Output, Server, ServerOptions, TestDir, bins, eventually,
};
use serde_json::Value;

fn migrate(server: &Server, args: &[&str]) -> Output {
    let config = server.config_file().display().to_string();
    Cli::bare(bins::server()).run([&["migrate", "-config", &config], args].concat())
}

#[test]
fn a_trust_domain_goes_to_spires_database_and_back() {
    let mut node = Node::start();
    node.register_caller("/workload", "-hint h -dns a.test -x509SVIDTTL 700");
    let served = |agent: &Agent| agent.cli().line("api fetch x509").code == 0;
    eventually("the identity is served", || served(&node.agent).then_some(()));
    let before = node.server.cli().json("entry show");
    let bundle = node.server.cli().json("bundle show");
    let agent_id = node.agent_id();
    let port = node.server.port();
    assert_eq!(node.server.process().terminate(), 0);

    let files = TestDir::new();
    let (db, keys) = (files.join("spire.sqlite3"), files.join("spire-keys.json"));
    let (db, keys) = (db.display().to_string(), keys.display().to_string());
    migrate(&node.server, &["-to-spire", &db, "-keys", &keys, "-dryRun"]).ok();
    assert!(!files.join("spire.sqlite3").exists(), "a dry run writes nothing");
    migrate(&node.server, &["-to-spire", &db, "-keys", &keys]).ok();
    assert_ne!(migrate(&node.server, &["-to-spire", &db, "-keys", &keys]).code, 0, "it exists");

    // A new server on the old address, from those two files alone.
    let dir = Arc::new(TestDir::new());
    let mut moved = Server::prepare_in(&dir, "server", ServerOptions::default());
    let args = vec!["-serverPort".to_owned(), port.to_string()];
    moved.reconfigure(|options| options.args = args);
    migrate(&moved, &["-from-spire", &db, "-keys", &keys, "-dryRun"]).ok().says("entries");
    assert!(!moved.data().join("datastore.sqlite3").exists());
    migrate(&moved, &["-from-spire", &db, "-keys", &keys]).ok();
    assert_ne!(migrate(&moved, &["-from-spire", &db, "-keys", &keys]).code, 0, "it is there");
    moved.launch();
    moved.ready();
    let sorted = |shown: &Value| {
        let mut entries = shown["entries"].as_array().expect("entries").clone();
        entries.sort_by_key(|entry| entry["id"].to_string());
        entries
    };
    assert_eq!(sorted(&moved.cli().json("entry show")), sorted(&before));
    let now = moved.cli().json("bundle show");
    assert_eq!(now["x509_authorities"], bundle["x509_authorities"]);
    assert_eq!(now["jwt_authorities"], bundle["jwt_authorities"]);

    // The running agent goes on.
    let td = "spiffe://example.org";
    moved
        .cli()
        .line(&format!(
            "entry create -parentID {td}/node -spiffeID {td}/after -selector {}",
            e2e::node::caller()
        ))
        .ok();
    eventually("the agent has the new entry", || {
        let seen = node.agent.cli().line("api fetch x509 -output json");
        seen.stdout.contains("/after").then_some(())
    });
    let shown = moved.cli().json(&format!("agent show -spiffeID {agent_id}"));
    assert_eq!(shown["banned"], false);
    assert!(!node.agent.log().contains("Re-attesting"), "{}", node.agent.log());
}

#[test]
fn a_server_that_finds_spires_database_names_the_command_and_touches_nothing() {
    let mut server = Server::start(ServerOptions::default());
    assert_eq!(server.process().terminate(), 0);
    let files = TestDir::new();
    let (db, keys) = (files.join("spire.sqlite3"), files.join("keys.json"));
    let text = |path: &std::path::Path| path.display().to_string();
    migrate(&server, &["-to-spire", &text(&db), "-keys", &text(&keys)]).ok();

    let dir = Arc::new(TestDir::new());
    let fresh = Server::prepare_in(&dir, "server", ServerOptions::default());
    let found = fresh.data().join("datastore.sqlite3");
    fs::copy(&db, &found).expect("the database");
    let before = fs::read(&found).expect("the database");
    let refused = e2e::cli::run(&mut fresh.command(), "");
    assert_ne!(refused.code, 0, "{refused}");
    refused.says("migrate -from-spire");
    assert!(fs::read(&found).expect("the database") == before, "it was touched");
    assert!(!fresh.data().join("keys.json").exists());
}

#[test]
fn an_agent_goes_on_from_the_state_in_spires_form() {
    let mut node = Node::start();
    node.register_caller("/workload", "");
    let id = node.agent_id();
    node.agent.process().terminate();
    let read = |name: &str| -> Value {
        let path = node.agent.data_dir().join(name);
        serde_json::from_slice(&fs::read(path).expect(name)).expect("JSON")
    };
    // SPIRE's two files, by field: certificates as base64 of PEM, keys as base64 of PKCS#8.
    let (state, keys) = (read("agent-data.json"), read("keys.json"));
    assert!(state["svid"].is_array() && state["bundle"].is_array(), "{state}");
    assert!(state["reattestable"].is_boolean(), "{state}");
    assert!(keys["keys"].is_object(), "{keys}");

    let dir = node.server.dir().clone();
    let options = AgentOptions {
        port: node.server.port(),
        bundle: Some(node.server.bundle_file()),
        ..AgentOptions::default()
    };
    let mut heir = Agent::prepare_in(&dir, "heir", options);
    for name in ["agent-data.json", "keys.json"] {
        fs::copy(node.agent.data_dir().join(name), heir.data_dir().join(name)).expect(name);
    }
    heir.launch();
    heir.ready();
    assert_eq!(node.agent_id(), id, "without a token it can only have gone on");
}
