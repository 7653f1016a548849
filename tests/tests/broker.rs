//! The secret broker with a real OpenBao and a real PostgreSQL.

use std::{fs, time::Duration};

use e2e::{
    Signal, eventually, eventually_within,
    secrets::{POLICY, Secrets},
    skip,
};
use serde_json::{Value, json};

/// How soon everything has ended once an identity has.
const PROMISED: Duration = Duration::from_secs(5);

const ORDERS: &str = "/tenants/blue/orders";
const REPORTS: &str = "/tenants/red/reports";
const DRAW: &str = "/v1/credentials/orders-db";

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"]["code"].as_str().unwrap_or("ok"))
}

/// Draws a database login.
#[track_caller]
fn login(secrets: &Secrets, path: &str) -> Value {
    let answer = secrets.ask(path, "POST", DRAW, &Value::Null);
    assert_eq!(code(&answer), (200, "ok"), "{}", answer.1);
    answer.1
}

fn ended(secrets: &Secrets, drawn: &Value) {
    eventually_within("the login is gone", PROMISED, || {
        (!secrets.has_login(&drawn["data"])).then_some(())
    });
}

#[test]
fn a_database_login_and_its_sessions_end_with_the_entry_and_one_id_is_in_every_log() {
    let secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let entry = secrets.workload(ORDERS, "");
    let id = "6f1a0a52-8c3b-4d6e-9f00-112233445566";
    let who = secrets.node.id(ORDERS);
    let headers = [("x-spiffe-id", who.as_str()), ("x-correlation-id", id)];
    let (status, drawn) = eventually("the agent and the broker know the workload", || {
        let answer = secrets.ask_once(&headers, "POST", DRAW, &Value::Null);
        (answer.0 == 200).then_some(answer)
    });
    assert_eq!((status, &drawn["correlation_id"]), (200, &json!(id)), "{drawn}");
    assert_eq!((&drawn["ttl"], &drawn["tenant"]), (&json!(120), &json!("blue")), "{drawn}");
    // The database's user names the workload.
    let user = drawn["data"]["username"].as_str().expect("a user");
    assert!(user.contains("orders-"), "{user}");
    assert!(secrets.log().contains(id), "{}", secrets.log());
    assert!(secrets.node.agent.log().contains(id), "the agent's log");
    assert!(secrets.node.server.log().contains(id), "the server's log");
    let audit = fs::read_to_string(secrets.bao.dir().join("audit.log")).expect("an audit log");
    let line = audit.lines().find(|line| line.contains(id)).expect("OpenBao's audit log has it");
    assert!(line.contains(&secrets.node.id(ORDERS)), "with the identity: {line}");
    // The password is in no log and in no file of the broker's.
    let password = drawn["data"]["password"].as_str().expect("a password");
    assert!(!secrets.log().contains(password));
    let journal = fs::read_to_string(secrets.data_dir().join("leases.journal")).expect("a journal");
    assert!(journal.contains(id) && !journal.contains(password), "{journal}");

    let mut session = secrets.session(&drawn["data"], "mine");
    assert_eq!(secrets.revocations(), 0);
    secrets.node.server.delete(&entry);
    eventually_within("the session has ended", PROMISED, || session.ended());
    ended(&secrets, &drawn);
    let owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'mine'";
    assert_eq!(secrets.postgres.sql(&secrets.database, owner), "app_rw", "what it owned stays");
    assert_eq!(secrets.revocations(), 1, "one token for all leases of the identity");
    let answer = secrets.ask_once(&headers, "POST", DRAW, &Value::Null);
    assert!(matches!(code(&answer), (403, "identity_ended" | "workload_unattested")), "{answer:?}");
}

