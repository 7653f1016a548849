//! Crashes, damage, full disks, wrong permissions, two programs on one directory: nothing is lost
//! and what is wrong is said.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use e2e::{Agent, AgentOptions, Client, Node, Server, ServerOptions, cli, eventually, skip};
use serde_json::Value;

/// Waits until the caller's first identity is this one.
fn serves(node: &Node, path: &str) {
    let id = node.id(path);
    eventually(&format!("{id} is served"), || {
        let answer = node.agent.cli().line("api fetch x509 -output json");
        answer.stdout.contains(path).then_some(())
    });
}

fn root() -> bool {
    e2e::node::caller() == "unix:uid:0"
}

/// A program that must end by itself, complaining.
fn fails(mut command: Command, what: &str) {
    let output = cli::run(&mut command, "");
    assert_ne!(output.code, 0, "{output}");
    output.says(what);
}

#[test]
fn a_server_killed_at_any_moment_keeps_what_it_confirmed() {
    let mut server = Server::start(ServerOptions::default());
    let mut confirmed = Vec::new();
    for round in 0..6u64 {
        let cli = server.cli();
        let socket = server.socket();
        let writer = std::thread::spawn(move || {
            let mut done = Vec::new();
            for n in 0..200 {
                let id = format!("e-{round}-{n}");
                let made = cli.line(&format!(
                    "entry create -entryID {id} -parentID spiffe://example.org/n \
                     -spiffeID spiffe://example.org/{id} -selector a:{n}"
                ));
                if made.code != 0 {
                    break;
                }
                done.push(id);
            }
            done
        });
        // Not a wait for anything: the moment of the kill is to differ from round to round.
        std::thread::sleep(Duration::from_millis(40 + 61 * round));
        server.process().kill();
        let done = writer.join().expect("the writer");
        assert!(socket.exists(), "a killed server leaves its socket behind");
        confirmed.extend(done);
        server.restart();
    }
    assert!(!confirmed.is_empty());
    let shown = server.cli().json("entry show").to_string();
    for id in confirmed {
        assert!(shown.contains(&format!("\"id\":\"{id}\"")), "{id} was confirmed and is lost");
    }
}

#[test]
fn an_agent_killed_at_any_moment_comes_back_as_itself() {
    let mut node = Node::with(ServerOptions::with("agent_ttl = \"12s\""), AgentOptions::default());
    node.register_caller("/workload", "-x509SVIDTTL 6");
    serves(&node, "/workload");
    let id = node.agent_id();
    for round in 0..10u64 {
        // Renewals come every six seconds: the kills fall before, into and after them.
        std::thread::sleep(Duration::from_millis(450 * (round % 4)));
        node.agent.process().kill();
        node.agent.restart();
        serves(&node, "/workload");
    }
    assert_eq!(node.agent_id(), id, "it never attested anew: its token was spent");
    assert_eq!(node.server.cli().json("agent count")["count"], 1);
}

#[test]
fn an_agent_that_restarts_without_its_server_serves_its_sealed_cache() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let mut node = Node::start();
    node.register_caller("/workload", "");
    serves(&node, "/workload");
    let socket = node.agent.socket();
    let before = Client::Go.run(&socket, &["x509"]).json();
    let jwt = Client::Go.run(&socket, &["jwt", "aud"]).json();
    node.agent.sealed();
    node.server.stop();
    node.agent.process().kill();
    node.agent.restart();
    let after = Client::Go.run(&socket, &["x509"]).json();
    assert_eq!(after["svids"][0]["id"], before["svids"][0]["id"]);
    assert_eq!(after["svids"][0]["verified"], true);
    let again = Client::Go.run(&socket, &["jwt", "aud"]).json();
    assert_eq!(again["token"], jwt["token"], "the JWT-SVID was kept as well");
    Client::Go.run(&socket, &["validate", "aud", jwt["token"].as_str().expect("a token")]).ok();
    node.server.launch();
    node.server.ready();
    node.register_caller("/second", "");
    let mut watch = Client::Go.start(&socket, &["watch"]);
    watch.find("both identities", |line| {
        line["svids"].as_array().is_some_and(|svids| svids.len() == 2)
    });
}

#[test]
fn nothing_is_served_from_a_cache_that_is_off_or_whose_key_is_gone() {
    for (agent, lose_key) in [("svid_cache = \"off\"", false), ("", true)] {
        let mut node = Node::with(
            ServerOptions::default(),
            AgentOptions { agent: agent.to_owned(), ..AgentOptions::default() },
        );
        node.register_caller("/workload", "");
        serves(&node, "/workload");
        if lose_key {
            node.agent.sealed();
        }
        node.server.stop();
        node.agent.process().kill();
        if lose_key {
            let key = node.agent.data_dir().with_file_name("svid_cache.key");
            let mode = fs::metadata(&key).expect("the key of the cache").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            fs::remove_file(&key).expect("the key of the cache");
        }
        node.agent.launch();
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let answer = node.agent.cli().line("api fetch x509 -timeout 1s");
            assert_ne!(answer.code, 0, "served without a server and without a cache: {answer}");
        }
        node.server.launch();
        node.server.ready();
        serves(&node, "/workload");
    }
}

#[test]
fn a_damaged_cache_is_thrown_away_and_nothing_else_is() {
    let mut node = Node::start();
    node.register_caller("/workload", "");
    serves(&node, "/workload");
    node.agent.sealed();
    let id = node.agent_id();
    node.agent.process().kill();
    let mut damaged = 0;
    for entry in fs::read_dir(node.agent.data_dir()).expect("the data directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.contains("cache") {
            let mut bytes = fs::read(&path).expect("the cache");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).expect("the cache");
            damaged += 1;
        }
    }
    assert!(damaged > 0, "there is a cache");
    node.agent.restart();
    serves(&node, "/workload");
    assert_eq!(node.agent_id(), id);
}

