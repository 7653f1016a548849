//! A trust domain moves between SPIRE's files and ours, and nobody attests anew.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use e2e::{
    Agent, AgentOptions, Cli, Node, Output, Postgres, Server, ServerOptions, TestDir, bins,
    eventually, skip,
};
use serde_json::{Value, json};

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

/// The entries that a server shows, by ID.
fn entries(server: &Server) -> Vec<Value> {
    let shown = server.cli().json("entry show");
    let mut entries = shown["entries"].as_array().expect("entries").clone();
    entries.sort_by_key(|entry| entry["id"].to_string());
    entries
}

/// Begins to copy, and ends it with SIGKILL when it says a line of the kind.
fn killed(server: &Server, from: &str, moment: impl Fn(&str) -> bool) {
    let mut copying = Command::new(bins::server())
        .args(["migrate", "-online", "-from-store", from, "-config"])
        .arg(server.config_file())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a copy");
    let lines = BufReader::new(copying.stderr.take().expect("its lines")).lines();
    let mut said = Vec::new();
    let there = lines.map_while(Result::ok).any(|line| {
        said.push(line.clone());
        moment(&line)
    });
    copying.kill().expect("killing it");
    copying.wait().expect("its end");
    assert!(there, "it only said {said:#?}");
}

#[test]
fn a_store_moves_to_postgresql_under_writes_and_through_kills_without_a_loss() {
    let Some(postgres) = Postgres::shared() else { skip!("PostgreSQL is not installed") };
    let mut node = Node::start();
    node.register_caller("/workload", "-dns a.test");
    let served = |agent: &Agent, path: &str| {
        let said = agent.cli().line("api fetch x509 -output json");
        said.code == 0 && said.stdout.contains(path)
    };
    eventually("the identity is served", || served(&node.agent, "/workload").then_some(()));
    let td = "spiffe://example.org";
    for thousand in 0..3 {
        let entry = |n: u32| {
            json!({ "parent_id": format!("{td}/elsewhere"), "spiffe_id": format!("{td}/{thousand}-{n}"),
                "selectors": [{ "type": "unix", "value": format!("uid:{n}") }] })
        };
        let data = json!({ "entries": (0..1_000).map(entry).collect::<Vec<_>>() }).to_string();
        node.server.cli().run_with(["entry", "create", "-data", "-"], &data).ok();
    }

    // Somebody goes on registering.
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (cli, is_over) = (node.server.cli(), is_over.clone());
        move || {
            let mut acknowledged = Vec::new();
            while !is_over.load(Ordering::Acquire) {
                let path = format!("/late-{}", acknowledged.len());
                let said = cli.line(&format!(
                    "entry create -parentID {td}/elsewhere -spiffeID {td}{path} -selector unix:uid:1"
                ));
                said.ok();
                acknowledged.push(path);
            }
            acknowledged
        }
    });
    let sqlite = node.server.data().join("datastore.sqlite3").display().to_string();
    let dsn = postgres.dsn(&postgres.database());
    node.server.reconfigure(|options| {
        *options = ServerOptions::on_postgres(&dsn);
    });
    let other = Server::prepare_in(node.server.dir(), "other", ServerOptions::on_postgres(&dsn));
    // At the beginning, within the entries, and after them.
    let moments: [fn(&str) -> bool; 3] = [
        |line| line.contains("pass 1: trust bundles"),
        |line| line.contains("registration entries") && !line.contains(" 0 of"),
        |line| line.contains("attested agents"),
    ];
    for moment in moments {
        killed(&node.server, &sqlite, moment);
        let refused = e2e::cli::run(&mut other.command(), "");
        assert_ne!(refused.code, 0, "{refused}");
        refused.says("unfinished copy").says("-from-store");
    }
    let ahead = migrate(&node.server, &["-online", "-from-store", &sqlite]).ok();
    ahead.says("Copied ahead").says("again without -online");
    let early = migrate(&node.server, &["-from-store", &sqlite]);
    assert_ne!(early.code, 0, "its server runs: {early}");

    is_over.store(true, Ordering::Release);
    let acknowledged = writer.join().expect("the writer");
    assert!(!acknowledged.is_empty());
    let (before, bundle) = (entries(&node.server), node.server.cli().json("bundle show"));
    let agents = node.server.cli().json("agent list");
    // Two more: of the workload, and of the agent's join token.
    assert_eq!(before.len(), 3_002 + acknowledged.len());
    assert_eq!(node.server.process().terminate(), 0);

    let moved = migrate(&node.server, &["-from-store", &sqlite]).ok();
    moved.says(&format!("Registration entries     : {}, SHA-256 ", before.len()));
    node.server.launch();
    node.server.ready();
    assert_eq!(entries(&node.server), before);
    assert_eq!(node.server.cli().json("agent list"), agents);
    let now = node.server.cli().json("bundle show");
    assert_eq!(now["x509_authorities"], bundle["x509_authorities"]);
    assert_eq!(now["jwt_authorities"], bundle["jwt_authorities"]);

    // The agent goes on, and nobody goes on with the old store by mistake.
    node.register_caller("/after", "");
    eventually("the agent has the new entry", || served(&node.agent, "/after").then_some(()));
    assert!(!node.agent.log().contains("Re-attesting"), "{}", node.agent.log());
    let old = ServerOptions { database: sqlite.clone(), ..ServerOptions::default() };
    let other = Server::prepare_in(node.server.dir(), "old", old);
    let refused = e2e::cli::run(&mut other.command(), "");
    assert_ne!(refused.code, 0, "{refused}");
    refused.says("takes no more changes").says("-reopen");
    migrate(&other, &["-reopen"]).ok().says("takes changes again");
}