#[test]
fn what_a_killed_broker_left_is_taken_back_once() {
    let mut secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let entry = secrets.workload(ORDERS, "");
    let drawn = login(&secrets, ORDERS);
    let mut session = secrets.session(&drawn["data"], "kept");
    secrets.broker().kill();
    secrets.node.server.delete(&entry);
    assert!(secrets.has_login(&drawn["data"]), "nobody takes it back meanwhile");
    secrets.launch();
    secrets.ready();
    ended(&secrets, &drawn);
    eventually_within("the session has ended", PROMISED, || session.ended());
    assert_eq!(secrets.revocations(), 1);

    // Once more, and nothing is left to do.
    secrets.broker().kill();
    secrets.launch();
    secrets.ready();
    assert_eq!(secrets.revocations(), 1);

    // What an identity that lives on holds, goes on across a kill: it is listed, renewed, given
    // back by the next broker.
    secrets.workload(ORDERS, "");
    let drawn = login(&secrets, ORDERS);
    secrets.broker().kill();
    secrets.launch();
    secrets.ready();
    let listed = secrets.ask(ORDERS, "GET", "/v1/leases", &Value::Null);
    assert_eq!(listed.1["leases"][0]["lease_id"], drawn["lease_id"], "{listed:?}");
    assert!(secrets.has_login(&drawn["data"]));
    let lease = drawn["lease_id"].as_str().expect("a lease");
    let renewed = secrets.ask(ORDERS, "POST", &format!("/v1/leases/{lease}/renew"), &Value::Null);
    assert_eq!(code(&renewed), (200, "ok"), "{renewed:?}");
    let back = secrets.ask(ORDERS, "DELETE", &format!("/v1/leases/{lease}"), &Value::Null);
    assert_eq!(code(&back), (200, "ok"), "{back:?}");
    ended(&secrets, &drawn);

    // A ban ends what the agent's workloads hold.
    let drawn = login(&secrets, ORDERS);
    let agent = secrets.node.agent_id();
    secrets.node.server.cli().line(&format!("agent ban -spiffeID {agent}")).ok();
    ended(&secrets, &drawn);
}

#[test]
fn a_policy_that_is_read_again_ends_what_it_does_not_grant() {
    let mut secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    secrets.workload(ORDERS, "");
    secrets.workload(REPORTS, "");
    let reread = |secrets: &mut Secrets, policy: &str, says: &str| {
        let before = secrets.log().matches(says).count();
        secrets.set_policy(policy);
        secrets.broker().signal(Signal::SIGHUP);
        eventually("the policy is read", || {
            (secrets.log().matches(says).count() > before).then_some(())
        });
    };
    let drawn = login(&secrets, ORDERS);
    let less = POLICY.replace("[\"orders-db\", \"api-key\"", "[\"api-key\"");
    reread(&mut secrets, &less, "The policy was read again");
    ended(&secrets, &drawn);
    let refused = secrets.ask(ORDERS, "POST", DRAW, &Value::Null);
    assert_eq!(code(&refused), (403, "no_rule"));
    reread(&mut secrets, "tenant {", "The policy is not whole");
    assert_eq!(code(&secrets.ask(ORDERS, "POST", DRAW, &Value::Null)), (403, "no_rule"));

    reread(&mut secrets, POLICY, "The policy was read again");
    let drawn = login(&secrets, ORDERS);
    let suspended =
        POLICY.replace("path = \"/tenants/blue/\"", "path = \"/tenants/blue/\" suspended = true");
    reread(&mut secrets, &suspended, "The policy was read again");
    ended(&secrets, &drawn);
    let refused = secrets.ask(ORDERS, "POST", DRAW, &Value::Null);
    assert_eq!(code(&refused), (403, "tenant_suspended"));
    let other = secrets.ask(REPORTS, "GET", "/v1/credentials/api-key", &Value::Null);
    assert_eq!(code(&other), (200, "ok"), "the other tenant goes on: {other:?}");
}

