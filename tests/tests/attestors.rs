//! Nodes that prove themselves with more than a token.

use std::{path::PathBuf, sync::Arc};

use e2e::{
    Agent, AgentOptions, Client, Server, ServerOptions, TestDir, eventually, free_port,
    node::caller, skip,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::Value;

/// A CA of machines, and what it issued.
pub struct Machines {
    files: Arc<TestDir>,
    issuer: Issuer<'static, KeyPair>,
    /// The CA's certificate.
    pub ca: PathBuf,
}

impl Machines {
    /// A new CA.
    pub fn new() -> Self {
        let files = Arc::new(TestDir::new());
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "machines");
        let ca = files.write("ca.pem", params.self_signed(&key).expect("a certificate").pem());
        Self { files, issuer: Issuer::new(params, key), ca }
    }

    /// The agent's node attestor block for a new machine.
    pub fn machine(&self, name: &str, digital_signature: bool) -> String {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![match digital_signature {
            true => KeyUsagePurpose::DigitalSignature,
            false => KeyUsagePurpose::KeyEncipherment,
        }];
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let cert = self.files.write(format!("{name}.pem"), cert.pem());
        let key = self.files.write(format!("{name}.key"), key.serialize_pem());
        format!(
            "NodeAttestor \"x509pop\" {{ plugin_data {{ certificate_path = \"{}\", private_key_path = \"{}\" }} }}",
            cert.display(),
            key.display()
        )
    }

    /// The server's node attestor block.
    pub fn plugin(&self) -> String {
        let ca = self.ca.display();
        format!("NodeAttestor \"x509pop\" {{ plugin_data {{ ca_bundle_path = \"{ca}\" }} }}")
    }

    /// A server that knows it.
    pub fn server(&self, server: &str) -> Server {
        Server::start(ServerOptions {
            server: server.to_owned(),
            plugins: self.plugin(),
            ..ServerOptions::default()
        })
    }
}

/// The options of an agent of `server` with this node attestor block.
pub fn machine_options(server: &Server, node_attestor: String) -> AgentOptions {
    AgentOptions {
        port: server.port(),
        bundle: Some(server.bundle_file()),
        node_attestor,
        ..AgentOptions::default()
    }
}

fn the_agent(server: &Server) -> Value {
    let agents = server.cli().json("agent list");
    assert_eq!(agents["agents"].as_array().map(Vec::len), Some(1), "{agents}");
    agents["agents"][0].clone()
}

fn selectors(agent: &Value) -> Vec<String> {
    let list = agent["selectors"].as_array().expect("selectors");
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    list.iter().map(|s| format!("{}:{}", text(&s["type"]), text(&s["value"]))).collect()
}

#[test]
fn a_machine_certificate_attests_a_node_and_its_selectors_choose_entries() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let machines = Machines::new();
    let server = machines.server("");
    server
        .cli()
        .line("entry create -node -spiffeID spiffe://example.org/pool -selector x509pop:subject:cn:host1")
        .ok();
    server.register("/pool", "/workload", &[&caller()], "");
    let options = machine_options(&server, machines.machine("host1", true));
    let agent = Agent::start_in(server.dir(), "agent", options);
    let attested = the_agent(&server);
    assert_eq!(attested["attestation_type"], "x509pop");
    assert_eq!(attested["can_reattest"], true);
    let path = attested["id"]["path"].as_str().expect("a path");
    let print = path.strip_prefix("/spire/agent/x509pop/").expect("the place of x509pop agents");
    assert!(print.len() == 40 && print.bytes().all(|b| b.is_ascii_hexdigit()), "{path}");
    let selectors = selectors(&attested);
    assert!(selectors.contains(&"x509pop:subject:cn:host1".to_owned()), "{selectors:?}");
    assert!(selectors.iter().any(|s| s.starts_with("x509pop:ca:fingerprint:")), "{selectors:?}");
    let mut watch = Client::Go.start(&agent.socket(), &["watch"]);
    watch.find("the identity of the pool", |line| {
        line["svids"][0]["id"] == "spiffe://example.org/workload"
    });
}

