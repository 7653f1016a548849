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
