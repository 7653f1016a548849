//! The operator: custom resources become everything that runs Signet, and stay so.

use std::sync::Arc;

use serde_json::{Value, json};
use signet_base::{Readiness, SystemClock, Tasks};
use signet_controller::{
    lint,
    operator::{
        program,
        settings::{Images, Platform, Settings},
    },
};
use signet_k8s::{ApiServer, KubeSource};

use crate::{
    fake_kube::{FakeKube, Fault},
    fixture::{Running, eventually},
};

const NAMESPACE: &str = "zt";
const SERVER: &str = "zt/spire-server";
const AGENT: &str = "zt/spire-agent";
const CSI: &str = "zt/spire-spiffe-csi-driver";
const OIDC: &str = "zt/spire-spiffe-oidc-discovery-provider";
const KINDS: [(&str, &str); 5] = [
    ("ZeroTrustWorkloadIdentityManager", "zerotrustworkloadidentitymanagers"),
    ("SpireServer", "spireservers"),
    ("SpireAgent", "spireagents"),
    ("SpiffeCSIDriver", "spiffecsidrivers"),
    ("SpireOIDCDiscoveryProvider", "spireoidcdiscoveryproviders"),
];

struct Cluster {
    kube: FakeKube,
}

impl Cluster {
    /// A cluster with the resources of `deploy/operator/samples/cluster.yaml`.
    async fn new() -> Self {
        let cluster = Self { kube: FakeKube::start().await };
        let file =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/operator/samples/cluster.yaml");
        let text = std::fs::read_to_string(file).unwrap();
        for document in lint::parse("cluster.yaml", &text).unwrap() {
            let kind = document.object["kind"].as_str().unwrap();
            let (_, resource) = KINDS.iter().find(|(name, _)| *name == kind).unwrap();
            cluster.kube.put(resource, document.object);
        }
        cluster
    }

    fn api(&self) -> Arc<ApiServer> {
        let source = KubeSource::Fixed(format!("http://{}", self.kube.address));
        Arc::new(ApiServer::new(source, SystemClock::shared()).unwrap())
    }

    /// An operator, as the cluster is, and with these settings.
    async fn operator(&self, set: impl FnOnce(&mut Settings)) -> Running {
        let api = self.api();
        let mut settings = Settings {
            namespace: NAMESPACE.to_owned(),
            images: Images::from_env(&|_| None),
            platform: Platform::find(&api).await.unwrap(),
            create_only: false,
            operator_condition: None,
        };
        set(&mut settings);
        let tasks = Tasks::new();
        let readiness = Readiness::new();
        program::spawn(&tasks, api, settings, None, readiness.guard("operator"));
        readiness.ready().await;
        Running { tasks }
    }

    /// Changes a resource's specification.
    fn specify(&self, resource: &str, change: impl FnOnce(&mut Value)) {
        self.edit(resource, "cluster", |object| change(&mut object["spec"]));
    }

    /// Changes an object, as somebody with an editor does.
    fn edit(&self, resource: &str, key: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.kube.get(resource, key).unwrap();
        change(&mut object);
        self.kube.put(resource, object);
    }

    fn at(&self, resource: &str, key: &str, pointer: &str) -> Value {
        let object = self.kube.get(resource, key).unwrap_or_default();
        object.pointer(pointer).cloned().unwrap_or_default()
    }

    async fn there(&self, resource: &str, key: &str) {
        let is = || self.kube.get(resource, key).is_some();
        eventually(is, || format!("{resource} {key}")).await;
    }

    async fn gone(&self, resource: &str, key: &str) {
        let is = || self.kube.get(resource, key).is_none();
        eventually(is, || format!("{resource} {key} stays")).await;
    }

    /// Waits until a value is there.
    async fn is(&self, resource: &str, key: &str, pointer: &str, value: Value) {
        let now = || self.at(resource, key, pointer);
        let what = || format!("{resource} {key} {pointer}: {value}, but {}", now());
        eventually(|| now() == value, what).await;
    }

