//! From the file as it is written to a configuration that is whole.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use regex::Regex;
use signet_config::{HealthSettings, LogFormat, LogLevel, LogSettings, PrometheusSettings};
use signet_identity::TrustDomain;

use super::{
    Config, ElectionSettings, File, ManifestSettings, NamespaceScope, Reconcile, RunFlags,
    WebhookSettings,
    file::{GoDuration, LeaderElection},
    host_and_port,
};
use crate::{cluster::Class, ownership::Ownership, resources::API_VERSION, template::Template};

const DEFAULT_SOCKET: &str = "/spire-server/api.sock";
const DEFAULT_PARENT: &str =
    "spiffe://{{ .TrustDomain }}/spire/agent/k8s_psat/{{ .ClusterName }}/{{ .NodeMeta.UID }}";
const DEFAULT_IGNORED: [&str; 3] = ["kube-system", "kube-public", "spire-system"];
const DEFAULT_WEBHOOK: &str = "spire-controller-manager-webhook";
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
const DEFAULT_METRICS: &str = ":8080";
const DEFAULT_WEBHOOK_PORT: u16 = 9443;
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
const MAX_GRACE: Duration = Duration::from_secs(3600);
/// The longest regular expression and how many of them, so that matching stays cheap.
const MAX_IGNORED: usize = 1000;

struct Problems(Vec<String>);

impl Problems {
    fn take<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|why| self.0.push(format!("{key}: {why}"))).ok()
    }
}

