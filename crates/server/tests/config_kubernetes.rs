//! What the server makes of the plugins that write to Kubernetes clusters.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use signet_config::parse;
use signet_daemon::program::Program;
use signet_pki::published::BundleFormat;
use signet_server::{
    config::{Config, RunFlags},
    plugins::{
        bundle_publisher::BundlePublisher,
        notifier::{K8sBundleCluster, Notifier},
    },
};

fn load(name: &str, plugins: &str) -> Config {
    let store = r#"DataStore "sql" { plugin_data { database_type = "sqlite3"
        connection_string = "d.sqlite3" } } KeyManager "memory" {}"#;
    let text = if name.ends_with(".json") {
        plugins.to_owned()
    } else {
        format!(
            "server {{ trust_domain = \"td\" data_dir = \"/d\" }}\nplugins {{ {store} {plugins} }}"
        )
    };
    let document = parse(name, &text).unwrap();
    Config::from_document(Program::Signet, &RunFlags::default(), &document)
        .unwrap_or_else(|error| panic!("{plugins}: {error}"))
}

fn clusters(name: &str, plugins: &str) -> Vec<K8sBundleCluster> {
    let config = load(name, plugins);
    let Notifier::K8sBundle(bundle) = &config.plugins.notifiers[0].settings;
    bundle.clusters.clone()
}

fn defaults() -> K8sBundleCluster {
    K8sBundleCluster {
        namespace: "spire".to_owned(),
        config_map: "spire-bundle".to_owned(),
        config_map_key: "bundle.crt".to_owned(),
        webhook_label: None,
        api_service_label: None,
        kube_config_file_path: None,
    }
}

#[test]
fn a_notifier_that_says_nothing_writes_to_its_own_cluster() {
    assert_eq!(clusters("s.conf", "Notifier \"k8sbundle\" {}"), [defaults()]);
    let labels = "Notifier \"k8sbundle\" { plugin_data { webhook_label = \"spiffe.io/webhook\" \
                  api_service_label = \"spiffe.io/api_service\" } }";
    let [cluster] = clusters("s.conf", labels).try_into().unwrap();
    assert_eq!(cluster.webhook_label.as_deref(), Some("spiffe.io/webhook"));
    assert_eq!(cluster.api_service_label.as_deref(), Some("spiffe.io/api_service"));
}

#[test]
fn the_own_cluster_is_left_out_where_only_others_are_named() {
    let two = "clusters = [ { kube_config_file_path = \"/2\" }, { kube_config_file_path = \"/3\" \
               namespace = \"infra\" } ]";
    let other =
        |path: &str| K8sBundleCluster { kube_config_file_path: Some(path.into()), ..defaults() };
    let third = K8sBundleCluster { namespace: "infra".to_owned(), ..other("/3") };
    let only_others = format!("Notifier \"k8sbundle\" {{ plugin_data {{ {two} }} }}");
    assert_eq!(clusters("s.conf", &only_others), [other("/2"), third.clone()]);
    let all = format!("Notifier \"k8sbundle\" {{ plugin_data {{ namespace = \"spire\" {two} }} }}");
    assert_eq!(clusters("s.conf", &all), [defaults(), other("/2"), third]);
}

#[test]
fn the_form_that_the_hardened_helm_chart_writes_is_read() {
    let json = r#"{ "server": { "trust_domain": "td", "data_dir": "/d" }, "plugins": {
        "DataStore": [ { "sql": { "plugin_data": { "database_type": "sqlite3",
            "connection_string": "d.sqlite3" } } } ],
        "KeyManager": [ { "memory": { "plugin_data": null } } ],
        "Notifier": [ { "k8sbundle": { "plugin_data": { "namespace": "spire-system",
            "config_map": "spire-bundle", "webhook_label": "spiffe.io/webhook",
            "clusters": [ { "": [
                { "kube_config_file_path": "/kubeconfigs/a", "namespace": "spire-system",
                  "config_map": "bundle", "config_map_key": "bundle.crt" },
                { "kube_config_file_path": "/kubeconfigs/b", "namespace": "n" } ] } ] } } } ],
        "BundlePublisher": [ { "k8s_configmap": { "plugin_data": { "clusters": [ {
            "chart-internal": { "format": "pem", "namespace": "spire-system",
                "configmap_name": "spire-bundle", "configmap_key": "bundle.crt" },
            "b": { "kubeconfig_path": "/kubeconfigs/b", "format": "SPIFFE", "namespace": "n",
                "configmap_name": "m", "configmap_key": "k", "refresh_hint": "10m" } } ] } } } ]
    } }"#;
    let found = clusters("s.json", json);
    let paths: Vec<_> = found.iter().map(|c| c.kube_config_file_path.clone()).collect();
    assert_eq!(paths, [None, Some("/kubeconfigs/a".into()), Some("/kubeconfigs/b".into())]);
    assert_eq!(found[1].config_map, "bundle");
    let config = load("s.json", json);
    let BundlePublisher::K8sConfigMap(published) = &config.plugins.bundle_publishers[0].settings
    else {
        panic!("another publisher")
    };
    let found: Vec<_> = published
        .clusters
        .iter()
        .map(|c| (c.name.as_str(), c.format, c.refresh_hint, c.kubeconfig_path.is_some()))
        .collect();
    assert_eq!(
        found,
        [
            ("chart-internal", BundleFormat::Pem, None, false),
            ("b", BundleFormat::Spiffe, Some(600), true)
        ]
    );
}

#[test]
fn what_works_but_not_as_one_may_think_is_warned_about() {
    for (publisher, wanted) in [
        ("", "the bundle will not be published"),
        ("refresh_hint = \"48h\"", "a value such as 5m is better"),
        ("refresh_hint = \"5s\"", "not look more often than once a minute"),
    ] {
        let cluster = format!(
            "clusters = {{ c = {{ format = \"spiffe\" namespace = \"n\" configmap_name = \"m\" \
             configmap_key = \"k\" {publisher} }} }}"
        );
        let data = if publisher.is_empty() { "" } else { &cluster };
        let text = format!("BundlePublisher \"k8s_configmap\" {{ plugin_data {{ {data} }} }}");
        let warnings = load("s.conf", &text).warnings;
        assert!(warnings.iter().any(|w| w.contains(wanted)), "{wanted}: {warnings:?}");
    }
}

#[test]
fn token_review_is_always_used_and_the_setting_that_asks_for_it_is_accepted_with_a_warning() {
    let config = load(
        "s.conf",
        "NodeAttestor \"k8s_psat\" { plugin_data { clusters = { \"c\" = { \
         use_token_review_api_validation = true service_account_allow_list = [\"a:b\"] } } } }",
    );
    let warning = config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(warning.contains("use_token_review_api_validation"), "{warning}");
}
