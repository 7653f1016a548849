//! Envoys get their certificates and bundles from the agent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::{
    Agent, AgentOptions, DEADLINE, Envoy, Node, Server, ServerOptions, TestDir,
    envoy::{Inbound, Outbound, Sds, available, backend},
    eventually, eventually_within,
    http::get,
    node::caller,
    skip,
};
use serde_json::Value;

/// What `sds list` says.
fn streams(agent: &Agent, more: &str) -> Vec<Value> {
    let listed = agent.admin_cli().json(&format!("sds list {more} -output json"));
    listed["streams"].as_array().expect("streams").clone()
}

/// Whether a certificate was accepted on a stream, and not a bundle only.
fn is_of_svid(stream: &Value) -> bool {
    let accepted = stream["accepted"].as_array().expect("secrets");
    accepted.iter().any(|secret| secret["expires_at"] != "0")
}

/// Waits until every open stream has accepted what it was sent last.
fn settled(agent: &Agent, count: usize) {
    eventually("all proxies have accepted what they were sent", || {
        let streams = streams(agent, "");
        let settled = |stream: &Value| {
            stream["pending"].as_array().is_some_and(Vec::is_empty)
                && stream["accepted"].as_array().is_some_and(|accepted| !accepted.is_empty())
        };
        (streams.len() == count && streams.iter().all(settled)).then_some(())
    });
}

/// Two identities of one trust domain, a proxy for each, and a plain service behind the second.
struct Mesh {
    node: Node,
    client: Envoy,
    server: Envoy,
    entries: [String; 2],
}

impl Mesh {
    fn start(sds: Sds, on_demand: bool) -> Self {
        let options = ServerOptions::with("ca_ttl = \"1h\"");
        let node = Node::with(options, AgentOptions::default());
        let entries = ["/client", "/server"].map(|path| node.register_caller(path, ""));
        node.register_caller("/other", "");
        let socket = node.agent.socket();
        let from = (socket.as_path(), sds);
        let dir = node.agent.dir().clone();
        let inbound = Inbound {
            certificate: node.id("/server"),
            bundle: "ROOTCA".to_owned(),
            allow: vec![node.id("/client")],
            backend: backend(),
            on_demand,
        };
        eventually("the agent has all identities", || {
            let fetched = node.agent.cli().line("api fetch x509 -output json");
            ["/client", "/server", "/other"]
                .iter()
                .all(|path| fetched.stdout.contains(path))
                .then_some(())
        });
        let server = Envoy::start(&dir, "server-proxy", from, &[inbound], &[]);
        let outbound = |certificate: &str, server_is: &str| Outbound {
            certificate: node.id(certificate),
            bundle: "spiffe://example.org".to_owned(),
            server: node.id(server_is),
            port: server.ports[0],
        };
        let outbound = [
            outbound("/client", "/server"),
            outbound("/other", "/server"),
            outbound("/client", "/x"),
        ];
        let client = Envoy::start(&dir, "client-proxy", from, &[], &outbound);
        Self { node, client, server, entries }
    }

    fn request(&self) -> Result<(u16, String), String> {
        get(self.client.ports[0], "/")
    }

    /// Has an SVID replaced, as its renewal does.
    fn rotate(&self, which: usize, round: usize) {
        let path = ["/client", "/server"][which];
        self.node
            .server
            .cli()
            .line(&format!(
                "entry update -entryID {} -parentID spiffe://example.org/node -spiffeID {} \
                 -selector {} -x509SVIDTTL {}",
                self.entries[which],
                self.node.id(path),
                caller(),
                600 + round
            ))
            .ok();
    }
}

