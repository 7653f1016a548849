use serde_json::json;

use super::*;

fn labels(all: &[(&str, &str)]) -> Labels {
    all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn selector(json: Value) -> Result<Selector, String> {
    let selector: LabelSelector = serde_json::from_value(json).unwrap();
    Selector::parse(Some(&selector))
}

#[test]
fn selectors_select_as_kubernetes_does() {
    let web = labels(&[("app", "web"), ("example.org/tier", "front")]);
    assert!(Selector::parse(None).unwrap().matches(&web));
    for (json, matches) in [
        (json!({}), true),
        (json!({"matchLabels": {"app": "web"}}), true),
        (json!({"matchLabels": {"app": "web", "example.org/tier": "back"}}), false),
        (
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "web"]}]}),
            true,
        ),
        (
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}),
            false,
        ),
        // A label that is not there is not in any list.
        (json!({"matchExpressions": [{"key": "no", "operator": "NotIn", "values": ["x"]}]}), true),
        (json!({"matchExpressions": [{"key": "no", "operator": "In", "values": ["x"]}]}), false),
        (json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}), true),
        (json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), false),
        (json!({"matchExpressions": [{"key": "no", "operator": "DoesNotExist"}]}), true),
    ] {
        assert_eq!(selector(json.clone()).unwrap().matches(&web), matches, "{json}");
    }
}

#[test]
fn selectors_that_kubernetes_refuses_are_refused() {
    for json in [
        json!({"matchLabels": {"": "x"}}),
        json!({"matchLabels": {"a b": "x"}}),
        json!({"matchLabels": {"a": "x y"}}),
        json!({"matchLabels": {"UPPER.example/a": "x"}}),
        json!({"matchLabels": {"a": "x".repeat(64)}}),
        json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}),
    ] {
        assert!(selector(json.clone()).is_err(), "{json}");
    }
}

#[test]
fn of_two_resources_the_older_comes_first_and_one_that_is_being_deleted_later() {
    let meta = |uid: &str, created: i128, deleted: Option<i128>| Meta {
        uid: uid.into(),
        created,
        deleted,
        ..Meta::default()
    };
    let mut all = [
        meta("c", 2, None),
        meta("b", 1, Some(5)),
        meta("a", 1, Some(9)),
        meta("e", 1, None),
        meta("d", 1, None),
    ];
    all.sort_by(|a, b| a.preference().cmp(&b.preference()));
    let order: Vec<&str> = all.iter().map(|one| one.uid.as_str()).collect();
    assert_eq!(order, ["d", "e", "a", "b", "c"]);
}

#[test]
fn a_null_is_as_good_as_nothing_and_a_malformed_spec_leaves_the_name() {
    let read = resource::<SpiffeIdSpec>(json!({
        "metadata": {"name": "x", "uid": "u", "generation": 3, "creationTimestamp": "2026-11-21T05:30:48Z"},
        "spec": {"spiffeIDTemplate": "t", "podSelector": null, "dnsNameTemplates": null},
    }));
    let read = read.unwrap();
    assert!(read.spec.is_ok() && read.meta.created > 0);
    let read = resource::<SpiffeIdSpec>(json!({"metadata": {"name": "x"}, "spec": {"ttl": 5}}));
    let read = read.unwrap();
    assert_eq!(read.meta.name, "x");
    assert!(read.spec.unwrap_err().starts_with("spec: "));
    for bad in [json!([]), json!({}), json!({"metadata": {"name": 5}})] {
        assert!(resource::<SpiffeIdSpec>(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn static_entries_and_relationships_are_read_whole() {
    let spec: StaticEntrySpec = serde_json::from_value(json!({
        "spiffeID": "spiffe://td/a", "parentID": "spiffe://td/b",
        "selectors": ["unix:uid:1000", "unix:gid:5"], "federatesWith": ["other"],
        "x509SVIDTTL": "1h", "jwtSVIDTTL": "90s", "dnsNames": ["a.b"], "hint": "h",
        "admin": true, "downstream": true, "storeSVID": true,
        "tenant": "blue", "jwtSVIDTenantClaim": true,
    }))
    .unwrap();
    let entry = parse_static_entry(&spec).unwrap();
    assert_eq!((entry.x509_svid_ttl, entry.jwt_svid_ttl), (3600, 90));
    assert!(entry.admin && entry.downstream && entry.store_svid && entry.hint == "h");
    assert_eq!((entry.selectors.len(), entry.federates_with.len()), (2, 1));
    assert_eq!(entry.tenant.as_ref().map(|tenant| tenant.as_str()), Some("blue"));
    assert!(entry.jwt_svid_tenant_claim);
    let wrong = |change: fn(&mut StaticEntrySpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        parse_static_entry(&spec).unwrap_err()
    };
    assert!(wrong(|s| s.selectors = vec!["unix".into()]).starts_with("failed to parse Selectors"));
    assert!(wrong(|s| s.parent_id = "x".into()).starts_with("failed to parse ParentID"));
    assert!(wrong(|s| s.x509_svid_ttl = Some("1 hour".into())).starts_with("invalid x509SVIDTTL"));
    assert!(wrong(|s| s.tenant = "A b".into()).starts_with("invalid tenant value"));
    assert_eq!(wrong(|s| s.tenant.clear()), "jwtSVIDTenantClaim needs a tenant");

    let spec: FederationSpec = serde_json::from_value(json!({
        "trustDomain": "other", "bundleEndpointURL": "https://other/bundle",
        "bundleEndpointProfile": {"type": "https_spiffe", "endpointSPIFFEID": "spiffe://other/e"},
    }))
    .unwrap();
    assert!(parse_federation(&spec).is_ok());
    let wrong = |change: fn(&mut FederationSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        parse_federation(&spec).unwrap_err()
    };
    assert_eq!(
        wrong(|s| s.bundle_endpoint_url = "https://u:p@other".into()),
        "invalid bundleEndpointURL value: cannot contain userinfo"
    );
    assert!(wrong(|s| s.bundle_endpoint_profile.endpoint_spiffe_id.clear()).contains("endpoint"));
    assert!(wrong(|s| s.bundle_endpoint_profile.r#type = "x".into()).contains("type value \"x\""));
    assert!(wrong(|s| s.trust_domain_bundle = "{".into()).starts_with("invalid trustDomainBundle"));
}