pub(super) fn check(
    file: File,
    flags: &RunFlags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Vec<String>> {
    let mut p = Problems(Vec::new());
    let mut warnings = Vec::new();
    head(&file, &mut p);
    without_effect(&file, flags, &mut warnings);

    let trust_domain = match file.trust_domain.as_deref().unwrap_or_default() {
        "" => p.take("trustDomain", Err("it is required".to_owned())),
        name => {
            p.take("trustDomain", TrustDomain::from_name_or_id(name).map_err(|e| e.to_string()))
        }
    };
    let cluster_name = file.cluster_name.unwrap_or_default();
    if cluster_name.is_empty() {
        p.take::<()>("clusterName", Err("it is required".to_owned()));
    }
    let ignore_namespaces = ignored(file.ignore_namespaces, &mut p);
    let parent = file.parent_id_template.filter(|text| !text.is_empty());
    let parent_id =
        p.take("parentIDTemplate", Template::parse(parent.as_deref().unwrap_or(DEFAULT_PARENT)));
    let ownership = p.take(
        "entryIDPrefixCleanup",
        ownership(file.entry_id_prefix.as_deref(), file.entry_id_prefix_cleanup.as_deref()),
    );

    let manifests = file.static_manifest_path.map(|path| ManifestSettings {
        directory: PathBuf::from(path),
        expand_env: file.expand_env_static_manifests.unwrap_or_default(),
    });
    let reconcile = match &file.reconcile {
        None => Reconcile {
            spiffe_ids: manifests.is_none(),
            static_entries: true,
            federated_trust_domains: true,
        },
        Some(reconcile) => Reconcile {
            spiffe_ids: reconcile.spiffe_ids.unwrap_or_default(),
            static_entries: reconcile.static_entries.unwrap_or_default(),
            federated_trust_domains: reconcile.federated_trust_domains.unwrap_or_default(),
        },
    };
    let election = file.leader_election.and_then(|election| p_election(election, &mut p));
    if manifests.is_some() {
        const STATIC: &str = "not possible with staticManifestPath; leave it out";
        if election.is_some() {
            p.take::<()>("leaderElection", Err(STATIC.to_owned()));
        }
        if reconcile.spiffe_ids {
            p.take::<()>("reconcile.clusterSPIFFEIDs", Err(STATIC.to_owned()));
        }
    }
    if !(reconcile.spiffe_ids || reconcile.static_entries || reconcile.federated_trust_domains) {
        warnings.push("reconcile: nothing is switched on, so nothing will be done".to_owned());
    }

    let namespaces = namespaces(file.cache_namespace, file.cache_namespaces, &mut p);
    let interval = match file.gc_interval {
        Some(GoDuration { nanos }) if nanos > 0 => {
            duration("gcInterval", GoDuration { nanos }, &mut p).max(Duration::from_millis(100))
        }
        _ => DEFAULT_INTERVAL,
    };
    let grace = match file.graceful_shut_down {
        // Negative is for ever in controller-runtime; nothing is for ever here.
        Some(GoDuration { nanos }) if nanos < 0 => MAX_GRACE,
        Some(given) => duration("gracefulShutDown", given, &mut p).min(MAX_GRACE),
        None => DEFAULT_GRACE,
    };

    let configuration =
        file.validating_webhook_configuration_name.unwrap_or_else(|| DEFAULT_WEBHOOK.to_owned());
    if configuration.is_empty() {
        p.take::<()>("validatingWebhookConfigurationName", Err("it is required".to_owned()));
    }
    let webhook_file = file.webhook.unwrap_or_default();
    let port = match webhook_file.port {
        None | Some(0) => Some(DEFAULT_WEBHOOK_PORT),
        Some(port) => p.take(
            "webhook.port",
            u16::try_from(port).map_err(|_| format!("{port} is no port; expected 1 to 65535")),
        ),
    };
    let offered = manifests.is_none() && env("ENABLE_WEBHOOKS").as_deref() != Some("false");
    let webhook = offered.then(|| WebhookSettings {
        host: webhook_file.host.unwrap_or_default(),
        port: port.unwrap_or(DEFAULT_WEBHOOK_PORT),
        configuration,
    });

    let metrics = file.metrics.and_then(|metrics| metrics.bind_address);
    let metrics = match metrics.as_deref().filter(|address| !address.is_empty()) {
        Some("0") => None,
        address => p
            .take("metrics.bindAddress", host_and_port(address.unwrap_or(DEFAULT_METRICS)))
            .map(|(host, port)| PrometheusSettings { host, port, tls: None }),
    };
    let health = file.health.unwrap_or_default();
    let endpoint = |name: Option<String>, default: &str| {
        let name = name.filter(|name| !name.is_empty());
        format!("/{}", name.as_deref().unwrap_or(default).trim_start_matches('/'))
    };
    let health =
        match health.health_probe_bind_address.as_deref() {
            None | Some("" | "0") => None,
            Some(address) => p.take("health.healthProbeBindAddress", host_and_port(address)).map(
                |(host, port)| HealthSettings {
                    bind_address: host,
                    bind_port: port,
                    live_path: endpoint(health.liveness_endpoint_name, "healthz"),
                    ready_path: endpoint(health.readiness_endpoint_name, "readyz"),
                },
            ),
        };
    let log = log(file.log_level, file.log_encoding, flags, &mut p);
    let max_message = match file.grpc.and_then(|grpc| grpc.max_call_recv_msg_size) {
        None | Some(..=0) => None,
        Some(bytes) => p.take(
            "grpc.maxCallRecvMsgSize",
            usize::try_from(bytes)
                .ok()
                .filter(|bytes| *bytes <= 1 << 30)
                .ok_or_else(|| format!("{bytes} is too much; expected at most 1 GiB")),
        ),
    };
    let socket = file.server_socket.filter(|path| !path.is_empty()).map(PathBuf::from);
    let server_socket = match (socket, &flags.server_socket) {
        (Some(socket), None) => socket,
        (Some(socket), Some(_)) => {
            warnings.push("-spire-api-socket is ignored: the file names a socket".to_owned());
            socket
        }
        (None, Some(flag)) => {
            let instead = "use spireServerSocketPath in the configuration file";
            warnings.push(format!("-spire-api-socket is deprecated; {instead}"));
            flag.clone()
        }
        (None, None) => PathBuf::from(DEFAULT_SOCKET),
    };

    match (trust_domain, parent_id, ownership, log) {
        (Some(trust_domain), Some(parent_id), Some(ownership), Some(log)) if p.0.is_empty() => {
            Ok(Config {
                trust_domain,
                cluster_name,
                cluster_domain: file.cluster_domain.filter(|domain| !domain.is_empty()),
                ignore_namespaces,
                class: Class {
                    name: file.class_name.unwrap_or_default(),
                    classless: file.watch_classless.unwrap_or_default(),
                },
                parent_id,
                ownership,
                reconcile,
                server_socket,
                max_message,
                interval,
                manifests,
                namespaces,
                election,
                webhook,
                metrics,
                health,
                log,
                grace,
                warnings,
            })
        }
        _ => Err(p.0),
    }
}

fn head(file: &File, p: &mut Problems) {
    for (key, value, expected) in [
        ("apiVersion", &file.api_version, API_VERSION),
        ("kind", &file.kind, "ControllerManagerConfig"),
    ] {
        if let Some(value) = value.as_deref().filter(|value| *value != expected) {
            p.take::<()>(key, Err(format!("{value:?}; expected {expected:?}")));
        }
    }
    // Name and labels say nothing to the program.
    let _ = &file.metadata;
}

/// What is accepted although nothing follows from it.
fn without_effect(file: &File, flags: &RunFlags, warnings: &mut Vec<String>) {
    let controller = file.controller.as_ref();
    let cert_dir = file.webhook.as_ref().and_then(|webhook| webhook.cert_dir.as_deref());
    for (key, is_set, why) in [
        ("syncPeriod", file.sync_period.is_some(), "changes are followed, not looked for"),
        (
            "controller.groupKindConcurrency",
            controller.is_some_and(|c| c.group_kind_concurrency.is_some()),
            "one task owns the state",
        ),
        (
            "controller.cacheSyncTimeout",
            controller.is_some_and(|c| c.cache_sync_timeout.is_some()),
            "lists are tried again until they succeed",
        ),
        (
            "controller.recoverPanic",
            controller.is_some_and(|c| c.recover_panic.is_some()),
            "there is nothing to recover from",
        ),
        (
            "webhook.certDir",
            cert_dir.is_some_and(|dir| !dir.is_empty()),
            "the certificate comes from the server and stays in memory",
        ),
        (
            "enableEntryRenderCache, entryRenderCacheSize",
            file.enable_entry_render_cache.is_some() || file.entry_render_cache_size.is_some(),
            "only what changes is rendered",
        ),
        (
            "healthProbe",
            file.health_probe.is_some(),
            "as in spire-controller-manager; health.healthProbeBindAddress opens the health port",
        ),
        ("filterByClassName", file.filter_by_class_name.is_some(), "className decides"),
        (
            "-zap-devel, -zap-stacktrace-level, -zap-time-encoding",
            flags.zap_devel
                || flags.zap_stacktrace_level.is_some()
                || flags.zap_time_encoding.is_some(),
            "the log has one form",
        ),
    ] {
        if is_set {
            warnings.push(format!("{key}: no effect; {why}"));
        }
    }
}

fn ignored(patterns: Option<Vec<String>>, p: &mut Problems) -> Vec<Regex> {
    let patterns = patterns.unwrap_or_else(|| DEFAULT_IGNORED.map(str::to_owned).to_vec());
    if patterns.len() > MAX_IGNORED {
        p.take::<()>("ignoreNamespaces", Err(format!("more than {MAX_IGNORED} patterns")));
        return Vec::new();
    }
    let compile = |(at, pattern): (usize, &String)| {
        p.take(
            &format!("ignoreNamespaces[{at}]"),
            Regex::new(pattern).map_err(|error| format!("{pattern:?}: {error}")),
        )
    };
    patterns.iter().enumerate().filter_map(compile).collect()
}

fn ownership(prefix: Option<&str>, cleanup: Option<&str>) -> Result<Ownership, String> {
    let dotted = |text: &str| {
        if text.is_empty() || text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
    };
    let prefix = dotted(prefix.unwrap_or_default());
    let cleanup = cleanup.map(dotted);
    if !prefix.is_empty() && cleanup.as_ref() == Some(&prefix) {
        return Err("it must differ from entryIDPrefix".to_owned());
    }
    for text in [Some(&prefix), cleanup.as_ref()].into_iter().flatten() {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.len() > 200 || !text.bytes().all(good) {
            return Err(format!("{text:?}; expected letters, digits, '.', '_' and '-'"));
        }
    }
    Ok(Ownership { prefix, cleanup })
}

fn p_election(file: LeaderElection, p: &mut Problems) -> Option<ElectionSettings> {
    if !file.leader_elect.unwrap_or_default() {
        return None;
    }
    if let Some(lock) = file.resource_lock.as_deref().filter(|lock| !matches!(*lock, "" | "leases"))
    {
        let why = format!("{lock:?}; only \"leases\" is supported");
        p.take::<()>("leaderElection.resourceLock", Err(why));
    }
    let name = file.resource_name.filter(|name| !name.is_empty());
    let name = p.take(
        "leaderElection.resourceName",
        name.ok_or_else(|| "it is required: the name of the lease".to_owned()),
    )?;
    let usual = ElectionSettings::of(name);
    let time = |key: &str, given: Option<GoDuration>, usual: Duration, p: &mut Problems| match given
    {
        Some(given) if given.nanos != 0 => duration(key, given, p),
        _ => usual,
    };
    let lease_duration =
        time("leaderElection.leaseDuration", file.lease_duration, usual.lease_duration, p);
    let renew_deadline =
        time("leaderElection.renewDeadline", file.renew_deadline, usual.renew_deadline, p);
    let retry_period = time("leaderElection.retryPeriod", file.retry_period, usual.retry_period, p);
    if lease_duration < Duration::from_secs(1) || lease_duration <= renew_deadline {
        let why = "it must be at least 1s and longer than renewDeadline".to_owned();
        p.take::<()>("leaderElection.leaseDuration", Err(why));
    }
    if retry_period.is_zero() || renew_deadline <= retry_period.mul_f64(1.2) {
        let why = "it must be longer than 1.2 times retryPeriod".to_owned();
        p.take::<()>("leaderElection.renewDeadline", Err(why));
    }
    let namespace = file.resource_namespace.filter(|name| !name.is_empty());
    Some(ElectionSettings { namespace, lease_duration, renew_deadline, retry_period, ..usual })
}

fn namespaces(
    one: Option<String>,
    several: Option<BTreeMap<String, Option<super::file::NamespaceConfig>>>,
    p: &mut Problems,
) -> Vec<NamespaceScope> {
    let one = one.filter(|name| !name.is_empty());
    let several = several.unwrap_or_default();
    if one.is_some() && !several.is_empty() {
        let why = "use it or cacheNamespaces, not both".to_owned();
        p.take::<()>("cacheNamespace", Err(why));
    }
    let list = |map: &BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    };
    let one = one.map(|name| NamespaceScope { name, labels: String::new(), fields: String::new() });
    let several = several.into_iter().map(|(name, config)| {
        let config = config.unwrap_or_default();
        let labels = list(&config.label_selectors);
        NamespaceScope { name, labels, fields: list(&config.field_selectors) }
    });
    one.into_iter().chain(several).collect()
}