#[test]
fn requests_between_proxies_survive_every_rotation_and_the_death_of_the_agent() {
    if let Err(why) = available() {
        skip!("{why}");
    }
    let mut mesh = Mesh::start(Sds::Delta, false);
    // Four names on the client's side, two on the server's, one stream for each.
    settled(&mesh.node.agent, 5);
    let (status, client) = mesh.request().expect("an answer");
    assert_eq!(status, 200);
    assert!(client.contains(&format!("uri={}", mesh.node.id("/client"))), "{client}");
    // RBAC knows the client by its SPIFFE ID, and the client knows the server.
    assert_eq!(get(mesh.client.ports[1], "/").expect("an answer").0, 403);
    assert_eq!(get(mesh.client.ports[2], "/").expect("an answer").0, 503);

    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let port = mesh.client.ports[0];
    let load = std::thread::spawn({
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        move || {
            let mut failed = Vec::new();
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                match get(port, "/") {
                    Ok((200, _)) => {}
                    other => failed.push(format!("{other:?}")),
                }
                done.fetch_add(1, Ordering::Relaxed);
                next += Duration::from_millis(5);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            failed
        }
    });

    let accepted = |mesh: &Mesh| {
        let name = |path: &str| format!("{}.key_rotation_failed", mesh.node.id(path));
        assert_eq!(mesh.client.stat(&name("/client")) + mesh.server.stat(&name("/server")), 0);
        mesh.client.stat("update_success") + mesh.server.stat("update_success")
    };
    for round in 0..15 {
        let before = accepted(&mesh);
        mesh.rotate(0, round);
        mesh.rotate(1, round);
        eventually("both proxies took the new certificates", || {
            (accepted(&mesh) >= before + 2).then_some(())
        });
    }

    for round in 100..102 {
        let cli = mesh.node.server.cli();
        let show = cli.json("localauthority x509 show");
        let old = show["active"]["authority_id"].as_str().expect("an ID").to_owned();
        let prepared = cli.json("localauthority x509 prepare");
        let new =
            prepared["prepared_authority"]["authority_id"].as_str().expect("an ID").to_owned();
        eventually("every bundle has the new authority", || {
            let with = streams(&mesh.node.agent, &format!("-authorityID {new}"));
            (with.len() == 2).then_some(())
        });
        cli.line(&format!("localauthority x509 activate -authorityID {new}")).ok();
        cli.line(&format!("localauthority x509 taint -authorityID {old}")).ok();
        eventually("no proxy has a certificate of the old authority", || {
            let with = streams(&mesh.node.agent, &format!("-authorityID {old}"));
            (!with.iter().any(is_of_svid)).then_some(())
        });
        cli.line(&format!("localauthority x509 revoke -authorityID {old}")).ok();
        eventually("no bundle has the old authority", || {
            streams(&mesh.node.agent, &format!("-authorityID {old}")).is_empty().then_some(())
        });
        mesh.rotate(0, round);
    }
    settled(&mesh.node.agent, 5);

    // Killed, and started again: every proxy comes back, and is sent nothing.
    mesh.node.agent.sealed();
    let before = accepted(&mesh);
    mesh.node.agent.stop();
    mesh.node.agent.launch();
    mesh.node.agent.ready();
    settled(&mesh.node.agent, 5);
    assert_eq!(accepted(&mesh), before, "nothing was sent again");
    mesh.rotate(1, 200);
    eventually("the new certificate is there", || (accepted(&mesh) > before).then_some(()));

    stop.store(true, Ordering::Relaxed);
    let failed = load.join().expect("the load");
    let done = done.load(Ordering::Relaxed);
    assert!(failed.is_empty(), "{} of {done} failed: {:?}", failed.len(), failed.first());
    assert!(done > 100, "only {done} requests");
    assert_eq!(mesh.client.stat("update_rejected") + mesh.server.stat("update_rejected"), 0);
}

