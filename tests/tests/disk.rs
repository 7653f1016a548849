//! Full disks: what was confirmed stays, what cannot be kept is refused, and all goes on.

use std::sync::Arc;

use e2e::{
    Agent, AgentOptions, Node, Server, ServerOptions, SmallDisk, TestDir, eventually, node::caller,
};

#[test]
fn a_full_disk_refuses_changes_and_loses_none() {
    let dir = Arc::new(TestDir::new());
    let data = dir.subdir("server/disk");
    let disk = SmallDisk::new(&data, 2 << 10);
    let options = ServerOptions {
        database: "DIR/disk/datastore.sqlite3".to_owned(),
        prefix: disk.prefix(),
        ..ServerOptions::default()
    };
    let mut server = Server::start_in(&dir, "server", options);
    server.register("/n", "/before", &["a:b"], "");
    disk.fill();
    let create = |n: usize| {
        server.cli().line(&format!(
            "entry create -entryID full-{n} -parentID spiffe://example.org/n \
             -spiffeID spiffe://example.org/full{n} -selector a:{n}"
        ))
    };
    let mut confirmed = 0;
    let refused = (0..400).map(create).find(|made| {
        confirmed += usize::from(made.code == 0);
        made.code != 0
    });
    let refused = refused.expect("the disk is full at some point");
    assert!(refused.stderr.to_lowercase().contains("full"), "{refused}");
    // What needs no disk goes on.
    server.cli().line("entry count").ok();
    server.cli().line("x509 mint -spiffeID spiffe://example.org/minted").ok();
    let pid = server.process().pid();
    disk.make_room(pid);
    let again = server.cli().line(
        "entry create -entryID later -parentID spiffe://example.org/n \
         -spiffeID spiffe://example.org/later -selector a:b",
    );
    again.ok();
    server.process().assert_running();
    server.reconfigure(|options| {
        if !disk.is_real() {
            options.prefix.clear()
        }
    });
    server.restart();
    let count = server.cli().json("entry count")["count"].as_u64().expect("a count");
    assert_eq!(count, 2 + confirmed as u64);
}

#[test]
fn an_agent_with_a_full_disk_serves_and_renews_and_stores_it_when_there_is_room() {
    let dir = Arc::new(TestDir::new());
    let server = Server::start_in(&dir, "server", ServerOptions::with("agent_ttl = \"40s\""));
    server.register("/node", "/workload", &[&caller()], "-x509SVIDTTL 20");
    let disk = SmallDisk::new(&dir.subdir("agent/data"), 512);
    let options = AgentOptions { prefix: disk.prefix(), ..AgentOptions::default() };
    let mut agent = Agent::start_in(&dir, "agent", Node::agent_options(&server, options));
    let fetch = |agent: &Agent| agent.cli().line("api fetch x509 -output json");
    eventually("the identity is served", || (fetch(&agent).code == 0).then_some(()));
    let first = fetch(&agent).stdout;
    disk.fill();
    if disk.is_real() {
        eventually("the agent cannot keep its new SVID", || {
            let log = agent.log();
            (log.contains("Could not store the agent's state") && log.contains("No space left"))
                .then_some(())
        });
    }
    fetch(&agent).ok();
    eventually("a new SVID of the workload", || (fetch(&agent).ok().stdout != first).then_some(()));
    eventually("the agent's SVID is renewed", || {
        agent.process().assert_running();
        agent.log().contains("Successfully rotated agent SVID").then_some(())
    });
    let pid = agent.process().pid();
    disk.make_room(pid);
    if disk.is_real() {
        eventually("the state is stored", || {
            agent.log().contains("The agent's state is on disk again").then_some(())
        });
    }
    agent.restart();
    eventually("the identity is served", || (fetch(&agent).code == 0).then_some(()));
    assert_eq!(server.cli().json("agent count")["count"], 1, "it is still itself");
}

#[test]
fn an_agent_whose_data_directory_is_removed_makes_it_anew_and_is_still_itself() {
    let mut node = Node::start();
    node.register_caller("/workload", "");
    let data = node.agent.data_dir();
    let fetch = |node: &Node| node.agent.cli().line("api fetch x509 -output json");
    eventually("the identity is served", || (fetch(&node).code == 0).then_some(()));
    std::fs::remove_dir_all(&data).expect("the directory goes");
    eventually("it is there again", || {
        fetch(&node).ok();
        ["agent-data.json", "keys.json", "svid-cache.sealed"]
            .iter()
            .all(|name| data.join(name).exists())
            .then_some(())
    });
    node.agent.restart();
    eventually("the identity is served", || (fetch(&node).code == 0).then_some(()));
    assert_eq!(node.server.cli().json("agent count")["count"], 1, "it is still itself");
}
