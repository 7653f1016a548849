//! The operator's commands: what they print for people and for programs, and how they fail.

use e2e::{Cli, Server, ServerOptions};
use serde_json::{Value, json};

fn server() -> Server {
    Server::start(ServerOptions::default())
}

/// Creates an entry from the words after `entry create`; returns the JSON answer.
fn create(cli: &Cli, words: &str) -> Value {
    cli.json(&format!(
        "entry create -parentID spiffe://example.org/node -spiffeID spiffe://example.org{words}"
    ))["results"][0]
        .clone()
}

#[test]
fn entry_create_prints_the_entry() {
    let server = server();
    let cli = server.cli();
    let pretty = cli
        .line(
            "entry create -parentID spiffe://example.org/node -spiffeID spiffe://example.org/web \
             -selector unix:uid:1002 -selector unix:gid:7 -dns a.test -dns b.test \
             -x509SVIDTTL 600 -hint h1 -entryID web-1",
        )
        .ok()
        .stdout;
    for line in [
        "Entry ID                : web-1",
        "SPIFFE ID               : spiffe://example.org/web",
        "Parent ID               : spiffe://example.org/node",
        "Revision                : 0",
        "X509-SVID TTL           : 600",
        "JWT-SVID TTL            : default",
        "Selector                : unix:gid:7",
        "Selector                : unix:uid:1002",
        "DNS name                : a.test",
        "DNS name                : b.test",
        "Hint                    : h1",
    ] {
        assert!(pretty.contains(line), "{line:?} is not in\n{pretty}");
    }
    let made = create(&cli, "/api -selector unix:uid:5 -admin -jwtSVIDTTL 60 -downstream");
    assert_eq!(made["status"], json!({"code": 0, "message": "OK"}));
    let entry = &made["entry"];
    assert_eq!(entry["spiffe_id"], json!({"trust_domain": "example.org", "path": "/api"}));
    assert_eq!(entry["parent_id"], json!({"trust_domain": "example.org", "path": "/node"}));
    assert_eq!(entry["selectors"], json!([{"type": "unix", "value": "uid:5"}]));
    assert_eq!((&entry["admin"], &entry["downstream"]), (&json!(true), &json!(true)));
    assert_eq!((&entry["jwt_svid_ttl"], &entry["x509_svid_ttl"]), (&json!(60), &json!(0)));
    // 64-bit numbers are strings, and unset lists are there.
    assert_eq!((&entry["revision_number"], &entry["expires_at"]), (&json!("0"), &json!("0")));
    assert_eq!((&entry["dns_names"], &entry["federates_with"]), (&json!([]), &json!([])));
    assert!(entry["created_at"].is_string(), "{entry}");
}

#[test]
fn a_similar_entry_is_refused_and_named() {
    let server = server();
    let cli = server.cli();
    create(&cli, "/web -selector unix:uid:1");
    let line = "entry create -parentID spiffe://example.org/node \
                -spiffeID spiffe://example.org/web -selector unix:uid:1";
    cli.line(line).exits(1).says("AlreadyExists").says("similar entry already exists");
    let json = cli.line(&format!("{line} -output json"));
    let answer: Value = serde_json::from_str(&json.stdout).expect("JSON even so");
    assert_eq!(answer["results"][0]["status"]["code"], 6, "{answer}");
    assert_eq!(answer["results"][0]["entry"]["id"], "", "the request is echoed: {answer}");
    assert_eq!(cli.json("entry count")["count"], 1);
}

