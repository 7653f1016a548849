//! Our agent on a SPIRE server (spire-api-sdk, in Go), which has no push.

use std::{path::PathBuf, process::Command, sync::Arc};

use e2e::{
    Agent, AgentOptions, Client, Lines, TestDir, clients::go_binary, eventually, node::caller, skip,
};
use serde_json::{Value, json};

struct SpireServer {
    lines: Lines,
    dir: Arc<TestDir>,
    port: u16,
    bundle: PathBuf,
}

impl SpireServer {
    fn start(more: &[&str]) -> Self {
        let program = go_binary().expect("prepared before");
        let dir = Arc::new(TestDir::new());
        let bundle = dir.join("bundle.pem");
        let mut command = Command::new(program);
        command.args(["spire-server", "-bundle"]).arg(&bundle).args(more);
        let mut lines = Lines::start(&mut command);
        let port = lines.read()["port"].as_u64().and_then(|p| u16::try_from(p).ok());
        Self { lines, dir, port: port.expect("a port"), bundle }
    }

    fn tell(&mut self, command: &str) {
        assert_eq!(self.lines.ask(command), json!({}), "{command}");
    }

    fn calls(&mut self, method: &str) -> u64 {
        self.lines.ask("calls")[method].as_u64().unwrap_or_default()
    }

    fn entry(&mut self, id: &str, path: &str) {
        self.tell(&format!("entry {id} {path} {}", caller()));
    }

    fn options(&mut self) -> AgentOptions {
        self.tell("token secret");
        AgentOptions {
            port: self.port,
            bundle: Some(self.bundle.clone()),
            token: Some("secret".to_owned()),
            agent: "experimental { sync_interval = \"1s\" }".to_owned(),
            ..AgentOptions::default()
        }
    }

    fn agent(&mut self) -> Agent {
        let options = self.options();
        Agent::start_in(&self.dir, "agent", options)
    }
}

fn id(path: &str) -> String {
    format!("spiffe://example.org{path}")
}

fn first_id(line: &Value) -> &str {
    line["svids"][0]["id"].as_str().unwrap_or_default()
}

#[test]
fn our_agent_serves_what_a_spire_server_registers() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let mut server = SpireServer::start(&[]);
    server.entry("one", "/one");
    let agent = server.agent();
    let mut watch = Client::Go.start(&agent.socket(), &["watch"]);
    watch.find("the identity", |line| first_id(line) == id("/one"));
    let jwt = Client::Go.run(&agent.socket(), &["jwt", "aud"]).json();
    assert_eq!(jwt["id"], id("/one").as_str());
    let token = jwt["token"].as_str().expect("a token");
    Client::Go.run(&agent.socket(), &["validate", "aud", token]).ok();

    server.entry("one", "/changed");
    watch.find("the changed entry", |line| first_id(line) == id("/changed"));
    server.entry("two", "/two");
    watch.find("both", |line| line["svids"].as_array().is_some_and(|s| s.len() == 2));
    server.tell("delete one");
    watch.find("the other one", |line| {
        first_id(line) == id("/two") && line["svids"].as_array().is_some_and(|s| s.len() == 1)
    });
    assert_eq!(server.calls("AttestAgent"), 1);
    assert_eq!(server.calls("PostStatus"), 1);
}

#[test]
fn our_agent_reads_many_entries_in_pages() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let mut server = SpireServer::start(&["-page", "3"]);
    for n in 0..10 {
        server.entry(&format!("e{n}"), &format!("/w{n}"));
    }
    let agent = server.agent();
    let mut watch = Client::Go.start(&agent.socket(), &["watch"]);
    let all = watch
        .find("ten identities", |line| line["svids"].as_array().is_some_and(|s| s.len() == 10));
    // Ordered by entry ID: the first one is the default identity.
    assert_eq!(first_id(&all), id("/w0"));
}

