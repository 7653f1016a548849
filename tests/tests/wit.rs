//! WIT-SVIDs and their proofs, with go-spiffe as the workload.

use e2e::{AgentOptions, Client, Node, Output, ServerOptions, eventually};
use serde_json::Value;
use signet_testkit::skip;

const FLAG: &str = "experimental { feature_flags = [\"wit-svid\"] }";
const TARGET: &str = "https://api.example.org/orders";

fn node() -> Node {
    let agent = AgentOptions { agent: FLAG.to_owned(), ..AgentOptions::default() };
    let node = Node::with(ServerOptions::with(FLAG), agent);
    node.register_caller("/workload", "-hint first");
    eventually("the identity is served", || {
        (node.agent.cli().line("api fetch wit").code == 0).then_some(())
    });
    node
}

/// The two header fields that `api prove` prints.
fn proven(node: &Node, more: &[&str]) -> (String, String) {
    let args = [&["api", "prove", "-audience", TARGET], more].concat();
    let printed = node.agent.cli().run(args).ok().stdout;
    let field = |name: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{printed}")).trim().to_owned()
    };
    (field("Workload-Identity-Token:"), field("Workload-Proof-Token:"))
}

fn validated(node: &Node, (wit, proof): &(String, String), audience: &str) -> Output {
    validated_with(node, (wit, proof), audience, &[])
}

fn validated_with(
    node: &Node,
    (wit, proof): (&str, &str),
    audience: &str,
    more: &[&str],
) -> Output {
    let args = ["api", "validate", "wit", "-svid", wit, "-proof", proof, "-audience", audience];
    node.agent.cli().run([&args[..], more].concat())
}

#[test]
fn a_stock_client_gets_wit_svids_and_new_ones_when_their_authority_is_tainted() {
    if let Err(why) = Client::Go.prepare() {
        skip!("{why}");
    }
    let node = node();
    let socket = node.agent.socket();
    let found = Client::Go.run(&socket, &["wit"]).json();
    let svid = &found["svids"][0];
    assert_eq!((&svid["id"], &svid["hint"]), (&node.id("/workload").into(), &"first".into()));
    assert_eq!(svid["bound"], true, "the key is the one that the token binds");
    // Whoever asks again gets the same.
    let again = Client::Go.run(&socket, &["wit", &node.id("/workload")]).json();
    assert_eq!(again["svids"][0]["token"], svid["token"]);
    Client::Go.run(&socket, &["wit", &node.id("/other")]).exits(1).says("PermissionDenied");

    let mut watching = Client::Go.start(&socket, &["watch-wit", &node.id("/workload")]);
    assert_eq!(watching.read()["svids"][0]["token"], svid["token"]);
    let cli = node.server.cli();
    let shown = cli.json("localauthority wit show");
    let first = shown["active"]["authority_id"].as_str().unwrap();
    assert_eq!(svid["kid"], first);
    let prepared = cli.json("localauthority wit prepare");
    let second = prepared["prepared_authority"]["authority_id"].as_str().unwrap();
    cli.line(&format!("localauthority wit activate -authorityID {second}")).ok();
    cli.line(&format!("localauthority wit taint -authorityID {first}")).ok();
    loop {
        let update = watching.read();
        if update["svids"][0]["kid"] == second {
            assert_eq!(update["svids"][0]["bound"], true);
            break;
        }
    }
    cli.line(&format!("localauthority wit revoke -authorityID {first}")).ok();
    eventually("the key is gone from the workload's bundle", || {
        let bundles = node.agent.cli().json("api fetch wit");
        let bundle = bundles[1]["bundles"]["spiffe://example.org"].as_str()?.to_owned();
        (!bundle.contains(first) && bundle.contains(second)).then_some(())
    });
}

