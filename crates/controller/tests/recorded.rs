//! What spire-controller-manager 0.6.6 made of a real cluster, recorded, is what is made here.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use signet_controller::{
    cluster::{Class, ClusterSettings, ClusterState, Kind},
    objects::{Namespace, Node, Pod},
    reconciler::Work,
    resources::{SpiffeIdSpec, StaticEntrySpec, resource},
    template::Template,
};
use signet_identity::EntrySpec;
use time::OffsetDateTime;
use tokio::time::Instant;

const OBJECTS: &str = include_str!("data/recorded/objects.json");
const ENTRIES: &str = include_str!("data/recorded/entries.json");
const PODS: &str = include_str!("data/recorded/pods.json");
const NODE: &str = include_str!("data/recorded/node.json");

fn settings() -> ClusterSettings {
    ClusterSettings {
        trust_domain: "example.org".parse().unwrap(),
        name: "demo-cluster".to_owned(),
        domain: "cluster.local".to_owned(),
        parent_id: Template::parse(
            "spiffe://{{ .TrustDomain }}/spire/agent/k8s_psat/{{ .ClusterName }}/{{ .NodeMeta.UID }}",
        )
        .unwrap(),
        ignored: ["kube-system", "kube-public", "spire"]
            .map(|pattern| regex::Regex::new(pattern).unwrap())
            .to_vec(),
        class: Class::default(),
    }
}

