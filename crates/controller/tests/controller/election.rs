//! Of several controllers one writes.

use std::time::Duration;

use serde_json::json;
use signet_controller::leader::HostLock;

use crate::{
    fake_kube::Fault,
    fixture::{Fixture, TEMPLATE, eventually},
};

const LINES: &str = "leaderElection:
  leaderElect: true
  resourceName: lease
  resourceNamespace: ns
  leaseDuration: 2s
  renewDeadline: 1s
  retryPeriod: 200ms
";

fn holder(f: &Fixture) -> String {
    let lease = f.kube.get("leases", "ns/lease").unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_writes_and_the_other_takes_over_when_it_stops() {
    let f = Fixture::new(true).await;
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    f.pod("a", "one", json!({}));
    let first = f.controller(LINES).await;
    f.entries(&["/a/one"]).await;
    let leader = holder(&f);
    let second = f.controller(LINES).await;
    f.pod("a", "two", json!({}));
    f.entries(&["/a/one", "/a/two"]).await;
    assert_eq!(holder(&f), leader);
    // Nothing was written twice.
    assert_eq!(f.server.calls("BatchCreateEntry"), 2);
    first.stop().await;
    f.pod("a", "three", json!({}));
    f.kube.delete("pods", "a/one");
    f.entries(&["/a/three", "/a/two"]).await;
    assert_ne!(holder(&f), leader);
    let turns = f.kube.get("leases", "ns/lease").unwrap()["spec"]["leaseTransitions"].clone();
    assert_eq!(turns, json!(1));
    second.stop().await;
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_writing() {
    let f = Fixture::new(true).await;
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    f.pod("a", "one", json!({}));
    let running = f.controller(LINES).await;
    f.entries(&["/a/one"]).await;
    // The lease is out of reach, the rest of the API server is not.
    f.kube.fail("/leases", Fault::Silent, usize::MAX);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    f.pod("a", "two", json!({}));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(f.server.paths(), ["/a/one"]);
    f.kube.heal();
    f.entries(&["/a/one", "/a/two"]).await;
    running.stop().await;
}

#[tokio::test]
async fn the_lease_of_a_controller_that_was_killed_in_the_same_pod_is_taken_at_once() {
    let f = Fixture::new(true).await;
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    f.pod("a", "one", json!({}));
    let lines = LINES.replace("resourceName: lease", "resourceName: killed");
    // What a process leaves behind that ran here and had no time to say goodbye.
    let place = HostLock::take("ns", "killed").unwrap();
    let left = format!("pod-0_{}0e0c", place.mark());
    drop(place);
    f.kube.put(
        "leases",
        json!({
            "metadata": {"namespace": "ns", "name": "killed"},
            "spec": {"holderIdentity": left, "leaseDurationSeconds": 3600,
                "renewTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 4},
        }),
    );
    let running = f.controller(&lines).await;
    f.entries(&["/a/one"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_lease_that_another_one_holds_is_respected_until_it_runs_out() {
    let f = Fixture::new(true).await;
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    f.pod("a", "one", json!({}));
    f.kube.put(
        "leases",
        json!({
            "metadata": {"namespace": "ns", "name": "lease"},
            "spec": {"holderIdentity": "spire-controller-manager_x", "leaseDurationSeconds": 2,
                "renewTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 4},
        }),
    );
    let begun = tokio::time::Instant::now();
    let running = f.controller(LINES).await;
    f.entries(&["/a/one"]).await;
    assert!(begun.elapsed() >= Duration::from_secs(2));
    eventually(|| holder(&f) != "spire-controller-manager_x", || holder(&f)).await;
    running.stop().await;
}
