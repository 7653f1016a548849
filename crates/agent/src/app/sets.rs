//! The server sets that the configuration names, opened.

use std::{sync::Arc, time::Duration};

use signet_attest::node::{NodeAttestError, NodeAttestorAgent, join_token::JoinTokenAgent};
use signet_base::SharedClock;
use signet_daemon::process::DirLock;
use signet_http::Proxies;
use signet_pki::tls::SwappableIdentity;
use tokio::sync::watch;

use super::BuildError;
use crate::{
    cache::Served,
    client::Target,
    config::{Config, ServerSet},
    data_dir::DataDir,
    metrics::AgentMetrics,
    plugins::{
        Plugins,
        key_manager::{self, KeyManager},
        node_attestor,
    },
    rotation::RotationRule,
    server_sets::Alive,
    state::AgentState,
    status::{Status, View},
    sync::{Manager, Parts, Settings},
};

/// One set of servers, and what the agent has for it.
#[derive(Debug)]
pub(super) struct Set {
    /// Empty where it is the only one.
    pub(super) name: String,
    pub(super) manager: Manager,
    pub(super) data: Arc<DataDir>,
}

/// Opens the sets, whose data directories `locks` holds.
///
/// # Errors
/// [`BuildError`] when keys, state or what proves the node cannot be used.
pub(super) fn build(
    config: &Config,
    locks: Vec<DirLock>,
    clock: &SharedClock,
    metrics: &AgentMetrics,
) -> Result<Vec<Set>, BuildError> {
    let alive = Alive::all(config.servers.len());
    let mut sets = Vec::with_capacity(config.servers.len());
    for (set, lock) in config.servers.iter().zip(locks) {
        let state = AgentState::open(&set.data_dir)?;
        let keys =
            key_manager::open(&set.key_manager, &set.data_dir)?.measured(metrics.keys.clone());
        let data = DataDir::new(set.data_dir.clone(), lock, state, keys);
        let parts = parts(config, set, Arc::clone(clock), (&data, metrics, &alive))?;
        let manager = Manager::new(parts).map_err(BuildError::Tls)?;
        sets.push(Set { name: set.name.clone().unwrap_or_default(), manager, data });
    }
    Ok(sets)
}

fn rule(config: &Config) -> RotationRule {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    RotationRule { availability_target: config.availability_target.map_or(0, seconds) }
}

/// What the sets are together.
pub(super) struct Together {
    /// What serving sees of them.
    pub(super) view: View,
    /// For several sets, whom the task tells that makes one of how the agent stands with each.
    pub(super) standing: Option<watch::Sender<Status>>,
    /// What the agent presents to those who are no server.
    pub(super) identity: Arc<SwappableIdentity>,
}

/// What `sets` are together.
///
/// # Errors
/// [`BuildError`] when there is none.
pub(super) fn together(
    sets: &[Set],
    config: &Config,
    clock: SharedClock,
) -> Result<Together, BuildError> {
    let none = || BuildError::Unsupported("no server is configured".to_owned());
    let (first, others) = sets.split_first().ok_or_else(none)?;
    let caches = others.iter().map(|set| set.manager.cache()).collect();
    let cache = Served::new(first.manager.cache(), caches, rule(config), Arc::clone(&clock));
    if others.is_empty() {
        let view = View { cache, status: first.manager.status(), clock };
        return Ok(Together { view, standing: None, identity: first.manager.tls_identity() });
    }
    let standing = watch::Sender::new(Status::default());
    let view = View { cache, status: standing.subscribe(), clock };
    let identity = Arc::new(SwappableIdentity::empty());
    Ok(Together { view, standing: Some(standing), identity })
}

fn parts(
    config: &Config,
    set: &ServerSet,
    clock: SharedClock,
    (data, metrics, alive): (&Arc<DataDir>, &AgentMetrics, &Arc<Alive>),
) -> Result<Parts, BuildError> {
    let target = Target {
        host: set.server_address.clone(),
        port: set.server_port,
        proxies: Proxies::from_env()?,
    };
    let settings = Settings {
        trust_domain: config.trust_domain.clone(),
        bootstrap: set.bootstrap.clone(),
        rebootstrap_mode: config.rebootstrap_mode,
        rebootstrap_delay: config.rebootstrap_delay,
        rule: rule(config),
        sync_interval: config.experimental.sync_interval.max(Duration::from_millis(100)),
        use_sync: config.experimental.use_sync_authorized_entries,
        wit_svids: config.experimental.wit_svids,
        workload_key_type: config.workload_key_type,
        require_pq_kem: config.experimental.require_pq_kem,
        join_token: set.join_token.clone(),
        memory_keys: config.plugins.key_manager.settings == KeyManager::Memory,
        svid_cache: set.svid_cache.clone(),
        svid_stores: config.plugins.svid_stores.iter().map(|s| s.settings.name()).collect(),
    };
    Ok(Parts {
        settings,
        clock,
        target,
        attestor: node_attestor(set, &config.plugins)?,
        data: Arc::clone(data),
        max_x509_svids: config.x509_svid_cache_max_size,
        max_jwt_svids: config.jwt_svid_cache_max_size,
        metrics: metrics.clone(),
        alive: Arc::clone(alive),
    })
}

/// The node attestor; a join token takes the place of the configured one. `None` when there is
/// only the token that was not given: enough for an agent that has attested before.
///
/// # Errors
/// [`NodeAttestError`] when what it needs cannot be used.
pub(super) fn node_attestor(
    set: &ServerSet,
    plugins: &Plugins,
) -> Result<Option<Box<dyn NodeAttestorAgent>>, NodeAttestError> {
    match (&set.join_token, &plugins.node_attestor) {
        (Some(token), _) => Ok(Some(Box::new(JoinTokenAgent::new(token.expose())?))),
        (None, Some(plugin)) => node_attestor::open(plugin),
        (None, None) => Ok(None),
    }
}