    /// A condition of a resource's status: status, reason and message.
    fn condition(&self, resource: &str, kind: &str) -> (String, String, String) {
        let all = self.at(resource, "cluster", "/status/conditions");
        let one = all.as_array().into_iter().flatten().find(|one| one["type"] == kind).cloned();
        let one = one.unwrap_or_default();
        let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    async fn comes(&self, resource: &str, kind: &str, status: &str, reason: &str) {
        let now = || self.condition(resource, kind);
        let is = || (now().0.as_str(), now().1.as_str()) == (status, reason);
        let what = || format!("{resource} {kind}={status} {reason}, but {:?}", now());
        eventually(is, what).await;
    }

    /// What controllers of Kubernetes do: every pod is there and ready.
    fn pods_are_ready(&self) {
        let numbers = json!({
            "readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1,
            "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberReady": 3,
            "numberAvailable": 3,
        });
        for (resource, key) in workloads() {
            self.edit(resource, key, |object| {
                object["status"] = numbers.clone();
                object["status"]["observedGeneration"] = object["metadata"]["generation"].clone();
            });
        }
    }

    fn hash(&self, resource: &str, key: &str) -> Value {
        self.at(resource, key, "/spec/template/metadata/annotations/signet~1config-hash")
    }
}

fn workloads() -> [(&'static str, &'static str); 4] {
    [("statefulsets", SERVER), ("daemonsets", AGENT), ("daemonsets", CSI), ("deployments", OIDC)]
}

#[tokio::test]
async fn resources_become_everything_that_runs_signet_and_the_statuses_say_how_it_does() {
    let cluster = Cluster::new().await;
    let operator = cluster.operator(|_| {}).await;
    for (resource, key) in workloads() {
        cluster.there(resource, key).await;
    }
    for (resource, key) in [
        ("serviceaccounts", SERVER),
        ("serviceaccounts", AGENT),
        ("services", SERVER),
        ("configmaps", "zt/spire-bundle"),
        ("configmaps", "zt/spire-controller-manager"),
        ("clusterroles", "spire-controller-manager"),
        ("rolebindings", "zt/spire-bundle"),
        ("validatingwebhookconfigurations", "spire-controller-manager-webhook"),
        ("csidrivers", "csi.spiffe.io"),
        ("clusterspiffeids", "zero-trust-workload-identity-manager-spire-default"),
    ] {
        cluster.there(resource, key).await;
    }
    // Each part says that it is on its way, and so does the whole.
    for (_, resource) in KINDS {
        cluster.comes(resource, "Ready", "False", "Progressing").await;
        assert_eq!(cluster.condition(resource, "Degraded").0, "False");
    }
    cluster.comes(KINDS[0].1, "Upgradeable", "False", "OperandsNotReady").await;
    cluster.pods_are_ready();
    for (_, resource) in KINDS {
        cluster.comes(resource, "Ready", "True", "Ready").await;
    }
    cluster.comes(KINDS[0].1, "Upgradeable", "True", "Ready").await;
    let operands = cluster.at(KINDS[0].1, "cluster", "/status/operands");
    let ready: Vec<_> = operands.as_array().unwrap().iter().map(|one| &one["ready"]).collect();
    assert_eq!(ready, ["true"; 4]);
    // Who goes with whom.
    for (kind, resource) in &KINDS[1..] {
        let owner = cluster.at(resource, "cluster", "/metadata/ownerReferences/0");
        assert_eq!(owner["kind"], KINDS[0].0, "{kind}");
    }
    let owner = cluster.at("statefulsets", SERVER, "/metadata/ownerReferences/0");
    assert_eq!(owner["kind"], "SpireServer");
    assert_eq!(owner["uid"], cluster.at("spireservers", "cluster", "/metadata/uid"));
    // What is as it should be is not applied again when the cluster changes around it.
    let applied = cluster.kube.requests("force=true");
    cluster.edit("daemonsets", CSI, |object| object["status"]["numberReady"] = json!(2));
    cluster.comes("spiffecsidrivers", "Ready", "False", "Progressing").await;
    cluster.comes(KINDS[0].1, "Ready", "False", "Progressing").await;
    assert_eq!(cluster.kube.requests("force=true"), applied);
    operator.stop().await;
}

#[tokio::test]
async fn what_somebody_edits_or_deletes_is_made_right_again() {
    let cluster = Cluster::new().await;
    let operator = cluster.operator(|_| {}).await;
    cluster.comes("spireservers", "Ready", "False", "Progressing").await;
    let wanted = cluster.at("configmaps", SERVER, "/data/server.conf");
    cluster.edit("configmaps", SERVER, |map| map["data"]["server.conf"] = json!("{}"));
    cluster.is("configmaps", SERVER, "/data/server.conf", wanted).await;

    cluster.kube.delete("services", SERVER);
    cluster.there("services", SERVER).await;
    cluster.kube.delete("statefulsets", SERVER);
    cluster.there("statefulsets", SERVER).await;

    let rules = cluster.at("clusterroles", "spire-agent", "/rules");
    cluster.edit("clusterroles", "spire-agent", |role| role["rules"][0]["verbs"] = json!(["*"]));
    cluster.is("clusterroles", "spire-agent", "/rules", rules).await;

    // What is added to a list goes, and what others add elsewhere stays.
    const CONTAINERS: &str = "/spec/template/spec/containers";
    let containers = cluster.at("statefulsets", SERVER, CONTAINERS);
    cluster.edit("statefulsets", SERVER, |set| {
        let template = &mut set["spec"]["template"];
        template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = json!("now");
        let list = template["spec"]["containers"].as_array_mut().unwrap();
        list.push(json!({"name": "miner", "image": "miner"}));
    });
    cluster.is("statefulsets", SERVER, CONTAINERS, containers).await;
    cluster.edit("daemonsets", AGENT, |set| {
        let template = &mut set["spec"]["template"];
        template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = json!("now");
        template["spec"]["hostPID"] = json!(false);
    });
    cluster.is("daemonsets", AGENT, "/spec/template/spec/hostPID", json!(true)).await;
    let annotations = cluster.at("daemonsets", AGENT, "/spec/template/metadata/annotations");
    assert_eq!(annotations["kubectl.kubernetes.io/restartedAt"], "now");
    operator.stop().await;
}

#[tokio::test]
async fn a_change_of_a_specification_makes_new_pods_of_that_part_only() {
    let cluster = Cluster::new().await;
    let operator = cluster.operator(|_| {}).await;
    cluster.comes("spireoidcdiscoveryproviders", "Ready", "False", "Progressing").await;
    let before = workloads().map(|(resource, key)| cluster.hash(resource, key));
    assert!(before.iter().all(Value::is_string), "{before:?}");
    cluster.specify("spireservers", |spec| spec["logLevel"] = json!("debug"));
    let changed = || cluster.hash("statefulsets", SERVER) != before[0];
    eventually(changed, || "the server's pods stay".to_owned()).await;
    cluster.specify("spireagents", |spec| {
        spec["resources"] = json!({"limits": {"memory": "1Gi"}});
        spec["tolerations"] = json!([{"operator": "Exists"}]);
    });
    const MEMORY: &str = "/spec/template/spec/containers/0/resources/limits/memory";
    cluster.is("daemonsets", AGENT, MEMORY, json!("1Gi")).await;
    let after = workloads().map(|(resource, key)| cluster.hash(resource, key));
    assert_eq!(after[1..], before[1..]);
    operator.stop().await;
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_and_what_runs_is_left_alone() {
    let cluster = Cluster::new().await;
    let operator = cluster.operator(|_| {}).await;
    cluster.comes("spireservers", "Ready", "False", "Progressing").await;
    let version = || cluster.at("statefulsets", SERVER, "/metadata/resourceVersion");
    let before = version();
    cluster.specify("spireservers", |spec| spec["persistence"]["size"] = json!("9Gi"));
    cluster.comes("spireservers", "ConfigurationValid", "False", "ImmutableFieldChanged").await;
    cluster.comes("spireservers", "Ready", "False", "Failed").await;
    cluster.comes("spireservers", "Degraded", "True", "Failed").await;
    let (_, _, message) = cluster.condition("spireservers", "ConfigurationValid");
    assert!(message.contains("size 1Gi") && message.contains("size 9Gi"), "{message}");
    cluster.comes(KINDS[0].1, "Degraded", "True", "Failed").await;
    cluster.specify("spireservers", |spec| spec["persistence"]["size"] = json!("1Gi"));
    cluster.comes("spireservers", "ConfigurationValid", "True", "ConfigurationValid").await;

    cluster.specify(KINDS[0].1, |spec| spec["trustDomain"] = json!("other.example"));
    cluster.comes("spireservers", "ConfigurationValid", "False", "ImmutableFieldChanged").await;
    // Nor do the agents get another one.
    cluster.comes("spireagents", "ConfigurationValid", "False", "ImmutableFieldChanged").await;
    let conf = cluster.at("configmaps", AGENT, "/data/agent.conf");
    assert!(!conf.as_str().unwrap().contains("other.example"), "{conf}");
    let (_, _, message) = cluster.condition("spireservers", "ConfigurationValid");
    assert!(message.contains("example.org") && message.contains("other.example"), "{message}");
    cluster.specify(KINDS[0].1, |spec| spec["trustDomain"] = json!("example.org"));
    cluster.comes("spireservers", "ConfigurationValid", "True", "ConfigurationValid").await;

    cluster.specify("spireservers", |spec| spec["datastore"]["databaseType"] = json!("mysql"));
    cluster.comes("spireservers", "ConfigurationValid", "False", "UnsupportedDatabase").await;
    assert_eq!(version(), before);
    operator.stop().await;
}

#[tokio::test]
async fn federation_follows_the_specification_and_leaves_to_others_what_is_theirs() {
    let cluster = Cluster::new().await;
    let theirs = json!({
        "metadata": {"name": "mine"},
        "spec": {"trustDomain": "three.example",
            "className": "zero-trust-workload-identity-manager-spire"},
    });
    cluster.kube.put("clusterfederatedtrustdomains", theirs);
    let operator = cluster.operator(|_| {}).await;
    cluster.specify("spireservers", |spec| {
        spec["federation"] = json!({
            "bundleEndpoint": {"profile": "https_spiffe", "refreshHint": 60},
            "federatesWith": [
                {"trustDomain": "two.example", "bundleEndpointUrl": "https://two.example:8443",
                    "bundleEndpointProfile": "https_spiffe",
                    "endpointSpiffeId": "spiffe://two.example/spire/server"},
                {"trustDomain": "three.example", "bundleEndpointUrl": "https://three.example",
                    "bundleEndpointProfile": "https_web"},
                {"trustDomain": "four.example", "bundleEndpointUrl": "https://four.example",
                    "bundleEndpointProfile": "https_web"},
            ],
        });
    });
    const DOMAINS: &str = "clusterfederatedtrustdomains";
    for domain in ["two", "four"] {
        cluster.there(DOMAINS, &format!("federates-with-{domain}.example")).await;
    }
    let spec = cluster.at(DOMAINS, "federates-with-two.example", "/spec");
    assert_eq!(
        spec,
        json!({
            "trustDomain": "two.example",
            "bundleEndpointURL": "https://two.example:8443",
            "bundleEndpointProfile": {"type": "https_spiffe",
                "endpointSPIFFEID": "spiffe://two.example/spire/server"},
            "className": "zero-trust-workload-identity-manager-spire",
        })
    );
    let conf = || cluster.at("configmaps", SERVER, "/data/server.conf");
    let serves = || conf().as_str().is_some_and(|text| text.contains("bundle_endpoint"));
    eventually(serves, || conf().to_string()).await;
    cluster.is("services", SERVER, "/spec/ports/2/name", json!("federation")).await;
    const PORT: &str = "/spec/template/spec/containers/0/ports/2/name";
    cluster.is("statefulsets", SERVER, PORT, json!("federation")).await;

    // Another relationship needs no new pods.
    let hash = cluster.hash("statefulsets", SERVER);
    cluster.specify("spireservers", |spec| {
        spec["federation"]["federatesWith"].as_array_mut().unwrap().truncate(2);
    });
    cluster.gone(DOMAINS, "federates-with-four.example").await;
    assert_eq!(cluster.hash("statefulsets", SERVER), hash);
    assert!(cluster.kube.get(DOMAINS, "federates-with-three.example").is_none());
    // It becomes the operator's when nobody else declares it.
    cluster.kube.delete(DOMAINS, "mine");
    cluster.there(DOMAINS, "federates-with-three.example").await;
    cluster.specify("spireservers", |spec| {
        spec.as_object_mut().unwrap().remove("federation");
    });
    cluster.gone(DOMAINS, "federates-with-two.example").await;
    cluster.gone(DOMAINS, "federates-with-three.example").await;
    eventually(|| !serves(), || conf().to_string()).await;
    operator.stop().await;
}

#[tokio::test]
async fn on_openshift_there_are_routes_and_constraints_and_no_fixed_users() {
    let cluster = Cluster::new().await;
    cluster.kube.is_openshift();
    let operator = cluster.operator(|_| {}).await;
    cluster.there("routes", "zt/spire-oidc-discovery-provider").await;
    cluster.there("securitycontextconstraints", "spire-agent").await;
    cluster.there("securitycontextconstraints", "spire-spiffe-csi-driver").await;
    cluster
        .is("statefulsets", SERVER, "/spec/template/spec/securityContext/runAsNonRoot", json!(true))
        .await;
    let context = cluster.at("statefulsets", SERVER, "/spec/template/spec/securityContext");
    assert!(context.get("runAsUser").is_none() && context.get("fsGroup").is_none(), "{context}");
    // The kubelet is verified by the authority that OpenShift's nodes have.
    cluster.is("daemonsets", AGENT, "/spec/template/spec/hostNetwork", json!(false)).await;
    cluster.specify("spireoidcdiscoveryproviders", |spec| spec["managedRoute"] = json!("false"));
    cluster.gone("routes", "zt/spire-oidc-discovery-provider").await;
    operator.stop().await;
}

#[tokio::test]
async fn in_create_only_mode_what_is_missing_is_made_and_what_is_there_is_left() {
    let cluster = Cluster::new().await;
    let strange = json!({"metadata": {"name": "spire-agent", "namespace": NAMESPACE}, "data": {}});
    cluster.kube.put("configmaps", strange);
    let operator = cluster.operator(|settings| settings.create_only = true).await;
    cluster.comes(KINDS[0].1, "CreateOnlyMode", "True", "CreateOnlyModeEnabled").await;
    cluster.comes(KINDS[0].1, "Upgradeable", "False", "OperandsNotReady").await;
    cluster.there("deployments", OIDC).await;
    assert_eq!(cluster.at("configmaps", AGENT, "/data"), json!({}));
    let conf = json!("mine");
    cluster.edit("configmaps", SERVER, |map| map["data"]["server.conf"] = conf.clone());
    cluster.kube.delete("services", SERVER);
    cluster.there("services", SERVER).await;
    assert_eq!(cluster.at("configmaps", SERVER, "/data/server.conf"), conf);
    operator.stop().await;
    // Without it everything is made what it should be.
    let operator = cluster.operator(|_| {}).await;
    cluster.comes(KINDS[0].1, "CreateOnlyMode", "False", "CreateOnlyModeDisabled").await;
    let ours = || cluster.at("configmaps", SERVER, "/data/server.conf") != conf;
    eventually(ours, || "server.conf stays".to_owned()).await;
    operator.stop().await;
}

#[tokio::test]
async fn a_refusal_is_in_the_status_and_what_was_refused_is_tried_again() {
    let cluster = Cluster::new().await;
    let refusal = json!({"kind": "Status", "message": "configmaps is forbidden", "code": 403});
    let part = "PATCH /api/v1/namespaces/zt/configmaps/spire-agent";
    cluster.kube.fail(part, Fault::Answer(403, refusal.to_string()), usize::MAX);
    let operator = cluster.operator(|_| {}).await;
    cluster.comes("spireagents", "ConfigMapAvailable", "False", "Failed").await;
    let (_, _, message) = cluster.condition("spireagents", "ConfigMapAvailable");
    assert!(message.contains("the permission to patch configmaps"), "{message}");
    cluster.comes("spireagents", "Degraded", "True", "Failed").await;
    // One part's failure is no other's.
    cluster.comes("spireservers", "Degraded", "False", "Progressing").await;
    cluster.kube.heal();
    cluster.comes("spireagents", "Ready", "False", "Progressing").await;
    cluster.there("configmaps", AGENT).await;
    operator.stop().await;
}

#[tokio::test]
async fn nothing_is_made_for_a_resource_that_is_gone_or_without_the_one_of_all() {
    let cluster = Cluster::new().await;
    cluster.kube.delete(KINDS[0].1, "cluster");
    let operator = cluster.operator(|_| {}).await;
    let reason = "ZeroTrustWorkloadIdentityManagerNotFound";
    cluster.comes("spireservers", "ConfigurationValid", "False", reason).await;
    assert!(cluster.kube.get("statefulsets", SERVER).is_none());
    let top = json!({"metadata": {"name": "cluster"},
        "spec": {"trustDomain": "example.org", "clusterName": "c"}});
    cluster.kube.put(KINDS[0].1, top);
    cluster.there("daemonsets", CSI).await;
    cluster.kube.delete("spiffecsidrivers", "cluster");
    let message = || cluster.at(KINDS[0].1, "cluster", "/status/operands/2/message");
    let said = || message() == "There is no such resource";
    eventually(said, || message().to_string()).await;
    // What the collector of Kubernetes does then; another part's change shows that it stays so.
    cluster.kube.delete("daemonsets", CSI);
    cluster.kube.delete("services", SERVER);
    cluster.there("services", SERVER).await;
    assert!(cluster.kube.get("daemonsets", CSI).is_none());
    operator.stop().await;
}

#[tokio::test]
async fn the_lifecycle_manager_is_told_whether_the_operator_may_be_replaced() {
    let cluster = Cluster::new().await;
    cluster.kube.put(
        "operatorconditions",
        json!({
        "metadata": {"name": "signet-operator.v0.1.0", "namespace": NAMESPACE}, "spec": {}}),
    );
    let name = "signet-operator.v0.1.0".to_owned();
    let operator = cluster.operator(|settings| settings.operator_condition = Some(name)).await;
    let key = "zt/signet-operator.v0.1.0";
    cluster.is("operatorconditions", key, "/spec/conditions/0/type", json!("Upgradeable")).await;
    cluster.is("operatorconditions", key, "/spec/conditions/0/status", json!("False")).await;
    for (resource, key) in workloads() {
        cluster.there(resource, key).await;
    }
    cluster.pods_are_ready();
    cluster.is("operatorconditions", key, "/spec/conditions/0/status", json!("True")).await;
    operator.stop().await;
}
