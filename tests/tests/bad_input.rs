//! Whatever comes in on a socket: a clear error or a closed connection, and everyone else is served.

use e2e::{
    AgentOptions, Client, Node, ServerOptions, eventually, free_ports,
    raw::{Door, PREFACE, Rude, frame, nonsense},
    skip,
};
use signet_api::pb::spire::api::{
    server::entry::v1::{BatchCreateEntryRequest, entry_client::EntryClient},
    types,
};
use tonic::{Code, Status};

use crate::grpc;

const HEALTH: &str =
    "health_checks { listener_enabled = true, bind_address = \"127.0.0.1\", bind_port = \"PORT\" }";

const METRICS: &str = "telemetry { Prometheus { host = \"127.0.0.1\", port = PORT } }";

/// The metrics are at the port after that of the health checks.
fn node() -> (Node, u16, u16) {
    let (server_health, agent_health) = (free_ports(2), free_ports(2));
    let top = |port: u16| {
        let (health, metrics) = (port.to_string(), (port + 1).to_string());
        format!("{}\n{}", HEALTH.replace("PORT", &health), METRICS.replace("PORT", &metrics))
    };
    let node = Node::with(
        ServerOptions { top: top(server_health), ..ServerOptions::default() },
        AgentOptions { top: top(agent_health), ..AgentOptions::default() },
    );
    (node, server_health, agent_health)
}

fn doors(node: &Node, server_health: u16, agent_health: u16) -> Vec<(&'static str, Door)> {
    vec![
        ("the server's API socket", Door::Unix(node.server.socket())),
        ("the server's TCP port", Door::Tcp(node.server.port())),
        ("the Workload API socket", Door::Unix(node.agent.socket())),
        ("the admin socket", Door::Unix(node.agent.admin_socket())),
        ("the server's health port", Door::Tcp(server_health)),
        ("the agent's health port", Door::Tcp(agent_health)),
        ("the server's metrics port", Door::Tcp(server_health + 1)),
        ("the agent's metrics port", Door::Tcp(agent_health + 1)),
    ]
}

fn healthy(node: &mut Node) {
    node.server.process().assert_running();
    node.agent.process().assert_running();
    node.server.cli().line("healthcheck").ok();
    node.agent.cli().line("healthcheck").ok();
    node.server.cli().line("entry count").ok();
}

#[test]
fn nonsense_on_any_socket_harms_nobody() {
    let (mut node, server_health, agent_health) = node();
    std::thread::scope(|scope| {
        for (door_name, door) in doors(&node, server_health, agent_health) {
            for (name, bytes) in nonsense() {
                let door = door.clone();
                scope.spawn(move || {
                    let mut rude =
                        door.open().unwrap_or_else(|e| panic!("{name}: {door_name}: {e}"));
                    let _ = rude.write(&bytes);
                    // Half of the connections are dropped at once, half are left to be answered.
                    if bytes.len() % 2 == 0 {
                        rude.rest();
                    }
                });
            }
        }
    });
    healthy(&mut node);
}

#[test]
fn slow_clients_do_not_keep_others_out() {
    let (mut node, server_health, agent_health) = node();
    let mut slow: Vec<Rude> = Vec::new();
    for (name, door) in doors(&node, server_health, agent_health) {
        for _ in 0..40 {
            let mut rude = door.open().unwrap_or_else(|e| panic!("{name}: {e}"));
            rude.write(&PREFACE[..5]).expect("five bytes");
            slow.push(rude);
            // A request whose message never comes in full.
            let mut rude = door.open().unwrap_or_else(|e| panic!("{name}: {e}"));
            let _ = rude
                .write(&[PREFACE.to_vec(), frame(4, 0, 0, &[]), vec![0, 0, 100, 1, 4]].concat());
            slow.push(rude);
        }
    }
    healthy(&mut node);
    drop(slow);
    healthy(&mut node);
}