#[test]
fn a_machine_that_cannot_prove_itself_is_refused() {
    let machines = Machines::new();
    let server = machines.server("");
    let strangers = Machines::new();
    for (name, attestor) in
        [("stranger", strangers.machine("host", true)), ("unfit", machines.machine("host", false))]
    {
        let mut agent = Agent::prepare_in(server.dir(), name, machine_options(&server, attestor));
        agent.launch();
        eventually("a refusal in the agent's log", || {
            let log = agent.log();
            (log.contains("certificate") || log.contains("attest")).then_some(())
        });
        assert!(!agent.socket().exists(), "{name} serves nobody");
    }
    // The other's certificate with a key of one's own.
    let stolen = machines.machine("host2", true).replace("host2.key", "host.key");
    let mut agent = Agent::prepare_in(server.dir(), "stolen", machine_options(&server, stolen));
    agent.launch();
    eventually("a refusal in the agent's log", || agent.log().contains("key").then_some(()));
    assert!(!agent.socket().exists());
    assert_eq!(server.cli().json("agent count")["count"], 0);
}

#[test]
fn an_evicted_machine_attests_again_without_a_restart() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let machines = Machines::new();
    let server = machines.server("");
    let mut agent = Agent::start_in(
        server.dir(),
        "agent",
        machine_options(&server, machines.machine("host1", true)),
    );
    let before = the_agent(&server);
    let path = before["id"]["path"].as_str().expect("a path").to_owned();
    server.register(&path, "/workload", &[&caller()], "");
    let mut watch = Client::Go.start(&agent.socket(), &["watch"]);
    watch.find("the identity", |line| line["svids"][0]["id"].is_string());
    server.cli().line(&format!("agent evict -spiffeID spiffe://example.org{path}")).ok();
    eventually("the agent is back", || {
        (server.cli().json("agent count")["count"] == 1).then_some(())
    });
    agent.process().assert_running();
    assert_ne!(the_agent(&server)["x509svid_serial_number"], before["x509svid_serial_number"]);
    let again = server.register(&path, "/after", &[&caller()], "");
    watch.find("what was registered since", |line| line.to_string().contains("/after"));
    server.delete(&again);
}

#[test]
fn a_machine_renews_by_attesting_again() {
    let machines = Machines::new();
    let server = machines.server("agent_ttl = \"20s\"");
    let _agent = Agent::start_in(
        server.dir(),
        "agent",
        machine_options(&server, machines.machine("host1", true)),
    );
    let first = the_agent(&server)["x509svid_serial_number"].clone();
    eventually("a new serial number", || {
        (the_agent(&server)["x509svid_serial_number"] != first).then_some(())
    });
}

#[test]
fn a_banned_machine_is_kept_out_until_it_is_evicted() {
    let machines = Machines::new();
    let server = machines.server("");
    let mut agent = Agent::start_in(
        server.dir(),
        "agent",
        machine_options(&server, machines.machine("host1", true)),
    );
    let path = the_agent(&server)["id"]["path"].as_str().expect("a path").to_owned();
    server.cli().line(&format!("agent ban -spiffeID spiffe://example.org{path}")).ok();
    assert_ne!(agent.process().wait(e2e::DEADLINE), 0);
    agent.launch();
    assert_ne!(agent.process().wait(e2e::DEADLINE), 0, "a ban outlives a restart");
    assert_eq!(the_agent(&server)["banned"], true);
    server.cli().line(&format!("agent evict -spiffeID spiffe://example.org{path}")).ok();
    agent.launch();
    agent.ready();
    assert_eq!(the_agent(&server)["banned"], false);
}

/// An address of this machine that others could reach it by. Nothing is sent.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then(|| own.to_string())
}

