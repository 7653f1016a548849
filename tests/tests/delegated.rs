//! The Delegated Identity API, with the client that SPIRE's own delegates use (spire-api-sdk).

use std::{path::Path, process::Command};

use e2e::{
    AgentOptions, Lines, Node, ServerOptions, cli, clients::go_binary, eventually, node::caller,
    skip,
};
use serde_json::{Value, json};

/// A node whose administrator trusts `/delegate`, which is any process of the Go program.
fn node(program: &Path) -> Node {
    let node = Node::with(
        ServerOptions::default(),
        AgentOptions {
            agent: "authorized_delegates = [\"spiffe://example.org/delegate\"]".to_owned(),
            ..AgentOptions::default()
        },
    );
    node.register("/delegate", &[&format!("unix:path:{}", program.display())], "");
    node.register("/uid", &["unix:uid:424242"], "-hint first");
    node
}

fn command(node: &Node, program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["delegate", "-socket"]).arg(node.agent.admin_socket()).args(args);
    command
}

fn ask(node: &Node, program: &Path, args: &[&str]) -> Value {
    cli::run(&mut command(node, program, args), "").json()
}

/// Starts a subscription. Right after its start the agent may not know the delegate yet.
fn subscribe(node: &Node, program: &Path, args: &[&str]) -> (Lines, Value) {
    eventually("the delegate is known", || {
        let mut lines = Lines::start(&mut command(node, program, args));
        let first = lines.read();
        first["error"].is_null().then_some((lines, first))
    })
}

/// The first answer that is as wanted, `first` being the one that was read already.
fn find(lines: &mut Lines, first: Value, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    if wanted(&first) { first } else { lines.find(what, wanted) }
}

fn ids(answer: &Value) -> Vec<&str> {
    let svids = answer["svids"].as_array().map(Vec::as_slice).unwrap_or_default();
    svids.iter().filter_map(|svid| svid["id"].as_str()).collect()
}

#[test]
fn a_delegate_holds_the_identities_of_other_workloads_by_selectors() {
    let program = match go_binary() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let node = node(&program);
    let who = ["-selectors", "unix:uid:424242,unix:gid:7"];
    let (mut lines, first) = subscribe(&node, &program, &[&who[..], &["x509"]].concat());
    let line = find(&mut lines, first, "the identity", |line| ids(line) == [node.id("/uid")]);
    let svid = &line["svids"][0];
    assert_eq!(svid["uri"], svid["id"], "{line}");
    assert_eq!((&svid["own_key"], &svid["hint"]), (&json!(true), &json!("first")), "{line}");
    // The entries of administrators and downstream servers are not for delegates.
    node.register("/admin", &["unix:uid:424242"], "-admin");
    node.register("/downstream", &["unix:uid:424242"], "-downstream");
    let second = node.register("/second", &["unix:gid:7"], "");
    lines.find("both identities", |line| ids(line) == [node.id("/uid"), node.id("/second")]);
    node.server.delete(&second);
    lines.find("the first one only", |line| ids(line) == [node.id("/uid")]);

    let jwt = ask(&node, &program, &[&who[..], &["jwt", "one,two"]].concat());
    assert_eq!(ids(&jwt), [node.id("/uid")], "{jwt}");
    let token = jwt["svids"][0]["token"].as_str().expect("a token");
    let valid = node.agent.cli().json(&format!("api validate jwt -audience two -svid {token}"));
    assert_eq!(valid["spiffe_id"], node.id("/uid"));

    let nobody = ["-selectors", "unix:uid:5"];
    let none = ask(&node, &program, &[&nobody[..], &["jwt", "one"]].concat());
    assert_eq!(none["error"]["code"], "PermissionDenied", "{none}");
    let (_lines, none) = subscribe(&node, &program, &[&nobody[..], &["x509"]].concat());
    assert_eq!(ids(&none), <[&str; 0]>::default(), "no match is an empty answer: {none}");
}

