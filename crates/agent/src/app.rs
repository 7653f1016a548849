//! The agent as a whole: [`App::build`] opens what the configuration names, [`App::spawn`] starts
//! it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use signet_attest::{node::NodeAttestError, procfs::ProcRoot};
use signet_base::{SharedClock, Tasks};
use signet_config::PrometheusSettings;
use signet_daemon::{
    health::{Health, HealthServer as HttpHealth},
    http::{Https, HttpsError, SvidSource},
    listen::{ListenError, bind_host_or_all, check_unix_path, make_directories},
    logging::LogHandle,
    metrics::{Metrics, MetricsServer},
    process::{self, LockError},
    program::Program,
    signal::UserSignal,
};
use signet_http::ProxyUrlError;
use signet_pki::{KeyManagerError, tls::SwappableIdentity};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tracing::Instrument as _;

use crate::{
    audit::Audit,
    cache::CacheBundles,
    client::ClientError,
    config::Config,
    csi, data_dir,
    health::AgentHealth,
    jwt::JwtService,
    metrics::{AgentMetrics, Shown},
    plugins::{key_manager, workload_attestor},
    serve::{
        ADMIN, PUBLIC, SOCKET_DIR_MODE, Sockets,
        admin::AdminContext,
        broker::{self, Broker},
        endpoint::Watch,
        sds::{Peers, Sds},
        until_unused,
        workload_api::{Handler, WorkloadApiSettings},
    },
    server_sets::{Issuers, stand_as_one},
    state::StateError,
    status::{Status, View},
    svid_store::{OpenError, SvidStores},
    sync::{CurrentAttestor, Manager},
    wit::WitService,
    workload::{AdminSocket, CallerAttestor},
};

mod sets;

use sets::{Set, Together};

/// Listeners that are bound already, for whoever starts an agent and knows where it is to listen.
/// Where there is none, the one that the configuration names is bound.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For metrics, where the configuration wants them.
    pub metrics: Option<TcpListener>,
    /// For health checks, where the configuration wants them.
    pub health: Option<TcpListener>,
}

/// The agent, built and not running.
#[derive(Debug)]
pub struct App {
    sets: Vec<Set>,
    view: View,
    /// How the agent stands with several sets, for the task that tells it.
    standing: Option<watch::Sender<Status>>,
    identity: Arc<SwappableIdentity>,
    svid_stores: Option<SvidStores>,
    attestor: Arc<CallerAttestor>,
    jwt: Arc<Issuers<JwtService>>,
    wit: Option<Arc<Issuers<WitService>>>,
    config: Config,
    log: Option<LogHandle>,
    metrics: AgentMetrics,
    metrics_server: Option<MetricsServer>,
    http_health: Option<HttpHealth>,
    health: AgentHealth,
    peers: Peers,
    broker_tcp: Option<TcpListener>,
    proc_root: ProcRoot,
    started: Instant,
}

