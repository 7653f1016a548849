//! The configuration file: spire-controller-manager's is read, and what is wrong is named.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::time::Duration;

use signet_config::{LogFormat, LogLevel};
use signet_controller::config::{Config, ConfigError, Reconcile, RunFlags};

const SAMPLE: &str = include_str!("../../../docs/samples/controller.yaml");

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::parse("f.yaml", text, &RunFlags::default(), &|_| None)
}

fn wrong(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

const LEAST: &str = "trustDomain: td\nclusterName: c\n";

#[test]
fn the_sample_is_valid() {
    let config = read(SAMPLE).unwrap();
    assert_eq!(config.ownership.prefix, "production.");
    assert_eq!(config.election.unwrap().name, "signet-controller");
    assert_eq!(config.webhook.unwrap().configuration, "signet-controller-webhook");
    assert_eq!(config.health.unwrap().ready_path, "/readyz");
    assert_eq!((config.log.format, config.warnings.len()), (LogFormat::Json, 0));
}

#[test]
fn defaults_are_those_of_spire_controller_manager() {
    let config = read(LEAST).unwrap();
    assert_eq!(config.server_socket.to_str(), Some("/spire-server/api.sock"));
    assert_eq!(config.interval, Duration::from_secs(10));
    assert!(config.ignore_namespaces.iter().any(|one| one.is_match("kube-system-x")));
    assert_eq!(config.webhook.unwrap().port, 9443);
    let metrics = config.metrics.unwrap();
    assert_eq!((metrics.host.as_str(), metrics.port), ("::", 8080));
    assert!(config.health.is_none() && config.election.is_none() && config.manifests.is_none());
    let all = Reconcile { spiffe_ids: true, static_entries: true, federated_trust_domains: true };
    assert_eq!(config.reconcile, all);
    assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Text));
}

/// As the hardened Helm chart renders it, with every key that it may write.
#[test]
fn the_helm_charts_file_is_read() {
    let config = read(
        "apiVersion: spire.spiffe.io/v1alpha1
kind: ControllerManagerConfig
metadata:
  name: spire-controller-manager
  namespace: spire-server
  labels:
    app.kubernetes.io/name: server
metrics:
  bindAddress: 0.0.0.0:8082
health:
  healthProbeBindAddress: 0.0.0.0:8083
gcInterval: 2e+10
logLevel: info
logEncoding: json
leaderElection:
  leaderElect: true
  resourceName: 27cdda5e.spiffe.io
  resourceNamespace: spire-server
  leaseDuration: 15s
  renewDeadline: 10s
  retryPeriod: 2s
cacheNamespaces:
  a: {}
  b:
    labelSelectors:
      x: y
validatingWebhookConfigurationName: spire-server-spire-controller-manager-webhook
entryIDPrefixCleanup: \"\"
entryIDPrefix: example-cluster
clusterName: example-cluster
trustDomain: example.org
ignoreNamespaces:
  - kube-system
spireServerSocketPath: \"/tmp/spire-server/private/api.sock\"
className: \"spire-server-spire\"
watchClassless: false
filterByClassName: true
parentIDTemplate: \"\"
reconcile:
  clusterSPIFFEIDs: true
  clusterStaticEntries: true
  clusterFederatedTrustDomains: true
",
    )
    .unwrap();
    assert_eq!(config.interval, Duration::from_secs(20));
    assert_eq!(config.ownership.prefix, "example-cluster.");
    assert_eq!(config.ownership.cleanup.as_deref(), Some(""));
    assert_eq!(config.namespaces.len(), 2);
    assert_eq!(config.namespaces[1].labels, "x=y");
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
}

#[test]
fn every_other_key_is_honoured_or_said_to_have_no_effect() {
    let config = read(&format!(
        "{LEAST}syncPeriod: 10h
gracefulShutDown: 5s
controller:
  groupKindConcurrency: {{Pod: 3}}
  cacheSyncTimeout: 120000000000
  recoverPanic: true
webhook: {{port: 9444, host: 127.0.0.1, certDir: /x}}
health:
  healthProbeBindAddress: ':8083'
  readinessEndpointName: ready
  livenessEndpointName: /live
metrics: {{bindAddress: '0'}}
enableEntryRenderCache: true
entryRenderCacheSize: 5
expandEnvStaticManifests: false
gcInterval: 3000000000
clusterDomain: example.local
grpc: {{maxCallRecvMsgSize: 9000000}}
reconcile: {{clusterStaticEntries: true}}
"
    ))
    .unwrap();
    assert_eq!(config.grace, Duration::from_secs(5));
    assert_eq!(config.interval, Duration::from_secs(3));
    assert_eq!(config.max_message, Some(9_000_000));
    let health = config.health.unwrap();
    assert_eq!((health.ready_path.as_str(), health.live_path.as_str()), ("/ready", "/live"));
    assert!(config.metrics.is_none());
    assert!(config.reconcile.static_entries && !config.reconcile.spiffe_ids);
    assert_eq!(config.warnings.len(), 6, "{:#?}", config.warnings);
}

