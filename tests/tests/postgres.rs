//! Servers on PostgreSQL: alone, several on one database, and while the database is away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use e2e::{
    Agent, AgentOptions, Node, Postgres, Server, ServerOptions, TestDir, eventually,
    node::{ALIAS, caller},
    skip,
};
use serde_json::Value;

/// The authority IDs (or the like) in a bundle that `bundle show` prints.
fn roots(server: &Server) -> usize {
    let bundle = server.cli().json("bundle show");
    bundle["x509_authorities"].as_array().map_or(0, Vec::len)
}

/// The key IDs of WIT authorities in the bundle.
fn wit_keys(server: &Server) -> Vec<String> {
    let bundle = server.cli().json("bundle show");
    let keys = bundle["wit_authorities"].as_array().cloned().unwrap_or_default();
    let mut ids: Vec<_> =
        keys.iter().filter_map(|key| key["key_id"].as_str().map(str::to_owned)).collect();
    ids.sort();
    ids
}

fn fetches(agent: &Agent, path: &str) -> bool {
    let said = agent.cli().line("api fetch x509 -timeout 2s");
    said.code == 0 && said.stdout.contains(path)
}

#[test]
fn a_server_on_postgresql_issues_and_goes_on_after_a_restart() {
    let Some(postgres) = Postgres::shared() else { skip!("PostgreSQL is not installed") };
    let options = ServerOptions::on_postgres(&postgres.dsn(&postgres.database()));
    let mut node = Node::with(options, AgentOptions::default());
    let entry = node.register_caller("/one", "-dns one.test");
    eventually("the identity", || fetches(&node.agent, "/one").then_some(()));
    let shown = node.server.cli().json(&format!("entry show -entryID {entry}"));
    assert_eq!(shown["entries"][0]["dns_names"][0], "one.test");
    let before = node.server.cli().json("bundle show");

    node.server.restart();
    node.server.ready();
    assert_eq!(node.server.cli().json("bundle show"), before, "the same authorities");
    node.register_caller("/two", "");
    eventually("the next identity", || fetches(&node.agent, "/two").then_some(()));
    node.server.delete(&entry);
    eventually("its end", || (!fetches(&node.agent, "/one")).then_some(()));
}

#[test]
fn servers_that_share_a_database_are_one() {
    let Some(postgres) = Postgres::shared() else { skip!("PostgreSQL is not installed") };
    let options = ServerOptions::on_postgres(&postgres.dsn(&postgres.database()));
    let dir = Arc::new(TestDir::new());
    // Both begin on an empty database, at the same time.
    let mut a = Server::prepare_in(&dir, "a", options.clone());
    let mut b = Server::prepare_in(&dir, "b", options);
    a.launch();
    b.launch();
    a.ready();
    b.ready();
    eventually("each has the authorities of both", || {
        (roots(&a) == 2 && roots(&b) == 2).then_some(())
    });

    // An agent that B attested, with a token that A made.
    let token = a.token(ALIAS);
    let options = AgentOptions {
        port: b.port(),
        bundle: Some(a.bundle_file()),
        token: Some(token),
        ..AgentOptions::default()
    };
    let mut agent = Agent::start_in(&dir, "agent", options);
    agent.ready();
    a.register(ALIAS, "/shared", &[&caller()], "");
    eventually("what A registered reaches the agent of B", || {
        fetches(&agent, "/shared").then_some(())
    });

    // Banned on A, refused by B: the agent ends.
    let agents = b.cli().json("agent list");
    let path = agents["agents"][0]["id"]["path"].as_str().unwrap().to_owned();
    a.cli().line(&format!("agent ban -spiffeID spiffe://example.org{path}")).ok();
    let shown: Value = b.cli().json("agent list");
    assert_eq!(shown["agents"][0]["banned"], true);
    assert_eq!(agent.process().wait(Duration::from_secs(15)), 1);
}

