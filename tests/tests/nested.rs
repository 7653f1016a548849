//! A server under another server of its trust domain (UpstreamAuthority `spire`).

use std::sync::Arc;

use e2e::{
    Agent, AgentOptions, Node, Server, ServerOptions, eventually, node::ALIAS, node::caller,
};
use serde_json::Value;

/// A server and its agent, and a server under them with an agent of its own.
struct Nested {
    above: Node,
    below: Server,
    agent: Agent,
}

impl Nested {
    fn start() -> Self {
        Self::with("", "")
    }

    /// With more lines in the `server {}` and the `agent {}` blocks, above and below.
    fn with(server: &str, agent: &str) -> Self {
        let agent_options = || AgentOptions { agent: agent.to_owned(), ..AgentOptions::default() };
        let above = Node::with(ServerOptions::with(server), agent_options());
        above.register("/below", &[&caller()], "-downstream");
        let plugins = format!(
            "UpstreamAuthority \"spire\" {{ plugin_data {{ server_address = \"127.0.0.1\" \
             server_port = \"{}\" workload_api_socket = \"{}\" }} }}",
            above.server.port(),
            above.agent.socket().display()
        );
        let dir = Arc::clone(above.server.dir());
        let options = ServerOptions { plugins, ..ServerOptions::with(server) };
        let below = Server::start_in(&dir, "below", options);
        let options = Node::agent_options(&below, agent_options());
        let agent = Agent::start_in(&dir, "below-agent", options);
        below.register(ALIAS, "/workload", &[&caller()], "");
        Self { above, below, agent }
    }
}

fn active(server: &Server) -> String {
    let shown = server.cli().json("localauthority x509 show");
    shown["active"]["authority_id"].as_str().unwrap_or_default().to_owned()
}

/// Subject key IDs are not shown in a bundle, so roots are told by their certificates.
fn roots(server: &Server) -> Vec<(String, bool)> {
    let shown = server.cli().json("bundle show");
    let all = shown["x509_authorities"].as_array().cloned().unwrap_or_default();
    all.iter()
        .map(|root| {
            let der = root["asn1"].as_str().unwrap_or_default().to_owned();
            (der, root["tainted"].as_bool().unwrap_or_default())
        })
        .collect()
}

fn jwt_keys(server: &Server) -> Vec<String> {
    keys(server, "jwt_authorities")
}

fn wit_keys(server: &Server) -> Vec<String> {
    keys(server, "wit_authorities")
}

fn keys(server: &Server, kind: &str) -> Vec<String> {
    let shown = server.cli().json("bundle show");
    let all = shown[kind].as_array().cloned().unwrap_or_default();
    let mut ids: Vec<_> =
        all.iter().filter_map(|key| key["key_id"].as_str().map(str::to_owned)).collect();
    ids.sort();
    ids
}

#[test]
fn what_a_server_below_signs_is_valid_in_the_whole_trust_domain() {
    let mut nested = Nested::start();
    let Nested { above, below, agent } = &mut nested;
    assert_eq!(roots(below), roots(&above.server), "the root is the upstream server's");

    // An X.509-SVID from below, with the chain to the root above.
    let cli = agent.cli();
    let fetched: Value = eventually("an identity below", || {
        let output = cli.line("api fetch x509 -output json");
        (output.code == 0).then(|| serde_json::from_str(&output.stdout).expect("JSON"))
    });
    assert_eq!(fetched["svids"][0]["spiffe_id"], "spiffe://example.org/workload");

    // A JWT-SVID from below is valid above, and the other way round.
    eventually("both know both keys", || {
        (jwt_keys(below).len() == 2 && jwt_keys(below) == jwt_keys(&above.server)).then_some(())
    });
    let token = |cli: &e2e::Cli| {
        let shown = cli.json("api fetch jwt -audience a");
        shown[0]["svids"][0]["svid"].as_str().expect("a token").to_owned()
    };
    let (here, there) = (agent.cli(), above.agent.cli());
    for (from, to) in [(&here, &there), (&there, &here)] {
        let svid = token(from);
        eventually("the key has reached the agent", || {
            let validated = to.line(&format!("api validate jwt -audience a -svid {svid}"));
            (validated.code == 0).then_some(())
        });
    }

    // A restart needs nothing from above: the authority is still valid.
    let before = active(below);
    above.agent.stop();
    below.restart();
    assert_eq!(active(below), before);
    assert_eq!(cli.line("api fetch x509").code, 0);
}

