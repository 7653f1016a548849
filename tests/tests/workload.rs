//! A workload opens the agent's socket with a stock library and holds identities.

use std::time::Duration;

use e2e::{AgentOptions, Client, Lines, Node, ServerOptions, eventually, node::caller, skip};
use serde_json::Value;

/// Prepares every client, or says why not.
fn clients() -> Result<(), String> {
    Client::ALL.iter().try_for_each(|client| client.prepare())
}

/// Waits until the entry has reached the agent.
fn served(node: &Node, path: &str) {
    let id = node.id(path);
    eventually(&format!("the agent serves {id}"), || {
        let output = node.agent.cli().line("api fetch x509 -output json");
        output.stdout.contains(path).then_some(())
    });
}

#[test]
fn every_stock_client_fetches_an_x509_svid_after_join_token_and_unix_attestation() {
    if let Err(why) = clients() {
        skip!("{why}");
    }
    let node = Node::start();
    node.register_caller("/workload", "-dns one.test");
    served(&node, "/workload");
    for client in Client::ALL {
        let context = client.run(&node.agent.socket(), &["x509"]).json();
        let svid = &context["svids"][0];
        assert_eq!(svid["id"], node.id("/workload"), "{client:?}: {context}");
        assert_eq!(svid["verified"], true, "{client:?}: {context}");
        assert_eq!(svid["chain"], 1, "{client:?}: {context}");
        assert_eq!(context["authorities"]["example.org"], 1, "{client:?}: {context}");
    }
}

#[test]
fn every_stock_client_fetches_and_validates_jwt_svids() {
    if let Err(why) = clients() {
        skip!("{why}");
    }
    let node = Node::start();
    node.register_caller("/workload", "");
    served(&node, "/workload");
    for client in Client::ALL {
        let svid = client.run(&node.agent.socket(), &["jwt", "one,two"]).json();
        assert_eq!(svid["id"], node.id("/workload"), "{client:?}: {svid}");
        let token = svid["token"].as_str().expect("a token");
        let valid = client.run(&node.agent.socket(), &["validate", "two", token]).json();
        assert_eq!(valid["id"], node.id("/workload"), "{client:?}: {valid}");
        client.run(&node.agent.socket(), &["validate", "three", token]).exits(1);
        let bundles = client.run(&node.agent.socket(), &["bundles"]).json();
        assert_eq!(bundles["x509"]["example.org"], 1, "{client:?}: {bundles}");
        assert_eq!(bundles["jwt"]["example.org"].as_array().map(Vec::len), Some(1), "{bundles}");
    }
}

#[test]
fn every_stock_client_sees_its_svid_rotate() {
    if let Err(why) = clients() {
        skip!("{why}");
    }
    let node = Node::start();
    node.register_caller("/workload", "-x509SVIDTTL 16");
    served(&node, "/workload");
    let mut watching: Vec<(Client, Lines, Value)> = Client::ALL
        .map(|client| {
            let mut lines = client.start(&node.agent.socket(), &["watch"]);
            let first = lines.read()["svids"][0].clone();
            (client, lines, first)
        })
        .into();
    for (client, lines, first) in &mut watching {
        let next = lines.find(&format!("{client:?} sees a new SVID"), |line| {
            line["svids"][0]["serial"] != first["serial"]
        });
        let svid = &next["svids"][0];
        assert_eq!(svid["id"], first["id"]);
        assert_eq!(svid["verified"], true);
        assert!(svid["not_after"].as_i64() > first["not_after"].as_i64(), "{next}");
    }
}

