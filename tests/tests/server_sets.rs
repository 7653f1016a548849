//! Two independent sets of servers of one trust domain, and an agent of both.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use e2e::{
    Agent, AgentOptions, DEADLINE, Server, ServerOptions, TestDir, eventually, eventually_within,
    node::{ALIAS, caller},
};
use serde_json::Value;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// How long the X.509-SVIDs of workloads live here, seconds.
const TTL: i64 = 20;

/// Two servers that know nothing of each other, and an agent that has attested to both.
struct Two {
    a: Server,
    b: Server,
    agent: Agent,
}

impl Two {
    fn start() -> Self {
        let (a, b) =
            (Server::start(ServerOptions::default()), Server::start(ServerOptions::default()));
        let block = |name: &str, server: &Server| {
            format!(
                "server_set \"{name}\" {{ server_address = \"127.0.0.1\" server_port = {}\n \
                 trust_bundle_path = \"{}\" join_token = \"{}\" }}\n",
                server.port(),
                server.bundle_file().display(),
                server.token(ALIAS)
            )
        };
        let options =
            AgentOptions { agent: block("a", &a) + &block("b", &b), ..AgentOptions::default() };
        let agent = Agent::start_in(&Arc::new(TestDir::new()), "agent", options);
        Self { a, b, agent }
    }

    /// What the caller gets now.
    fn fetched(&self) -> Option<Fetched> {
        let output = self.agent.cli().line("api fetch x509 -timeout 2s -output json");
        let answer: Value = serde_json::from_str(&output.stdout).ok()?;
        let svids = answer["svids"].as_array()?.iter().map(|svid| {
            let field = |name: &str| STANDARD.decode(svid[name].as_str()?).ok();
            let chain = field("x509_svid")?;
            let (_, leaf) = X509Certificate::from_der(&chain).ok()?;
            Some(Svid {
                id: svid["spiffe_id"].as_str()?.to_owned(),
                not_after: leaf.validity().not_after.timestamp(),
                roots: certificates(&field("bundle")?),
            })
        });
        Some(Fetched(svids.collect::<Option<_>>()?))
    }

    /// Waits until the caller gets exactly these identities.
    fn gets(&self, paths: &[&str]) -> Fetched {
        eventually(&format!("the identities {paths:?}"), || {
            let fetched = self.fetched().unwrap_or(Fetched(Vec::new()));
            let mut found: Vec<_> = fetched.0.iter().map(|svid| svid.id.clone()).collect();
            found.sort_unstable();
            let wanted: Vec<_> =
                paths.iter().map(|it| format!("spiffe://example.org{it}")).collect();
            (found == wanted).then_some(fetched)
        })
    }

    /// Waits until the caller's first identity was signed after this moment.
    fn is_renewed(&self) -> Fetched {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        let signed_later = i64::try_from(now).expect("a time") + TTL;
        eventually_within("an SVID that was signed since", DEADLINE, || {
            self.fetched().filter(|it| it.0.first().is_some_and(|one| one.not_after > signed_later))
        })
    }
}

struct Fetched(Vec<Svid>);

struct Svid {
    id: String,
    not_after: i64,
    roots: usize,
}

fn certificates(mut der: &[u8]) -> usize {
    let mut count = 0;
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).expect("a certificate");
        (der, count) = (rest, count + 1);
    }
    count
}

#[test]
fn either_of_two_independent_servers_keeps_workloads_served_and_renewed() {
    let mut two = Two::start();
    let caller = [caller()];
    let caller: Vec<&str> = caller.iter().map(String::as_str).collect();
    let ttl = format!("-x509SVIDTTL {TTL}");
    let of_a = two.a.register(ALIAS, "/both", &caller, &ttl);
    let of_b = two.b.register(ALIAS, "/both", &caller, &ttl);
    let fetched = two.gets(&["/both"]);
    assert_eq!(fetched.0[0].roots, 2, "the roots of both, whoever signed");

    // Without A.
    two.a.process().kill();
    let renewed = two.is_renewed();
    assert_eq!(renewed.0[0].roots, 2, "those of A are known still");
    two.b.register(ALIAS, "/later", &caller, "");
    two.gets(&["/both", "/later"]);
    two.agent.cli().line("api fetch jwt -audience x -spiffeID spiffe://example.org/later").ok();
    two.agent.process().assert_running();

    // And back: the same without B, over a restart of the agent.
    two.a.restart();
    two.a.register(ALIAS, "/again", &caller, "");
    two.gets(&["/again", "/both", "/later"]);
    two.b.process().kill();
    two.is_renewed();
    two.agent.restart();
    assert_eq!(two.gets(&["/again", "/both", "/later"]).0[0].roots, 2);
    two.agent.cli().line("api fetch jwt -audience x -spiffeID spiffe://example.org/both").ok();

    // Deleted in one, it stays; deleted in both, it goes.
    two.b.restart();
    two.a.delete(&of_a);
    two.a.register(ALIAS, "/seen", &caller, "");
    two.gets(&["/again", "/both", "/later", "/seen"]);
    two.b.delete(&of_b);
    two.gets(&["/again", "/later", "/seen"]);
}

#[test]
fn a_ban_by_one_server_ends_what_it_gave_and_nothing_else() {
    let mut two = Two::start();
    let caller = [caller()];
    let caller: Vec<&str> = caller.iter().map(String::as_str).collect();
    two.a.register(ALIAS, "/a", &caller, "");
    two.b.register(ALIAS, "/b", &caller, "");
    two.gets(&["/a", "/b"]);
    let agents = two.b.cli().json("agent list");
    let path = agents["agents"][0]["id"]["path"].as_str().expect("a path").to_owned();
    two.b.cli().line(&format!("agent ban -spiffeID spiffe://example.org{path}")).ok();
    let left = two.gets(&["/a"]);
    assert_eq!(left.0[0].roots, 1, "its roots went along");
    two.agent.process().assert_running();
    // Banned by both, it ends.
    let agents = two.a.cli().json("agent list");
    let path = agents["agents"][0]["id"]["path"].as_str().expect("a path").to_owned();
    two.a.cli().line(&format!("agent ban -spiffeID spiffe://example.org{path}")).ok();
    assert_eq!(two.agent.process().wait(Duration::from_secs(30)), 1);
}