#[test]
fn a_request_is_proven_and_validated_and_nothing_that_differs_from_it() {
    let node = node();
    let fields = proven(&node, &[]);
    validated(&node, &fields, TARGET).ok().says(&node.id("/workload"));
    validated(&node, &fields, &format!("{TARGET}?page=2")).ok();
    let refused = |output: Output, why: &str| drop(output.exits(1).says(why));
    refused(validated(&node, &fields, "https://api.example.org/users"), "not for this recipient");
    let (wit, proof) = &fields;
    refused(validated(&node, &(wit.clone(), wit.clone()), TARGET), "type is not wpt+jwt");
    refused(validated(&node, &(proof.clone(), proof.clone()), TARGET), "type is not wit+jwt");
    let forged = format!("{}AAAA", &proof[..proof.len() - 4]);
    refused(validated(&node, &(wit.clone(), forged), TARGET), "signature does not match");

    let bound = proven(&node, &["-accessToken", "abc", "-otherToken", "X-User=alice"]);
    let check = |more: &[&str]| validated_with(&node, (&bound.0, &bound.1), TARGET, more);
    check(&["-accessToken", "abc", "-otherToken", "x-user=alice"]).ok();
    refused(check(&["-accessToken", "abd", "-otherToken", "x-user=alice"]), "\"ath\"");
    refused(check(&["-accessToken", "abc", "-otherToken", "x-user=root"]), "\"oth\"");
    refused(check(&["-accessToken", "abc"]), "\"oth\"");
    refused(check(&[]), "\"ath\"");
    let usage = node.agent.cli().line(&format!("api prove -audience {TARGET} -ttl 10m"));
    usage.exits(64).says("expected 1s to 300s");

    // A JWT-SVID is no WIT-SVID, nor the other way round.
    let jwt = node.agent.cli().json(&format!("api fetch jwt -audience {TARGET}"));
    let jwt = jwt[0]["svids"][0]["svid"].as_str().unwrap().to_owned();
    refused(validated(&node, &(jwt, proof.clone()), TARGET), "type is not wit+jwt");
    let args = ["api", "validate", "jwt", "-audience", TARGET, "-svid", wit];
    node.agent.cli().run(args).exits(1).says("SVID is not valid");

    let dir = tempfile::tempdir().unwrap();
    let written = format!("api fetch wit -write {}", dir.path().display());
    node.agent.cli().line(&written).ok();
    let file = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(file("wit.0.jwt"), *wit);
    let key: Value = serde_json::from_str(&file("wit.0.key")).unwrap();
    assert!(key["d"].is_string());
    let mode = std::fs::metadata(dir.path().join("wit.0.key")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    assert!(file("bundle.0.jwks").contains("\"kid\""));
}

#[test]
fn wit_svids_outlast_the_server_and_come_again_with_the_agent() {
    let mut node = node();
    let token = |node: &Node| -> Option<String> {
        let printed = node.agent.cli().line("api fetch wit -output json");
        let printed: Value = serde_json::from_str(&printed.stdout).ok()?;
        Some(printed[0]["svids"][0]["wit_svid"].as_str()?.to_owned())
    };
    let before = token(&node).unwrap();
    node.server.stop();
    assert_eq!(token(&node).as_ref(), Some(&before), "what is kept is served");
    node.server.launch();
    node.server.ready();
    node.agent.sealed();
    node.agent.stop();
    node.agent.launch();
    node.agent.ready();
    let after = eventually("a WIT-SVID after the restart", || token(&node));
    assert_eq!(after, before, "it was put away with its key");

    // With the server away an agent that starts has the WIT-SVID, its key, and the bundle.
    node.server.stop();
    node.agent.stop();
    node.agent.launch();
    node.agent.ready();
    let fields = eventually("the WIT-SVID without the server", || {
        (token(&node).as_ref() == Some(&before)).then(|| proven(&node, &[]))
    });
    validated(&node, &fields, TARGET).ok().says(&node.id("/workload"));

    // What is put away is nobody's once its authority was tainted meanwhile.
    node.agent.stop();
    node.server.launch();
    node.server.ready();
    let cli = node.server.cli();
    let shown = cli.json("localauthority wit show");
    let first = shown["active"]["authority_id"].as_str().unwrap();
    let prepared = cli.json("localauthority wit prepare");
    let second = prepared["prepared_authority"]["authority_id"].as_str().unwrap();
    cli.line(&format!("localauthority wit activate -authorityID {second}")).ok();
    cli.line(&format!("localauthority wit taint -authorityID {first}")).ok();
    node.agent.launch();
    node.agent.ready();
    eventually("a WIT-SVID of the other authority", || {
        token(&node).filter(|token| *token != before)
    });
}

#[test]
fn nothing_of_it_is_there_unless_it_is_switched_on() {
    let node = Node::start();
    node.register_caller("/workload", "");
    eventually("the identity is served", || {
        (node.agent.cli().line("api fetch x509").code == 0).then_some(())
    });
    node.agent.cli().line("api fetch wit").exits(1).says("Unimplemented");
    node.server
        .cli()
        .line("localauthority wit show")
        .exits(1)
        .says("WIT functionality is disabled");
    let shown = node.server.cli().json("bundle show");
    assert!(shown["wit_authorities"].as_array().is_none_or(Vec::is_empty), "{shown}");

    // Where it is on, documents for others hold those keys only when they are asked for.
    let node = self::node();
    let document = |more: &str| {
        let line = format!("bundle show -format spiffe {more}");
        node.server.cli().line(&line).ok().stdout
    };
    assert!(!document("").contains("wit-svid"));
    assert!(document("-witKeys").contains("\"use\": \"wit-svid\""));
}
