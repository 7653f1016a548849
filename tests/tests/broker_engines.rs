//! The engines that the broker draws from.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use e2e::{
    DEADLINE, Signal, TestDir, eventually, eventually_within, on_path,
    secrets::{POLICY, Secrets},
    skip,
};
use serde_json::{Value, json};

const ORDERS: &str = "/tenants/blue/orders";
const REPORTS: &str = "/tenants/red/reports";

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"]["code"].as_str().unwrap_or("ok"))
}

/// A policy with a certificate and keys besides.
fn with_engines() -> String {
    let engines = r#"
credential "cert" { engine = "pki" role = "web" ttl = "2m" }
credential "plain-cert" { engine = "pki" role = "plain" ttl = "2m" }
credential "sign" { engine = "transit" key = "signing" operations = ["sign", "verify"] ttl = "1m" }
rule "engines" { tenant = "blue" ids = ["/tenants/blue/orders"] credentials = ["cert", "plain-cert", "sign"] }
"#;
    format!("{POLICY}{engines}")
}

/// The policy with the engines is in force, and OpenBao has what it speaks of.
fn with_policy(secrets: &mut Secrets) {
    let before = secrets.log().matches("The policy was read again").count();
    secrets.set_policy(&with_engines());
    secrets.bootstrap(&[]).ok();
    secrets.broker().signal(Signal::SIGHUP);
    eventually("the policy is read", || {
        (secrets.log().matches("The policy was read again").count() > before).then_some(())
    });
    let root = json!({ "common_name": "blue", "key_type": "ec", "key_bits": 256, "ttl": "24h" });
    // A new mount is not ready at once.
    eventually_within("the CA is made", DEADLINE, || {
        let path = "pki/root/generate/internal";
        (secrets.bao_call("blue", e2e::Bao::ROOT, "POST", path, &root).0 < 300).then_some(())
    });
    for (role, leases) in [("web", true), ("plain", false)] {
        let role_of_spiffe_ids = json!({
            "allow_any_name": true, "require_cn": false, "key_type": "any", "max_ttl": "5m",
            "allowed_uri_sans": "spiffe://example.org/tenants/blue/*", "generate_lease": leases,
        });
        secrets.bao_root("blue", "POST", &format!("pki/roles/{role}"), &role_of_spiffe_ids);
    }
}

/// A request for a certificate with this SPIFFE ID; `None` where there is no `openssl`.
fn request(dir: &TestDir, name: &str, uri: &str) -> Option<String> {
    let csr = dir.join(&format!("{name}.csr"));
    let mut command = std::process::Command::new(on_path("openssl")?);
    command
        .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=URI:{uri}")])
        .arg("-keyout")
        .arg(dir.join(&format!("{name}.key")))
        .arg("-out")
        .arg(&csr);
    e2e::cli::run(&mut command, "").ok();
    Some(std::fs::read_to_string(csr).expect("a CSR"))
}

#[test]
fn a_certificate_is_signed_by_policy_and_revoked_with_its_lease() {
    let mut secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let dir = TestDir::new();
    let Some(own) = request(&dir, "orders", &secrets.node.id(ORDERS)) else {
        skip!("openssl is not installed")
    };
    let foreign = request(&dir, "reports", &secrets.node.id(REPORTS)).expect("openssl");
    let entry = secrets.workload(ORDERS, "");
    secrets.workload(REPORTS, "");
    with_policy(&mut secrets);
    let ask = |path: &str, name: &str, parameters: Value| {
        let body = json!({ "parameters": parameters });
        secrets.ask(path, "POST", &format!("/v1/credentials/{name}"), &body)
    };
    let revoked_at = |drawn: &Value| {
        let serial = drawn["data"]["serial_number"].as_str().expect("a serial number");
        let found = secrets.bao_root("blue", "GET", &format!("pki/cert/{serial}"), &Value::Null);
        found["data"]["revocation_time"].as_i64().expect("a time")
    };
    let drawn = ask(ORDERS, "cert", json!({ "csr": own }));
    assert_eq!(code(&drawn), (200, "ok"), "{}", drawn.1);
    let drawn = drawn.1;
    assert!(drawn["data"]["certificate"].as_str().expect("PEM").contains("BEGIN CERTIFICATE"));
    assert!(drawn["data"]["private_key"].is_null(), "the key stays with the workload");
    assert!(drawn["ttl"].as_i64().expect("a life") <= 120, "{drawn}");
    assert_eq!(revoked_at(&drawn), 0);

    // Another identity than the role allows, nothing to sign, what only an operator may say, and a
    // tenant without the rule.
    let other = ask(ORDERS, "cert", json!({ "csr": foreign }));
    assert_eq!(code(&other), (502, "openbao_refused"), "{}", other.1);
    assert_eq!(code(&ask(ORDERS, "cert", json!({}))), (400, "parameter_refused"));
    let longer = ask(ORDERS, "cert", json!({ "csr": own, "ttl": "99h" }));
    assert_eq!(code(&longer), (400, "parameter_refused"));
    assert_eq!(code(&ask(REPORTS, "cert", json!({ "csr": foreign }))), (403, "no_rule"));

    let lease = drawn["lease_id"].as_str().expect("a lease");
    let back = secrets.ask(ORDERS, "DELETE", &format!("/v1/leases/{lease}"), &Value::Null);
    assert_eq!(code(&back), (200, "ok"), "{back:?}");
    eventually("the certificate is revoked", || (revoked_at(&drawn) > 0).then_some(()));

    // A role without leases: the certificate ends by itself.
    let plain = ask(ORDERS, "plain-cert", json!({ "csr": own }));
    assert_eq!(code(&plain), (200, "ok"), "{}", plain.1);
    // One with a lease ends with the entry.
    let last = ask(ORDERS, "cert", json!({ "csr": own })).1;
    secrets.node.server.delete(&entry);
    eventually("the certificate is revoked", || (revoked_at(&last) > 0).then_some(()));
    assert_eq!(revoked_at(&plain.1), 0);
}

#[test]
fn a_key_that_stays_in_openbao_signs_what_the_policy_allows() {
    let mut secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    secrets.workload(ORDERS, "");
    secrets.workload("/tenants/blue/other", "");
    with_policy(&mut secrets);
    let ask = |path: &str, parameters: Value| {
        let body = json!({ "parameters": parameters });
        secrets.ask(path, "POST", "/v1/credentials/sign", &body)
    };
    let input = STANDARD.encode("pay 3");
    let signed = ask(ORDERS, json!({ "operation": "sign", "input": input }));
    assert_eq!(code(&signed), (200, "ok"), "{}", signed.1);
    let signature = signed.1["data"]["signature"].as_str().expect("a signature");
    let verify = |input: &str| {
        let parameters = json!({ "operation": "verify", "input": input, "signature": signature });
        ask(ORDERS, parameters).1["data"]["valid"].clone()
    };
    assert_eq!(verify(&input), true);
    assert_eq!(verify(&STANDARD.encode("pay 4")), false);
    let export = ask(ORDERS, json!({ "operation": "export" }));
    assert_eq!(code(&export), (400, "parameter_refused"));
    let other = ask("/tenants/blue/other", json!({ "operation": "sign", "input": input }));
    assert_eq!(code(&other), (403, "no_rule"));
}