fn log(
    level: Option<String>,
    encoding: Option<String>,
    flags: &RunFlags,
    p: &mut Problems,
) -> Option<LogSettings> {
    let level = flags.log_level.clone().or(level).filter(|level| !level.is_empty());
    let level = match level.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("info") => Some(LogLevel::Info),
        Some("debug") => Some(LogLevel::Debug),
        Some("warn") => Some(LogLevel::Warn),
        Some("error") => Some(LogLevel::Error),
        Some(other) => {
            p.take("logLevel", Err(format!("{other:?}; expected debug, info, warn or error")))
        }
    };
    let encoding = flags.log_encoding.clone().or(encoding).filter(|one| !one.is_empty());
    let format = match encoding.as_deref() {
        None | Some("console") => Some(LogFormat::Text),
        Some("json") => Some(LogFormat::Json),
        Some(other) => p.take("logEncoding", Err(format!("{other:?}; expected console or json"))),
    };
    Some(LogSettings { level: level?, format: format?, ..LogSettings::default() })
}

fn duration(key: &str, given: GoDuration, p: &mut Problems) -> Duration {
    let nanos = u64::try_from(given.nanos)
        .map_err(|_| "it is negative, or longer than 584 years".to_owned());
    Duration::from_nanos(p.take(key, nanos).unwrap_or_default())
}
