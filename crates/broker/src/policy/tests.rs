use proptest::prelude::*;
use serde_json::json;

use super::*;

pub(crate) const SAMPLE: &str = r#"
tenant "acme" { namespace = "acme" path = "/t/acme/" }
tenant "umbra" { namespace = "umbra" path = "/t/umbra/" }
tenant "claimed" { namespace = "claimed" }
tenant "gone" { namespace = "gone" path = "/t/gone/" suspended = true }
credential "orders-db" { engine = "database" role = "orders" ttl = "10m" max_uses = 3 }
credential "api-key" { engine = "kv" path = "orders/api" }
rule "orders" {
  tenant = "acme"
  ids = ["/t/acme/orders"]
  credentials = ["orders-db"]
}
rule "prod" {
  tenant = "acme"
  ids = ["/t/acme/**"]
  claims = ["env=prod"]
  credentials = ["api-key"]
}
rule "other" { tenant = "umbra" ids = ["/t/umbra/*"] credentials = ["orders-db", "api-key"] }
rule "loose" { tenant = "claimed" ids = ["/jobs/**"] credentials = ["api-key"] }
rule "late" { tenant = "gone" ids = ["/t/gone/*"] credentials = ["api-key"] }
"#;

pub(crate) fn read(text: &str) -> Result<Policy, String> {
    let document = signet_config::parse("policy.hcl", text).map_err(|e| e.to_string())?;
    signet_config::decode_document(&document, decode::policy)
        .map(|(policy, _)| policy)
        .map_err(|error| error.to_string())
}

fn decide(path: &str, tenant: Option<&str>, claims: Value, credential: &str) -> String {
    let id: SpiffeId = format!("spiffe://example.org{path}").parse().unwrap();
    let claims = claims.as_object().cloned();
    let subject = Subject { id: &id, tenant, claims: claims.as_ref() };
    match read(SAMPLE).unwrap().decide(&subject, credential) {
        Ok(grant) => format!("{}/{}", grant.tenant.name, grant.rule.name),
        Err(denial) => denial.reason.code().to_owned(),
    }
}

#[test]
fn a_rule_of_the_own_tenant_grants_and_nothing_else_does() {
    let none = Value::Null;
    assert_eq!(decide("/t/acme/orders", None, none.clone(), "orders-db"), "acme/orders");
    assert_eq!(decide("/t/acme/other", None, none.clone(), "orders-db"), "no_rule");
    assert_eq!(decide("/t/acme/orders", None, none.clone(), "nothing"), "unknown_credential");
    assert_eq!(decide("/t/umbra/orders", None, none.clone(), "orders-db"), "umbra/other");
    assert_eq!(decide("/t/acme/orders", None, none, "api-key"), "claim_mismatch");
    assert_eq!(decide("/t/acme/x", None, json!({"env": "prod"}), "api-key"), "acme/prod");
    assert_eq!(decide("/t/acme/x", None, json!({"env": ["dev", "prod"]}), "api-key"), "acme/prod");
    assert_eq!(decide("/t/acme/x", None, json!({"env": "dev"}), "api-key"), "claim_mismatch");
}

#[test]
fn a_tenant_that_is_missing_unknown_suspended_or_contradicted_is_refused() {
    let none = Value::Null;
    for (path, claim, want) in [
        ("/orders", None, "tenant_missing"),
        ("/t/other/orders", None, "tenant_missing"),
        ("/t/acme/orders", Some("umbra"), "tenant_mismatch"),
        ("/t/acme/orders", Some("claimed"), "tenant_mismatch"),
        ("/jobs/x", Some("acme"), "tenant_mismatch"),
        ("/t/acme/orders", Some("nobody"), "tenant_unknown"),
        ("/t/acme/orders", Some(""), "tenant_unknown"),
        ("/t/gone/x", None, "tenant_suspended"),
        ("/t/gone/x", Some("gone"), "tenant_suspended"),
        ("/jobs/x", Some("claimed"), "no_rule"),
        ("/t/acme/orders", Some("acme"), "acme/orders"),
    ] {
        assert_eq!(decide(path, claim, none.clone(), "orders-db"), want, "{path} {claim:?}");
    }
    assert_eq!(decide("/jobs/x", Some("claimed"), none, "api-key"), "claimed/loose");
}