#[test]
fn our_agent_polls_the_old_way_when_the_server_cannot_sync() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let mut server = SpireServer::start(&[]);
    server.tell("fail SyncAuthorizedEntries UNIMPLEMENTED");
    server.entry("one", "/one");
    let agent = server.agent();
    let mut watch = Client::Go.start(&agent.socket(), &["watch"]);
    watch.find("the identity", |line| first_id(line) == id("/one"));
    assert!(server.calls("GetAuthorizedEntries") > 0);
}

#[test]
fn our_agent_keeps_serving_while_the_spire_server_is_away() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let mut server = SpireServer::start(&[]);
    server.entry("one", "/one");
    let agent = server.agent();
    let mut watch = Client::Go.start(&agent.socket(), &["watch"]);
    watch.find("the identity", |line| first_id(line) == id("/one"));
    server.tell("away");
    let still = Client::Go.run(&agent.socket(), &["x509"]).json();
    assert_eq!(first_id(&still), id("/one"));
    server.entry("one", "/back");
    server.tell("back");
    watch.find("what changed meanwhile", |line| first_id(line) == id("/back"));
}

#[test]
fn our_agent_rides_out_failures_of_single_calls() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let mut server = SpireServer::start(&[]);
    server.entry("one", "/one");
    let agent = server.agent();
    let mut watch = Client::Go.start(&agent.socket(), &["watch"]);
    watch.find("the identity", |line| first_id(line) == id("/one"));
    let mut path = "/one".to_owned();
    for method in ["BatchNewX509SVID", "GetBundle", "SyncAuthorizedEntries"] {
        server.tell(&format!("fail {method} INTERNAL"));
        let before = server.calls(method);
        // A new revision of the same identity: the agent wants to have it signed anew.
        server.entry("one", &path);
        eventually("the agent meets the failure", || (server.calls(method) > before).then_some(()));
        let still = Client::Go.run(&agent.socket(), &["x509"]).json();
        assert_eq!(first_id(&still), id(&path), "{method}");
        path = format!("/after-{method}");
        server.entry("one", &path);
        server.tell("heal");
        watch.find("the change after the failure", |line| first_id(line) == id(&path));
    }
}

#[test]
fn our_agent_renews_its_svid_in_time() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let mut server = SpireServer::start(&[]);
    server.tell("agent-ttl 20");
    server.entry("one", "/one");
    let _agent = server.agent();
    eventually("the agent renews", || (server.calls("RenewAgent") > 1).then_some(()));
    let syncs = server.calls("SyncAuthorizedEntries");
    eventually("it goes on syncing with the new one", || {
        (server.calls("SyncAuthorizedEntries") > syncs + 1).then_some(())
    });
    assert_eq!(server.calls("AttestAgent"), 1);
}

#[test]
fn our_agent_takes_tainted_svids_out_of_service() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let mut server = SpireServer::start(&[]);
    server.entry("one", "/one");
    let agent = server.agent();
    let mut watch = Client::Go.start(&agent.socket(), &["watch"]);
    let first = watch.find("the identity", |line| first_id(line) == id("/one"));
    server.tell("rotate");
    server.tell("taint");
    let serial = &first["svids"][0]["serial"];
    let next = watch.find("a new SVID", |line| {
        line["svids"][0]["serial"].is_string() && line["svids"][0]["serial"] != *serial
    });
    assert_eq!(next["svids"][0]["verified"], true);
    server.tell("revoke");
    let clean =
        watch.find("the old authority is gone", |line| line["authorities"]["example.org"] == 1);
    assert_eq!(clean["svids"][0]["verified"], true, "{clean}");
}

#[test]
fn a_banned_agent_ends_and_says_so() {
    if let Err(why) = go_binary() {
        skip!("{why}");
    }
    let mut server = SpireServer::start(&[]);
    server.entry("one", "/one");
    let mut agent = server.agent();
    server.tell("fail SyncAuthorizedEntries PERMISSION_DENIED AGENT_BANNED");
    server.tell("fail GetAuthorizedEntries PERMISSION_DENIED AGENT_BANNED");
    let code = agent.process().wait(e2e::DEADLINE);
    assert_eq!(code, 1);
    assert!(agent.log().contains("banned"), "{}", agent.log());
}