#[test]
fn workloads_of_all_stock_clients_speak_mtls_with_one_another() {
    if let Err(why) = clients() {
        skip!("{why}");
    }
    let node = Node::start();
    for client in Client::ALL {
        let selector = format!("unix:path:{}", client.executable().display());
        node.register(&format!("/{client:?}"), &[&caller(), &selector], "");
    }
    let socket = node.agent.socket();
    for client in Client::ALL {
        let id = node.id(&format!("/{client:?}"));
        eventually(&format!("{client:?} has its own identity"), || {
            let seen = client.run(&socket, &["x509"]);
            (seen.code == 0 && seen.stdout.contains(&id)).then_some(())
        });
    }
    let pairs = Client::ALL
        .map(|client| (client, Client::Go))
        .into_iter()
        .chain(Client::ALL.map(|client| (Client::Go, client)));
    for (server, caller) in pairs {
        let (server_id, caller_id) =
            (node.id(&format!("/{server:?}")), node.id(&format!("/{caller:?}")));
        let port = server.start(&socket, &["serve", &caller_id]);
        let mut port = port;
        let listening = port.read()["port"].to_string();
        let reply = caller.run(&socket, &["call", &listening, &server_id]).json();
        assert_eq!(reply["reply"], format!("hello {caller_id}"), "{server:?} to {caller:?}");
        // Each side refuses a peer with another name.
        caller.run(&socket, &["call", &listening, &node.id("/other")]).exits(1);
        let mut strict = server.start(&socket, &["serve", &node.id("/other")]);
        let strict_port = strict.read()["port"].to_string();
        caller.run(&socket, &["call", &strict_port, &server_id]).exits(1);
    }
}

#[test]
fn an_entry_appears_on_an_open_stream_and_a_deleted_one_is_withdrawn() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let node = Node::start();
    let mut lines = Client::Go.start(&node.agent.socket(), &["watch"]);
    let denied = lines.read();
    assert!(denied["error"].as_str().is_some_and(|e| e.contains("no identity issued")), "{denied}");
    let first = node.register_caller("/first", "");
    lines.find("the first identity", |line| line["svids"][0]["id"] == node.id("/first"));
    let second = node.register_caller("/second", "-hint second");
    let both = lines.find("two identities", |line| {
        line["svids"].as_array().is_some_and(|svids| svids.len() == 2)
    });
    assert!(both.to_string().contains("\"hint\":\"second\""), "{both}");
    node.server.delete(&first);
    lines.find("only the second identity", |line| {
        line["svids"].as_array().is_some_and(|svids| svids.len() == 1)
            && line["svids"][0]["id"] == node.id("/second")
    });
    node.server.delete(&second);
    let gone = lines.find("no identity", |line| line["error"].is_string());
    assert!(gone["error"].as_str().is_some_and(|e| e.contains("no identity issued")), "{gone}");
}

#[test]
fn another_program_under_the_same_pid_is_attested_anew() {
    let (Ok(()), Ok(program)) = (Client::Go.prepare(), e2e::clients::go_binary()) else {
        skip!("no Go");
    };
    let node = Node::start();
    let copy = node.server.dir().join("copy");
    std::fs::copy(&program, &copy).expect("a copy of the client");
    let path = |p: &std::path::Path| format!("unix:path:{}", p.display());
    node.register("/original", &[&path(&program)], "");
    node.register("/copy", &[&path(&copy)], "");
    let socket = node.agent.socket();
    let copy = copy.display().to_string();
    eventually("both entries are there", || {
        let output = Client::Go.run(&socket, &["exec-twice", &copy]);
        if output.code != 0 {
            return None;
        }
        let ids: Vec<String> = output
            .stdout
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
            .map(|context| context["svids"][0]["id"].as_str().expect("an ID").to_owned())
            .collect();
        assert_eq!(ids, [node.id("/original"), node.id("/copy")]);
        Some(())
    });
}

#[test]
fn svids_outlive_a_stopped_server_and_rotate_again_when_it_is_back() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let mut node = Node::with(ServerOptions::default(), AgentOptions::default());
    node.register_caller("/workload", "-x509SVIDTTL 30");
    served(&node, "/workload");
    let mut lines = Client::Go.start(&node.agent.socket(), &["watch"]);
    let first = lines.read()["svids"][0]["serial"].clone();
    node.server.stop();
    let still = Client::Go.run(&node.agent.socket(), &["x509"]).json();
    assert_eq!(still["svids"][0]["id"], node.id("/workload"));
    assert!(lines.next_within(Duration::from_secs(2)).is_none(), "nothing new without a server");
    node.server.launch();
    node.server.ready();
    lines.find("a new SVID", |line| {
        line["svids"][0]["serial"].is_string() && line["svids"][0]["serial"] != first
    });
}
