//! The Kubernetes controller with the real server and agent: what workloads notice of it.

use std::{path::Path, process::Command, time::Duration};

use e2e::{
    AgentOptions, Client, DEADLINE, Node, Process, ServerOptions, TestDir, bins, node::ALIAS,
};
use serde_json::{Value, json};
use signet_api::{
    connect,
    pb::spire::api::{
        agent::delegatedidentity::v1::{
            SubscribeToX509sviDsRequest, SubscribeToX509sviDsResponse,
            delegated_identity_client::DelegatedIdentityClient,
        },
        types::Selector,
    },
};
use tokio::{runtime::Runtime, time::timeout};
use tonic::{Status, Streaming};

#[path = "../../crates/controller/tests/controller/fake_kube.rs"]
#[allow(dead_code, reason = "the controller's own tests use the rest")]
mod fake_kube;

use fake_kube::FakeKube;

/// The controller's entries; others are not its own.
const PREFIX: &str = "cluster";
/// How often a template is edited.
const EDITS: usize = 12;

struct Cluster {
    runtime: Runtime,
    kube: FakeKube,
    node: Node,
    /// Ended before the server is.
    _controller: Process,
    _dir: TestDir,
}

impl Cluster {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let kube = runtime.block_on(FakeKube::start());
        kube.put("nodes", json!({"metadata": {"name": "n1", "uid": "node-1"}, "spec": {}}));
        let labels = json!({"kubernetes.io/metadata.name": "a"});
        kube.put("namespaces", json!({"metadata": {"name": "a", "labels": labels}}));
        let node = Node::with(
            ServerOptions::default(),
            AgentOptions {
                agent: "authorized_delegates = [\"spiffe://example.org/delegate\"]".to_owned(),
                ..AgentOptions::default()
            },
        );
        let dir = TestDir::new();
        let kubeconfig = dir.write(
            "kubeconfig",
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                 clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\n\
                 contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
                 users: [{{name: u, user: {{}}}}]\n",
                kube.address
            ),
        );
        let config = dir.write(
            "controller.yaml",
            format!(
                "trustDomain: example.org\nclusterName: c\nentryIDPrefix: {PREFIX}\n\
                 parentIDTemplate: spiffe://example.org{ALIAS}\n\
                 spireServerSocketPath: {}\nmetrics: {{bindAddress: '0'}}\n",
                node.server.socket().display()
            ),
        );
        let mut command = Command::new(bins::find("signet-controller"));
        command.arg("-config").arg(config).arg("-kubeconfig").arg(kubeconfig);
        command.env("ENABLE_WEBHOOKS", "false");
        let log = dir.path().join("controller.log");
        let controller = Process::start("controller", &mut command, &log);
        Self { runtime, kube, node, _controller: controller, _dir: dir }
    }

    fn pod(&self, role: &str) -> String {
        self.kube.put(
            "pods",
            json!({
                "metadata": {"namespace": "a", "name": "p", "labels": {"role": role}},
                "spec": {"nodeName": "n1", "serviceAccountName": "sa",
                    "containers": [{"name": "main", "image": "img"}]},
                "status": {"phase": "Running"},
            }),
        );
        let pod = self.kube.get("pods", "a/p").expect("a pod");
        pod["metadata"]["uid"].as_str().expect("a UID").to_owned()
    }

    fn rule(&self, role: &str, path: &str) {
        let spec = json!({
            "spiffeIDTemplate": format!("spiffe://example.org/{path}/{{{{ .PodMeta.Name }}}}"),
            "podSelector": {"matchLabels": {"role": role}},
        });
        self.kube.put("clusterspiffeids", json!({"metadata": {"name": role}, "spec": spec}));
    }

    fn static_entry(&self, path: &str, executable: &Path) {
        let spec = json!({
            "spiffeID": format!("spiffe://example.org/{path}"),
            "parentID": format!("spiffe://example.org{ALIAS}"),
            "selectors": [format!("unix:path:{}", executable.display())],
        });
        self.kube.put("clusterstaticentries", json!({"metadata": {"name": "s"}, "spec": spec}));
    }

    /// What the agent holds for a pod, from its admin socket.
    fn follow(&self, pod: &str) -> Following<'_> {
        let own = std::fs::read_link("/proc/self/exe").expect("/proc");
        self.node.register("/delegate", &[&format!("unix:path:{}", own.display())], "");
        let selector = Selector { r#type: "k8s".into(), value: format!("pod-uid:{pod}") };
        let request = SubscribeToX509sviDsRequest { selectors: vec![selector], pid: 0 };
        let socket = self.node.agent.admin_socket();
        let stream = self.runtime.block_on(async {
            let channel = connect::unix(&socket).await.expect("the agent answers");
            let mut client = DelegatedIdentityClient::new(channel);
            // Right after its registration the agent does not know the delegate yet.
            let subscribed = async {
                loop {
                    match client.subscribe_to_x509svi_ds(request.clone()).await {
                        Ok(stream) => break stream.into_inner(),
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            };
            timeout(DEADLINE, subscribed).await.expect("the delegate is known")
        });
        Following { runtime: &self.runtime, stream, has_begun: false }
    }
}

struct Following<'c> {
    runtime: &'c Runtime,
    stream: Streaming<SubscribeToX509sviDsResponse>,
    has_begun: bool,
}

impl Following<'_> {
    /// Waits until the pod has this identity and no other. From the first one on, it always has one.
    fn until(&mut self, path: &str) {
        let mut seen = Vec::new();
        loop {
            let next = self.runtime.block_on(async {
                let next = timeout(DEADLINE, self.stream.message()).await;
                next.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("{seen:?}"))))
            });
            let update = next.unwrap_or_else(|status| panic!("{path}: {status}"));
            let svids = update.expect("the stream goes on").x509_svids;
            let ids = svids.into_iter().filter_map(|svid| svid.x509_svid.and_then(|svid| svid.id));
            let paths: Vec<String> = ids.map(|id| id.path).collect();
            assert!(!paths.is_empty() || !self.has_begun, "{path}: none after {seen:?}");
            self.has_begun |= !paths.is_empty();
            if paths == [path] {
                return;
            }
            seen.push(paths);
        }
    }
}

#[test]
fn nobody_is_without_an_identity_while_a_template_is_edited_or_a_pod_relabelled() {
    let cluster = Cluster::start();
    cluster.rule("one", "a");
    cluster.rule("two", "b0");
    let pod = cluster.pod("one");
    let mut following = cluster.follow(&pod);
    following.until("/a/p");
    // A workload's own stream: its client ends with the first error.
    let client = Client::Rust;
    cluster.static_entry("s/0", &client.executable());
    let known = |update: &Value| update["svids"][0]["id"].as_str().map(str::to_owned);
    e2e::eventually("the workload's identity", || {
        (client.run(&cluster.node.agent.socket(), &["x509"]).code == 0).then_some(())
    });
    let mut watching = client.start(&cluster.node.agent.socket(), &["watch"]);
    for n in 1..=EDITS {
        // Relabelled, and back.
        cluster.pod("two");
        following.until(&format!("/b{}/p", n - 1));
        cluster.rule("two", &format!("b{n}"));
        following.until(&format!("/b{n}/p"));
        cluster.pod("one");
        following.until("/a/p");
        let id = format!("s/{n}");
        cluster.static_entry(&id, &client.executable());
        let wanted = cluster.node.id(&format!("/{id}"));
        watching.find(&wanted, |update| known(update).as_ref() == Some(&wanted));
    }
}
