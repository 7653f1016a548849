//! Whom an agent believes at first, and when it begins anew.

use std::{fs, sync::Arc};

use e2e::{Agent, AgentOptions, Server, ServerOptions, TestDir, eventually, node::caller};

use crate::{
    attestors::{Machines, machine_options},
    web::Web,
};

/// The options of an agent that joins with a token and gets its bundle as `agent` says.
fn joining(server: &Server, agent: String, env: &[(&str, String)]) -> AgentOptions {
    AgentOptions {
        port: server.port(),
        token: Some(server.token("/node")),
        agent,
        env: env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..AgentOptions::default()
    }
}

fn url(port: u16, path: &str) -> String {
    format!("trust_bundle_url = \"https://localhost:{port}{path}\"")
}

#[test]
fn the_first_bundle_comes_from_a_url_in_both_formats() {
    let server = Server::start(ServerOptions::default());
    let web = Web::default();
    let (port, root) = web.https(server.dir());
    let trust = [("SSL_CERT_FILE", root.display().to_string())];
    for format in ["pem", "spiffe"] {
        let path = format!("/bundle.{format}");
        let shown = server.cli().line(&format!("bundle show -format {format}")).ok().stdout;
        web.put(&path, 200, shown);
        let agent = format!("{}\ntrust_bundle_format = \"{format}\"", url(port, &path));
        let options = joining(&server, agent, &trust);
        let _agent = Agent::start_in(server.dir(), &format!("agent-{format}"), options);
        let asked = web.requests();
        assert_eq!(asked.last(), Some(&path), "without a query");
    }
    assert_eq!(server.cli().json("agent count")["count"], 2);
}

#[test]
fn an_agent_believes_no_bundle_that_is_not_what_it_should_be() {
    let server = Server::start(ServerOptions::default());
    let web = Web::default();
    let (port, root) = web.https(server.dir());
    let bundle = server.cli().line("bundle show").ok().stdout;
    web.put("/good", 200, bundle.clone());
    web.put("/error", 500, bundle.clone());
    web.put("/moved", 301, bundle.clone());
    web.put("/huge", 200, format!("{}{bundle}", "#".repeat(5 << 20)));
    web.put("/empty", 200, "");
    web.put("/half", 200, &bundle.as_bytes()[..bundle.len() / 2]);
    web.put("/key", 200, bundle.replace("CERTIFICATE", "PRIVATE KEY"));
    let trust = [("SSL_CERT_FILE", root.display().to_string())];
    let mut agents: Vec<Agent> = ["error", "moved", "huge", "empty", "half", "key", "missing"]
        .map(|name| (name, url(port, &format!("/{name}")), &trust[..]))
        .into_iter()
        .chain([("stranger", url(port, "/good"), &[][..])])
        .map(|(name, agent, env)| {
            Agent::prepare_in(server.dir(), name, joining(&server, agent, env))
        })
        .collect();
    agents.iter_mut().for_each(Agent::launch);
    for agent in &mut agents {
        eventually("the agent says what is wrong", || {
            agent.process().assert_running();
            let log = agent.log();
            (log.contains("Node attestation failed") && log.contains("localhost")).then_some(())
        });
        assert!(!agent.socket().exists(), "it serves nobody");
    }
    assert_eq!(server.cli().json("agent count")["count"], 0);
}

#[test]
fn the_first_bundle_comes_from_a_socket_that_is_told_why() {
    let server = Server::start(ServerOptions::default());
    let web = Web::default();
    let socket = server.dir().join("bundles.sock");
    web.unix(&socket);
    let agent = format!(
        "trust_bundle_url = \"http://localhost/bundle\"\ntrust_bundle_unix_socket = \"{}\"",
        socket.display()
    );
    let mut agent = Agent::prepare_in(server.dir(), "agent", joining(&server, agent, &[]));
    agent.launch();
    // There is no bundle yet: it asks again.
    eventually("a first request", || (!web.requests().is_empty()).then_some(()));
    web.put("/bundle", 200, server.cli().line("bundle show").ok().stdout);
    agent.ready();
    let requests = web.requests();
    let last = requests.last().expect("a request");
    for pair in [
        "spiffe-trust-domain=example.org".to_owned(),
        "spire-attest-mode=bootstrap".to_owned(),
        "spire-server-address=127.0.0.1".to_owned(),
        format!("spire-server-port={}", server.port()),
        format!("spire-connection-attempts={}", requests.len()),
    ] {
        assert!(last.split(['?', '&']).any(|part| part == pair), "{pair} is not in {last}");
    }
}

/// An agent with a rebootstrap mode, whose node has the name of the mode.
fn of_mode(server: &Server, machines: &Machines, mode: &str) -> Agent {
    let mut options = machine_options(server, machines.machine(mode, true));
    options.agent = rebootstrap(mode);
    register(server, mode, "before");
    Agent::start_in(server.dir(), mode, options)
}

