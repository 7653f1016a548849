//! Objects of Kubernetes that brokers name, against an API server over real HTTP.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::{Value, json};
use signet_attest::workload::{
    WorkloadAttestors,
    k8s::{
        Answer, K8sAttestor, K8sConfig, PodSource, SourceError,
        cluster::Cluster,
        objects::{BrokerPolicy, PodScope},
        pods::PodIndex,
    },
    reference::{ObjectReference, Reference, ReferenceError},
};
use signet_base::SystemClock;
use signet_identity::SpiffeId;
use signet_k8s::ApiServer;
use signet_testkit::{Asked, FakeHttp};

const BROKER: &str = "spiffe://example.org/broker";

/// A kubelet that lists this, or nothing.
#[derive(Debug)]
struct Node(Result<Arc<PodIndex>, SourceError>);

#[async_trait::async_trait]
impl PodSource for Node {
    async fn next(&self, seen: u64) -> Answer {
        Answer { version: seen + 1, pods: self.0.clone() }
    }
}

fn node(pods: &[Value]) -> Arc<Node> {
    let list = json!({ "kind": "PodList", "items": pods }).to_string();
    Arc::new(Node(Ok(Arc::new(PodIndex::read(list.as_bytes()).unwrap()))))
}

fn pod(name: &str, uid: &str) -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": name, "uid": uid, "labels": { "app": "web" } },
        "spec": { "nodeName": "n1", "serviceAccountName": "web" },
        "status": {},
    })
}

fn cluster(asked: &Asked) -> (u16, String) {
    let metadata = |name: &str, uid: &str| {
        json!({ "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": uid,
            "labels": { "app": "web" },
            "ownerReferences": [
                { "apiVersion": "example.org/v2", "kind": "Site", "name": "s", "uid": "o1",
                  "controller": true },
                { "apiVersion": "v1", "kind": "Namespace", "name": "shop", "uid": "o2" },
            ],
        } })
    };
    let answer = match asked.target.as_str() {
        "/apis/apps" => json!({
            "preferredVersion": { "groupVersion": "apps/v1", "version": "v1" },
            "versions": [{ "version": "v1" }, { "version": "v1beta1" }],
        }),
        "/apis/apps/v1" => json!({ "resources": [
            { "name": "deployments", "kind": "Deployment", "namespaced": true },
            { "name": "deployments/status", "kind": "Deployment", "namespaced": true },
        ] }),
        "/apis/apps/v1beta1" => json!({ "resources": null }),
        "/api/v1" => json!({ "resources": [
            { "name": "nodes", "kind": "Node", "namespaced": false },
        ] }),
        "/apis/apps/v1/namespaces/shop/deployments/web" => metadata("web", "d1"),
        "/api/v1/nodes/n1" => json!({ "metadata": { "name": "n1", "uid": "n" } }),
        "/apis/apps/v1/deployments?limit=500" => json!({
            "metadata": { "continue": "a b" }, "items": [metadata("other", "d0")],
        }),
        "/apis/apps/v1/deployments?limit=500&continue=a%20b" => json!({
            "metadata": {}, "items": [metadata("web", "d1")],
        }),
        "/api/v1/namespaces/shop/pods/far" => pod("far", "p2"),
        "/api/v1/pods?limit=500" => json!({ "items": [pod("far", "p2")] }),
        "/apis/authorization.k8s.io/v1/subjectaccessreviews" => {
            let review: Value = serde_json::from_slice(&asked.body).unwrap();
            let name = &review["spec"]["resourceAttributes"]["name"];
            json!({ "status": { "allowed": name != "n1" && name != "kept" } })
        }
        _ => return (404, json!({ "kind": "Status", "message": "not found" }).to_string()),
    };
    (200, answer.to_string())
}

struct Site {
    api: FakeHttp,
    attestors: WorkloadAttestors,
    broker: SpiffeId,
    _dir: tempfile::TempDir,
}