#[test]
fn a_delegate_may_name_a_process_instead() {
    let program = match go_binary() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let node = node(&program);
    node.register("/me", &[&caller(), &format!("unix:path:{}", own_path())], "");
    let pid = std::process::id().to_string();
    let (mut lines, first) = subscribe(&node, &program, &["-pid", &pid, "x509"]);
    find(&mut lines, first, "this process's identity", |line| ids(line) == [node.id("/me")]);
    let jwt = ask(&node, &program, &["-pid", &pid, "jwt", "one"]);
    assert_eq!(ids(&jwt), [node.id("/me")], "{jwt}");
    for (args, code) in [
        (&["-pid", "99999999", "x509"][..], "Unavailable"),
        (&["x509"], "InvalidArgument"),
        (&["jwt", "one"], "InvalidArgument"),
        (&["-pid", &pid, "-selectors", "unix:uid:0", "x509"], "InvalidArgument"),
        (&["-pid", "-5", "x509"], "Unavailable"),
        (&["-selectors", ":", "x509"], "InvalidArgument"),
        (&["-pid", &pid, "jwt", ""], "InvalidArgument"),
    ] {
        let refused = ask(&node, &program, args);
        assert_eq!(refused["error"]["code"], code, "{args:?}: {refused}");
    }
}

fn own_path() -> String {
    std::fs::read_link("/proc/self/exe").expect("/proc").display().to_string()
}

#[test]
fn a_delegate_follows_all_bundles() {
    let program = match go_binary() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let node = node(&program);
    let own = "spiffe://example.org";
    let (mut x509, first) = subscribe(&node, &program, &["x509-bundles"]);
    assert_eq!(first[own], 1, "{first}");
    let (mut jwt, first) = subscribe(&node, &program, &["jwt-bundles"]);
    assert_eq!(first[own], 1, "{first}");
    node.server.cli().line("localauthority x509 prepare").ok();
    node.server.cli().line("localauthority jwt prepare").ok();
    x509.find("both authorities", |line| line[own] == 2);
    jwt.find("both keys", |line| line[own] == 2);
}

#[test]
fn nobody_but_a_delegate_is_told_anything() {
    let program = match go_binary() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let node = node(&program);
    // The same program under another name, once without an identity and once with another one.
    let other = node.server.dir().join("other");
    std::fs::copy(&program, &other).expect("a copy of the client");
    let calls: [&[&str]; 5] = [
        &["-selectors", "unix:uid:424242", "x509"],
        &["-pid", "1", "x509"],
        &["-selectors", "unix:uid:424242", "jwt", "one"],
        &["x509-bundles"],
        &["jwt-bundles"],
    ];
    let refused = |why: &str| {
        for args in calls {
            let answer = ask(&node, &other, args);
            assert_eq!(answer["error"]["code"], "PermissionDenied", "{args:?}: {answer}");
            assert!(answer.to_string().contains(why), "{args:?}: {answer}");
        }
    };
    refused("no identity issued");
    let path = format!("unix:path:{}", other.display());
    node.register("/other", &[&path], "");
    eventually("its identity is known", || {
        let answer = ask(&node, &other, &["x509-bundles"]);
        answer.to_string().contains("not configured").then_some(())
    });
    refused("caller not configured as an authorized delegate");
}

#[test]
fn a_delegate_whose_entry_is_deleted_is_cut_off() {
    let program = match go_binary() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let node = Node::with(
        ServerOptions::default(),
        AgentOptions {
            agent: "authorized_delegates = [\"spiffe://example.org/delegate\"]".to_owned(),
            ..AgentOptions::default()
        },
    );
    let path = format!("unix:path:{}", program.display());
    let delegate = node.register("/delegate", &[&path], "");
    node.register("/uid", &["unix:uid:424242"], "");
    let who = ["-selectors", "unix:uid:424242", "x509"];
    let (mut lines, first) = subscribe(&node, &program, &who);
    find(&mut lines, first, "the identity", |line| ids(line) == [node.id("/uid")]);
    node.server.delete(&delegate);
    eventually("a new call is refused", || {
        let answer = ask(&node, &program, &["x509-bundles"]);
        (answer["error"]["code"] == "PermissionDenied").then_some(())
    });
    // The next answer on the open stream would be one too many.
    node.register("/later", &["unix:uid:424242"], "");
    let last = lines.find("the end of the stream", |line| {
        assert!(!line.to_string().contains("/later"), "{line}");
        line["error"].is_object()
    });
    assert_eq!(last["error"]["code"], "PermissionDenied", "{last}");
}
