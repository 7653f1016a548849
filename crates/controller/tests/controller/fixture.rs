//! A cluster with a controller.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use signet_base::{SystemClock, Tasks};
use signet_controller::{
    app::App,
    config::{Config, RunFlags},
    explain::explain,
};
use signet_k8s::{ApiServer, KubeSource};
use tempfile::TempDir;

use crate::{fake_kube::FakeKube, fake_server::FakeServer};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Fixture {
    pub kube: FakeKube,
    pub server: FakeServer,
    pub dir: TempDir,
}

pub struct Running {
    pub tasks: Tasks,
}

impl Running {
    pub async fn stop(self) {
        self.tasks.shutdown(Duration::from_secs(20)).await.unwrap();
    }
}

impl Fixture {
    /// `push`: with a server of ours, else with SPIRE's.
    pub async fn new(push: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = FakeServer::start(dir.path(), push);
        let kube = FakeKube::start().await;
        kube.put("nodes", json!({"metadata": {"name": "n1", "uid": "node-1"}, "spec": {}}));
        for name in ["a", "b", "kube-system"] {
            let labels = json!({"kubernetes.io/metadata.name": name});
            kube.put("namespaces", json!({"metadata": {"name": name, "labels": labels}}));
        }
        Self { kube, server, dir }
    }

    fn config(&self, lines: &str) -> Config {
        let text = format!(
            "trustDomain: td\nclusterName: c\nclusterDomain: cluster.local\n\
             spireServerSocketPath: {}\nmetrics: {{bindAddress: '0'}}\n{lines}",
            self.server.socket.display()
        );
        let no_webhook = |name: &str| (name == "ENABLE_WEBHOOKS").then(|| "false".to_owned());
        Config::parse("f", &text, &RunFlags::default(), &no_webhook).unwrap()
    }

    /// What `explain` says of a pod.
    pub async fn explain(&self, lines: &str, namespace: &str, pod: &str) -> anyhow::Result<String> {
        let cluster = KubeSource::Fixed(format!("http://{}", self.kube.address));
        let api = ApiServer::new(cluster, Arc::new(SystemClock)).unwrap();
        Ok(explain(&self.config(lines), &api, namespace, pod).await?)
    }

    /// A controller whose configuration has these lines besides.
    pub async fn controller(&self, lines: &str) -> Running {
        let config = self.config(lines);
        let cluster = KubeSource::Fixed(format!("http://{}", self.kube.address));
        let tasks = Tasks::new();
        let app = App::build(config, cluster, Arc::new(SystemClock)).await.unwrap();
        app.spawn(&tasks);
        Running { tasks }
    }

    pub fn pod(&self, namespace: &str, name: &str, labels: Value) {
        self.kube.put(
            "pods",
            json!({
                "metadata": {"namespace": namespace, "name": name, "labels": labels,
                    "managedFields": [{"manager": "x"}]},
                "spec": {"nodeName": "n1", "serviceAccountName": "sa",
                    "containers": [{"name": "main", "image": "img"}]},
                "status": {"phase": "Running"},
            }),
        );
    }

    pub fn rule(&self, name: &str, spec: Value) {
        self.kube.put("clusterspiffeids", json!({"metadata": {"name": name}, "spec": spec}));
    }

    /// Waits until the server's entries have these SPIFFE ID paths.
    pub async fn entries(&self, expected: &[&str]) {
        let now = || self.server.paths();
        eventually(|| now() == expected, || format!("{expected:?}, but {:?}", now())).await;
    }

    pub fn status(&self, resource: &str, name: &str) -> Value {
        self.kube.get(resource, name).unwrap_or_default()["status"].clone()
    }

    /// Waits until a resource's `Ready` condition has this reason.
    pub async fn reason(&self, resource: &str, name: &str, reason: &str) {
        let now = || self.status(resource, name)["conditions"][0]["reason"].clone();
        eventually(|| now() == reason, || format!("{reason}, but {}", self.status(resource, name)))
            .await;
    }
}

/// Waits for something that is not told to a test.
pub async fn eventually(is: impl Fn() -> bool, what: impl Fn() -> String) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !is() {
        assert!(tokio::time::Instant::now() < end, "in vain: {}", what());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub const TEMPLATE: &str = "spiffe://td/{{ .PodMeta.Namespace }}/{{ .PodMeta.Name }}";
