//! Agents and servers that are restarted and upgraded under their clients.

use std::{
    net::TcpListener,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::{
    Agent, AgentOptions, Client, Lines, Node, Server, ServerOptions, Signal, csi::CsiNode,
    eventually, free_port, http, skip,
};
use serde_json::{Value, json};

fn has(line: &Value, id: &str) -> bool {
    let svids = line["svids"].as_array();
    svids.is_some_and(|svids| svids.iter().any(|svid| svid["id"] == id))
}

/// An agent with the CSI driver, and a workload whose stream goes through a mounted volume.
struct Mounted {
    agent: Agent,
    server: Server,
    stream: Lines,
    seen: PathBuf,
    _node: CsiNode,
}

const WORKLOAD: &str = "spiffe://example.org/workload";

fn mounted() -> Result<Mounted, String> {
    Client::Go.prepare()?;
    let node = CsiNode::new()?;
    let server = Server::start_in(node.dir(), "server", ServerOptions::default());
    server.register(e2e::node::ALIAS, "/workload", &[&e2e::node::caller()], "");
    let csi = format!(
        "csi {{ socket_path = \"{}\" kubelet_dir = \"{}\" node_id = \"node-1\" }}",
        node.inside("plugins/csi.sock").display(),
        node.inside("kubelet").display()
    );
    let options = AgentOptions { agent: csi, prefix: node.prefix(), ..AgentOptions::default() };
    let agent = Agent::start_in(node.dir(), "agent", Node::agent_options(&server, options));
    let volume = node.volume_of("pod-1");
    assert_eq!(node.caller().publish(&volume), Ok(json!({})));
    let socket = volume.join("api.sock");
    let mut stream = Lines::start(node.command(&Client::Go.command(&socket)).arg("watch"));
    stream.find("the first SVID", |line| has(line, WORKLOAD));
    // The path as it is seen from here, for the moment of reconnection.
    let seen = node.outside(socket.strip_prefix(node.inside("")).expect("a path of the node"));
    Ok(Mounted { agent, server, stream, seen, _node: node })
}

/// Until somebody can connect again.
fn gap(seen: &PathBuf) -> Duration {
    let start = Instant::now();
    eventually("the socket is served again", || UnixStream::connect(seen).ok());
    start.elapsed()
}

#[test]
fn a_stream_through_a_mounted_directory_survives_restarts_of_the_agent() {
    let mut mounted = match mounted() {
        Ok(mounted) => mounted,
        Err(why) => skip!("{why}"),
    };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let start = Instant::now();
        mounted.agent.process().signal(signal);
        mounted.agent.process().wait(Duration::from_secs(30));
        let ended = start.elapsed();
        let start = Instant::now();
        mounted.agent.launch();
        let down = gap(&mounted.seen);
        mounted.stream.find("the SVID after the restart", |line| has(line, WORKLOAD));
        let reconnected = start.elapsed();
        eprintln!(
            "{signal}: ended in {ended:?}, socket back {down:?} after the start, the client has \
             its SVID {reconnected:?} after the start"
        );
        mounted.agent.ready();
    }
    assert!(mounted.seen.parent().unwrap().is_dir());
    // The stream is alive, not only its answer.
    mounted.server.register(e2e::node::ALIAS, "/second", &[&e2e::node::caller()], "");
    mounted.stream.find("another SVID", |line| has(line, "spiffe://example.org/second"));
}

#[test]
fn an_agent_restarted_without_its_server_serves_mounted_pods_from_its_sealed_cache() {
    let mut mounted = match mounted() {
        Ok(mounted) => mounted,
        Err(why) => skip!("{why}"),
    };
    mounted.agent.sealed();
    let port = mounted.server.port();
    mounted.server.stop();
    mounted.agent.process().kill();
    mounted.agent.launch();
    mounted.stream.find("the SVID without a server", |line| has(line, WORKLOAD));
    // A server that takes connections and never answers keeps nobody waiting either.
    let silent = TcpListener::bind(("127.0.0.1", port)).expect("the server's port");
    mounted.agent.process().kill();
    mounted.agent.launch();
    mounted.stream.find("the SVID with a silent server", |line| has(line, WORKLOAD));
    drop(silent);
}