#[test]
fn explain_says_rule_by_rule_what_decide_decides() {
    let id: SpiffeId = "spiffe://example.org/t/acme/orders".parse().unwrap();
    let policy = read(SAMPLE).unwrap();
    let subject = Subject { id: &id, tenant: None, claims: None };
    let text = policy.explain(&subject, "api-key").join("\n");
    for part in [
        "tenant     acme (by path /t/acme/)",
        "orders: does not grant api-key",
        "prod: asks for the claim env",
        "other: is of tenant umbra",
        "denied: claim_mismatch",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(policy.explain(&subject, "orders-db").join("\n").contains("allowed by rule orders"));
}

#[test]
fn a_policy_that_is_not_whole_is_refused_by_line() {
    for (change, says) in [
        (
            SAMPLE.replace("credentials = [\"orders-db\"]", "credentials = [\"nope\"]"),
            "there is no credential \"nope\"",
        ),
        (
            SAMPLE.replace("tenant = \"umbra\" ids", "tenant = \"nope\" ids"),
            "there is no tenant \"nope\"",
        ),
        (
            SAMPLE.replace("\"/t/acme/orders\"]", "\"/t/umbra/orders\"]"),
            "does not lie below /t/acme/",
        ),
        (SAMPLE.replace("path = \"/t/umbra/\"", "path = \"/t/acme/sub/\""), "overlap"),
        (
            SAMPLE.replace("path = \"/t/umbra/\"", "path = \"/t/umbra\""),
            "begins and ends with a slash",
        ),
        (SAMPLE.replace("engine = \"kv\"", "engine = \"ssh\""), "expected aws, database"),
        (SAMPLE.replace("ttl = \"10m\"", "ttl = \"100h\""), "not between"),
        (
            SAMPLE.replace("path = \"orders/api\"", "path = \"orders/../api\""),
            "expected a path of letters",
        ),
        (SAMPLE.replace("max_uses", "max_use"), "did you mean \"max_uses\""),
        (SAMPLE.replace("namespace = \"acme\"", ""), "namespace must be configured"),
        (SAMPLE.replace("\"env=prod\"", "\"env\""), "claim=value"),
        (SAMPLE.replace("credential \"api-key\"", "credential \"Api Key\""), "a to z"),
    ] {
        let error = read(&change).unwrap_err();
        assert!(error.contains(says) && error.contains("policy.hcl:"), "{says}: {error}");
    }
}

proptest! {
    /// Whatever paths and claims come, nobody is granted anything by a rule of a tenant whose path
    /// is not the own one.
    #[test]
    fn no_path_and_no_claim_leads_to_another_tenant(
        path in "(/[a-z]{1,3}){0,2}/(t|jobs)/(acme|umbra|gone|other)(/[a-z.]{1,6}){0,2}",
        claim in proptest::option::of("(acme|umbra|gone|claimed|other|)"),
        credential in "(orders-db|api-key|nope)",
    ) {
        let Ok(id) = format!("spiffe://example.org{path}").parse::<SpiffeId>() else { return Ok(()) };
        let policy = read(SAMPLE).unwrap();
        let subject = Subject { id: &id, tenant: claim.as_deref(), claims: None };
        if let Ok(grant) = policy.decide(&subject, &credential) {
            match &grant.tenant.path {
                Some(prefix) => prop_assert!(path.starts_with(prefix.as_str())),
                None => prop_assert_eq!(claim.as_deref(), Some(grant.tenant.name.as_str())),
            }
            if let Some(claim) = &claim {
                prop_assert_eq!(claim, &grant.tenant.name);
            }
            prop_assert_eq!(&grant.rule.tenant, &grant.tenant.name);
            prop_assert!(!grant.tenant.suspended);
        }
    }
}
