//! From a configuration to a running controller.

mod kinds;

use std::{path::Path, sync::Arc};

use signet_base::{Readiness, SharedClock, Tasks};
use signet_config::TelemetrySettings;
use signet_daemon::{
    health::{Health, HealthServer},
    listen::ListenError,
    metrics::{Metrics, MetricsServer},
    process,
};
use signet_identity::{SpiffeId, SpiffeIdError};
use signet_k8s::{ApiError, ApiServer, KubeSource};
use signet_pki::tls::SwappableIdentity;
use tokio::sync::{mpsc, watch};

use self::kinds::Feeds;
use crate::{
    cluster::{ClusterSettings, ClusterState, Kind},
    config::Config,
    engine::{Engine, StatusWriter},
    error_throttle::ApiErrorThrottle,
    federation::Federation,
    leader::{self, Election},
    manifests::Manifests,
    metrics::ControllerMetrics,
    notices,
    server::Server,
    webhook::{CertificateRotator, Webhook, WebhookError},
};

/// How many events may wait.
const EVENTS: usize = 64;
/// How many statuses may wait.
const STATUSES: usize = 16;
/// The path of the webhook's identity, as spire-controller-manager has it.
const WEBHOOK_PATH: &str = "/spire-controller-manager-webhook";
/// Where the resolver's search list is, which names the cluster's domain.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why the controller cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The cluster's API server cannot be found.
    #[error("finding the cluster's API server")]
    Api(#[from] ApiError),
    /// An address cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A process ID for the lease cannot be made.
    #[error("making an identity for the leader election")]
    Random(#[from] signet_pki::random::RandomError),
    /// The webhook's ID is not one.
    #[error("the webhook's SPIFFE ID")]
    WebhookId(#[from] SpiffeIdError),
    /// The webhook cannot be offered.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
}

/// A controller whose addresses are bound and whose tasks have not started.
#[derive(Debug)]
pub struct App {
    config: Config,
    clock: SharedClock,
    api: Option<Arc<ApiServer>>,
    election: Option<Election>,
    metrics: ControllerMetrics,
    readiness: Readiness,
    metrics_server: Option<MetricsServer>,
    health_server: Option<HealthServer>,
    webhook: Option<(Webhook, Arc<SwappableIdentity>, SpiffeId)>,
}

impl App {
    /// Binds addresses and finds the cluster; asks nobody anything yet.
    ///
    /// # Errors
    /// [`BuildError`] when an address cannot be bound, no API server is found, or the webhook's
    /// SPIFFE ID cannot be made.
    pub async fn build(
        config: Config,
        cluster: KubeSource,
        clock: SharedClock,
    ) -> Result<Self, BuildError> {
        let telemetry = TelemetrySettings { hostname_label: false, ..TelemetrySettings::default() };
        let registry = Metrics::new(
            &telemetry,
            "signet_controller",
            config.trust_domain.as_str(),
            &process::hostname(),
        );
        let metrics = ControllerMetrics::new(&registry);
        registry.show_process();
        let readiness = Readiness::new();
        let api = match &config.manifests {
            Some(_) => None,
            None => Some(Arc::new(ApiServer::new(cluster, Arc::clone(&clock))?)),
        };
        let election = match (&config.election, &api) {
            (Some(settings), Some(api)) => {
                let namespace = match &settings.namespace {
                    Some(namespace) => namespace.clone(),
                    None => api.namespace()?,
                };
                Some(Election::new(settings, namespace)?)
            }
            _ => None,
        };
        let metrics_server = match &config.metrics {
            Some(settings) => Some(MetricsServer::bind(settings, registry).await?),
            None => None,
        };
        let health = Health::new();
        health.add("controller", Arc::new(readiness.clone()));
        let health_server = match &config.health {
            Some(settings) => Some(HealthServer::bind(settings, health).await?),
            None => None,
        };
        let webhook = match &config.webhook {
            Some(settings) => {
                let identity = Arc::new(SwappableIdentity::empty());
                let id = SpiffeId::new(config.trust_domain.clone(), WEBHOOK_PATH)?;
                let webhook = Webhook::bind(
                    &settings.host,
                    settings.port,
                    Arc::clone(&identity),
                    Arc::clone(&clock),
                    metrics.clone(),
                    config.trust_domain.clone(),
                );
                Some((webhook.await?, identity, id))
            }
            None => None,
        };
        Ok(Self {
            config,
            clock,
            api,
            election,
            metrics,
            readiness,
            metrics_server,
            health_server,
            webhook,
        })
    }

    /// What has to come up first.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Starts everything; it ends with the tasks.
    pub fn spawn(self, tasks: &Tasks) {
        let Self { config, clock, api, election, metrics, readiness, .. } = self;
        if let Some(server) = self.metrics_server {
            server.spawn(tasks);
        }
        if let Some(server) = self.health_server {
            server.spawn(tasks);
        }
        let server = Server::at(&config.server_socket, config.max_message);
        let (notices_tx, notices_rx) = watch::channel(None);
        tasks.spawn_until_end(
            "notices",
            notices::listen(server.clone(), notices_tx, metrics.clone()),
        );

        let error_throttle = ApiErrorThrottle::default();
        let lead = leader::spawn(tasks, api.clone().zip(election), &clock, &error_throttle);

        if let Some((webhook, identity, id)) = self.webhook
            && let (Some(api), Some(settings)) = (&api, &config.webhook)
        {
            webhook.spawn(tasks);
            let rotator = CertificateRotator {
                api: Arc::clone(api),
                server: server.clone(),
                configuration: settings.configuration.clone(),
                id,
                identity,
                notices: notices_rx.clone(),
                clock: Arc::clone(&clock),
                metrics: metrics.clone(),
                error_throttle: error_throttle.clone(),
            };
            tasks.spawn_until_end("webhook_certificate", rotator.run(readiness.guard("webhook")));
        }

        let (federation_changed, federation) = watch::channel(0);
        let mut entry_events = None;
        if config.reconcile.spiffe_ids || config.reconcile.static_entries {
            let (tx, events) = mpsc::channel(EVENTS);
            entry_events = Some(tx.clone());
            let (names, names_rx) = watch::channel(None);
            let (services, services_rx) = watch::channel(false);
            let (written_tx, written) = mpsc::channel(STATUSES);
            let mut statuses = None;
            if let Some(api) = &api {
                let (tx_status, rx_status) = mpsc::channel(STATUSES);
                statuses = Some(tx_status);
                let writer = StatusWriter {
                    api: Arc::clone(api),
                    statuses: rx_status,
                    written: written_tx,
                    lead: lead.clone(),
                    metrics: metrics.clone(),
                    error_throttle: error_throttle.clone(),
                };
                tasks.spawn_until_end("statuses", writer.run());
                let feeds = Feeds {
                    api,
                    config: &config,
                    names: names_rx,
                    services: services_rx,
                    error_throttle: error_throttle.clone(),
                };
                feeds.spawn(tasks, &tx);
            }
            let engine = Engine {
                kinds: kinds(&config),
                cluster: ClusterState::new(cluster_settings(&config)),
                server: server.clone(),
                ownership: config.ownership.clone(),
                interval: config.interval,
                events,
                notices: notices_rx.clone(),
                federation,
                lead: lead.clone(),
                names,
                services,
                statuses,
                written,
                clock: Arc::clone(&clock),
                metrics,
            };
            tasks.spawn_until_end("entries", engine.run());
        }
        let mut federation_events = None;
        if config.reconcile.federated_trust_domains {
            let (tx, events) = mpsc::channel(EVENTS);
            federation_events = Some(tx.clone());
            if let Some(api) = &api {
                let kind = Kind::ClusterFederatedTrustDomain;
                kinds::spawn_one(tasks, api, kind, &config, &tx, &error_throttle);
            }
            let federation = Federation {
                server,
                class: config.class.clone(),
                interval: config.interval,
                events,
                notices: notices_rx,
                lead,
                changed: federation_changed,
                statuses: api.clone(),
                clock,
                error_throttle,
            };
            tasks.spawn_until_end("federation", federation.run());
        }
        if let Some(settings) = &config.manifests {
            let manifests = Manifests {
                directory: settings.directory.clone(),
                expand_env: settings.expand_env,
                interval: config.interval,
                entries: entry_events.filter(|_| config.reconcile.static_entries),
                federation: federation_events,
            };
            tasks.spawn_until_end("manifests", manifests.run());
        }
    }
}

/// What has to be listed before anything is written.
fn kinds(config: &Config) -> Vec<Kind> {
    let mut kinds = Vec::new();
    if config.reconcile.static_entries {
        kinds.push(Kind::ClusterStaticEntry);
    }
    if config.reconcile.spiffe_ids {
        kinds.extend([Kind::ClusterSpiffeId, Kind::Namespace, Kind::Node, Kind::Pod]);
    }
    kinds
}

/// What the configuration says about the cluster.
pub(crate) fn cluster_settings(config: &Config) -> ClusterSettings {
    let domain = config.cluster_domain.clone().unwrap_or_else(|| {
        let found = std::fs::read_to_string(RESOLV_CONF).ok();
        let found = found.as_deref().and_then(cluster_domain);
        match &found {
            Some(domain) => tracing::info!(domain, "Found the cluster's domain"),
            None => tracing::warn!(
                file = %Path::new(RESOLV_CONF).display(),
                "Cannot find the cluster's domain; set clusterDomain if templates or \
                 autoPopulateDNSNames need it"
            ),
        }
        found.unwrap_or_default()
    });
    ClusterSettings {
        trust_domain: config.trust_domain.clone(),
        name: config.cluster_name.clone(),
        domain,
        parent_id: config.parent_id.clone(),
        ignored: config.ignore_namespaces.clone(),
        class: config.class.clone(),
    }
}

/// The cluster's domain by the resolver's search list, which a pod gets as
/// `search <namespace>.svc.<domain> svc.<domain> <domain>`.
fn cluster_domain(resolv_conf: &str) -> Option<String> {
    let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("search "));
    let domain = lines
        .flat_map(str::split_whitespace)
        .find_map(|name| name.strip_prefix("svc."))
        .map(|domain| domain.trim_end_matches('.').to_owned());
    domain.filter(|domain| !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clusters_domain_is_in_the_search_list_of_a_pod() {
        let pod = "search spire.svc.cluster.local svc.cluster.local cluster.local\nnameserver x\n";
        assert_eq!(cluster_domain(pod).as_deref(), Some("cluster.local"));
        for other in ["", "nameserver 1.1.1.1\n", "search example.org\n", "search svc.\n"] {
            assert_eq!(cluster_domain(other), None, "{other}");
        }
    }
}