#[test]
fn entries_are_found_by_every_filter() {
    let server = server();
    let cli = server.cli();
    create(&cli, "/a -selector unix:uid:1");
    create(&cli, "/b -selector unix:uid:1 -selector unix:gid:1");
    create(&cli, "/c -selector unix:uid:2 -hint special -downstream");
    let count = |filter: &str| cli.json(&format!("entry count {filter}"))["count"].clone();
    assert_eq!(count(""), 3);
    assert_eq!(count("-spiffeID spiffe://example.org/a"), 1);
    assert_eq!(count("-parentID spiffe://example.org/node"), 3);
    assert_eq!(count("-hint special"), 1);
    assert_eq!(count("-downstream"), 1);
    let uid = "-selector unix:uid:1 -selector unix:gid:1 -matchSelectorsOn";
    assert_eq!(count(&format!("{uid} exact")), 1);
    assert_eq!(count(&format!("{uid} subset")), 2);
    assert_eq!(count(&format!("{uid} any")), 2);
    assert_eq!(count("-selector unix:uid:1 -matchSelectorsOn superset"), 2);
    let shown = cli.json("entry show -spiffeID spiffe://example.org/c");
    assert_eq!(shown["entries"].as_array().map(Vec::len), Some(1));
    assert_eq!(shown["next_page_token"], "");
    cli.line("entry show").ok().says("Found 3 entries");
    cli.line("entry show -spiffeID spiffe://example.org/a").ok().says("Found 1 entry");
    cli.line("entry count").ok().says("3 registration entries");
    cli.line("entry count -hint special").ok().says("1 registration entry");
    cli.line("entry show -entryID nosuch").exits(1);
    cli.line("entry show -selector unix:uid:1 -matchSelectorsOn sideways").exits(64);
}