impl Site {
    fn new(enforced: bool, scope: PodScope, node: Option<Arc<Node>>) -> Self {
        let api = FakeHttp::start(cluster);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let yaml = format!(
            "current-context: x\nclusters: [{{name: c, cluster: {{server: \
             'http://127.0.0.1:{}'}}}}]\ncontexts: [{{name: x, context: {{cluster: c}}}}]\n",
            api.port
        );
        std::fs::write(&path, yaml).unwrap();
        let clock = Arc::new(SystemClock);
        let server = ApiServer::from_file(&path, clock.clone()).unwrap();
        let broker: SpiffeId = BROKER.parse().unwrap();
        let policy = BrokerPolicy { enforced, brokers: [(broker.clone(), scope)].into() };
        let attestor = match node {
            Some(node) => K8sAttestor::new(K8sConfig::default(), node),
            None => K8sAttestor::without_kubelet(K8sConfig::default()),
        };
        let attestor = attestor.with_brokers(policy, Arc::new(Cluster::with_api(server, clock)));
        let attestors = WorkloadAttestors::new(vec![Box::new(attestor)], Duration::from_secs(60));
        Self { api, attestors, broker, _dir: dir }
    }

    async fn ask(
        &self,
        (plural, group): (&str, &str),
        key: Option<(&str, &str)>,
        uid: &str,
    ) -> Result<BTreeSet<String>, ReferenceError> {
        let object = ObjectReference::new(plural, group, key, uid).unwrap();
        let found =
            self.attestors.attest_reference(&self.broker, Reference::Object(&object)).await?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    fn targets(&self) -> Vec<String> {
        self.api.asked().into_iter().map(|asked| asked.target).collect()
    }
}

const DEPLOYMENTS: (&str, &str) = ("deployments", "apps");
const PODS: (&str, &str) = ("pods", "core");
const WEB: Option<(&str, &str)> = Some(("shop", "web"));

#[tokio::test]
async fn an_object_has_the_selectors_of_its_metadata_and_nothing_else_of_it_is_read() {
    let site = Site::new(true, PodScope::AgentNode, Some(node(&[])));
    let by_name = site.ask(DEPLOYMENTS, WEB, "").await.unwrap();
    let expected = [
        "uid:d1",
        "resource:deployments.apps",
        "plural:deployments",
        "group:apps",
        "version:v1",
        "apiVersion:apps/v1",
        "kind:Deployment",
        "name:web",
        "namespace:shop",
        "key:shop/web",
        "label:app:web",
        "owner-key:example.org/Site/s",
        "owner-uid:example.org/Site/o1",
        "controller-key:example.org/Site/s",
        "controller-uid:example.org/Site/o1",
        "owner-key:core/Namespace/shop",
        "owner-uid:core/Namespace/o2",
    ];
    assert_eq!(by_name, expected.iter().map(|value| format!("k8s:{value}")).collect());
    let asked = site.api.asked();
    let read = asked.iter().find(|asked| asked.target.ends_with("/deployments/web")).unwrap();
    let form = read.header("accept").unwrap();
    assert_eq!(form, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let review = asked.iter().find(|asked| asked.method == "POST").unwrap();
    let review: Value = serde_json::from_slice(&review.body).unwrap();
    assert_eq!(
        review["spec"],
        json!({ "user": BROKER, "resourceAttributes": {
            "group": "apps", "resource": "deployments", "namespace": "shop", "name": "web",
            "verb": "impersonate-via-spire",
        } })
    );

    // By UID from the second page of a list; by both only if they are of one object.
    assert_eq!(site.ask(DEPLOYMENTS, None, "d1").await.unwrap(), by_name);
    assert_eq!(site.ask(DEPLOYMENTS, WEB, "d1").await.unwrap(), by_name);
    let other = site.ask(DEPLOYMENTS, WEB, "d0").await.unwrap_err();
    assert!(
        matches!(&other, ReferenceError::NotFound(why) if why.contains("expected d0")),
        "{other}"
    );
    // What the API server serves was asked once.
    let discoveries = site.targets().iter().filter(|target| *target == "/apis/apps").count();
    assert_eq!(discoveries, 1);
}

#[tokio::test]
async fn what_cannot_be_or_is_not_there_or_is_not_allowed_is_refused() {
    let site = Site::new(true, PodScope::AgentNode, Some(node(&[])));
    let nodes = ("nodes", "core");
    for (kind, key, uid, code, why) in [
        (("wheels", "apps"), WEB, "", "invalid", "unknown Kubernetes resource wheels.apps"),
        (("wheels", "x.io"), WEB, "", "invalid", "unknown Kubernetes resource wheels.x.io"),
        (("a/b", "apps"), WEB, "", "invalid", "unknown Kubernetes resource a/b.apps"),
        (DEPLOYMENTS, Some(("", "web")), "", "invalid", "namespace is required"),
        (nodes, Some(("shop", "n1")), "", "invalid", "namespace must be empty"),
        (DEPLOYMENTS, Some(("shop", "gone")), "", "gone", "Deployment shop/gone not found"),
        (DEPLOYMENTS, None, "d9", "gone", "Deployment with UID d9 not found"),
        (nodes, Some(("", "n1")), "", "denied", "does not allow the broker"),
        (DEPLOYMENTS, Some(("..", "web")), "", "internal", "is not the name of"),
    ] {
        let refused = site.ask(kind, key, uid).await.unwrap_err();
        let found = match &refused {
            ReferenceError::Denied(_) => "denied",
            ReferenceError::Internal(_) => "internal",
            ReferenceError::Invalid(_) => "invalid",
            ReferenceError::NotFound(_) => "gone",
            _ => "other",
        };
        assert!(found == code && refused.to_string().contains(why), "{found}: {refused}");
    }
    // Without a policy that asks the authorizer, it is not asked.
    let site = Site::new(false, PodScope::AgentNode, Some(node(&[])));
    assert!(site.ask(nodes, Some(("", "n1")), "").await.unwrap().contains("k8s:kind:Node"));
    assert!(site.api.asked().iter().all(|asked| asked.method == "GET"));
    // Brokers that the attestor does not know.
    let stranger: SpiffeId = "spiffe://example.org/other".parse().unwrap();
    let object = ObjectReference::new("nodes", "core", Some(("", "n1")), "").unwrap();
    let refused =
        site.attestors.attest_reference(&stranger, Reference::Object(&object)).await.unwrap_err();
    assert!(matches!(&refused, ReferenceError::Denied(why) if why.contains("is not configured")));
}

#[tokio::test]
async fn a_pod_is_one_of_the_node_unless_the_broker_may_name_those_of_others() {
    let near = Some(("shop", "near"));
    let far = Some(("shop", "far"));
    let here = || Some(node(&[pod("near", "p1"), pod("kept", "p3")]));
    let site = Site::new(true, PodScope::AgentNode, here());
    let found = site.ask(PODS, near, "").await.unwrap();
    for selector in ["k8s:pod-name:near", "k8s:sa:web", "k8s:pod-uid:p1", "k8s:pod-label:app:web"] {
        assert!(found.contains(selector), "{found:?}");
    }
    assert_eq!(site.ask(PODS, None, "p1").await.unwrap(), found);
    let refused = site.ask(PODS, near, "p2").await.unwrap_err();
    assert!(refused.to_string().contains("pod shop/near has UID p1, expected p2"), "{refused}");
    let refused = site.ask(PODS, far, "").await.unwrap_err();
    assert!(matches!(&refused, ReferenceError::NotFound(_)), "{refused}");
    let refused = site.ask(PODS, Some(("shop", "kept")), "").await.unwrap_err();
    assert!(matches!(&refused, ReferenceError::Denied(_)), "{refused}");
    // The API server was asked for leave alone.
    assert!(site.api.asked().iter().all(|asked| asked.method == "POST"), "{:?}", site.targets());

    let lost = Arc::new(Node(Err(SourceError::passing("no kubelet".to_owned()))));
    let refused = Site::new(true, PodScope::AgentNode, Some(lost.clone()));
    let refused = refused.ask(PODS, near, "").await.unwrap_err();
    assert!(matches!(&refused, ReferenceError::Unavailable(_)), "{refused}");
    for node in [here(), Some(lost), None] {
        let site = Site::new(true, PodScope::Cluster, node);
        let found = site.ask(PODS, far, "").await.unwrap();
        assert!(
            found.contains("k8s:pod-name:far") && found.contains("k8s:pod-uid:p2"),
            "{found:?}"
        );
        assert_eq!(site.ask(PODS, None, "p2").await.unwrap(), found);
        let refused = site.ask(PODS, None, "p9").await.unwrap_err();
        assert!(matches!(&refused, ReferenceError::NotFound(_)), "{refused}");
    }
    let refused = Site::new(true, PodScope::AgentNode, None).ask(PODS, near, "").await.unwrap_err();
    assert!(matches!(&refused, ReferenceError::Precondition(_)), "{refused}");
}
