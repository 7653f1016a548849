//! A SPIRE agent (spire-api-sdk, in Go) on our server.

use std::process::Command;

use e2e::{Lines, Server, ServerOptions, clients::go_binary, eventually, skip};
use serde_json::Value;

/// Starts a SPIRE agent that knows the server's bundle.
fn agent(server: &Server) -> Lines {
    let program = go_binary().expect("prepared before");
    let mut command = Command::new(program);
    command
        .args(["spire-agent", "-addr", &format!("127.0.0.1:{}", server.port()), "-bundle"])
        .arg(server.bundle_file());
    Lines::start(&mut command)
}

fn entries(answer: &Value) -> &Vec<Value> {
    answer["entries"].as_array().unwrap_or_else(|| panic!("no entries in {answer}"))
}

fn ids(answer: &Value) -> Vec<&str> {
    let mut ids: Vec<&str> = entries(answer).iter().filter_map(|e| e["id"].as_str()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_spire_agent_attests_syncs_and_gets_svids() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let server = Server::start(ServerOptions::default());
    let token = server.token("/node");
    let workload =
        server.register("/node", "/workload", &["unix:uid:1000"], "-dns a.test -x509SVIDTTL 600");
    let foreign = server.register("/elsewhere", "/other", &["unix:uid:1000"], "");
    let nested = server.register("/workload", "/below", &["unix:gid:5"], "-hint inner");

    let mut agent = agent(&server);
    let attested = agent.ask(&format!("attest {token}"));
    let id = format!("spiffe://example.org/spire/agent/join_token/{token}");
    assert_eq!(attested["id"], id.as_str(), "{attested}");
    assert_eq!(attested["reattestable"], false);
    assert_eq!(agent.ask("status"), serde_json::json!({}));
    let bundle = agent.ask("bundle");
    assert_eq!(bundle["trust_domain"], "example.org");
    assert_eq!(bundle["x509"], 1);
    assert_eq!(bundle["jwt"].as_array().map(Vec::len), Some(1));

    // The alias entry of the token, the workload, and the entry below the workload.
    let synced = eventually("the entries are there", || {
        let synced = agent.ask("sync");
        (entries(&synced).len() == 3).then_some(synced)
    });
    assert_eq!(synced["paged"], false);
    assert!(ids(&synced).contains(&workload.as_str()) && ids(&synced).contains(&nested.as_str()));
    assert_eq!(ids(&agent.ask("authorized")), ids(&synced));

    let signed = agent.ask(&format!(
        "sign {workload} {foreign} nosuch {workload}=truncated {nested} {workload}=signature"
    ));
    let results = &signed["results"];
    assert_eq!(results[0]["code"], 0, "{signed}");
    assert_eq!(results[0]["id"], "spiffe://example.org/workload");
    assert_eq!(results[0]["dns_names"][0], "a.test");
    let lifetime = results[0]["lifetime"].as_i64().expect("a lifetime");
    assert!((590..=600).contains(&lifetime), "{signed}");
    for refused in [1, 2] {
        assert_eq!(results[refused]["code"], 5, "{signed}");
        assert_eq!(results[refused]["message"], "entry not found or not authorized");
    }
    assert_eq!(results[3]["code"], 3, "a malformed CSR: {signed}");
    assert_eq!(results[4]["id"], "spiffe://example.org/below");
    assert_eq!(results[5]["code"], 3, "a CSR that another key signed: {signed}");

    let jwt = agent.ask(&format!("jwt {workload} aud"));
    assert_eq!(jwt["id"], "/workload", "{jwt}");
    assert_eq!(agent.ask(&format!("jwt {workload}"))["code"], "InvalidArgument");
    assert_eq!(agent.ask(&format!("jwt {foreign} aud"))["code"], "NotFound");
    assert_eq!(agent.ask("federated example.org")["code"], "InvalidArgument");
    assert_eq!(agent.ask("federated other.test")["code"], "NotFound");

    // The operator sees it with the version it posted.
    let shown = server.cli().json(&format!("agent show -spiffeID {id}"));
    assert_eq!(shown["attestation_type"], "join_token");
    assert_eq!(shown["agent_version"], "1.15.3");
    assert_eq!(shown["x509svid_serial_number"], attested["serial"]);
}

#[test]
fn more_than_500_entries_reach_a_spire_agent_in_pages() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let server = Server::start(ServerOptions::default());
    let token = server.token("/node");
    let entries_json: Vec<Value> = (0..1203)
        .map(|n| {
            serde_json::json!({
                "entry_id": format!("entry-{n:04}"),
                "parent_id": "spiffe://example.org/node",
                "spiffe_id": format!("spiffe://example.org/w{n}"),
                "selectors": [{"type": "unix", "value": format!("uid:{n}")}],
            })
        })
        .collect();
    let file = server
        .dir()
        .write("entries.json", serde_json::json!({"entries": entries_json}).to_string());
    server.cli().run(["entry", "create", "-data", &file.display().to_string()]).ok();

    let mut agent = agent(&server);
    agent.ask(&format!("attest {token}"));
    let synced = eventually("all entries are there", || {
        let synced = agent.ask("sync");
        (entries(&synced).len() == 1204).then_some(synced)
    });
    assert_eq!(synced["paged"], true);
    assert_eq!(synced["pages"], 3);
    let mut unique = ids(&synced);
    unique.dedup();
    assert_eq!(unique.len(), 1204);
    let one = entries(&synced).iter().find(|e| e["id"] == "entry-0777").expect("an entry");
    assert_eq!(one["path"], "/w777");
    assert_eq!(one["selectors"][0], "unix:uid:777");
}