#[test]
fn entries_are_updated_whole_and_deleted() {
    let server = server();
    let cli = server.cli();
    create(&cli, "/a -selector unix:uid:1 -entryID e1 -hint old");
    let updated = cli.json(
        "entry update -entryID e1 -parentID spiffe://example.org/node \
         -spiffeID spiffe://example.org/b -selector unix:uid:2",
    );
    let entry = &updated["results"][0]["entry"];
    assert_eq!(entry["spiffe_id"]["path"], "/b");
    assert_eq!(entry["hint"], "", "an update replaces everything: {entry}");
    assert_eq!(entry["revision_number"], "1");
    cli.line(
        "entry update -entryID nosuch -parentID spiffe://example.org/node \
         -spiffeID spiffe://example.org/b -selector unix:uid:2",
    )
    .exits(1);
    cli.line("entry delete -entryID e1").ok().says("Deleted entry with ID: e1");
    cli.line("entry delete -entryID e1").exits(1);
    create(&cli, "/c -selector unix:uid:1 -entryID e2");
    let ids = server.dir().write("ids.json", r#"{"ids":["e2"]}"#);
    let deleted = cli.json(&format!("entry delete -file {}", ids.display()));
    assert_eq!(deleted["results"][0]["id"], "e2");
    assert_eq!(deleted["results"][0]["status"]["code"], 0);
    assert_eq!(cli.json("entry count")["count"], 0);
}

#[test]
fn entries_come_from_files_and_standard_input() {
    let server = server();
    let cli = server.cli();
    let data = json!({"entries": [
        {"spiffe_id": "spiffe://example.org/one", "parent_id": "spiffe://example.org/node",
         "selectors": [{"type": "unix", "value": "uid:1"}], "x509_svid_ttl": 200},
        {"spiffe_id": "spiffe://example.org/two", "parent_id": "spiffe://example.org/node",
         "selectors": [{"type": "unix", "value": "uid:1"}], "admin": true, "entry_id": "two"},
    ]})
    .to_string();
    let made = cli.run_with(["entry", "create", "-data", "-", "-output", "json"], &data).json();
    assert_eq!(made["results"].as_array().map(Vec::len), Some(2));
    assert_eq!(made["results"][1]["entry"]["id"], "two");
    cli.run_with(["entry", "create", "-data", "-"], "{not json").exits(64);
    let unknown = r#"{"entries":[{"spiffe_id":"spiffe://example.org/x","nosuch":1}]}"#;
    assert_ne!(cli.run_with(["entry", "create", "-data", "-"], unknown).code, 0);
}

#[test]
fn malformed_entries_are_refused_with_the_reason() {
    let server = server();
    let cli = server.cli();
    let parent = "-parentID spiffe://example.org/node";
    let long = "x".repeat(1025);
    for (words, why) in [
        (format!("{parent} -spiffeID spiffe://example.org/a"), "selector"),
        (format!("{parent} -selector unix:uid:1"), "SPIFFE ID"),
        ("-spiffeID spiffe://example.org/a -selector unix:uid:1".to_owned(), "parent"),
        (format!("{parent} -spiffeID spiffe://other.test/a -selector unix:uid:1"), "trust domain"),
        (
            format!("{parent} -spiffeID spiffe://example.org/spire/x -selector unix:uid:1"),
            "reserved",
        ),
        (format!("{parent} -spiffeID example.org/a -selector unix:uid:1"), "scheme"),
        (format!("{parent} -spiffeID spiffe://example.org/a/ -selector unix:uid:1"), "trail"),
        (format!("{parent} -spiffeID spiffe://example.org/../a -selector unix:uid:1"), "dot"),
        (format!("{parent} -spiffeID spiffe://example.org/a -selector unix"), "selector"),
        (format!("{parent} -spiffeID spiffe://example.org/a -selector a:b -x509SVIDTTL -1"), "TTL"),
        (format!("{parent} -spiffeID spiffe://example.org/a -selector a:b -dns a..b"), "DNS"),
        (format!("{parent} -spiffeID spiffe://example.org/a -selector a:b -hint {long}"), "hint"),
        (format!("{parent} -spiffeID spiffe://example.org/a -selector a:b -entryID a/b"), "ID"),
    ] {
        let refused = cli.line(&format!("entry create {words}"));
        assert_ne!(refused.code, 0, "{words}: {refused}");
        let said = refused.stderr.to_lowercase();
        assert!(
            said.contains(&why.to_lowercase()),
            "{why:?} is not in the answer to {words}: {refused}"
        );
    }
    assert_eq!(cli.json("entry count")["count"], 0);
}

#[test]
fn agents_are_listed_shown_banned_evicted_and_counted() {
    let node = e2e::Node::start();
    let cli = node.server.cli();
    let id = node.agent_id();
    cli.line("agent list").ok().says("Found 1 attested agent").says(&id);
    let listed = cli.json("agent list");
    let agent = &listed["agents"][0];
    assert_eq!(agent["attestation_type"], "join_token");
    assert_eq!((&agent["banned"], &agent["can_reattest"]), (&json!(false), &json!(false)));
    assert!(
        agent["x509svid_serial_number"].is_string() && agent["x509svid_expires_at"].is_string()
    );
    assert_eq!(listed["next_page_token"], "");
    assert_eq!(cli.json("agent count")["count"], 1);
    assert_eq!(cli.json("agent count -attestationType x509pop")["count"], 0);
    assert_eq!(cli.json("agent count -banned true")["count"], 0);
    cli.line("agent count").ok().says("1 attested agent");
    cli.line(&format!("agent show -spiffeID {id}"))
        .ok()
        .says("Found an attested agent given its SPIFFE ID")
        .says("Attestation type  : join_token")
        .says("Can re-attest     : false");
    cli.line("agent purge").ok().says("No agents to purge.");
    cli.line("agent show -spiffeID spiffe://example.org/spire/agent/x/y").exits(1);
    cli.line("agent show -spiffeID spiffe://example.org/workload").exits(1);
    cli.line("agent show").exits(64);
    cli.line(&format!("agent ban -spiffeID {id}")).ok().says("Agent banned successfully");
    assert_eq!(cli.json(&format!("agent show -spiffeID {id}"))["banned"], true);
    assert_eq!(cli.json(&format!("agent evict -spiffeID {id}")), json!({}));
    assert_eq!(cli.json("agent count")["count"], 0);
    cli.line(&format!("agent evict -spiffeID {id}")).exits(1);
}

#[test]
fn bundles_are_shown_set_listed_and_deleted() {
    let server = server();
    let other = Server::start(ServerOptions {
        trust_domain: "other.test".to_owned(),
        ..ServerOptions::default()
    });
    let cli = server.cli();
    let pem = other.cli().line("bundle show").ok().stdout;
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
    let spiffe = other.cli().line("bundle show -format spiffe").ok().stdout;
    let document: Value = serde_json::from_str(&spiffe).expect("a bundle document");
    assert_eq!(document["keys"].as_array().map(Vec::len), Some(2));
    let shown = other.cli().json("bundle show");
    assert_eq!(shown["trust_domain"], "other.test");
    assert!(shown["x509_authorities"][0]["asn1"].is_string());
    assert!(shown["jwt_authorities"][0]["key_id"].is_string());

    let file = server.dir().write("other.pem", &pem);
    let set = format!("bundle set -id spiffe://other.test -path {}", file.display());
    cli.line(&set).ok().says("bundle set.");
    cli.run_with(["bundle", "set", "-id", "spiffe://other.test", "-format", "spiffe"], &spiffe)
        .ok();
    cli.line("bundle list").ok().says("* other.test");
    assert_eq!(cli.json("bundle list")["bundles"][0]["trust_domain"], "other.test");
    let federated = "entry create -parentID spiffe://example.org/node \
                     -spiffeID spiffe://example.org/f -selector a:b -federatesWith spiffe://other.test";
    cli.line(federated).ok().says("FederatesWith           : other.test");
    cli.line("bundle delete -id spiffe://other.test").exits(1);
    let early = "entry create -parentID spiffe://example.org/node \
                 -spiffeID spiffe://example.org/early -selector a:b -federatesWith late.test";
    cli.line(early).ok().says("FederatesWith           : late.test (pending: no bundle yet)");
    let id = cli.json("entry show -federatesWith late.test")["entries"][0]["id"].clone();
    cli.line(&format!("entry delete -entryID {}", id.as_str().unwrap())).ok();
    cli.line("bundle delete -id spiffe://other.test -mode dissociate").ok().says("bundle deleted.");
    assert_eq!(cli.json("entry show")["entries"][0]["federates_with"], json!([]));
    cli.line(&set).ok();
    cli.line("bundle delete -id spiffe://other.test -mode delete").ok();
    cli.line("bundle delete -id spiffe://other.test").exits(1);
    cli.line("bundle list -id spiffe://other.test").exits(1);
    cli.run_with(["bundle", "set", "-id", "spiffe://bad.test"], "not a bundle").exits(1);
    cli.line(&format!("bundle set -id spiffe://example.org -path {}", file.display())).exits(1);
}

#[test]
fn federation_relationships_are_kept() {
    let server = server();
    let cli = server.cli();
    let create = "federation create -trustDomain web.test -bundleEndpointURL https://127.0.0.1:9/b \
                  -bundleEndpointProfile https_web";
    cli.line(create)
        .ok()
        .says("Trust domain              : web.test")
        .says("Bundle endpoint URL       : https://127.0.0.1:9/b")
        .says("Bundle endpoint profile   : https_web");
    assert_ne!(cli.line(create).code, 0, "a second one of the same trust domain");
    let made = cli.json(
        "federation create -trustDomain spiffe.test -bundleEndpointURL https://127.0.0.1:9/s \
         -bundleEndpointProfile https_spiffe -endpointSpiffeID spiffe://spiffe.test/server",
    );
    let relationship = &made["results"][0]["federation_relationship"];
    assert_eq!(relationship["https_spiffe"]["endpoint_spiffe_id"], "spiffe://spiffe.test/server");
    assert_eq!(relationship["trust_domain"], "spiffe.test");
    cli.line("federation list").ok().says("Found 2 federation relationships");
    let shown = cli.json("federation show -trustDomain web.test");
    assert_eq!(shown["bundle_endpoint_url"], "https://127.0.0.1:9/b");
    let updated = cli.json(
        "federation update -trustDomain web.test -bundleEndpointURL https://127.0.0.1:9/new \
         -bundleEndpointProfile https_web",
    );
    assert_eq!(
        updated["results"][0]["federation_relationship"]["bundle_endpoint_url"],
        "https://127.0.0.1:9/new"
    );

    let bad = "federation create -trustDomain bad.test -bundleEndpointURL";
    assert_ne!(cli.line(&format!("{bad} http://x -bundleEndpointProfile https_web")).code, 0);
    cli.line(&format!("{bad} https://x -bundleEndpointProfile ftp")).exits(64);
    cli.line("federation status").ok().says("Origin                    : API").says("none yet");
    let refused = cli.line("federation refresh -id web.test");
    refused.exits(1);
    let status = cli.json("federation status -id web.test");
    let error = &status["relationships"][0]["last_error"];
    assert!(error.as_str().unwrap().contains("127.0.0.1:9"), "{status}");
    cli.line("federation refresh -id none.test").exits(1);
    cli.line("federation delete -id web.test").ok().says("federation relationship deleted.");
    cli.line("federation delete -id spiffe.test -withBundle dissociate").ok();
    cli.line("federation list").ok().says("Found 0 federation relationships");
    cli.line("federation show -trustDomain web.test").exits(1);
}

#[test]
fn svids_are_minted_for_operators() {
    let server = server();
    let cli = server.cli();
    let minted = cli.json("x509 mint -spiffeID spiffe://example.org/m -dns m.test -ttl 60s");
    assert!(minted["private_key"].is_string() && minted["x509_svid"][0].is_string(), "{minted}");
    assert!(minted["root_cas"][0].is_string(), "{minted}");
    let dir = server.dir().subdir("mint");
    cli.line(&format!("x509 mint -spiffeID spiffe://example.org/m -write {}", dir.display())).ok();
    for file in ["svid.pem", "key.pem", "bundle.pem"] {
        let pem = std::fs::read_to_string(dir.join(file)).expect(file);
        assert!(pem.starts_with("-----BEGIN "), "{file}: {pem}");
    }
    let jwt =
        cli.json("jwt mint -spiffeID spiffe://example.org/m -audience a -audience b -ttl 60s");
    assert!(jwt["svid"]["token"].is_string() && jwt["svid"]["expires_at"].is_string(), "{jwt}");
    assert_eq!(jwt["svid"]["id"]["path"], "/m");
    cli.line("jwt mint -spiffeID spiffe://example.org/m").exits(64);
    cli.line("x509 mint -spiffeID spiffe://other.test/m").exits(1);
    cli.line("x509 mint -spiffeID spiffe://example.org/spire/server").exits(1);
    cli.line("x509 mint").exits(64);
}

#[test]
fn logger_debug_and_health_answer() {
    let mut server = server();
    let cli = server.cli();
    cli.line("healthcheck").ok().says("Server is healthy.");
    cli.line("healthcheck -verbose").ok().says("Checking server health...");
    assert_eq!(cli.json("logger get"), json!({"current_level": "DEBUG", "launch_level": "DEBUG"}));
    assert_eq!(cli.json("logger set -level warn")["current_level"], "WARN");
    cli.line("logger reset").ok().says("Logger Level : debug");
    cli.line("logger set -level loud").exits(64);
    cli.line("logger set").exits(64);
    let info = cli.json("debug getinfo");
    assert_eq!(info["svid_chain"][0]["id"]["path"], "/spire/server", "{info}");
    assert_eq!((&info["agents_count"], &info["entries_count"]), (&json!(0), &json!(0)));
    cli.line("debug getinfo").ok().says("Server Debug Info:").says("Registered Agents:       0");
    server.stop();
    assert_eq!(cli.line("healthcheck").code, 1);
    assert_eq!(cli.line("entry show").code, 1);
}

#[test]
fn tokens_are_generated_with_and_without_an_identity() {
    let server = server();
    let cli = server.cli();
    cli.line("token generate").ok().says("Token: ").says("Warning: Missing SPIFFE ID.");
    let made = cli.json("token generate -spiffeID spiffe://example.org/n -ttl 60");
    assert!(made["value"].is_string() && made["expires_at"].is_string(), "{made}");
    cli.line("token generate -ttl -5").exits(1);
    cli.line("token generate -spiffeID spiffe://other.test/n").exits(1);
}

#[test]
fn unknown_commands_flags_and_values_are_wrong_usage() {
    let cli = Cli::bare(e2e::bins::server());
    for line in ["nosuch", "entry nosuch", "entry show -nosuch", "agent count -banned maybe", ""] {
        let refused = cli.line(line);
        assert_ne!(refused.code, 0, "{line}: {refused}");
        assert!(!(refused.stderr.is_empty() && refused.stdout.is_empty()), "{line} says nothing");
    }
    for line in ["--help", "entry --help", "entry create --help", "run --help"] {
        let help = cli.line(line);
        assert!(help.code == 0 && help.stdout.len() + help.stderr.len() > 100, "{line}: {help}");
    }
}
