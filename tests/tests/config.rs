//! Configuration: everything is checked before anything is touched, and what is wrong is named.

use std::{fs, path::Path, process::Command, sync::Arc};

use e2e::{Agent, AgentOptions, Output, Server, ServerOptions, TestDir, bins, cli, free_port};

fn prepared() -> (Server, Agent) {
    let dir = Arc::new(TestDir::new());
    let server = Server::prepare_in(&dir, "server", ServerOptions::default());
    let bundle = dir.write("bundle.pem", "");
    let options =
        AgentOptions { port: free_port(), bundle: Some(bundle), ..AgentOptions::default() };
    let agent = Agent::prepare_in(&dir, "agent", options);
    (server, agent)
}

fn validate(program: &Path, file: &Path) -> Output {
    cli::run(Command::new(program).args(["validate", "-config"]).arg(file), "")
}

/// Runs a program that ends by itself.
fn run(mut command: Command) -> Output {
    cli::run(&mut command, "")
}

#[test]
fn a_good_file_is_valid_and_nothing_is_made_by_validating_it() {
    let (server, agent) = prepared();
    let before = fs::read_dir(server.data()).expect("a directory").count();
    validate(&bins::server(), &server.config_file()).ok();
    validate(&bins::agent(), &agent.config_file()).ok();
    assert_eq!(fs::read_dir(server.data()).expect("a directory").count(), before);
    assert!(!server.socket().exists() && !agent.socket().exists());
}

#[test]
fn what_is_no_file_keeps_nobody_waiting() {
    let dir = TestDir::new();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let controller = bins::find("signet-controller");
    for path in [pipe.as_path(), Path::new("/dev/zero"), dir.path()] {
        for program in [bins::server(), bins::agent(), controller.clone()] {
            let output = validate(&program, path);
            assert_ne!(output.code, 0, "{} {}", program.display(), path.display());
            output.says("not a regular file");
        }
    }
    // What a configuration names is read in the same way.
    let (mut server, mut agent) = prepared();
    agent.reconfigure(|o| o.agent = format!("join_token_file = \"{}\"", pipe.display()));
    run(agent.command()).exits(64).says("not a regular file");
    server.reconfigure(|o| {
        o.plugins = format!(
            "NodeAttestor \"x509pop\" {{ plugin_data {{ ca_bundle_path = \"{}\" }} }}",
            pipe.display()
        );
    });
    let output = run(server.command());
    assert_ne!(output.code, 0);
    output.says("not a regular file");
}

#[test]
fn a_path_of_agents_without_a_slash_is_wrong_usage() {
    let (mut server, _) = prepared();
    let bundle = server.config_file();
    server.reconfigure(|o| {
        o.plugins = format!(
            "NodeAttestor \"x509pop\" {{ plugin_data {{ ca_bundle_path = \"{}\", \
             agent_path_template = \"x509pop/{{{{ .Fingerprint }}}}\" }} }}",
            bundle.display()
        );
    });
    validate(&bins::server(), &server.config_file())
        .exits(64)
        .says("agent_path_template")
        .says("has to begin with a slash");
}

#[test]
fn unknown_keys_are_named_with_their_place() {
    let (mut server, mut agent) = prepared();
    server.reconfigure(|o| o.server = "nosuch = 1".to_owned());
    agent.reconfigure(|o| o.agent = "nosuch = 1".to_owned());
    for (command, file) in
        [(server.command(), server.config_file()), (agent.command(), agent.config_file())]
    {
        let text = fs::read_to_string(&file).expect("the file");
        let line = 1 + text.lines().position(|l| l.contains("nosuch")).expect("the key");
        run(command).exits(64).says("nosuch").says(&format!("{}:{line}", file.display()));
    }
}

#[test]
fn wrong_values_and_missing_keys_are_wrong_usage() {
    for (good, bad, what) in [
        ("trust_domain = \"example.org\"", "", "trust_domain"),
        ("trust_domain = \"example.org\"", "trust_domain = \"Bad Domain\"", "trust_domain"),
        ("log_level = \"DEBUG\"", "log_level = \"LOUD\"", "log_level"),
        ("log_level = \"DEBUG\"", "ca_ttl = \"x\"", "ca_ttl"),
        ("log_level = \"DEBUG\"", "ca_key_type = \"dsa\"", "ca_key_type"),
        ("log_level = \"DEBUG\"", "bind_address = [1]", "bind_address"),
        ("database_type = \"sqlite3\"", "database_type = \"mysql\"", "mysql"),
        ("KeyManager \"disk\"", "KeyManager \"aws_kms\"", "aws_kms"),
        ("NodeAttestor \"join_token\"", "NodeAttestor \"nosuch\"", "nosuch"),
        ("NodeAttestor \"join_token\"", "NoSuchKind \"x\"", "NoSuchKind"),
        ("}\nplugins", "}\nnosuch {}\nplugins", "nosuch"),
        ("}\nplugins", "\nplugins", ""),
    ] {
        let (server, _) = prepared();
        let text = fs::read_to_string(server.config_file()).expect("the file");
        assert!(text.contains(good), "{good:?} is not in\n{text}");
        fs::write(server.config_file(), text.replace(good, bad)).expect("the file");
        validate(&bins::server(), &server.config_file()).exits(64).says(what);
        run(server.command()).exits(64).says(what);
        assert!(!server.data().join("keys.json").exists(), "{bad}: nothing was made");
        assert!(!server.data().join("datastore.sqlite3").exists(), "{bad}: nothing was made");
    }
}