#[test]
fn the_certificate_of_a_deleted_entry_is_gone_within_a_second_if_it_was_got_on_demand() {
    if let Err(why) = available() {
        skip!("{why}");
    }
    let mesh = Mesh::start(Sds::Delta, true);
    let served = || {
        eventually("the server is served", || {
            mesh.request().is_ok_and(|(status, _)| status == 200).then_some(())
        });
    };
    let gone = |entry: &str| {
        served();
        mesh.node.server.delete(entry);
        let deleted = Instant::now();
        eventually("no more handshakes", || {
            mesh.request().is_ok_and(|(status, _)| status == 503).then_some(())
        });
        deleted.elapsed()
    };
    // A busy machine may hold up one of them.
    let mut entry = mesh.entries[1].clone();
    let took = std::iter::repeat_with(|| {
        let took = gone(&entry);
        entry = mesh.node.register_caller("/server", "");
        took
    });
    let took: Vec<_> = took.take(3).collect();
    assert!(took.iter().min() < Some(&Duration::from_secs(1)), "{took:?}");
    mesh.node.server.delete(&entry);
    eventually("no server", || mesh.request().is_ok_and(|(status, _)| status == 503).then_some(()));
    // A regular secret goes on until it expires.
    mesh.node.server.delete(&mesh.entries[0]);
    eventually("the agent has told", || {
        let told = streams(&mesh.node.agent, "").iter().all(|stream| {
            stream["accepted"]
                .as_array()
                .expect("secrets")
                .iter()
                .all(|secret| secret["name"] != mesh.node.id("/client").as_str())
        });
        told.then_some(())
    });
    mesh.node.register_caller("/server", "");
    served();
}

#[test]
fn a_proxy_that_is_there_before_its_entry_serves_as_soon_as_there_is_one() {
    if let Err(why) = available() {
        skip!("{why}");
    }
    let options = AgentOptions {
        agent: "sds { unknown_names = \"wait\" }".to_owned(),
        ..AgentOptions::default()
    };
    let node = Node::with(ServerOptions::default(), options);
    let dir = node.agent.dir().clone();
    let inbound = Inbound {
        certificate: "default".to_owned(),
        bundle: "ROOTCA".to_owned(),
        allow: vec![node.id("/both")],
        backend: backend(),
        on_demand: false,
    };
    let socket = node.agent.socket();
    let mut server = Envoy::launch(&dir, "server-proxy", (&socket, Sds::Whole), &[inbound], &[]);
    eventually("the proxy waits", || (streams(&node.agent, "").len() == 2).then_some(()));
    let begun = Instant::now();
    node.register_caller("/both", "");
    server.ready();
    assert!(begun.elapsed() < Duration::from_secs(10), "it did not wait for its own deadline");
    let outbound = Outbound {
        certificate: "default".to_owned(),
        bundle: "ROOTCA".to_owned(),
        server: node.id("/both"),
        port: server.ports[0],
    };
    let client = Envoy::start(&dir, "client-proxy", (&socket, Sds::Whole), &[], &[outbound]);
    let answer = eventually_within("an answer", DEADLINE, || {
        get(client.ports[0], "/").ok().filter(|(status, _)| *status == 200)
    });
    assert!(answer.1.contains(&node.id("/both")), "{answer:?}");
}