#[test]
fn an_upgraded_server_drops_no_stream_and_loses_nothing() {
    let mut node = Node::start();
    node.register_caller("/workload", "");
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let mut stream = Client::Go.start(&node.agent.socket(), &["watch"]);
    stream.find("the first SVID", |line| has(line, &node.id("/workload")));
    for round in 0..3 {
        node.register_caller(&format!("/before-{round}"), "");
        assert_eq!(node.server.process().terminate(), 0);
        node.agent.cli().line("healthcheck").ok();
        node.agent.cli().line("api fetch x509").ok().says("/workload");
        node.server.launch();
        node.server.ready();
        let start = Instant::now();
        node.register_caller(&format!("/after-{round}"), "");
        for path in [format!("/before-{round}"), format!("/after-{round}")] {
            let id = node.id(&path);
            eventually("what was registered is served", || {
                let answer = node.agent.cli().line("api fetch x509 -output json");
                answer.stdout.contains(&id).then_some(())
            });
        }
        eprintln!("{:?} after the server was back, the change is served", start.elapsed());
    }
    let last = node.id("/after-2");
    let line = stream.find("the last change on the first stream", |line| has(line, &last));
    assert!(has(&line, &node.id("/workload")));
}

#[test]
fn probes_tell_an_agent_that_cannot_serve_yet_from_one_whose_server_is_away() {
    let (agent_port, server_port) = (free_port(), free_port());
    let checks = |port: u16| {
        format!(
            "health_checks {{ listener_enabled = true bind_address = \"127.0.0.1\" \
             bind_port = {port} live_path = \"/live\" ready_path = \"/ready\" }}"
        )
    };
    let server = ServerOptions { top: checks(server_port), ..ServerOptions::default() };
    let mut node =
        Node::with(server, AgentOptions { top: checks(agent_port), ..AgentOptions::default() });
    node.register_caller("/workload", "");
    assert_eq!((get(server_port, "/live"), get(server_port, "/ready")), (Some(200), Some(200)));
    assert_eq!((get(agent_port, "/live"), get(agent_port, "/ready")), (Some(200), Some(200)));
    assert_eq!(node.server.process().terminate(), 0);
    assert_eq!(get(server_port, "/live"), None);
    // Longer than an answer is given again.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!((get(agent_port, "/live"), get(agent_port, "/ready")), (Some(200), Some(200)));
    node.agent.cli().line("healthcheck").ok();

    // One that has nothing to serve is alive, and not ready until its server is there.
    let other_port = free_port();
    let options = AgentOptions {
        top: checks(other_port),
        token: Some("no-such-token".to_owned()),
        trust_domain: "example.org".to_owned(),
        port: node.server.port(),
        ..AgentOptions::default()
    };
    let mut other = Agent::prepare_in(node.server.dir(), "other", options);
    other.launch();
    eventually("the health listener is there", || get(other_port, "/live"));
    assert_eq!((get(other_port, "/live"), get(other_port, "/ready")), (Some(200), Some(500)));
    assert_ne!(other.cli().line("healthcheck").code, 0);
    other.process().assert_running();
}

/// The status of an HTTP answer; none when nobody listens.
fn get(port: u16, path: &str) -> Option<u16> {
    http::get(port, path).ok().map(|(status, _)| status)
}