#[test]
fn connections_that_lead_to_nothing_are_closed() {
    let (mut node, server_health, agent_health) = node();
    let hour = [PREFACE.to_vec(), frame(4, 0, 0, &[]), vec![0, 0, 100, 1, 4]].concat();
    std::thread::scope(|scope| {
        for (name, door) in doors(&node, server_health, agent_health) {
            for start in [&[][..], &PREFACE[..5], b"GET / HT", &hour] {
                let mut rude = door.open().unwrap_or_else(|e| panic!("{name}: {e}"));
                let _ = rude.write(start);
                scope.spawn(move || {
                    // Of what comes in the meantime nothing counts.
                    eventually(&format!("{name} closes after {start:?}"), || {
                        rude.is_closed().then_some(())
                    });
                });
            }
        }
    });
    healthy(&mut node);
}

#[test]
fn the_workload_api_wants_its_header_first() {
    let (node, ..) = node();
    let rt = grpc::runtime();
    for method in
        ["FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"]
    {
        let path = format!("/SpiffeWorkloadAPI/{method}");
        let refused = rt.block_on(grpc::call(&node.agent.socket(), &path, &[], &[]));
        let refused = refused.expect_err("a refusal");
        assert_eq!(refused.code(), Code::InvalidArgument, "{method}: {refused}");
        assert!(refused.message().contains("security header missing"), "{method}: {refused}");
        let twice = [("workload.spiffe.io", "true"), ("workload.spiffe.io", "true")];
        for headers in [&[("workload.spiffe.io", "false")][..], &twice[..]] {
            let refused = rt.block_on(grpc::call(&node.agent.socket(), &path, headers, &[]));
            assert_eq!(
                refused.expect_err("a refusal").code(),
                Code::InvalidArgument,
                "{headers:?}"
            );
        }
    }
}

#[test]
fn malformed_and_oversized_messages_get_an_error() {
    let (mut node, ..) = node();
    node.register_caller("/workload", "");
    let rt = grpc::runtime();
    let header = [("workload.spiffe.io", "true")];
    let refused = |socket: std::path::PathBuf, path: &str, bytes: &[u8]| -> Status {
        rt.block_on(grpc::call(&socket, path, &header, bytes)).expect_err("a refusal")
    };
    // A field that says it is longer than the message.
    let truncated = [0x0a, 0x7f, b'x'];
    let sockets = [
        (node.agent.socket(), "/SpiffeWorkloadAPI/FetchJWTSVID"),
        (node.agent.socket(), "/SpiffeWorkloadAPI/ValidateJWTSVID"),
        (node.agent.admin_socket(), "/spire.api.agent.logger.v1.Logger/SetLogLevel"),
        (node.server.socket(), "/spire.api.server.entry.v1.Entry/BatchCreateEntry"),
        (node.server.socket(), "/spire.api.server.svid.v1.SVID/MintX509SVID"),
        (node.server.socket(), "/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle"),
    ];
    for (socket, path) in sockets {
        let code = refused(socket.clone(), path, &truncated).code();
        assert!(matches!(code, Code::Internal | Code::InvalidArgument), "{path}: {code:?}");
        let huge = vec![0u8; 5 << 20];
        let code = refused(socket.clone(), path, &huge).code();
        assert!(
            matches!(
                code,
                Code::ResourceExhausted
                    | Code::OutOfRange
                    | Code::Internal
                    | Code::Unavailable
                    | Code::Unknown
            ),
            "{path}: {code:?}"
        );
        assert_eq!(refused(socket, "/no.such.Service/Method", &[]).code(), Code::Unimplemented);
    }
    healthy(&mut node);
}

/// IDs of workloads: each rule of the standard at its edge.
fn ids() -> (Vec<String>, Vec<String>) {
    let td = "spiffe://example.org";
    let long = |length: usize| format!("{td}/{}", "a".repeat(length - td.len() - 1));
    let good = ["/a", "/A-Za-z0-9._-", "/a/b/c", "/...", "/.a", "/a.."]
        .iter()
        .map(|path| format!("{td}{path}"));
    let bad = [
        "", "/", "//a", "/a/", "/a//b", "/.", "/..", "/a/./b", "/a/../b", "/%41", "/a b", "/a~",
        "/\u{e9}", "/a?q=1", "/a#f", "/a:b", "/a@b", "/a\\b", "/a\tb", "/a\u{0}", ":8081/a",
    ]
    .iter()
    .map(|path| format!("{td}{path}"));
    let others = [
        "example.org/a",
        "http://example.org/a",
        "spiffe:/example.org/a",
        "spiffe:///a",
        "spiffe://EXAMPLE.org/a",
        "spiffe://user@example.org/a",
        "spiffe://ex%61mple.org/a",
        "spiffe://[::1]/a",
        " spiffe://example.org/a",
        "spiffe://example.org/a ",
    ]
    .map(str::to_owned);
    (good.chain([long(2048)]).collect(), bad.chain(others).chain([long(2049)]).collect())
}

