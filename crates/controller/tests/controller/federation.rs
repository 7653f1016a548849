//! Relationships follow ClusterFederatedTrustDomains.

use serde_json::{Value, json};

use crate::fixture::{Fixture, eventually};

fn spec(trust_domain: &str) -> Value {
    json!({
        "trustDomain": trust_domain,
        "bundleEndpointURL": format!("https://{trust_domain}/bundle"),
        "bundleEndpointProfile": {"type": "https_web"},
    })
}

async fn relationships(f: &Fixture, expected: &[&str]) {
    let now = || f.server.relationships();
    eventually(|| now() == expected, || format!("{expected:?}, but {:?}", now())).await;
}

#[tokio::test]
async fn relationships_come_change_and_go() {
    let f = Fixture::new(true).await;
    let put = |name: &str, spec: Value| {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        f.kube.put("clusterfederatedtrustdomains", object);
    };
    put("one", spec("one"));
    put("two", spec("two"));
    put("bad", json!({"trustDomain": "B A D"}));
    // The older one counts.
    put(
        "one-again",
        json!({
            "trustDomain": "one", "bundleEndpointURL": "https://elsewhere",
            "bundleEndpointProfile": {"type": "https_web"},
        }),
    );
    let running = f.controller("gcInterval: 200ms").await;
    relationships(&f, &["one", "two"]).await;
    f.server.fetch_bundle("one");
    f.server.fetch_bundle("two");
    for (name, reason) in
        [("one", "InSync"), ("bad", "InvalidSpec"), ("one-again", "Masked"), ("two", "InSync")]
    {
        f.reason("clusterfederatedtrustdomains", name, reason).await;
    }
    // What becomes invalid stays as it is.
    put("two", json!({"trustDomain": "two", "bundleEndpointURL": "http://two"}));
    f.kube.delete("clusterfederatedtrustdomains", "one");
    f.kube.delete("clusterfederatedtrustdomains", "one-again");
    relationships(&f, &["two"]).await;
    f.reason("clusterfederatedtrustdomains", "two", "InvalidSpec").await;
    f.kube.delete("clusterfederatedtrustdomains", "two");
    relationships(&f, &[]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_relationship_whose_bundle_was_never_fetched_is_not_ready() {
    let f = Fixture::new(true).await;
    let object = json!({"metadata": {"name": "one"}, "spec": spec("one")});
    f.kube.put("clusterfederatedtrustdomains", object);
    let running = f.controller("").await;
    f.reason("clusterfederatedtrustdomains", "one", "BundleMissing").await;
    let status = f.status("clusterfederatedtrustdomains", "one");
    assert_eq!(status["conditions"][0]["status"], "False");
    f.server.fetch_bundle("one");
    f.reason("clusterfederatedtrustdomains", "one", "InSync").await;
    running.stop().await;
}

#[tokio::test]
async fn an_edited_bundle_of_a_resource_is_brought_to_the_server_and_no_other() {
    let f = Fixture::new(true).await;
    let put = |bundle: &str| {
        let mut spec = spec("one");
        spec["trustDomainBundle"] = json!(bundle);
        let object = json!({"metadata": {"name": "one"}, "spec": spec});
        f.kube.put("clusterfederatedtrustdomains", object);
    };
    put("{\"keys\": [], \"spiffe_sequence\": 1}");
    let running = f.controller("gcInterval: 100ms").await;
    f.reason("clusterfederatedtrustdomains", "one", "InSync").await;
    assert_eq!(f.server.bundles("one"), 1);
    put("{\"keys\": [], \"spiffe_sequence\": 2}");
    eventually(|| f.server.bundles("one") == 2, || "not brought".to_owned()).await;
    running.stop().await;
    // A controller that starts anew does not put an old bundle over what the server has fetched.
    let lists = f.server.calls("ListFederationRelationships");
    let running = f.controller("gcInterval: 100ms").await;
    eventually(
        || f.server.calls("ListFederationRelationships") > lists,
        || "never listed".to_owned(),
    )
    .await;
    f.reason("clusterfederatedtrustdomains", "one", "InSync").await;
    running.stop().await;
    assert_eq!(f.server.bundles("one"), 2);
}
