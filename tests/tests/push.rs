//! Between our programs a change is there at once.

use std::time::{Duration, Instant};

use e2e::{Client, Node, eventually, skip};

#[test]
fn registrations_reach_an_open_stream_at_once() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let node = Node::start();
    let mut lines = Client::Go.start(&node.agent.socket(), &["watch"]);
    node.register_caller("/zero", "");
    lines.find("the first identity", |line| line["svids"][0]["id"].is_string());
    let mut took = Vec::new();
    for n in 0..10 {
        let path = format!("/n{n}");
        let start = Instant::now();
        let entry = node.register_caller(&path, "");
        lines.find("the new identity", |line| line.to_string().contains(&path));
        took.push(start.elapsed());
        let start = Instant::now();
        node.server.delete(&entry);
        lines.find("its end", |line| !line.to_string().contains(&path));
        took.push(start.elapsed());
    }
    took.sort();
    // Much of this is the start of the command; polling would take seconds.
    let median = took[took.len() / 2];
    assert!(median < Duration::from_millis(700), "{took:?}");
}

#[test]
fn a_ban_reaches_the_agent_at_once() {
    let mut node = Node::start();
    node.register_caller("/workload", "");
    let fetch = |node: &Node| node.agent.cli().line("api fetch x509 -timeout 1s").code;
    eventually("the identity is served", || (fetch(&node) == 0).then_some(()));
    node.server.cli().line(&format!("agent ban -spiffeID {}", node.agent_id())).ok();
    let code = node.agent.process().wait(Duration::from_secs(15));
    assert_eq!(code, 1);
    assert_ne!(fetch(&node), 0);
    let left: Vec<_> = std::fs::read_dir(node.agent.data_dir())
        .expect("the data directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("cache"))
        .collect();
    assert!(left.is_empty(), "a banned agent keeps no cache: {left:?}");
}

#[test]
fn an_evicted_agent_with_a_spent_token_says_what_to_do() {
    let node = Node::start();
    node.server.cli().line(&format!("agent evict -spiffeID {}", node.agent_id())).ok();
    eventually("the agent asks for a new token", || {
        node.agent.log().contains("join token").then_some(())
    });
}