#[test]
fn a_join_token_serves_one_agent_only() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let server = Server::start(ServerOptions::default());
    let token = server.token("/node");
    let mut first = agent(&server);
    assert!(first.ask(&format!("attest {token}"))["id"].is_string());
    // A stock agent makes a new key for each try: that is another agent.
    let mut second = agent(&server);
    let refused = second.ask(&format!("attest {token}"));
    assert_eq!(refused["code"], "InvalidArgument", "{refused}");
    assert!(refused["message"].to_string().contains("join token"), "{refused}");
    assert_eq!(second.ask("attest nosuchtoken")["code"], "InvalidArgument");
    assert_eq!(first.ask("status"), serde_json::json!({}), "the first one is not harmed");
}

#[test]
fn of_many_agents_at_once_exactly_one_spends_a_join_token() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let server = Server::start(ServerOptions::default());
    let token = server.token("/node");
    let mut agents: Vec<Lines> = (0..8).map(|_| agent(&server)).collect();
    for agent in &mut agents {
        agent.tell(&format!("attest {token}"));
    }
    let attested =
        agents.iter_mut().map(Lines::read).filter(|answer| answer["id"].is_string()).count();
    assert_eq!(attested, 1);
}

#[test]
fn a_renewed_svid_replaces_the_old_one_when_it_is_used() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let server = Server::start(ServerOptions::default());
    let token = server.token("/node");
    let mut agent = agent(&server);
    let first = agent.ask(&format!("attest {token}"))["serial"].clone();
    let second = agent.ask("renew")["serial"].clone();
    assert_ne!(first, second);
    assert_eq!(agent.ask("status"), serde_json::json!({}), "the new one works");
    let id = format!("spiffe://example.org/spire/agent/join_token/{token}");
    let shown = server.cli().json(&format!("agent show -spiffeID {id}"));
    assert_eq!(shown["x509svid_serial_number"], second);
}

#[test]
fn banned_and_evicted_agents_are_told_why() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let server = Server::start(ServerOptions::default());
    let mut banned = agent(&server);
    let mut evicted = agent(&server);
    let id = |attested: &Value| attested["id"].as_str().expect("an ID").to_owned();
    let banned_token = server.token("/a");
    let banned_id = id(&banned.ask(&format!("attest {banned_token}")));
    let evicted_id = id(&evicted.ask(&format!("attest {}", server.token("/b"))));

    server.cli().line(&format!("agent ban -spiffeID {banned_id}")).ok();
    for command in ["status", "sync", "authorized", "renew", "sign x", "jwt x y"] {
        let refused = banned.ask(command);
        assert_eq!(refused["code"], "PermissionDenied", "{command}: {refused}");
        assert_eq!(refused["reason"], "AGENT_BANNED", "{command}: {refused}");
    }
    server.cli().line(&format!("agent evict -spiffeID {evicted_id}")).ok();
    let refused = evicted.ask("sync");
    assert_eq!(refused["code"], "PermissionDenied", "{refused}");
    assert_eq!(refused["reason"], "AGENT_NOT_ATTESTED", "{refused}");
}