#[test]
fn a_taint_and_a_revocation_above_are_followed_below() {
    let nested = Nested::start();
    let Nested { above, below, .. } = &nested;
    let old = roots(below)[0].0.clone();
    let (first, signed) = (active(&above.server), active(below));
    let cli = above.server.cli();
    let prepared = cli.json("localauthority x509 prepare");
    let next = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID").to_owned();
    eventually("the new root is known below", || (roots(below).len() == 2).then_some(()));
    cli.json(&format!("localauthority x509 activate -authorityID {next}"));
    assert_eq!(active(below), signed, "nothing is to be done below yet");

    cli.json(&format!("localauthority x509 taint -authorityID {first}"));
    eventually("the root is tainted below, and the authority is another", || {
        (roots(below).contains(&(old.clone(), true)) && active(below) != signed).then_some(())
    });
    cli.json(&format!("localauthority x509 revoke -authorityID {first}"));
    eventually("the root is gone below", || {
        let left = roots(below);
        (left.len() == 1 && left[0].0 != old).then_some(())
    });

    // The same for the JWT key of the server below, which its operator changes there.
    let keys = jwt_keys(below);
    let cli = below.cli();
    let prepared = cli.json("localauthority jwt prepare");
    let next = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID").to_owned();
    assert!(!keys.contains(&next));
    eventually("a prepared key is known above", || {
        jwt_keys(&above.server).contains(&next).then_some(())
    });
}

#[test]
fn a_wit_svid_of_a_server_below_is_valid_in_the_whole_trust_domain() {
    const FLAG: &str = "experimental { feature_flags = [\"wit-svid\"] }";
    const TARGET: &str = "https://api.example.org/orders";
    let Nested { above, below, agent } = &Nested::with(FLAG, FLAG);
    eventually("both know both keys", || {
        (wit_keys(below).len() == 2 && wit_keys(below) == wit_keys(&above.server)).then_some(())
    });
    let proof = || {
        let printed = agent.cli().line(&format!("api prove -audience {TARGET}"));
        let field = |name: &str| {
            let line = printed.stdout.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        field("Workload-Identity-Token:").zip(field("Workload-Proof-Token:"))
    };
    let (wit, proof) = eventually("a WIT-SVID below", proof);
    // The agent above validates for callers that have an identity there: it has that of /below.
    let validate = format!("api validate wit -svid {wit} -proof {proof} -audience {TARGET}");
    eventually("the key has reached the agent above", || {
        let validated = above.agent.cli().line(&validate);
        (validated.code == 0).then(|| drop(validated.says("spiffe://example.org/workload")))
    });

    // What is tainted and revoked above is so below, and what signs there is another then.
    let shown = below.cli().json("localauthority wit show");
    let first = shown["active"]["authority_id"].as_str().expect("an ID").to_owned();
    let cli = above.server.cli();
    cli.line(&format!("localauthority wit taint -authorityID {first}")).ok();
    eventually("another signs below", || {
        let shown = below.cli().json("localauthority wit show");
        (shown["active"]["authority_id"] != *first).then_some(())
    });
    cli.line(&format!("localauthority wit revoke -authorityID {first}")).ok();
    eventually("the key is gone below, and its successor known above", || {
        let left = wit_keys(below);
        (left.len() == 2 && !left.contains(&first) && left == wit_keys(&above.server)).then_some(())
    });
    above.agent.cli().line(&validate).exits(1);
}

#[test]
fn an_upstream_that_is_away_is_named_and_what_was_signed_goes_on() {
    let dir = Arc::new(e2e::TestDir::new());
    let plugins = "UpstreamAuthority \"spire\" { plugin_data { server_address = \"127.0.0.1\" \
                   server_port = \"1\" workload_api_socket = \"DIR/none.sock\" } }";
    let options = ServerOptions { plugins: plugins.to_owned(), ..ServerOptions::default() };
    let mut server = Server::prepare_in(&dir, "server", options);
    for _ in 0..3 {
        server.launch();
        assert_eq!(server.process().wait(e2e::DEADLINE), 1);
    }
    assert!(server.log().contains("none.sock"), "{}", server.log());
    let keys = std::fs::read_to_string(server.data().join("keys.json")).expect("keys");
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    assert_eq!(keys["keys"].as_object().expect("keys").len(), 1, "one key for all the starts");
}