/// A sidecar asks the socket that is mounted for it in the terms that istiod's configuration has, before
/// the controller has made its entry.
#[test]
fn sidecars_of_istio_get_default_and_rootca_from_the_socket_that_is_mounted_for_them() {
    if let Err(why) = available() {
        skip!("{why}");
    }
    let options = AgentOptions {
        agent: "sds { unknown_names = \"wait\" }".to_owned(),
        ..AgentOptions::default()
    };
    let node = Node::with(ServerOptions::default(), options);
    let dir = node.agent.dir().clone();
    // The directory of the socket is what is mounted; the file's name is in
    // WORKLOAD_IDENTITY_SOCKET_FILE.
    let mounted = dir.subdir("secrets").join("workload-spiffe-uds");
    let socket = node.agent.socket();
    std::os::unix::fs::symlink(socket.parent().unwrap(), &mounted).unwrap();
    let socket = mounted.join(socket.file_name().unwrap());
    let account = "/ns/shop/sa/web";
    let inbound = Inbound {
        certificate: "default".to_owned(),
        bundle: "ROOTCA".to_owned(),
        allow: vec![node.id(account)],
        backend: backend(),
        on_demand: false,
    };
    let from = (socket.as_path(), Sds::Istio);
    let mut server = Envoy::launch(&dir, "server-sidecar", from, &[inbound], &[]);
    eventually("the sidecar waits", || (streams(&node.agent, "").len() == 2).then_some(()));
    node.register_caller(account, "");
    server.ready();
    let outbound = |account: &str| Outbound {
        certificate: "default".to_owned(),
        bundle: "ROOTCA".to_owned(),
        server: node.id(account),
        port: server.ports[0],
    };
    let outbound = [outbound(account), outbound("/ns/shop/sa/other")];
    let client = Envoy::start(&dir, "client-sidecar", from, &[], &outbound);
    let served = || {
        eventually("an answer", || {
            get(client.ports[0], "/").ok().filter(|(status, _)| *status == 200)
        })
    };
    assert!(served().1.contains(&node.id(account)));
    assert_eq!(get(client.ports[1], "/").expect("an answer").0, 503, "it is another account");

    // A new root reaches both before anything is signed under it.
    let cli = node.server.cli();
    let shown = cli.json("localauthority x509 show");
    let old = shown["active"]["authority_id"].as_str().expect("an ID");
    let prepared = cli.json("localauthority x509 prepare");
    let next = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID");
    cli.line(&format!("localauthority x509 activate -authorityID {next}")).ok();
    cli.line(&format!("localauthority x509 taint -authorityID {old}")).ok();
    eventually("both sidecars have a certificate of the new root", || {
        let streams = streams(&node.agent, &format!("-authorityID {old}"));
        (!streams.iter().any(is_of_svid)).then_some(())
    });
    served();
    assert_eq!(client.stat("update_rejected") + server.stat("update_rejected"), 0);
}

#[test]
fn proxies_of_federated_trust_domains_speak_with_each_other_and_with_no_third() {
    if let Err(why) = available() {
        skip!("{why}");
    }
    let dir = Arc::new(TestDir::new());
    let names = ["one.test", "two.test", "three.test"];
    let servers = names.map(|name| {
        let options = ServerOptions { trust_domain: name.to_owned(), ..ServerOptions::default() };
        Server::start_in(&dir, name, options)
    });
    let bundles = servers.each_ref().map(|server| {
        let shown = server.cli().line("bundle show -format spiffe").ok().stdout;
        dir.write(format!("{}.json", server.trust_domain()), shown)
    });
    let mut nodes = Vec::new();
    for (n, server) in servers.into_iter().enumerate() {
        for (name, bundle) in names.iter().zip(&bundles).filter(|(name, _)| **name != names[n]) {
            let set =
                format!("bundle set -format spiffe -id spiffe://{name} -path {}", bundle.display());
            server.cli().line(&set).ok();
        }
        let options = Node::agent_options(&server, AgentOptions::default());
        let agent = Agent::start_in(&dir, &format!("agent-{n}"), options);
        nodes.push(Node { agent, server });
    }
    nodes[0].register_caller("/server", "-federatesWith spiffe://two.test");
    nodes[1].register_caller("/client", "-federatesWith spiffe://one.test");
    nodes[2].register_caller("/client", "-federatesWith spiffe://one.test");
    for node in &nodes {
        eventually("the agent has the identity", || {
            (node.agent.cli().line("api fetch x509").code == 0).then_some(())
        });
    }
    let inbound = Inbound {
        certificate: "default".to_owned(),
        bundle: "ALL".to_owned(),
        allow: vec![nodes[1].id("/client")],
        backend: backend(),
        on_demand: false,
    };
    let socket = nodes[0].agent.socket();
    let server = Envoy::start(&dir, "server-proxy", (&socket, Sds::Whole), &[inbound], &[]);
    for (node, wanted) in [(&nodes[1], 200), (&nodes[2], 503)] {
        let outbound = Outbound {
            certificate: "default".to_owned(),
            bundle: "spiffe://one.test".to_owned(),
            server: nodes[0].id("/server"),
            port: server.ports[0],
        };
        let socket = node.agent.socket();
        let name = format!("proxy-of-{}", node.server.trust_domain());
        let client = Envoy::start(&dir, &name, (&socket, Sds::Whole), &[], &[outbound]);
        let (status, body) = get(client.ports[0], "/").expect("an answer");
        assert_eq!(status, wanted, "{body}");
    }
}
