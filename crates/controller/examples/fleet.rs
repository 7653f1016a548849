//! A cluster in a process of its own, for measuring the controller: an API server with many pods
//! and ClusterSPIFFEIDs, and a clock for what becomes of a new pod.
//!
//! ```text
//! fleet kube ADDRESS PODS RULES        serves a cluster
//! fleet watch SOCKET COUNT             waits until the server holds COUNT entries, says how long
//! fleet latency ADDRESS SOCKET TIMES   creates pods, and says how long until their entries are there
//! ```

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "a tool for measuring ends where it fails"
)]

#[path = "../tests/controller/fake_kube.rs"]
mod fake_kube;

use std::time::{Duration, Instant};

use fake_kube::FakeKube;
use serde_json::{Value, json};
use signet_api::{
    connect,
    pb::spire::api::{
        server::entry::v1::{CountEntriesRequest, ListEntriesRequest, entry_client::EntryClient},
        types::{Selector, SelectorMatch, selector_match::MatchBehavior},
    },
};
use tonic::transport::Channel;

/// How many namespaces and nodes the pods are spread over.
const NAMESPACES: usize = 100;
const NODES: usize = 300;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["kube", address, pods, rules] => {
            kube(address, pods.parse().unwrap(), rules.parse().unwrap()).await;
        }
        ["watch", socket, count] => watch(socket, count.parse().unwrap()).await,
        ["latency", address, socket, times] => {
            latency(address, socket, times.parse().unwrap()).await;
        }
        _ => panic!("fleet kube|watch|latency …"),
    }
}

async fn kube(address: &str, pods: usize, rules: usize) {
    let kube = FakeKube::at(address).await;
    for n in 0..NODES {
        let meta = json!({"name": format!("node-{n}"), "uid": format!("node-uid-{n}")});
        kube.put("nodes", json!({"metadata": meta, "spec": {"podCIDR": "10.0.0.0/24"}}));
    }
    for n in 0..NAMESPACES {
        let name = format!("ns-{n}");
        let labels = json!({"kubernetes.io/metadata.name": name, "team": format!("t{}", n % 10)});
        kube.put("namespaces", json!({"metadata": {"name": name, "labels": labels}}));
    }
    for n in 0..rules {
        let spec = json!({
            "spiffeIDTemplate": "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}/{{ .PodMeta.Labels.app }}",
            "podSelector": {"matchLabels": {"app": format!("app-{n}")}},
            "dnsNameTemplates": ["{{ .PodMeta.Name }}.{{ .PodMeta.Namespace }}.{{ .ClusterDomain }}"],
            "ttl": "1h",
        });
        let meta = json!({"name": format!("rule-{n}")});
        kube.put("clusterspiffeids", json!({"metadata": meta, "spec": spec}));
    }
    for n in 0..pods {
        kube.put("pods", pod(n, rules, "0"));
    }
    println!("serving {pods} pods and {rules} ClusterSPIFFEIDs on {}", kube.address);
    std::future::pending::<()>().await;
}

/// A pod of the size that pods have.
fn pod(n: usize, rules: usize, round: &str) -> Value {
    let name = format!("workload-{n:05}-6768f9f67c-{n:05}");
    let namespace = format!("ns-{}", n % NAMESPACES);
    let mounts = json!([{"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]);
    let env: Vec<Value> = (0..20)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("a value of some length, number {n}")}))
        .collect();
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example/team/{name}:1.2.3"), "env": env,
            "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
            "volumeMounts": mounts, "terminationMessagePath": "/dev/termination-log",
            "imagePullPolicy": "IfNotPresent",
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("{n:08x}-0000-4000-8000-000000000000"),
            "generateName": "workload-6768f9f67c-",
            "labels": {"app": format!("app-{}", n % rules.max(1)), "pod-template-hash": "6768f9f67c",
                "app.kubernetes.io/name": "workload", "app.kubernetes.io/part-of": "fleet", "round": round},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090",
                "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(800)},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "workload", "uid": "x", "controller": true}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}, "f:pod-template-hash": {}}}, "f:spec": {"f:containers": {}}}}],
        },
        "spec": {
            "nodeName": format!("node-{}", n % NODES), "serviceAccountName": format!("sa-{}", n % 50),
            "containers": [container("main"), container("sidecar")],
            "volumes": [{"name": "kube-api-access", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {"phase": "Running", "podIP": "10.1.2.3", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "main", "image": "registry.example/team/main:1.2.3", "containerID": format!("containerd://{n:064x}"), "ready": true}]},
    })
}

async fn client(socket: &str) -> EntryClient<Channel> {
    EntryClient::new(connect::unix_lazy(socket))
}

async fn watch(socket: &str, count: i32) {
    let mut client = client(socket).await;
    let begun = Instant::now();
    loop {
        let now = client.count_entries(CountEntriesRequest::default()).await;
        let now = now.map_or(0, |answer| answer.into_inner().count);
        if now >= count {
            println!("{now} entries after {:.2} s", begun.elapsed().as_secs_f64());
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Creates pods in the cluster at `address`, one after the other.
async fn latency(address: &str, socket: &str, times: usize) {
    let http = HttpPut { address: address.to_owned() };
    let mut client = client(socket).await;
    let mut took = Vec::new();
    for n in 0..times {
        let number = 90_000 + n;
        let uid = format!("{number:08x}-0000-4000-8000-000000000000");
        let request = ListEntriesRequest {
            filter: Some(
                signet_api::pb::spire::api::server::entry::v1::list_entries_request::Filter {
                    by_selectors: Some(SelectorMatch {
                        selectors: vec![Selector {
                            r#type: "k8s".into(),
                            value: format!("pod-uid:{uid}"),
                        }],
                        r#match: MatchBehavior::MatchExact.into(),
                    }),
                    ..Default::default()
                },
            ),
            ..Default::default()
        };
        let body = pod(number, 200, "1").to_string();
        let begun = Instant::now();
        http.post("/api/v1/namespaces/x/pods", &body).await;
        loop {
            let found = client.list_entries(request.clone()).await.unwrap().into_inner();
            if !found.entries.is_empty() {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no entry for {uid}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.push(begun.elapsed());
    }
    took.sort();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "pod to entry, {times} times: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Just enough HTTP to create an object.
struct HttpPut {
    address: String,
}

impl HttpPut {
    async fn post(&self, path: &str, body: &str) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let mut stream = tokio::net::TcpStream::connect(&self.address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
}