#[test]
fn damaged_files_are_named_and_left_alone() {
    let mut server = Server::start(ServerOptions::default());
    server.register("/n", "/w", &["a:b"], "");
    server.process().kill();
    for name in ["keys.json", "datastore.sqlite3"] {
        let path = server.data().join(name);
        let good = fs::read(&path).expect("the file");
        let wal = ["-wal", "-shm"].map(|end| server.data().join(format!("{name}{end}")));
        let saved = wal.clone().map(|path| fs::read(path).ok());
        wal.iter().for_each(|path| drop(fs::remove_file(path)));
        let bad = b"this is not what it was\n".repeat(400);
        fs::write(&path, &bad).expect("the file");
        fails(server.command(), name);
        assert!(fs::read(&path).expect("the file") == bad, "{name} was touched");
        fs::write(&path, good).expect("the file");
        for (path, content) in wal.iter().zip(saved) {
            if let Some(content) = content {
                fs::write(path, content).expect("the file");
            }
        }
    }
    server.restart();
    assert_eq!(server.cli().json("entry count")["count"], 1);
}

#[test]
fn an_agent_with_damaged_state_says_which_file() {
    let mut node = Node::start();
    node.agent.process().kill();
    for name in ["agent-data.json", "keys.json"] {
        let path = node.agent.data_dir().join(name);
        let good = fs::read(&path).expect("the file");
        fs::write(&path, "{\"keys\": 5, \"svid\"").expect("the file");
        fails(node.agent.command(), name);
        fs::write(&path, good).expect("the file");
    }
    node.agent.restart();
}

#[test]
fn one_data_directory_serves_one_server_and_one_agent() {
    let mut node = Node::start();
    let text = fs::read_to_string(node.server.config_file()).expect("the file");
    let port = e2e::free_port();
    let second = text
        .replace(&format!("\"{}\"", node.server.port()), &format!("\"{port}\""))
        .replace("api.sock", "second.sock");
    let second = node.server.dir().write("second.conf", second);
    let mut command = Command::new(e2e::bins::server());
    command.args(["run", "-config"]).arg(second);
    fails(command, "in use");

    let text = fs::read_to_string(node.agent.config_file()).expect("the file");
    let text = text
        .replace("pub/api.sock", "pub/second.sock")
        .replace("adm/admin.sock", "adm/second.sock");
    let second = node.server.dir().write("second-agent.conf", text);
    let mut command = Command::new(e2e::bins::agent());
    command.args(["run", "-config"]).arg(second);
    fails(command, "in use");
    node.server.process().assert_running();
    node.agent.process().assert_running();
    node.server.cli().line("healthcheck").ok();
    node.agent.cli().line("healthcheck").ok();
}

#[test]
fn sockets_that_cannot_be_are_refused_with_the_path() {
    let long = format!("/tmp/{}/api.sock", "x".repeat(100));
    let running = Server::start(ServerOptions::default());
    let dir = running.dir().clone();
    let is_dir = dir.subdir("pub/a-directory");
    let is_file = dir.write("pub/a-file", "precious");
    for path in [long, is_dir.display().to_string(), is_file.display().to_string()] {
        let mut server = Server::prepare_in(&dir, "other", ServerOptions::default());
        server.reconfigure(|o| o.args = vec!["-socketPath".to_owned(), path.clone()]);
        fails(server.command(), &path);
        let options = AgentOptions {
            args: vec!["-socketPath".to_owned(), path.clone()],
            ..Node::agent_options(&running, AgentOptions::default())
        };
        let agent = Agent::prepare_in(&dir, "agent", options);
        fails(agent.command(), &path);
    }
    assert_eq!(fs::read_to_string(is_file).expect("the file"), "precious");
}

#[test]
fn sockets_and_secrets_have_their_modes() {
    let node = Node::start();
    let mode = |path: &Path| {
        fs::metadata(path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(&node.server.socket()), 0o770);
    assert_eq!(mode(&node.agent.socket()), 0o777);
    assert_eq!(mode(&node.agent.admin_socket()), 0o770);
    assert_eq!(mode(&node.server.data().join("keys.json")), 0o600);
    assert_eq!(mode(&node.agent.data_dir().join("keys.json")), 0o600);
    assert_eq!(mode(&node.agent.data_dir().join("agent-data.json")), 0o600);
}

#[test]
fn a_directory_it_may_not_write_stops_a_program_with_its_name() {
    if !root() {
        skip!("only root can start a program as somebody else");
    }
    use std::os::unix::process::CommandExt;
    let dir = std::sync::Arc::new(e2e::TestDir::new());
    let server = Server::prepare_in(&dir, "server", ServerOptions::default());
    let mut command = server.command();
    command.uid(65534).gid(65534);
    let name = server.data().display().to_string();
    fails(command, &name);
}

#[test]
fn an_agent_without_its_server_for_long_says_so_and_recovers() {
    let mut node = Node::start();
    node.register_caller("/workload", "");
    serves(&node, "/workload");
    node.server.stop();
    eventually("the agent complains", || {
        let log = node.agent.log();
        (log.contains("level=error") || log.contains("level=warn")).then_some(())
    });
    let still: Value = node.agent.cli().json("api fetch x509");
    assert!(still["svids"][0]["x509_svid"].is_string());
    node.server.launch();
    node.server.ready();
    node.register_caller("/later", "");
    serves(&node, "/later");
}