#[test]
fn servers_that_share_a_database_know_each_other_s_wit_authorities() {
    const FLAG: &str = "experimental { feature_flags = [\"wit-svid\"] }";
    const TARGET: &str = "https://api.example.org/orders";
    let Some(postgres) = Postgres::shared() else { skip!("PostgreSQL is not installed") };
    let options = ServerOptions {
        server: FLAG.to_owned(),
        ..ServerOptions::on_postgres(&postgres.dsn(&postgres.database()))
    };
    let dir = Arc::new(TestDir::new());
    let mut a = Server::start_in(&dir, "a", options.clone());
    let b = Server::start_in(&dir, "b", options);
    eventually("each has the keys of both", || {
        (wit_keys(&a).len() == 2 && wit_keys(&a) == wit_keys(&b)).then_some(())
    });
    let active = |server: &Server| {
        let shown = server.cli().json("localauthority wit show");
        shown["active"]["authority_id"].as_str().expect("an ID").to_owned()
    };
    let mut both = vec![active(&a), active(&b)];
    both.sort();
    assert_eq!(wit_keys(&a), both);

    // What the server of one agent signs, the agent of the other validates.
    let agents = [("agent-a", &a), ("agent-b", &b)].map(|(name, server)| {
        let options = AgentOptions { agent: FLAG.to_owned(), ..AgentOptions::default() };
        Agent::start_in(&dir, name, Node::agent_options(server, options))
    });
    a.register(ALIAS, "/shared", &[&caller()], "");
    for [from, to] in [[&agents[0], &agents[1]], [&agents[1], &agents[0]]] {
        let printed = eventually("a proof", || {
            let proven = from.cli().line(&format!("api prove -audience {TARGET}"));
            (proven.code == 0).then_some(proven.stdout)
        });
        let field = |name: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(name));
            line.expect("a field").trim().to_owned()
        };
        let (wit, proof) = (field("Workload-Identity-Token:"), field("Workload-Proof-Token:"));
        let validate = format!("api validate wit -svid {wit} -proof {proof} -audience {TARGET}");
        eventually("the other agent knows the key", || {
            let validated = to.cli().line(&validate);
            (validated.code == 0).then(|| drop(validated.says("/shared")))
        });
    }

    // The journal is in the database too: after a restart the same one signs. What is tainted and
    // revoked through one server is replaced by the one whose it is.
    let (mine, other) = (active(&a), active(&b));
    a.restart();
    a.ready();
    assert_eq!(active(&a), mine);
    a.cli().line(&format!("localauthority wit taint -authorityID {other}")).ok();
    eventually("another signs at B", || (active(&b) != other).then_some(()));
    a.cli().line(&format!("localauthority wit revoke -authorityID {other}")).ok();
    eventually("the key is gone at both", || {
        (!wit_keys(&a).contains(&other) && !wit_keys(&b).contains(&other)).then_some(())
    });
}

#[test]
fn while_the_database_is_away_agents_are_served_and_writes_are_refused() {
    let Some(programs) = Postgres::programs() else { skip!("PostgreSQL is not installed") };
    let postgres = Postgres::start(&programs, &[]);
    let mut options = ServerOptions::on_postgres(&postgres.dsn(&postgres.database()));
    let health = e2e::free_port();
    options.top = format!(
        "health_checks {{ listener_enabled = true bind_address = \"127.0.0.1\" bind_port = \"{health}\" }}"
    );
    let node = Node::with(options, AgentOptions::default());
    node.register_caller("/steady", "");
    eventually("the identity", || fetches(&node.agent, "/steady").then_some(()));

    postgres.stop();
    // Each is signed by the server.
    for audience in ["a", "b", "c"] {
        let said =
            node.agent.cli().line(&format!("api fetch jwt -audience {audience} -timeout 10s"));
        said.ok().says("/steady");
    }
    let begun = Instant::now();
    let refused = node.server.cli().line(&format!(
        "entry create -parentID spiffe://example.org{ALIAS} -spiffeID spiffe://example.org/no -selector x:1"
    ));
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("not available"), "{}", refused.stderr);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(node.server.log().contains("The database cannot be reached"));
    let (status, ready) = e2e::http::get(health, "/ready").expect("an answer");
    assert!(status == 200 && ready.contains("not available"), "{status} {ready}");
    node.server.cli().line("healthcheck").ok().says("Server is healthy.");

    postgres.resume();
    eventually("writes work again", || {
        let said = node.server.cli().line(&format!(
            "entry create -parentID spiffe://example.org{ALIAS} -spiffeID spiffe://example.org/yes -selector {}",
            caller()
        ));
        (said.code == 0).then_some(())
    });
    eventually("and arrive", || fetches(&node.agent, "/yes").then_some(()));
    assert!(node.server.log().contains("The database is back"));
}