#[test]
fn spiffe_ids_keep_to_every_rule_of_the_standard() {
    let (mut node, ..) = node();
    let cli = node.server.cli();
    let (good, bad) = ids();
    let parent = "spiffe://example.org/node";
    let create = |id: &str, parent: &str| {
        let args = ["entry", "create", "-spiffeID", id, "-parentID", parent, "-selector", "a:b"];
        // No argument of a program holds a zero byte.
        (!id.contains('\0')).then(|| cli.run(args))
    };
    for id in &good {
        create(id, parent).expect("an argument").ok();
        cli.run(["x509", "mint", "-spiffeID", id]).ok();
    }
    let count = cli.json("entry count")["count"].clone();
    for id in bad.iter().chain([&"spiffe://other.test/a".to_owned()]) {
        let Some(refused) = create(id, parent) else { continue };
        assert_ne!(refused.code, 0, "{id:?}: {refused}");
        assert_ne!(cli.run(["x509", "mint", "-spiffeID", id]).code, 0, "{id:?}");
        let mint = ["jwt", "mint", "-audience", "a", "-spiffeID", id];
        assert_ne!(cli.run(mint).code, 0, "{id:?}");
    }
    // As parts, where no text is parsed on the way; (trust domain, path).
    let rt = grpc::runtime();
    let parts = bad.iter().filter_map(|id| id.strip_prefix("spiffe://")).map(|rest| {
        let at = rest.find('/').unwrap_or(rest.len());
        (&rest[..at], &rest[at..])
    });
    let odd =
        [("", "/a"), ("example.org", "a"), ("example.org/a", "/b"), ("spiffe://example.org", "")];
    for (td, path) in parts.chain(odd) {
        let id = types::Spiffeid { trust_domain: td.to_owned(), path: path.to_owned() };
        let entry = types::Entry {
            spiffe_id: Some(id),
            parent_id: Some(types::Spiffeid {
                trust_domain: "example.org".to_owned(),
                path: "/node".to_owned(),
            }),
            selectors: vec![types::Selector { r#type: "a".to_owned(), value: "c".to_owned() }],
            ..types::Entry::default()
        };
        let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
        let made = rt.block_on(async {
            let channel =
                signet_api::connect::unix(&node.server.socket()).await.expect("a channel");
            EntryClient::new(channel).batch_create_entry(request).await
        });
        let made = made.expect("an answer").into_inner();
        let status = made.results[0].status.clone().expect("a status");
        assert_eq!(status.code, Code::InvalidArgument as i32, "{td:?} {path:?}: {status:?}");
    }
    assert_eq!(cli.json("entry count")["count"], count);
    // A workload that names the identity it wants.
    node.register_caller("/workload", "");
    eventually("the identity is served", || {
        (node.agent.cli().line("api fetch x509").code == 0).then_some(())
    });
    for id in bad.iter().filter(|id| !id.is_empty() && !id.contains('\0')) {
        let args = ["api", "fetch", "jwt", "-audience", "a", "-spiffeID", id];
        assert_ne!(node.agent.cli().run(args).code, 0, "{id:?}");
    }
    healthy(&mut node);
}

#[test]
fn the_operators_services_are_not_on_the_workload_socket() {
    let (node, ..) = node();
    let rt = grpc::runtime();
    for path in [
        "/spire.api.server.entry.v1.Entry/ListEntries",
        "/spire.api.agent.logger.v1.Logger/GetLogger",
        "/spire.agent.debug.v1.Debug/GetInfo",
        "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509Bundles",
    ] {
        let header = [("workload.spiffe.io", "true")];
        let refused = rt.block_on(grpc::call(&node.agent.socket(), path, &header, &[]));
        assert_eq!(refused.expect_err("a refusal").code(), Code::Unimplemented, "{path}");
    }
}

#[test]
fn only_admins_and_agents_get_in_over_tcp() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let audited = ServerOptions::with("audit_log_enabled = true");
    let node = Node::with(audited, AgentOptions::default());
    let foreign = e2e::Server::start(ServerOptions {
        trust_domain: "other.test".to_owned(),
        ..ServerOptions::default()
    });
    node.server.register("/anywhere", "/admin", &["unix:uid:4"], "-admin");
    node.server.register("/anywhere", "/plain", &["unix:uid:4"], "");
    let bundle = node.server.bundle_file();
    let visit = |server: Option<&e2e::Server>, path: &str| {
        let mut args = vec![
            "visit".to_owned(),
            "-addr".to_owned(),
            format!("127.0.0.1:{}", node.server.port()),
            "-bundle".to_owned(),
            bundle.display().to_string(),
        ];
        if let Some(server) = server {
            let dir = server.dir().subdir(format!("mint{}", path.replace('/', "-")));
            let id = format!("spiffe://{}{path}", server.trust_domain());
            let write = dir.display().to_string();
            server.cli().run(["x509", "mint", "-spiffeID", &id, "-write", &write]).ok();
            for (flag, file) in [("-cert", "svid.pem"), ("-key", "key.pem")] {
                args.extend([flag.to_owned(), dir.join(file).display().to_string()]);
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Client::Go.run(&node.agent.socket(), &args).json()
    };
    let admin = eventually("the admin entry is known", || {
        let admin = visit(Some(&node.server), "/admin");
        admin["count_entries"].is_i64().then_some(admin)
    });
    assert_eq!(admin["list_agents"], "ok", "{admin}");
    assert_eq!(admin["post_status"]["code"], "PermissionDenied", "no agent: {admin}");
    for (server, path) in [(None, ""), (Some(&node.server), "/plain")] {
        let seen = visit(server, path);
        for call in ["count_entries", "list_agents", "post_status", "authorized_entries"] {
            assert_eq!(seen[call]["code"], "PermissionDenied", "{path:?} {call}: {seen}");
        }
        assert_eq!(seen["get_bundle"], "example.org", "{seen}");
    }
    let stranger = visit(Some(&foreign), "/admin");
    let oversized = &admin["oversized"];
    assert_eq!(oversized["code"], "InvalidArgument", "{admin}");
    assert!(oversized.to_string().contains("larger than max"), "{admin}");
    for call in ["count_entries", "list_agents", "post_status", "authorized_entries", "get_bundle"]
    {
        assert_eq!(stranger[call]["code"], "Unavailable", "no handshake: {call}: {stranger}");
    }
    let log = node.server.log();
    let record = log.lines().find(|line| line.contains("Connection refused"));
    let record = record.unwrap_or_else(|| panic!("no record of the stranger: {log}"));
    for part in ["type=audit", "status=error", "status_code=Unauthenticated", "caller_addr="] {
        assert!(record.contains(part), "{record}");
    }
}

#[test]
fn an_agent_refuses_a_server_of_another_trust_domain() {
    let (node, ..) = node();
    let foreign = e2e::Server::start(ServerOptions {
        trust_domain: "other.test".to_owned(),
        ..ServerOptions::default()
    });
    // The right bundle, the wrong server: TLS fails, and nothing is believed.
    let options = AgentOptions {
        port: foreign.port(),
        bundle: Some(node.server.bundle_file()),
        token: Some(foreign.token("/node")),
        ..AgentOptions::default()
    };
    let mut agent = e2e::Agent::prepare_in(node.server.dir(), "misled", options);
    agent.launch();
    eventually("the agent says what is wrong", || {
        let log = agent.log();
        ["certificate", "authority", "x509", "trust domain"]
            .iter()
            .any(|word| log.contains(word) && log.contains("attest"))
            .then_some(())
    });
    assert!(!agent.socket().exists(), "it serves nobody");
    assert_eq!(foreign.cli().json("agent count")["count"], 0);
}

#[test]
fn many_rude_clients_leave_room_for_a_polite_one() {
    let (node, ..) = node();
    node.register_caller("/workload", "");
    let door = Door::Unix(node.agent.socket());
    let held: Vec<_> = (0..300).filter_map(|_| door.open().ok()).collect();
    assert!(held.len() > 100, "connections are accepted");
    eventually("a polite client is served", || {
        (node.agent.cli().line("api fetch x509 -timeout 5s").code == 0).then_some(())
    });
    drop(held);
}