fn rebootstrap(mode: &str) -> String {
    format!("rebootstrap_mode = \"{mode}\"\nrebootstrap_delay = \"1s\"")
}

/// Registers the caller behind the node of that name.
fn register(server: &Server, node: &str, path: &str) {
    let id = format!("spiffe://example.org/{node}");
    let selector = format!("x509pop:subject:cn:{node}");
    server.cli().line(&format!("entry create -node -spiffeID {id} -selector {selector}")).ok();
    server.register(&format!("/{node}"), &format!("/{node}/{path}"), &[&caller()], "");
}

fn serves(agent: &Agent, path: &str) -> bool {
    agent.cli().line("api fetch x509 -output json").stdout.contains(path)
}

#[test]
fn a_server_that_was_set_up_anew_is_believed_as_rebootstrap_mode_says() {
    let machines = Machines::new();
    let mut server = machines.server("");
    let bundle = server.bundle_file();
    let mut auto = of_mode(&server, &machines, "auto");
    let mut always = of_mode(&server, &machines, "always");
    let mut never = of_mode(&server, &machines, "never");
    server.register("/token", "/token/before", &[&caller()], "");
    let options = AgentOptions {
        port: server.port(),
        bundle: Some(bundle.clone()),
        token: Some(server.token("/token")),
        agent: rebootstrap("auto"),
        ..AgentOptions::default()
    };
    let mut token = Agent::start_in(server.dir(), "token", options);
    for (agent, name) in [(&auto, "auto"), (&always, "always"), (&never, "never")] {
        eventually("the identity", || serves(agent, &format!("/{name}/before")).then_some(()));
    }
    eventually("the identity", || serves(&token, "/token/before").then_some(()));

    // Another authority under the old address.
    server.stop();
    let mut anew = Server::prepare_in(server.dir(), "anew", ServerOptions::default());
    let port = server.port().to_string();
    anew.reconfigure(|options| {
        options.args = vec!["-serverPort".to_owned(), port];
        options.plugins = machines.plugin();
    });
    anew.launch();
    anew.ready();
    fs::write(&bundle, anew.cli().line("bundle show").ok().stdout).expect("the bundle");
    for node in ["auto", "always", "never"] {
        register(&anew, node, "after");
    }
    for (agent, name) in [(&mut auto, "auto"), (&mut always, "always")] {
        eventually("what the new server says", || {
            agent.process().assert_running();
            serves(agent, &format!("/{name}/after")).then_some(())
        });
        assert!(!serves(agent, "/before"), "what the old one said is gone");
    }
    for (agent, name) in [(&mut never, "never"), (&mut token, "token")] {
        eventually("advice", || agent.log().contains("remove agent-data.json").then_some(()));
        agent.process().assert_running();
        assert!(serves(agent, &format!("/{name}/before")), "{name} serves what is still valid");
        assert!(!serves(agent, "/after"), "{name} believes nobody new");
    }
    assert_eq!(anew.cli().json("agent count")["count"], 2);
}

#[test]
fn an_agent_that_must_always_be_able_to_begin_anew_does_not_start_with_a_token() {
    let server = Server::start(ServerOptions::default());
    let options = AgentOptions {
        port: server.port(),
        bundle: Some(server.bundle_file()),
        token: Some(server.token("/node")),
        agent: rebootstrap("always"),
        ..AgentOptions::default()
    };
    let mut agent = Agent::prepare_in(server.dir(), "agent", options);
    agent.launch();
    assert_ne!(agent.process().wait(e2e::DEADLINE), 0);
    assert!(agent.log().contains("rebootstrap_mode is"), "{}", agent.log());
    // Nor may it be made to believe anybody.
    let dir = Arc::new(TestDir::new());
    let options = AgentOptions { agent: rebootstrap("auto"), ..AgentOptions::default() };
    let insecure = Agent::prepare_in(&dir, "insecure", options);
    e2e::cli::run(&mut insecure.command(), "").exits(64).says("insecure_bootstrap");
}

#[test]
fn the_first_bundle_comes_from_the_workload_api_of_another_agent() {
    let server = Server::start(ServerOptions::default());
    let bundle = Some(server.bundle_file());
    let first = AgentOptions {
        port: server.port(),
        bundle,
        token: Some(server.token("/first")),
        ..AgentOptions::default()
    };
    let first = Agent::start_in(server.dir(), "first", first);
    let socket = first.socket();
    let source = format!("trust_bundle_spiffe_workload_api = \"unix://{}\"", socket.display());
    // Whoever has no identity gets no bundle; the agent waits until it has one.
    let mut second = Agent::prepare_in(server.dir(), "second", joining(&server, source, &[]));
    second.launch();
    eventually("the refusal is in the log", || {
        let log = second.log();
        log.contains("trust_bundle_spiffe_workload_api: no identity issued").then_some(())
    });
    server.register("/first", "/agent-below", &[&caller()], "");
    second.ready();
    assert_eq!(server.cli().json("agent count")["count"], 2);
}
