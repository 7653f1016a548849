//! The life of the CA, with workloads that watch it.

use std::fs;

use e2e::{AgentOptions, Client, Lines, Node, Server, ServerOptions, TestDir, eventually, skip};
use serde_json::Value;

fn authority(server: &Server, kind: &str, which: &str) -> String {
    let shown = server.cli().json(&format!("localauthority {kind} show"));
    shown[which]["authority_id"].as_str().unwrap_or_default().to_owned()
}

fn serial(line: &Value) -> Value {
    line["svids"][0]["serial"].clone()
}

fn watch(node: &Node) -> (Lines, Value) {
    let mut lines = Client::Go.start(&node.agent.socket(), &["watch"]);
    let first = lines.find("an identity", |line| line["svids"][0]["id"].is_string());
    (lines, first)
}

#[test]
fn workloads_follow_an_x509_authority_from_prepare_to_revoke() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let node = Node::start();
    let cli = node.server.cli();
    node.register_caller("/workload", "");
    let (mut lines, first) = watch(&node);
    let old = authority(&node.server, "x509", "active");

    let prepared = cli.json("localauthority x509 prepare");
    let new = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID").to_owned();
    assert_ne!(new, old);
    lines.find("both authorities", |line| line["authorities"]["example.org"] == 2);

    cli.line("localauthority x509 activate").exits(64);
    cli.line(&format!("localauthority x509 activate -authorityID {old}")).exits(1);
    cli.line(&format!("localauthority x509 taint -authorityID {old}")).exits(1);
    cli.line(&format!("localauthority x509 revoke -authorityID {old}")).exits(1);
    let activated = cli.json(&format!("localauthority x509 activate -authorityID {new}"));
    assert_eq!(activated["activated_authority"]["authority_id"], new.as_str());
    assert_eq!(authority(&node.server, "x509", "old"), old);

    cli.line(&format!("localauthority x509 taint -authorityID {old}"))
        .ok()
        .says("Tainted X.509 authority:");
    let renewed = lines.find("an SVID of the new authority", |line| {
        line["svids"][0]["serial"].is_string() && serial(line) != serial(&first)
    });
    assert_eq!(renewed["svids"][0]["verified"], true);
    let shown = cli.json("bundle show");
    let tainted: Vec<&Value> = shown["x509_authorities"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|a| &a["tainted"])
        .collect();
    assert_eq!(tainted.iter().filter(|t| ***t == true).count(), 1, "{shown}");

    // The server and the agent have left the old authority too before it goes.
    cli.line(&format!("localauthority x509 revoke -authorityID {old}")).ok();
    let clean = lines.find("one authority", |line| line["authorities"]["example.org"] == 1);
    assert_eq!(clean["svids"][0]["verified"], true);
    let again = node.register_caller("/later", "");
    lines.find("the agent still syncs", |line| line.to_string().contains("/later"));
    node.server.delete(&again);
}

#[test]
fn jwts_of_a_revoked_authority_are_no_longer_valid() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let node = Node::start();
    let cli = node.server.cli();
    node.register_caller("/workload", "");
    watch(&node);
    let socket = node.agent.socket();
    let jwt = || {
        let svid = Client::Go.run(&socket, &["jwt", "aud"]).json();
        svid["token"].as_str().expect("a token").to_owned()
    };
    let before = jwt();
    let old = authority(&node.server, "jwt", "active");
    let prepared = cli.json("localauthority jwt prepare");
    let new = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID").to_owned();
    eventually("the agent knows the new key", || {
        let bundles = Client::Go.run(&socket, &["bundles"]).json();
        bundles["jwt"].to_string().contains(&new).then_some(())
    });
    cli.line(&format!("localauthority jwt activate -authorityID {new}")).ok();
    Client::Go.run(&socket, &["validate", "aud", &before]).ok();
    cli.line(&format!("localauthority jwt taint -authorityID {old}")).ok();
    eventually("a token of the new key", || (jwt() != before).then_some(()));
    cli.line(&format!("localauthority jwt revoke -authorityID {old}")).ok();
    eventually("the old token is refused", || {
        (Client::Go.run(&socket, &["validate", "aud", &before]).code == 1).then_some(())
    });
    Client::Go.run(&socket, &["validate", "aud", &jwt()]).ok();
}

