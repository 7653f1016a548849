//! Tenants, scoped administrators and the audit log, with the built programs.

use std::{path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use e2e::{
    Agent, AgentOptions, Cli, Node, Server, ServerOptions, Signal, SmallDisk, TestDir, bins,
    eventually, node::caller,
};

const TENANCY: &str = "tenancy = \"required\"\n tenant_path_template = \"/tenants/{tenant}\"\n \
                       audit { directory = \"DIR/audit\" head_interval = \"200ms\" }";

fn audit_dir(server: &Server) -> PathBuf {
    server.data().join("audit")
}

/// A node whose agent serves blue.
fn node() -> Node {
    let dir = Arc::new(TestDir::new());
    let server = Server::start_in(&dir, "server", ServerOptions::with(TENANCY));
    for name in ["blue", "red"] {
        server.cli().line(&format!("tenant create -name {name}")).ok();
    }
    let token = server
        .cli()
        .json("token generate -tenant blue -spiffeID spiffe://example.org/tenants/blue/node");
    let token = token["value"].as_str().expect("a token").to_owned();
    let options = AgentOptions { token: Some(token), ..AgentOptions::default() };
    let agent = Agent::start_in(&dir, "agent", Node::agent_options(&server, options));
    Node { agent, server }
}

#[test]
fn a_workload_gets_its_tenants_identity_until_the_tenant_is_suspended() {
    let node = node();
    let create = |tenant: &str, path: &str| {
        node.server.cli().line(&format!(
            "entry create -tenant {tenant} -jwtSVIDTenantClaim -spiffeID spiffe://example.org{path} \
             -parentID spiffe://example.org/tenants/blue/node -selector {}",
            caller()
        ))
    };
    create("blue", "/tenants/blue/web").ok();
    let refused = create("red", "/tenants/red/web");
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("[tenant_parent_mismatch]"), "{refused}");
    let fetch = || node.agent.cli().line("api fetch x509");
    eventually("the identity is served", || (fetch().code == 0).then_some(()));
    assert!(fetch().stdout.contains("/tenants/blue/web"));
    let jwt = node.agent.cli().line("api fetch jwt -audience a").ok();
    let token = jwt.stdout.split_whitespace().find(|word| word.starts_with("eyJ"));
    let claims = token.and_then(|token| token.split('.').nth(1)).expect("a token").to_owned();
    assert!(decoded(&claims).contains("\"tenant\":\"blue\""), "{jwt}");
    let shown =
        node.server.cli().line("entry show -spiffeID spiffe://example.org/tenants/blue/web");
    assert!(shown.stdout.contains("Tenant                  : blue"), "{shown}");

    node.server.cli().line("tenant suspend -name blue").ok();
    eventually("the identity is gone", || (fetch().code != 0).then_some(()));
    node.server.cli().line("tenant resume -name blue").ok();
    eventually("the identity is served again", || (fetch().code == 0).then_some(()));

    let audit = audit_dir(&node.server);
    let query = |filter: &str| {
        let line = format!("audit query -directory {} -output json {filter}", audit.display());
        bare().json(&line)["records"].as_array().expect("records").clone()
    };
    let denied = eventually("the refusal is recorded", || {
        let found = query("-tenant red -decision deny -kind registration");
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(denied[0]["reason_code"], "tenant_parent_mismatch");
    assert_eq!(denied[0]["caller_as"], "local");
    let issued = query("-kind issuance -tenant blue -id spiffe://example.org/tenants/blue/web");
    assert!(issued.iter().any(|it| it["serial_num"].is_string()), "{issued:?}");
    assert!(issued[0]["selectors_sha256"].is_string(), "{issued:?}");
    // Both sides name the request the same.
    let request = issued[0]["correlation_id"].as_str().expect("an ID").to_owned();
    assert_eq!(query(&format!("-correlation {request}"))[0], issued[0]);
    let verify = format!("audit verify -directory {} -output json", audit.display());
    assert_eq!(bare().json(&verify)["intact"], true);
    let ocsf = format!("audit export -directory {} -format ocsf -kind issuance", audit.display());
    let exported = bare().line(&ocsf).ok().stdout;
    let first: serde_json::Value =
        serde_json::from_str(exported.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["class_uid"], 6003);

    // What somebody changes is found.
    let file = audit.join("audit-00000000000000000001.jsonl");
    let text = std::fs::read_to_string(&file).expect("the log");
    let copy = node.server.data().join("copy");
    std::fs::create_dir(&copy).expect("a directory");
    for name in ["head.json", "head.pub"] {
        std::fs::copy(audit.join(name), copy.join(name)).expect("a copy");
    }
    let changed = text.replacen("/tenants/red/web", "/tenants/red/was", 1);
    std::fs::write(copy.join("audit-00000000000000000001.jsonl"), changed).expect("a copy");
    let broken = bare().line(&format!("audit verify -directory {}", copy.display()));
    assert_eq!(broken.code, 1);
    assert!(broken.stderr.contains("was altered"), "{broken}");
}

/// Commands that talk to no server.
fn bare() -> Cli {
    Cli::bare(bins::server())
}

fn decoded(base64url: &str) -> String {
    let bytes = URL_SAFE_NO_PAD.decode(base64url).expect("base64url");
    String::from_utf8(bytes).expect("text")
}

#[test]
fn a_policy_is_checked_explained_and_read_again_on_a_signal() {
    let dir = Arc::new(TestDir::new());
    let file = dir.path().join("policy.conf");
    let policy = |verbs: &str| {
        let text = format!(
            "admin \"spiffe://example.org/ops\" {{ tenants = [\"blue\"] verbs = [{verbs}] }}"
        );
        std::fs::write(&file, text).expect("a policy");
    };
    policy("\"entry.read\"");
    let options = ServerOptions::with(&format!("policy_file = \"{}\"", file.display()));
    let mut server = Server::start_in(&dir, "server", options);
    let check = bare().line(&format!("policy check -file {}", file.display())).ok();
    assert!(check.stdout.contains("1 administrator"), "{check}");
    let explain = |verb: &str, tenant: &str| {
        server.cli().line(&format!(
            "policy explain -file {} -as spiffe://example.org/ops -do {verb} \
             -on spiffe://example.org/x -tenant {tenant}",
            file.display()
        ))
    };
    assert!(explain("entry.read", "blue").ok().stdout.starts_with("Allowed"));
    let denied = explain("entry.read", "red");
    assert_eq!(denied.code, 1);
    assert!(denied.stdout.contains("no rule with this verb is for tenant \"red\""), "{denied}");
    assert_eq!(explain("entry.delete", "blue").code, 1);
    assert_eq!(explain("entry.eat", "blue").code, 64);
    policy("\"entry.*\"");
    server.process().signal(Signal::SIGUSR1);
    eventually("the policy is read again", || {
        server.log().contains("Policy file reloaded").then_some(())
    });
    policy("\"entry.eat\"");
    let broken = bare().line(&format!("policy check -file {}", file.display()));
    assert_eq!(broken.code, 64);
    assert!(broken.stderr.contains("policy.conf:1:"), "{broken}");
    server.process().signal(Signal::SIGUSR1);
    eventually("the broken one is reported", || {
        server.log().contains("the rules in force stay").then_some(())
    });
}

#[test]
fn a_server_that_cannot_write_its_audit_log_stops_issuing_and_goes_on_when_it_can() {
    let dir = Arc::new(TestDir::new());
    let disk = SmallDisk::new(&dir.subdir("server/disk"), 512);
    let options = ServerOptions {
        server: "audit { directory = \"DIR/disk/audit\" }".to_owned(),
        prefix: disk.prefix(),
        ..ServerOptions::default()
    };
    let mut server = Server::start_in(&dir, "server", options);
    let mint =
        |server: &Server| server.cli().line("x509 mint -spiffeID spiffe://example.org/minted");
    mint(&server).ok();
    if !disk.is_real() {
        return;
    }
    disk.fill();
    let refused = eventually("issuing is refused", || {
        let answer = mint(&server);
        (answer.code != 0).then_some(answer)
    });
    assert!(refused.stderr.contains("[audit_unwritable]"), "{refused}");
    assert!(server.log().contains("The audit log cannot be written"));
    server.cli().line("entry count").ok();
    let pid = server.process().pid();
    disk.make_room(pid);
    eventually("issuing goes on", || (mint(&server).code == 0).then_some(()));
    server.process().assert_running();
}