#[test]
fn a_second_agent_that_is_told_so_takes_over_and_there_is_always_a_socket_to_connect_to() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let mut node = Node::start();
    node.register_caller("/workload", "");
    let socket = node.agent.socket();
    let mut stream = Client::Go.start(&socket, &["watch"]);
    stream.find("the first SVID", |line| has(line, &node.id("/workload")));

    let stop = Arc::new(AtomicBool::new(false));
    let clients = std::thread::spawn({
        let (socket, stop) = (socket.clone(), stop.clone());
        move || {
            let mut connected = 0u64;
            while !stop.load(Ordering::Relaxed) {
                match UnixStream::connect(&socket) {
                    Ok(_) => connected += 1,
                    Err(error) => panic!("after {connected} connections: {error}"),
                }
                // Slower than a busy agent takes them on: one user's own flood keeps its others out.
                std::thread::sleep(Duration::from_millis(2));
            }
            connected
        }
    });
    let options = AgentOptions {
        args: vec![format!("-socketPath={}", socket.display())],
        agent: "take_over_sockets = true".to_owned(),
        ..AgentOptions::default()
    };
    let options = Node::agent_options(&node.server, options);
    let mut second = Agent::prepare_in(node.agent.dir(), "second", options);
    second.launch();
    eventually("the socket is taken over", || {
        second.process().assert_running();
        second.log().contains("Took the socket over from another process").then_some(())
    });
    // The stream of the first one is still there.
    node.register_caller("/second", "");
    stream.find("a change through the first agent", |line| has(line, &node.id("/second")));
    let start = Instant::now();
    assert_eq!(node.agent.process().terminate(), 0);
    stream.find("the SVID from the second agent", |line| has(line, &node.id("/workload")));
    eprintln!(
        "the client has its SVID {:?} after the first agent was told to stop",
        start.elapsed()
    );
    stop.store(true, Ordering::Relaxed);
    assert!(clients.join().expect("every connection was made") > 0);
    assert!(socket.exists(), "the first agent left the second one's socket alone");
}

#[test]
fn a_second_agent_on_the_socket_by_mistake_does_not_start_and_a_removed_socket_comes_back() {
    let mut node = Node::start();
    node.register_caller("/workload", "");
    let socket = node.agent.socket();
    let fetch = |node: &Node| node.agent.cli().line("api fetch x509");
    eventually("the identity is served", || (fetch(&node).code == 0).then_some(()));
    let options = AgentOptions {
        args: vec![format!("-socketPath={}", socket.display())],
        ..AgentOptions::default()
    };
    let options = Node::agent_options(&node.server, options);
    let second = Agent::prepare_in(node.agent.dir(), "second", options);
    let refused = e2e::cli::run(&mut second.command(), "");
    assert_eq!(refused.code, 1, "{refused}");
    let refused = refused.says("is in use by another process: two agents cannot share a socket");
    assert_eq!(
        refused.to_string().matches("two agents cannot share").count(),
        1,
        "it is said once: {refused}"
    );
    fetch(&node).ok();

    std::fs::remove_file(&socket).expect("the socket goes");
    eventually("the socket is there again", || (fetch(&node).code == 0).then_some(()));
    node.agent.process().assert_running();
}

#[test]
fn an_agent_waits_for_the_one_before_it_to_end() {
    let node = Node::start();
    node.register_caller("/workload", "");
    let mut first = node.agent;
    let mut next = Agent::prepare_in(
        first.dir(),
        "agent",
        Node::agent_options(&node.server, {
            AgentOptions { token: Some("unused".to_owned()), ..AgentOptions::default() }
        }),
    );
    next.launch();
    eventually("it waits", || {
        next.process().assert_running();
        next.log().contains("Waiting for the data directory").then_some(())
    });
    assert_eq!(first.process().terminate(), 0);
    next.ready();
    next.cli().line("api fetch x509").ok().says("/workload");
}

#[test]
fn an_agent_that_never_served_was_never_ready() {
    use std::os::unix::net::UnixDatagram;

    let node = Node::start();
    let path = node.agent.dir().path().join("notify.sock");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_nonblocking(true).expect("a mode");
    let options = AgentOptions {
        token: Some("4ee2d6a1-0000-4000-8000-000000000000".to_owned()),
        env: vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())],
        ..AgentOptions::default()
    };
    let options = Node::agent_options(&node.server, options);
    let agent = Agent::prepare_in(node.agent.dir(), "unready", options);
    e2e::cli::run(&mut agent.command(), "").exits(1);
    let mut told = String::new();
    let mut bytes = [0; 256];
    while let Ok(length) = manager.recv(&mut bytes) {
        told.push_str(&String::from_utf8_lossy(&bytes[..length]));
        told.push('\n');
    }
    assert!(told.contains("STOPPING=1") && !told.contains("READY=1"), "{told}");
}