#[test]
fn authorities_survive_a_restart_with_keys_on_disk_and_not_in_memory() {
    let mut disk = Server::start(ServerOptions::default());
    let (x509, jwt) = (authority(&disk, "x509", "active"), authority(&disk, "jwt", "active"));
    disk.restart();
    assert_eq!(authority(&disk, "x509", "active"), x509);
    assert_eq!(authority(&disk, "jwt", "active"), jwt);

    let mut memory = Server::start(ServerOptions {
        key_manager: "KeyManager \"memory\" { plugin_data {} }".to_owned(),
        ..ServerOptions::default()
    });
    let x509 = authority(&memory, "x509", "active");
    memory.restart();
    assert_ne!(authority(&memory, "x509", "active"), x509);
    // The lost one stays in the bundle for those who still hold its SVIDs.
    let bundle = memory.cli().json("bundle show");
    assert_eq!(bundle["x509_authorities"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_server_whose_keys_are_gone_says_how_to_go_on() {
    let mut server = Server::start(ServerOptions::default());
    let first = authority(&server, "x509", "active");
    server.process().terminate();
    let (keys, away) = (server.data().join("keys.json"), server.data().join("keys.away"));
    fs::rename(&keys, &away).expect("the keys");
    let output = e2e::cli::run(&mut server.command(), "");
    assert_ne!(output.code, 0, "{output}");
    output.says(&first).says("keys_path").says("-replaceLostKeys");
    assert!(!keys.exists(), "no new key was made");

    // Brought back, nothing has changed.
    fs::rename(&away, &keys).expect("the keys");
    server.restart();
    assert_eq!(authority(&server, "x509", "active"), first);

    server.process().terminate();
    fs::remove_file(&keys).expect("the keys");
    server.reconfigure(|options| options.args.push("-replaceLostKeys".to_owned()));
    server.restart();
    assert_ne!(authority(&server, "x509", "active"), first);
    let bundle = server.cli().json("bundle show");
    assert_eq!(bundle["x509_authorities"].as_array().map(Vec::len), Some(2));
    let log = server.log();
    let line = log.lines().find(|line| line.contains("The key of the active X509 CA is not in"));
    assert!(line.is_some_and(|line| line.to_lowercase().contains("error")), "{log}");
}

#[test]
fn an_authority_that_no_slot_holds_any_more_is_tainted_and_revoked_by_its_id() {
    let server = Server::start(ServerOptions::default());
    let cli = server.cli();
    for kind in ["x509", "jwt"] {
        let oldest = authority(&server, kind, "active");
        for _ in 0..2 {
            let prepared = cli.json(&format!("localauthority {kind} prepare"));
            let id = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID");
            cli.line(&format!("localauthority {kind} activate -authorityID {id}")).ok();
        }
        assert_ne!(authority(&server, kind, "old"), oldest);
        cli.line(&format!("localauthority {kind} revoke -authorityID {oldest}")).exits(1);
        cli.line(&format!("localauthority {kind} taint -authorityID {oldest}")).ok().says(&oldest);
        cli.line(&format!("localauthority {kind} revoke -authorityID {oldest}")).ok();
        cli.line(&format!("localauthority {kind} revoke -authorityID {oldest}")).exits(1);
        let bundle = cli.json("bundle show");
        let left = &bundle[if kind == "x509" { "x509_authorities" } else { "jwt_authorities" }];
        assert_eq!(left.as_array().map(Vec::len), Some(2), "{bundle}");
    }
}

#[test]
fn the_ca_rotates_by_itself() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let node = Node::with(
        ServerOptions::with("ca_ttl = \"60s\"\ndefault_x509_svid_ttl = \"10s\""),
        AgentOptions::default(),
    );
    node.register_caller("/workload", "");
    let first = authority(&node.server, "x509", "active");
    let (mut lines, _) = watch(&node);
    e2e::eventually_within("a new active authority", std::time::Duration::from_secs(120), || {
        (authority(&node.server, "x509", "active") != first).then_some(())
    });
    // All the while every SVID led to the bundle that came with it.
    while let Some(line) = lines.next_within(std::time::Duration::from_millis(100)) {
        assert_ne!(line["svids"][0]["verified"], false, "{line}");
    }
}

#[test]
fn every_key_type_signs() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    for key_type in ["rsa-2048", "ec-p384"] {
        let node = Node::with(
            ServerOptions::with(&format!("ca_key_type = \"{key_type}\"")),
            AgentOptions {
                agent: format!("workload_x509_svid_key_type = \"{key_type}\""),
                ..AgentOptions::default()
            },
        );
        node.register_caller("/workload", "");
        let (_, line) = watch(&node);
        assert_eq!(line["svids"][0]["verified"], true, "{key_type}");
        let socket = node.agent.socket();
        let jwt = Client::Go.run(&socket, &["jwt", "aud"]).json();
        Client::Go.run(&socket, &["validate", "aud", jwt["token"].as_str().expect("a token")]).ok();
    }
}

/// A root made with rcgen: (certificate PEM, key PEM).
fn root(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

#[test]
fn the_ca_is_signed_by_a_root_on_disk_and_follows_when_it_is_swapped() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let files = TestDir::new();
    let write = |(cert, key): (String, String)| {
        (files.write("root.pem", cert), files.write("root.key", key))
    };
    let (cert, key) = write(root("first"));
    let plugin = format!(
        "UpstreamAuthority \"disk\" {{ plugin_data {{ cert_file_path = \"{}\", key_file_path = \"{}\" }} }}",
        cert.display(),
        key.display()
    );
    let node = Node::with(
        ServerOptions { plugins: plugin, ..ServerOptions::default() },
        AgentOptions::default(),
    );
    node.register_caller("/workload", "");
    let (mut lines, first) = watch(&node);
    assert_eq!(first["svids"][0]["chain"], 2, "leaf and intermediate: {first}");
    assert_eq!(first["svids"][0]["verified"], true);
    let bundle = node.server.cli().line("bundle show").ok().stdout;
    assert_eq!(bundle.trim(), fs::read_to_string(&cert).expect("the root").trim());

    let cli = node.server.cli();
    let old = authority(&node.server, "x509", "active");
    let upstream =
        cli.json("localauthority x509 show")["active"]["upstream_authority_subject_key_id"]
            .as_str()
            .expect("an ID")
            .to_owned();
    assert!(!upstream.is_empty());
    cli.line(&format!("localauthority x509 taint -authorityID {old}")).exits(1);
    cli.line("upstreamauthority taint -subjectKeyID nosuch").exits(1);

    write(root("second"));
    let prepared = cli.json("localauthority x509 prepare");
    let new = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID").to_owned();
    lines.find("both roots", |line| line["authorities"]["example.org"] == 2);
    cli.line(&format!("localauthority x509 activate -authorityID {new}")).ok();
    cli.line(&format!("upstreamauthority taint -subjectKeyID {upstream}")).ok();
    let renewed = lines.find("an SVID below the new root", |line| {
        line["svids"][0]["serial"].is_string() && serial(line) != serial(&first)
    });
    assert_eq!(renewed["svids"][0]["verified"], true);
    cli.line(&format!("upstreamauthority revoke -subjectKeyID {upstream}")).ok();
    lines.find("one root", |line| line["authorities"]["example.org"] == 1);
}

#[test]
fn without_an_upstream_there_is_no_upstream_authority_to_taint() {
    let server = Server::start(ServerOptions::default());
    server.cli().line("upstreamauthority taint -subjectKeyID abc").exits(1);
    server.cli().line("upstreamauthority revoke -subjectKeyID abc").exits(1);
}

#[test]
fn subjects_are_unique_when_the_credential_composer_says_so() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let node = Node::with(
        ServerOptions {
            plugins: "CredentialComposer \"uniqueid\" {}".to_owned(),
            ..ServerOptions::default()
        },
        AgentOptions::default(),
    );
    node.register_caller("/foo", "");
    let (_, line) = watch(&node);
    let subject = line["svids"][0]["subject"].as_str().expect("a subject").to_lowercase();
    // The first 16 bytes of SHA-256 of the SPIFFE ID, in hex, in a PrintableString, as in SPIRE.
    let unique = "2.5.4.45=#13206333343036663962313263656234663963393438333138633537396239303562";
    assert!(subject.contains(unique), "{subject}");
    assert_eq!(line["svids"][0]["verified"], true);
}
