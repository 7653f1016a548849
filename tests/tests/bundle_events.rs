//! The trust bundle on its way into Kubernetes: `k8sbundle` and `k8s_configmap`.

use std::{fs, path::Path, sync::Arc};

use e2e::{Server, ServerOptions, Signal, TestDir, eventually};
use serde_json::{Value, json};

#[path = "../../crates/k8s/tests/fake/mod.rs"]
mod fake;

use fake::{Fake, Fault};

const NOTIFIED: &str = "/api/v1/namespaces/spire/configmaps/spire-bundle";
const PUBLISHED: &str = "/api/v1/namespaces/spire/configmaps/published";

fn options(dir: &Path) -> ServerOptions {
    ServerOptions {
        plugins: format!(
            "Notifier \"k8sbundle\" {{ plugin_data_file = \"{dir}/notifier.conf\" }}
             BundlePublisher \"k8s_configmap\" {{ plugin_data_file = \"{dir}/publisher.conf\" }}",
            dir = dir.display()
        ),
        ..ServerOptions::default()
    }
}

fn configure(dir: &Path, key: &str) {
    let kubeconfig = dir.join("kubeconfig").display().to_string();
    let notifier =
        format!("kube_config_file_path = \"{kubeconfig}\"\nconfig_map_key = \"{key}\"\n");
    fs::write(dir.join("notifier.conf"), notifier).expect("a file");
    let publisher = format!(
        "clusters = {{ main = {{ kubeconfig_path = \"{kubeconfig}\", namespace = \"spire\", \
         configmap_name = \"published\", configmap_key = \"{key}\", format = \"spiffe\" }} }}\n"
    );
    fs::write(dir.join("publisher.conf"), publisher).expect("a file");
}

fn certificates(fake: &Fake, key: &str) -> usize {
    let map = fake.get(NOTIFIED).unwrap_or_default();
    map["data"][key].as_str().unwrap_or_default().matches("BEGIN CERTIFICATE").count()
}

fn published_keys(fake: &Fake, key: &str) -> usize {
    let map = fake.get(PUBLISHED).unwrap_or_default();
    let text = map["data"][key].as_str().unwrap_or("{}");
    let document: Value = serde_json::from_str(text).expect("a SPIFFE bundle");
    let keys = document["keys"].as_array().cloned().unwrap_or_default();
    keys.iter().filter(|key| key["use"] == "x509-svid").count()
}

#[test]
fn every_new_authority_is_in_the_cluster_before_it_signs() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let fake = runtime.block_on(Fake::start());
    let dir = Arc::new(TestDir::new());
    let conf = dir.subdir("conf");
    fake.kubeconfig(&conf, "first");
    configure(&conf, "bundle");
    // Without the ConfigMap the server does not start, and says why.
    let mut server = Server::prepare_in(&dir, "server", options(&conf));
    server.launch();
    let status = eventually("the server gives up", || server.process().ended());
    assert_eq!(status.code(), Some(1), "{}", server.log());
    let log = server.log();
    assert!(
        log.contains("configmaps \\\"spire-bundle\\\" not found")
            || log.contains("configmaps \"spire-bundle\" not found"),
        "{log}"
    );

    fake.put(NOTIFIED, json!({}));
    server.launch();
    server.ready();
    // Written before the server served.
    assert_eq!(certificates(&fake, "bundle"), 1);
    eventually("it is published", || (published_keys(&fake, "bundle") == 1).then_some(()));

    // While the API server is away the newest bundle waits.
    for _ in 0..2 {
        fake.fault("GET", NOTIFIED, Fault::Refuse(500, "away"));
        fake.fault("PATCH", PUBLISHED, Fault::Refuse(500, "away"));
    }
    let prepared = server.cli().json("localauthority x509 prepare");
    let id = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID").to_owned();
    eventually("the prepared authority arrives", || {
        (certificates(&fake, "bundle") == 2 && published_keys(&fake, "bundle") == 2).then_some(())
    });
    assert!(server.log().contains("Failed to pass on the bundle"));
    let old = server.cli().json("localauthority x509 show")["active"]["authority_id"].clone();
    server.cli().line(&format!("localauthority x509 activate -authorityID {id}")).ok();
    let old = old.as_str().expect("an ID");
    server.cli().line(&format!("localauthority x509 taint -authorityID {old}")).ok();
    server.cli().line(&format!("localauthority x509 revoke -authorityID {old}")).ok();
    eventually("the revoked authority leaves", || {
        (certificates(&fake, "bundle") == 1 && published_keys(&fake, "bundle") == 1).then_some(())
    });

    // New settings are taken over, and the bundle goes where they say.
    configure(&conf, "moved");
    server.process().signal(Signal::SIGUSR1);
    eventually("both go to the new key", || {
        (certificates(&fake, "moved") == 1 && published_keys(&fake, "moved") == 1).then_some(())
    });
    server.stop();
}