#[test]
fn a_host_name_is_proved_over_http() {
    let Some(name) = own_address() else { skip!("this machine has no address but loopback") };
    let port = free_port();
    let server = Server::start(ServerOptions {
        plugins: format!(
            "NodeAttestor \"http_challenge\" {{ plugin_data {{ allowed_dns_patterns = [\"^{name}$\", \"^127\"] }} }}"
        ),
        ..ServerOptions::default()
    });
    let attestor = |hostname: &str| {
        format!(
            "NodeAttestor \"http_challenge\" {{ plugin_data {{ hostname = \"{hostname}\", port = {port} }} }}"
        )
    };
    for wrong in ["localhost", "elsewhere.test", "127.0.0.1", "127.1"] {
        let mut agent =
            Agent::prepare_in(server.dir(), wrong, machine_options(&server, attestor(wrong)));
        agent.launch();
        assert_ne!(agent.process().wait(e2e::DEADLINE), 0, "{wrong}");
    }
    let mut agent =
        Agent::start_in(server.dir(), "agent", machine_options(&server, attestor(&name)));
    let attested = the_agent(&server);
    assert_eq!(attested["id"]["path"], format!("/spire/agent/http_challenge/{name}"));
    assert_eq!(selectors(&attested), [format!("http_challenge:hostname:{name}")]);
    assert_eq!(attested["can_reattest"], false, "trust on first use is the default");

    // As if the answer had been lost together with the agent: it has its key, a note that it attests
    // with that (the name of the attestor, hashed), and no SVID.
    let data = server.dir().join("agent/data");
    let lose = || {
        for file in ["agent-data.json", "svid-cache.sealed"] {
            let _ = std::fs::remove_file(data.join(file));
        }
    };
    agent.stop();
    lose();
    let what = "243223a9c19b759baf87a5835c7557a3093e909bdccf080e30bff5461ba394ee";
    let note = format!("{{\"key_id\":\"agent-svid-A\",\"token_sha256\":\"{what}\"}}");
    std::fs::write(data.join("join-token-attempt.json"), note).expect("a note");
    agent.launch();
    agent.ready();
    let again = the_agent(&server);
    assert_eq!(again["id"], attested["id"]);
    assert_ne!(again["x509svid_serial_number"], attested["x509svid_serial_number"]);
    assert!(!data.join("join-token-attempt.json").exists());

    // Another key is another agent's.
    agent.stop();
    lose();
    agent.launch();
    assert_ne!(agent.process().wait(e2e::DEADLINE), 0);
    assert!(agent.log().contains("already been used"), "{}", agent.log());
}

#[test]
fn an_attestor_the_server_does_not_know_is_named() {
    let machines = Machines::new();
    let server = Server::start(ServerOptions::default());
    let mut agent = Agent::prepare_in(
        server.dir(),
        "agent",
        machine_options(&server, machines.machine("host1", true)),
    );
    agent.launch();
    eventually("the agent says so", || agent.log().contains("x509pop").then_some(()));
    assert!(!agent.socket().exists());
}

#[test]
fn an_svid_of_the_trust_domain_attests_a_node_under_its_prefix() {
    // The node's first identity comes from another agent on it.
    let node = e2e::Node::with(
        ServerOptions {
            plugins: "NodeAttestor \"x509pop\" { plugin_data { mode = \"spiffe\" } }".to_owned(),
            ..ServerOptions::default()
        },
        AgentOptions::default(),
    );
    let attestor = format!(
        "NodeAttestor \"x509pop\" {{ plugin_data {{ spiffe_endpoint_socket = \"unix://{}\" }} }}",
        node.agent.socket().display()
    );
    let serves = |path: &str| {
        eventually("an identity to show", || {
            let seen = node.agent.cli().line("api fetch x509 -output json").stdout;
            (seen.matches("spiffe_id").count() == 1 && seen.contains(path)).then_some(())
        });
    };
    // What lies elsewhere is no evidence.
    let elsewhere = node.register_caller("/elsewhere/host1", "");
    serves("/elsewhere/host1");
    let options = machine_options(&node.server, attestor);
    let mut agent = Agent::prepare_in(node.server.dir(), "exchanged", options);
    agent.launch();
    assert_eq!(agent.process().wait(e2e::DEADLINE), 1);
    assert!(agent.log().contains("SVID prefix"), "{}", agent.log());
    assert_eq!(node.server.cli().json("agent count")["count"], 1);
    node.server.delete(&elsewhere);
    node.register_caller("/spire-exchange/host1", "");
    serves("/spire-exchange/host1");
    agent.restart();
    let listed = node.server.cli().json("agent list -attestationType x509pop");
    let path = listed["agents"][0]["id"]["path"].as_str().unwrap_or_default();
    assert_eq!(path, "/spire/agent/x509pop/host1", "{listed}");
    assert_eq!(listed["agents"][0]["can_reattest"], true);
}