/// Why the agent could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The data directory cannot be used.
    #[error("data_dir {}: {reason}", .path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The endpoint of metrics cannot speak TLS.
    #[error("telemetry Prometheus tls")]
    Https(#[from] HttpsError),
    /// The key manager cannot be opened.
    #[error("KeyManager")]
    Keys(#[from] KeyManagerError),
    /// A socket or port cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The data directory is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The port of a block of the configuration cannot be bound.
    #[error("{block}")]
    Port {
        /// The block's name.
        block: &'static str,
        /// Why not.
        source: ListenError,
    },
    /// Another process listens on a socket of the agent.
    #[error(
        "{0}: two agents cannot share a socket; give one of them another socket_path (and \
         admin_socket_path), or let this one take its place with take_over_sockets = true"
    )]
    SocketInUse(ListenError),
    /// The node attestor cannot be used.
    #[error("NodeAttestor")]
    NodeAttestor(#[from] NodeAttestError),
    /// `HTTPS_PROXY` is not understood.
    #[error(transparent)]
    Proxy(#[from] ProxyUrlError),
    /// The agent's state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A secret store cannot be used.
    #[error("SVIDStore")]
    SvidStore(#[source] OpenError),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(ClientError),
    /// Something that only a later build has.
    #[error("{0}")]
    Unsupported(String),
}

impl From<key_manager::OpenError> for BuildError {
    fn from(error: key_manager::OpenError) -> Self {
        match error {
            key_manager::OpenError::Directory { path, source } => Self::directory(path, &source),
            key_manager::OpenError::Keys(error) => Self::Keys(error),
        }
    }
}

impl BuildError {
    fn directory(path: PathBuf, error: &io::Error) -> Self {
        Self::DataDir { path, reason: error.to_string() }
    }

    fn socket(error: ListenError) -> Self {
        match error {
            error @ ListenError::InUse(_) => Self::SocketInUse(error),
            error => Self::Listen(error),
        }
    }

    fn port(block: &'static str) -> impl FnOnce(ListenError) -> Self {
        move |source| Self::Port { block, source }
    }
}

impl App {
    /// Binds the ports for metrics and health, and opens the data directory, keys and state. The
    /// sockets of the APIs are bound once there is something to serve.
    ///
    /// # Errors
    /// [`BuildError`] when another agent holds the data directory, a port or socket cannot be
    /// bound, or what is on disk (keys, state, certificates) cannot be read.
    pub async fn build(
        config: Config,
        clock: SharedClock,
        log: Option<LogHandle>,
    ) -> Result<Self, BuildError> {
        Self::build_on(Listeners::default(), config, clock, log).await
    }

    /// [`App::build`] on listeners that are bound already.
    ///
    /// # Errors
    /// [`BuildError`] when another agent holds the data directory, a port or socket cannot be
    /// bound, or what is on disk (keys, state, certificates) cannot be read.
    pub async fn build_on(
        listeners: Listeners,
        config: Config,
        clock: SharedClock,
        log: Option<LogHandle>,
    ) -> Result<Self, BuildError> {
        // The sockets are opened late; what is in their way is found before anything is made.
        let broker = config.broker.as_ref().and_then(|broker| broker.socket_path.clone());
        for (path, options) in [
            (&config.socket_path, PUBLIC),
            (&config.admin_socket_path, ADMIN),
            (&broker, broker::MODES),
        ] {
            if let Some(path) = path {
                check_unix_path(path, options)?;
            }
        }
        // The agent before this one may still hold the ports.
        let mut locks = Vec::with_capacity(config.servers.len());
        for set in &config.servers {
            data_dir::make(&set.data_dir)
                .map_err(|error| BuildError::directory(set.data_dir.clone(), &error))?;
            locks.push(data_dir::lock(&set.data_dir).await?);
        }
        if !config.take_over_sockets {
            let sockets = [&config.socket_path, &config.admin_socket_path, &broker];
            for path in sockets.into_iter().flatten() {
                until_unused(path, data_dir::LOCK_PATIENCE).await.map_err(BuildError::socket)?;
            }
        }
        let broker_tcp = match config.broker.as_ref().and_then(|it| it.bind_address.as_ref()) {
            Some((host, port)) => {
                let bound = bind_host_or_all(host, *port).await;
                Some(bound.map_err(BuildError::port("experimental broker"))?)
            }
            None => None,
        };
        let registry = Metrics::new(
            &config.telemetry,
            "spire_agent",
            config.trust_domain.as_str(),
            &process::hostname(),
        );
        let metrics_server = match (&config.telemetry.prometheus, listeners.metrics) {
            (Some(_), Some(listener)) => Some(MetricsServer::on(listener, registry.clone())?),
            (Some(settings), None) => {
                let bound = MetricsServer::bind(settings, registry.clone()).await;
                Some(bound.map_err(BuildError::port("telemetry Prometheus"))?)
            }
            (None, _) => None,
        };
        let checks = Health::new();
        let http_health = match (&config.health_checks, listeners.health) {
            (Some(settings), Some(listener)) => {
                Some(HttpHealth::on(listener, settings, checks.clone())?)
            }
            (Some(settings), None) => {
                let bound = HttpHealth::bind(settings, checks.clone()).await;
                Some(bound.map_err(BuildError::port("health_checks"))?)
            }
            (None, _) => None,
        };
        let started = Instant::now();
        let metrics = AgentMetrics::new(&registry);
        let peers = Peers::default();
        let (outdated, open) = (metrics.sds_outdated.clone(), peers.clone());
        registry.before_reading(move || outdated.set_len(&[], open.outdated()));
        registry.show_process();
        let attestor = CallerAttestor::new(
            workload_attestor::open(&config.plugins.workload_attestors, &clock),
            config.log_selectors.clone(),
            metrics.clone(),
            admin_socket(&config),
            Arc::clone(&clock),
        );
        let sets = sets::build(&config, locks, &clock, &metrics)?;
        let Together { view, standing, identity } =
            sets::together(&sets, &config, Arc::clone(&clock))?;
        let metrics_server = match &config.telemetry.prometheus {
            Some(PrometheusSettings { tls: Some(tls), .. }) => {
                let pq = config.experimental.require_pq_kem;
                let svid = SvidSource {
                    identity: Arc::clone(&identity),
                    bundles: Arc::new(CacheBundles(view.cache.clone())),
                };
                let https = Https::open(tls, svid, Arc::clone(&clock), pq)?;
                metrics_server.map(|server| server.secured(Arc::new(https)))
            }
            _ => metrics_server,
        };
        let shown = Shown {
            cache: view.cache.clone(),
            sets: sets.iter().map(|set| (set.name.clone(), set.manager.shown())).collect(),
            status: view.status.clone(),
            clock: Arc::clone(&clock),
            started,
            sync_interval: config.experimental.sync_interval,
        };
        metrics.state.show(&registry, shown);
        let (waiting, callers) = (metrics.waiting.clone(), Arc::clone(&attestor));
        registry.before_reading(move || waiting.set_len(&[], callers.waiting()));
        let stores = &config.plugins.svid_stores;
        let svid_stores = match stores.is_empty() {
            true => None,
            false => {
                let settings = stores.iter().map(|store| &store.settings);
                let cache = view.cache.clone();
                Some(SvidStores::new(settings, cache, &clock).map_err(BuildError::SvidStore)?)
            }
        };
        let hit_timeout = config.experimental.jwt_svid_cache_hit_timeout;
        let managers = || sets.iter().map(|set| &set.manager);
        let jwt = Issuers::new(managers().map(|it| it.jwt_issuer(hit_timeout)).collect());
        let wit: Option<Vec<_>> = managers().map(Manager::wit_issuer).collect();
        let wit = wit.map(Issuers::new);
        let health = AgentHealth::new(view.status.clone(), config.socket_path.clone(), clock);
        checks.add("agent", Arc::new(health.clone()));
        Ok(Self {
            sets,
            view,
            standing,
            identity,
            svid_stores,
            attestor,
            jwt,
            wit,
            log,
            metrics,
            metrics_server,
            http_health,
            health,
            peers,
            broker_tcp,
            proc_root: ProcRoot::from_env(),
            started,
            config,
        })
    }

    /// How the agent stands, now and later.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.view.status.clone()
    }

    /// Starts everything; it ends with `tasks`.
    pub fn spawn(self, tasks: &Tasks) {
        let view = self.view;
        for warning in &self.config.warnings {
            tracing::warn!("{warning}");
        }
        let version = env!("CARGO_PKG_VERSION");
        self.metrics.started.set(&[version, self.config.trust_domain.as_str()], 1.0);
        if let Some(server) = self.metrics_server {
            server.spawn(tasks);
        }
        if let Some(server) = self.http_health {
            server.spawn(tasks);
        }
        match UserSignal::usr1() {
            Ok(signal) => {
                let attestors = self.sets.iter().map(|set| set.manager.attestor()).collect();
                let node = (attestors, Arc::clone(&view.clock));
                let attestor = Arc::clone(&self.attestor);
                reconfigure_on(signal, self.config.clone(), node, attestor, tasks);
            }
            Err(error) => tracing::warn!(error = %error, "SIGUSR1 is not heard"),
        }

        if let Some(standing) = self.standing {
            let sets = self.sets.iter().map(|set| (set.name.clone(), set.manager.status()));
            let clock = Arc::clone(&view.clock);
            let one = stand_as_one(sets.collect(), standing, self.identity, clock);
            tasks.spawn_until_end("server_sets", one);
            tasks.spawn_until_end("server_set_bundles", view.cache.clone().follow_bundles());
        }
        for Set { name, manager, data } in self.sets {
            let span = match name.as_str() {
                "" => tracing::Span::none(),
                name => tracing::info_span!("server_set", server_set = name),
            };
            let running = manager.run(tasks.token().clone());
            tasks.spawn_critical("manager", running.instrument(span));
            let stop = tasks.token().clone();
            tasks.spawn("data_dir", async move { data.keep_written(&stop).await });
        }

        if let Some(stores) = self.svid_stores {
            tasks.spawn("svid_stores", stores.run(tasks.token().clone()));
        }
        if let Some(settings) = self.config.csi.clone() {
            let (proc_root, spawner) = (self.proc_root.clone(), tasks.clone());
            let public = self.config.socket_path.clone();
            tasks.spawn_critical("csi", async move {
                // Pods may start before there is anything to serve: the directory is there.
                let socket_dir = public.as_deref().and_then(Path::parent);
                if socket_dir == Some(settings.workload_api_socket_dir()) {
                    make_directories(settings.workload_api_socket_dir(), SOCKET_DIR_MODE)?;
                }
                csi::serve(&settings, proc_root, &spawner).await
            });
        }

        let watch = Watch {
            metrics: self.metrics.clone(),
            traces: Arc::default(),
            clock: Arc::clone(&view.clock),
        };
        let admin = AdminContext {
            view: view.clone(),
            attestor: Arc::clone(&self.attestor),
            jwt: Arc::clone(&self.jwt),
            log: self.log,
            delegates: self.config.authorized_delegates.clone(),
            audit: Audit::new(self.config.audit_log_enabled),
            peers: self.peers.clone(),
            proc_root: self.proc_root.clone(),
            traces: Arc::clone(&watch.traces),
            started: self.started,
            stop: tasks.token().clone(),
        };
        let (attestor, jwt) = (Arc::clone(&self.attestor), Arc::clone(&self.jwt));
        let sds = (!self.config.disable_sds_api).then(|| {
            Sds::new(
                (self.config.sds, self.config.experimental.ratelimit),
                Arc::clone(&self.attestor),
                view.cache.clone(),
                (Audit::new(self.config.audit_log_enabled), self.metrics.clone(), self.peers),
                Arc::clone(&view.clock),
                tasks.token().clone(),
            )
        });
        let handler = (!self.config.disable_workload_api).then(|| {
            Handler::new(
                WorkloadApiSettings {
                    trust_domain: self.config.trust_domain.clone(),
                    allow_unauthenticated_verifiers: self.config.allow_unauthenticated_verifiers,
                    allowed_foreign_jwt_claims: self.config.allowed_foreign_jwt_claims.clone(),
                    rate_limits: self.config.experimental.ratelimit,
                    audit: Audit::new(self.config.audit_log_enabled),
                },
                self.attestor,
                view.cache.clone(),
                (self.jwt, self.wit),
                (self.metrics.clone(), Arc::clone(&view.clock)),
                tasks.token().clone(),
            )
        });
        let broker = self.config.broker.map(|settings| {
            let broker = Broker::new(
                settings,
                view.clone(),
                Arc::clone(&attestor),
                Arc::clone(&jwt),
                Audit::new(self.config.audit_log_enabled),
                self.proc_root.clone(),
                tasks.token().clone(),
            );
            (broker, self.broker_tcp, self.config.experimental.require_pq_kem)
        });
        let sockets = Sockets {
            public: self.config.socket_path,
            admin: self.config.admin_socket_path,
            take_over: self.config.take_over_sockets,
            handler,
            sds,
            broker,
            context: admin,
            health: self.health,
            watch,
            proc_root: self.proc_root,
        };
        let status = view.status;
        let spawner = tasks.clone();
        tasks.spawn_critical("sockets", async move { sockets.open(status, &spawner).await });
    }
}

fn admin_socket(config: &Config) -> AdminSocket {
    let defaults = [Program::Signet, Program::Spire].map(Program::agent_admin_socket);
    match &config.admin_socket_path {
        None => AdminSocket::None,
        Some(path) if defaults.iter().any(|default| Path::new(default) == path) => {
            AdminSocket::Default
        }
        Some(path) => AdminSocket::At(path.clone()),
    }
}

/// Reads each `plugin_data_file` again on SIGUSR1.
fn reconfigure_on(
    mut signal: UserSignal,
    config: Config,
    (nodes, clock): (Vec<Arc<CurrentAttestor>>, SharedClock),
    attestor: Arc<CallerAttestor>,
    tasks: &Tasks,
) {
    let token = tasks.token().clone();
    tasks.spawn("reconfigurer", async move {
        let mut plugins = config.plugins.clone();
        while signal.recv(&token).await {
            let next = match plugins.reload() {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(error = %error, "Failed to reconfigure plugins; nothing changed");
                    continue;
                }
            };
            let opened: Result<Vec<_>, _> =
                config.servers.iter().map(|set| sets::node_attestor(set, &next)).collect();
            match opened {
                Ok(opened) => {
                    for (node, attestor) in nodes.iter().zip(opened) {
                        node.store(attestor.map(Arc::new));
                    }
                }
                Err(error) => {
                    tracing::error!(error = %error, "Failed to reconfigure the node attestor");
                    continue;
                }
            }
            attestor.replace(workload_attestor::open(&next.workload_attestors, &clock));
            plugins = next;
            tracing::info!("Plugins reconfigured");
        }
    });
}