#[test]
fn an_agent_wants_exactly_one_way_to_trust_its_server() {
    let (_, agent) = prepared();
    let text = fs::read_to_string(agent.config_file()).expect("the file");
    let bundle =
        text.lines().find(|l| l.contains("trust_bundle_path")).expect("the key").to_owned();
    for bad in [String::new(), format!("{bundle}\ninsecure_bootstrap = true")] {
        fs::write(agent.config_file(), text.replace(&bundle, &bad)).expect("the file");
        run(agent.command()).exits(64).says("insecure_bootstrap");
    }
}

#[test]
fn a_missing_file_is_named() {
    for program in [bins::server(), bins::agent()] {
        let mut command = Command::new(program);
        command.args(["run", "-config", "/nonexistent/file.conf"]);
        let said = run(command).says("/nonexistent/file.conf");
        assert_ne!(said.code, 0);
    }
}

#[test]
fn flags_win_over_the_file_and_variables_are_expanded() {
    let mut server = Server::prepare_in(
        &Arc::new(TestDir::new()),
        "server",
        ServerOptions {
            server: "default_jwt_svid_ttl = \"${JWT_TTL}\"".to_owned(),
            args: vec!["-trustDomain".to_owned(), "flag.test".to_owned(), "-expandEnv".to_owned()],
            env: vec![("JWT_TTL".to_owned(), "77s".to_owned())],
            ..ServerOptions::default()
        },
    );
    server.launch();
    server.ready();
    assert_eq!(server.cli().json("bundle show")["trust_domain"], "flag.test");
    let jwt = server.cli().json("jwt mint -spiffeID spiffe://flag.test/m -audience a");
    let number = |key: &str| -> i64 {
        jwt["svid"][key].as_str().and_then(|s| s.parse().ok()).expect("a number")
    };
    assert_eq!(number("expires_at") - number("issued_at"), 77);
}

#[test]
fn json_is_read_too() {
    let dir = Arc::new(TestDir::new());
    let server = Server::prepare_in(&dir, "server", ServerOptions::default());
    let data = server.data().display().to_string();
    let config = serde_json::json!({
        "server": {
            "bind_address": "127.0.0.1", "bind_port": server.port().to_string(),
            "trust_domain": "json.test", "data_dir": data,
            "socket_path": server.socket().display().to_string(),
        },
        "plugins": {
            "DataStore": [{"sql": {"plugin_data": {
                "database_type": "sqlite3", "connection_string": format!("{data}/datastore.sqlite3"),
            }}}],
            "KeyManager": [{"memory": {"plugin_data": {}}}],
            "NodeAttestor": [{"join_token": {"plugin_data": {}}}],
        },
    });
    fs::write(server.config_file(), config.to_string()).expect("the file");
    let mut server = server;
    server.launch();
    server.ready();
    assert_eq!(server.cli().json("bundle show")["trust_domain"], "json.test");
}

#[test]
fn both_programs_answer_to_the_names_of_spire() {
    let dir = TestDir::new();
    for (program, name, socket) in [
        (bins::server(), "spire-server", "/tmp/spire-server/private/api.sock"),
        (bins::agent(), "spire-agent", "/tmp/spire-agent/public/api.sock"),
    ] {
        let link = dir.join(name);
        std::os::unix::fs::symlink(&program, &link).expect("a link");
        let mut command = Command::new(link);
        command.args(["healthcheck", "-verbose"]);
        run(command).exits(1).says(socket);
    }
}

#[test]
fn terminated_programs_end_in_good_order() {
    let mut node = e2e::Node::start();
    assert_eq!(node.agent.process().terminate(), 0);
    assert_eq!(node.server.process().terminate(), 0);
    assert!(!node.server.log().to_lowercase().contains("panic"), "{}", node.server.log());
}

#[test]
fn a_log_file_is_opened_again_on_sigusr2() {
    let dir = Arc::new(TestDir::new());
    let log = dir.join("own.log");
    let line = format!("log_file = \"{}\"", log.display());
    let mut server = Server::start_in(&dir, "server", ServerOptions::with(&line));
    let moved = dir.join("old.log");
    fs::rename(&log, &moved).expect("the log file");
    server.process().signal(e2e::Signal::SIGUSR2);
    server.cli().line("logger set -level info").ok();
    e2e::eventually("a new log file", || log.exists().then_some(()));
    assert!(fs::metadata(&moved).is_ok_and(|m| m.len() > 0));
}

#[test]
fn a_clusters_kubeconfig_that_cannot_be_used_keeps_only_that_cluster_out() {
    let dir = Arc::new(TestDir::new());
    let plugins = "NodeAttestor \"k8s_psat\" { plugin_data { clusters = { \"far\" = { \
                   service_account_allow_list = [\"a:b\"] kube_config_file = \
                   \"/nonexistent/far.kubeconfig\" } } } }";
    let options = ServerOptions { plugins: plugins.to_owned(), ..ServerOptions::default() };
    let mut server = Server::prepare_in(&dir, "server", options);
    let validated = validate(&bins::server(), &server.config_file()).exits(1);
    validated.says("cluster \"far\"").says("/nonexistent/far.kubeconfig");
    server.launch();
    server.ready();
    server.token("/somebody");
    let log = server.log();
    assert!(log.contains("cannot be used; its agents are refused until it can"), "{log}");
    assert!(log.contains("/nonexistent/far.kubeconfig"), "{log}");
}
