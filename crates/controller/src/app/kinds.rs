//! What is listed and watched, and when that begins.

use std::sync::Arc;

use signet_base::Tasks;
use signet_k8s::{ApiServer, query_value};
use tokio::sync::{mpsc, watch};

use crate::{
    cluster::Kind,
    config::Config,
    data::Names,
    error_throttle::ApiErrorThrottle,
    reflector::{Event, Reflector, Scope},
    resources::API_VERSION,
};

/// What the engine needs to hear of.
pub(super) struct Feeds<'a> {
    pub(super) api: &'a Arc<ApiServer>,
    pub(super) config: &'a Config,
    /// The fields that pods are read with; pods are not read before there is a value.
    pub(super) names: watch::Receiver<Option<Names>>,
    /// Services are not read before this is true.
    pub(super) services: watch::Receiver<bool>,
    /// Which errors are worth a line of the log.
    pub(super) error_throttle: ApiErrorThrottle,
}

impl Feeds<'_> {
    pub(super) fn spawn(self, tasks: &Tasks, out: &mpsc::Sender<Event>) {
        let Self { api, config, mut names, mut services, error_throttle } = self;
        if config.reconcile.static_entries {
            spawn_one(tasks, api, Kind::ClusterStaticEntry, config, out, &error_throttle);
        }
        if !config.reconcile.spiffe_ids {
            return;
        }
        for kind in [Kind::ClusterSpiffeId, Kind::Namespace, Kind::Node] {
            spawn_one(tasks, api, kind, config, out, &error_throttle);
        }
        let (wanted, wanted_rx) = watch::channel(Names::default());
        let scopes = scopes(Kind::Pod, config);
        let pods = Reflector::new(
            Arc::clone(api),
            Kind::Pod,
            scopes,
            wanted_rx,
            out.clone(),
            error_throttle.clone(),
        );
        tasks.spawn_until_end("pods", async move {
            let Ok(first) = names.wait_for(Option::is_some).await.map(|names| names.clone()) else {
                return;
            };
            wanted.send_replace(first.unwrap_or_default());
            let follow = async {
                while names.changed().await.is_ok() {
                    let next = names.borrow_and_update().clone().unwrap_or_default();
                    wanted.send_replace(next);
                }
            };
            tokio::join!(pods.run(), follow);
        });
        let (_, none) = watch::channel(Names::default());
        let scopes = self::scopes(Kind::Endpoints, config);
        let endpoints = Reflector::new(
            Arc::clone(api),
            Kind::Endpoints,
            scopes,
            none,
            out.clone(),
            error_throttle,
        );
        tasks.spawn_until_end("endpoints", async move {
            if services.wait_for(|needed| *needed).await.is_ok() {
                endpoints.run().await;
            }
        });
    }
}

/// Lists and watches a kind from now on.
pub(super) fn spawn_one(
    tasks: &Tasks,
    api: &Arc<ApiServer>,
    kind: Kind,
    config: &Config,
    out: &mpsc::Sender<Event>,
    error_throttle: &ApiErrorThrottle,
) {
    let (_, names) = watch::channel(Names::default());
    let scopes = scopes(kind, config);
    let reflector =
        Reflector::new(Arc::clone(api), kind, scopes, names, out.clone(), error_throttle.clone());
    tasks.spawn_until_end("reflector", reflector.run());
}

fn scopes(kind: Kind, config: &Config) -> Vec<Scope> {
    let whole = |path: String| vec![Scope { path, query: String::new() }];
    let plural = match kind {
        Kind::ClusterFederatedTrustDomain => "clusterfederatedtrustdomains",
        Kind::ClusterSpiffeId => "clusterspiffeids",
        Kind::ClusterStaticEntry => "clusterstaticentries",
        Kind::Endpoints => "endpoints",
        Kind::Namespace => "namespaces",
        Kind::Node => "nodes",
        Kind::Pod => "pods",
    };
    match kind {
        Kind::ClusterFederatedTrustDomain | Kind::ClusterSpiffeId | Kind::ClusterStaticEntry => {
            whole(format!("/apis/{API_VERSION}/{plural}"))
        }
        Kind::Endpoints | Kind::Pod if !config.namespaces.is_empty() => config
            .namespaces
            .iter()
            .map(|one| {
                let selectors = [("labelSelector", &one.labels), ("fieldSelector", &one.fields)];
                let query: Vec<String> = selectors
                    .into_iter()
                    .filter(|(_, value)| !value.is_empty())
                    .map(|(key, value)| format!("{key}={}", query_value(value)))
                    .collect();
                let path = format!("/api/v1/namespaces/{}/{plural}", one.name);
                Scope { path, query: query.join("&") }
            })
            .collect(),
        _ => whole(format!("/api/v1/{plural}")),
    }
}