#[test]
fn every_wrong_evidence_is_refused_with_its_reason_and_the_right_one_is_not() {
    let secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    for path in [ORDERS, REPORTS, "/nobody", "/tenants/blue/stranger"] {
        secrets.workload(path, "");
    }
    let none = Value::Null;
    let svid = secrets.x509(ORDERS);
    let tls = |path: &str, method: &str, place: &str| {
        secrets.ask_tls(Some(&secrets.x509(path)), &[], method, place, &none)
    };
    let answer = eventually("the broker knows the entry", || {
        let answer = tls(ORDERS, "GET", "/v1/credentials/api-key");
        (code(&answer).1 != "identity_ended").then_some(answer)
    });
    assert_eq!(code(&answer), (200, "ok"), "{answer:?}");
    assert_eq!(answer.1["data"]["data"]["key"], "blue-key", "{answer:?}");
    for (path, place, want) in [
        (REPORTS, "/v1/credentials/orders-db", "no_rule"),
        (REPORTS, "/v1/credentials/nothing", "unknown_credential"),
        ("/tenants/blue/stranger", "/v1/credentials/api-key", "no_rule"),
        ("/nobody", "/v1/credentials/api-key", "tenant_missing"),
    ] {
        let answer = eventually("the broker knows the entry", || {
            let answer = tls(path, "POST", place);
            (code(&answer).1 != "identity_ended").then_some(answer)
        });
        assert_eq!(code(&answer), (403, want), "{path} {place}");
    }
    // Each tenant's secret is its own, by the same name.
    let red = tls(REPORTS, "GET", "/v1/credentials/api-key");
    assert_eq!(red.1["data"]["data"]["key"], "red-key", "{red:?}");
    assert_eq!(code(&tls(ORDERS, "GET", "/v1/credentials/orders-db")), (405, "use_post"));

    let bearer = |token: &str, with: Option<&e2e::secrets::X509>| {
        let value = format!("Bearer {token}");
        let headers = [("authorization", value.as_str())];
        secrets.ask_tls_as(with, &svid.bundle, &headers, "GET", "/v1/credentials/api-key", &none)
    };
    let token = secrets.jwt(ORDERS, &["signet-broker"]);
    let answer = bearer(&token, None);
    assert_eq!(code(&answer), (200, "ok"), "{answer:?}");
    assert_eq!(code(&bearer(&token, None)), (403, "token_replayed"));
    let other = secrets.jwt(ORDERS, &["other"]);
    assert_eq!(code(&bearer(&other, None)), (403, "audience_mismatch"));
    let both = secrets.jwt(ORDERS, &["signet-broker", "other"]);
    assert_eq!(code(&bearer(&both, None)), (403, "audience_mismatch"));
    let red = secrets.jwt(REPORTS, &["signet-broker"]);
    assert_eq!(code(&bearer(&red, Some(&svid))), (403, "evidence_disagrees"));
    let (head, tail) = token.rsplit_once('.').expect("a token");
    assert_eq!(
        code(&bearer(&format!("{head}.{}", "A".repeat(tail.len())), None)),
        (403, "token_signature")
    );
    assert_eq!(code(&bearer("x", None)), (403, "token_malformed"));
    let nothing = secrets.ask_tls_as(None, &svid.bundle, &[], "GET", "/v1/leases", &none);
    assert_eq!(code(&nothing), (401, "no_evidence"));

    // Limits of the policy.
    assert_eq!(code(&tls(ORDERS, "POST", "/v1/credentials/once")), (200, "ok"));
    assert_eq!(code(&tls(ORDERS, "POST", "/v1/credentials/once")), (403, "max_uses"));
    let wrapped = tls(ORDERS, "POST", "/v1/credentials/wrapped");
    let wrapping = wrapped.1["data"]["wrapping_token"].as_str().expect("a wrapping token");
    let unwrap = || secrets.bao_call("blue", wrapping, "POST", "sys/wrapping/unwrap", &none);
    assert_eq!(unwrap().1["data"]["data"]["key"], "blue-key");
    assert_eq!(unwrap().0, 400, "a wrapping token opens once");
    let body = json!({ "parameters": { "operation": "encrypt", "plaintext": "eA==" } });
    let sealed = secrets.ask_tls(Some(&svid), &[], "POST", "/v1/credentials/seal", &body);
    assert!(sealed.1["data"]["ciphertext"].is_string(), "{sealed:?}");
    let body = json!({ "parameters": { "operation": "decrypt", "ciphertext": "x" } });
    let refused = secrets.ask_tls(Some(&svid), &[], "POST", "/v1/credentials/seal", &body);
    assert_eq!(code(&refused), (400, "parameter_refused"));
    let lease = "6f1a0a52-8c3b-4d6e-9f00-112233445566";
    assert_eq!(
        code(&tls(ORDERS, "DELETE", &format!("/v1/leases/{lease}"))),
        (404, "lease_unknown")
    );
}