#[test]
fn what_is_unknown_is_named_with_its_line() {
    for text in [
        format!("{LEAST}nosuch: 1\n"),
        format!("{LEAST}leaderElection: {{nosuch: 1}}\n"),
        format!("{LEAST}gcInterval: soon\n"),
        format!("{LEAST}gcInterval: 1.5\n"),
        format!("{LEAST}gcInterval: 1e300\n"),
        format!("{LEAST}ignoreNamespaces: kube-system\n"),
        format!("{LEAST}watchClassless: perhaps\n"),
    ] {
        let error = wrong(&text);
        assert!(error.starts_with("f.yaml: ") && error.contains("line 3"), "{error}");
    }
    assert!(wrong(&format!("{LEAST}nosuch: 1\n")).contains("nosuch"));
    assert!(wrong("a: [").starts_with("f.yaml: "));
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = wrong(
        "apiVersion: v2
ignoreNamespaces: ['(']
parentIDTemplate: '{{ .X'
entryIDPrefix: a
entryIDPrefixCleanup: a.
leaderElection: {leaderElect: true, resourceLock: configmaps}
cacheNamespace: a
cacheNamespaces: {b: null}
validatingWebhookConfigurationName: ''
webhook: {port: 99999}
metrics: {bindAddress: nowhere}
logLevel: loud
logEncoding: morse
",
    );
    for key in [
        "apiVersion: ",
        "trustDomain: it is required",
        "clusterName: it is required",
        "ignoreNamespaces[0]: ",
        "parentIDTemplate: ",
        "entryIDPrefixCleanup: it must differ",
        "leaderElection.resourceLock: \"configmaps\"; only \"leases\"",
        "leaderElection.resourceName: it is required",
        "cacheNamespace: use it or cacheNamespaces",
        "validatingWebhookConfigurationName: ",
        "webhook.port: ",
        "metrics.bindAddress: ",
        "logLevel: \"loud\"; expected debug, info, warn or error",
        "logEncoding: ",
    ] {
        assert!(error.contains(&format!("f.yaml: {key}")), "{key}: {error}");
    }
}

#[test]
fn static_manifests_exclude_what_needs_kubernetes() {
    let config = read(&format!("{LEAST}staticManifestPath: /m\n")).unwrap();
    assert!(!config.reconcile.spiffe_ids && config.webhook.is_none());
    let error = wrong(&format!(
        "{LEAST}staticManifestPath: /m
leaderElection: {{leaderElect: true, resourceName: x}}
reconcile: {{clusterSPIFFEIDs: true}}
"
    ));
    assert!(error.contains("leaderElection: ") && error.contains("reconcile.clusterSPIFFEIDs: "));
}

#[test]
fn lease_times_that_could_let_two_write_are_refused() {
    let election = |times: &str| {
        read(&format!("{LEAST}leaderElection: {{leaderElect: true, resourceName: x{times}}}\n"))
    };
    assert!(election("").is_ok());
    for times in [
        ", leaseDuration: 10s",
        ", renewDeadline: 15s",
        ", retryPeriod: 10s",
        ", leaseDuration: -1s",
        ", leaseDuration: 500ms, renewDeadline: 300ms, retryPeriod: 100ms",
    ] {
        assert!(election(times).is_err(), "{times}");
    }
}

#[test]
fn variables_are_expanded_when_asked_for_and_flags_and_environment_count() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "trustDomain: $TD\nclusterName: c\n").unwrap();
    let env = |name: &str| match name {
        "TD" => Some("from.env".to_owned()),
        "ENABLE_WEBHOOKS" => Some("false".to_owned()),
        _ => None,
    };
    let mut flags = RunFlags {
        config: Some(file.path().to_owned()),
        expand_env: true,
        server_socket: Some("/flag.sock".into()),
        log_level: Some("debug".to_owned()),
        ..RunFlags::default()
    };
    let config = Config::load(&flags, &env).unwrap();
    assert_eq!(config.trust_domain.as_str(), "from.env");
    assert_eq!(config.server_socket.to_str(), Some("/flag.sock"));
    assert!(config.webhook.is_none());
    assert_eq!(config.log.level, LogLevel::Debug);
    flags.expand_env = false;
    assert!(Config::load(&flags, &env).unwrap_err().to_string().contains("trustDomain"));
}

#[test]
fn an_old_health_probe_is_accepted_with_a_warning_and_of_two_equal_keys_the_last_counts() {
    let text = "healthProbe: {bindAddress: '127.0.0.1:8083'}\nclusterName: c\nclusterName: d\n\
                trustDomain: example.org\n";
    let config = Config::parse("f", text, &RunFlags::default(), &|_| None).unwrap();
    assert!(config.health.is_none() && config.cluster_name == "d");
    assert!(config.warnings.iter().any(|one| one.starts_with("healthProbe: no effect")));
}