fn objects() -> Vec<Value> {
    let list: Value = serde_json::from_str(OBJECTS).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// The cluster of the recording, in an order that must not matter.
fn cluster() -> ClusterState {
    let mut cluster = ClusterState::new(settings());
    for kind in
        [Kind::ClusterSpiffeId, Kind::ClusterStaticEntry, Kind::Namespace, Kind::Node, Kind::Pod]
    {
        cluster.begin(kind);
    }
    for object in objects() {
        match object["kind"].as_str().unwrap() {
            "ClusterSPIFFEID" => cluster.apply_rule(resource::<SpiffeIdSpec>(object).unwrap()),
            "ClusterStaticEntry" => {
                cluster.apply_static(resource::<StaticEntrySpec>(object).unwrap())
            }
            other => panic!("{other}"),
        }
    }
    let names = cluster.wanted_names().clone();
    let pods: Value = serde_json::from_str(PODS).unwrap();
    for pod in pods["items"].as_array().unwrap() {
        cluster.apply_pod(Pod::read(&pod.to_string(), &names).unwrap());
    }
    for name in ["default", "demo", "kube-node-lease", "kube-public", "kube-system", "spire"] {
        let labels = json!({ "kubernetes.io/metadata.name": name });
        let namespace = json!({ "metadata": { "name": name, "labels": labels } });
        cluster.apply_namespace(Namespace::read(&namespace.to_string()).unwrap());
    }
    cluster.apply_node(Node::read(NODE).unwrap());
    cluster.set_names(names);
    for kind in
        [Kind::ClusterSpiffeId, Kind::ClusterStaticEntry, Kind::Namespace, Kind::Node, Kind::Pod]
    {
        cluster.finish(kind);
    }
    while cluster.work(1) {}
    cluster
}

fn drafts(cluster: &mut ClusterState) -> Vec<EntrySpec> {
    let mut drafts = Vec::new();
    while let Some(work) = cluster.reconciler.take(Instant::now()) {
        let Work::Create(batch) = work else { panic!("{work:?}") };
        drafts.extend(batch.iter().map(|(key, declared)| cluster.draft(*key, declared).unwrap()));
    }
    drafts
}

fn as_recorded(draft: &EntrySpec) -> Value {
    let id = |id: &signet_identity::SpiffeId| json!({ "path": id.path(), "trust_domain": id.trust_domain().as_str() });
    let selectors: Vec<Value> = draft
        .selectors
        .iter()
        .map(|one| json!({ "type": one.kind(), "value": one.value() }))
        .collect();
    json!({
        "admin": draft.admin,
        "dns_names": draft.dns_names,
        "downstream": draft.downstream,
        "expires_at": draft.expires_at.seconds().to_string(),
        "federates_with": [],
        "hint": draft.hint,
        "jwt_svid_ttl": draft.jwt_svid_ttl,
        "parent_id": id(&draft.parent_id),
        "selectors": selectors,
        "spiffe_id": id(&draft.spiffe_id),
        "store_svid": draft.store_svid,
        "x509_svid_ttl": draft.x509_svid_ttl,
    })
}

#[tokio::test]
async fn the_entries_are_those_that_were_recorded() {
    let recorded: Value = serde_json::from_str(ENTRIES).unwrap();
    let by_id = |entry: &Value| entry["spiffe_id"]["path"].as_str().unwrap().to_owned();
    let mut expected: Vec<Value> = recorded["entries"].as_array().unwrap().clone();
    for entry in &mut expected {
        let entry = entry.as_object_mut().unwrap();
        // What the server adds.
        for added in ["id", "created_at", "revision_number"] {
            entry.remove(added).unwrap();
        }
    }
    let mut made: Vec<Value> = drafts(&mut cluster()).iter().map(as_recorded).collect();
    expected.sort_by_key(by_id);
    made.sort_by_key(by_id);
    assert_eq!(made, expected);
}

#[tokio::test]
async fn the_statistics_are_those_that_were_recorded() {
    let mut cluster = cluster();
    let now = OffsetDateTime::UNIX_EPOCH;
    let mut made = BTreeMap::new();
    for source in cluster.touched() {
        let status = cluster.status(source, now).unwrap();
        made.insert(status.name, status.status);
    }
    for object in objects() {
        let name = object["metadata"]["name"].as_str().unwrap();
        let status = &made[name];
        match object["kind"].as_str().unwrap() {
            "ClusterSPIFFEID" => assert_eq!(status["stats"], object["status"]["stats"], "{name}"),
            _ => {
                assert_eq!(status["rendered"], json!(true));
                assert_eq!(status["masked"], json!(false));
            }
        }
    }
    let reason = |name: &str| made[name]["conditions"][0]["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason("v-badtemplate"), "RenderFailed");
    assert_eq!(reason("v-selectors"), "Writing");
    let message = made["v-otherdomain"]["conditions"][0]["message"].as_str().unwrap();
    let recorded = "failed to render SPIFFE ID: invalid SPIFFE ID: expected trust domain \
                    \"example.org\" but got \"other.org\"";
    assert!(message.ends_with(recorded), "{message}");
    let message = made["v-badtemplate"]["conditions"][0]["message"].as_str().unwrap();
    let recorded = "failed to render SPIFFE ID: invalid SPIFFE ID: path segment characters are \
                    limited to letters, numbers, dots, dashes, and underscores";
    assert!(message.contains(recorded) && message.contains("<no value>"), "{message}");
}

#[tokio::test]
async fn a_pod_that_is_not_scheduled_yet_is_a_render_failure_until_it_is() {
    let mut cluster = cluster();
    drafts(&mut cluster);
    let pods: Value = serde_json::from_str(PODS).unwrap();
    let mut pod = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|pod| pod["metadata"]["name"] == "web")
        .unwrap()
        .clone();
    let names = cluster.wanted_names().clone();
    let failures = |cluster: &ClusterState| cluster.render_failures();
    // Two resources cannot render it in any case.
    assert_eq!(failures(&cluster), 2);
    pod["spec"].as_object_mut().unwrap().remove("nodeName");
    cluster.apply_pod(Pod::read(&pod.to_string(), &names).unwrap());
    while cluster.work(10) {}
    // Now nobody can: not the third, and not the fallback.
    assert_eq!(failures(&cluster), 4);
    pod["spec"]["nodeName"] = json!("kube-node-1");
    cluster.apply_pod(Pod::read(&pod.to_string(), &names).unwrap());
    while cluster.work(10) {}
    assert_eq!(failures(&cluster), 2);
}
