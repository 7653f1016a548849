//! A server: built from its configuration, then running.
//!
//! [`App::build`] binds the sockets, opens the store and the keys, and makes or recovers the
//! authorities; nothing is served before [`App::spawn`].

mod addresses;
mod audit;
mod health;
mod http2;
mod prune;
mod reload;

use std::{sync::Arc, time::Duration};

use signet_audit::{Chain, ChainError, OtlpDelivery, Sink};
use signet_authority::{
    Authority, AuthorityError, AuthorityOptions, AuthorityPorts, CaManager, LostKeys, TrustRoot,
    WitOptions,
};
use signet_base::{SharedClock, Tasks};
use signet_config::PrometheusSettings;
use signet_daemon::{
    health::{Health, HealthServer},
    http::{Https, HttpsError, SvidSource},
    listen::{ListenError, UnixOptions, UnixSocket, bind_host, bind_unix, check_unix_path},
    logging::LogHandle,
    metrics::{Metrics, MetricsServer},
    process::{DirLock, LockError, hostname},
};
use signet_pki::{
    tls::{ClientPolicy, TlsError, TlsOptions, server_config},
    x509::{Certificate, Name},
};
use signet_store::{OpenError, Store, StoreError};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    attestors::Attestors,
    audit::Auditor,
    bundle_events::{BundleEvents, LoadError},
    cache::{Cache, Follower},
    config::Config,
    console::{Console, ConsoleError, ConsoleServer, Logins, Recent},
    context::Context,
    federation::Federator,
    grpc::{self, interceptor::Interceptor},
    http::{
        bundle_endpoint::{self, BundleEndpoint, BundleEndpointError},
        oidc::OidcProvider,
    },
    identity::{IdentityError, ServerIdentity},
    limits::{CallLimits, Limits, Turns},
    listen,
    metrics::{MeasuredKeys, ServerMetrics},
    plugins::{
        PluginError, Scope, credential_composer, key_manager::OpenKeyManager, node_attestor,
        upstream_authority,
    },
    policy::Policy,
    ports::AuthorityStore,
    server_id::{self, ServerIdError},
    servers,
    usecase::{
        UseCases,
        authorization::Authorizer,
        parts::{Parts, Rules},
    },
};

/// How long the last records may take to be written.
const LAST_RECORDS: Duration = Duration::from_secs(5);

/// The local socket and the directories made for it.
const SOCKET: UnixOptions =
    UnixOptions { dir_mode: Some(0o750), socket_mode: 0o770, take_over: false };

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The bundle endpoint cannot be served.
    #[error(transparent)]
    BundleEndpoint(#[from] BundleEndpointError),
    /// The audit log cannot be opened.
    #[error(transparent)]
    Audit(#[from] ChainError),
    /// The syslog daemon cannot be reached at all.
    #[error("opening a socket for syslog")]
    Syslog(#[source] std::io::Error),
    /// The collector of audit events cannot be asked.
    #[error("audit {{ otlp }}: {0}")]
    Otlp(String),
    /// The authorities cannot be made or recovered.
    #[error("setting up the certificate authority")]
    Authority(#[from] AuthorityError),
    /// The web console cannot be served.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The data directory is in use or cannot be used.
    #[error(transparent)]
    DataDir(#[from] LockError),
    /// The server's own SVID cannot be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The endpoint of metrics cannot speak TLS.
    #[error("telemetry Prometheus tls")]
    Https(#[from] HttpsError),
    /// A socket cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Signals cannot be handled.
    #[error("handling signals")]
    Signal(#[source] std::io::Error),
    /// A notifier cannot take the bundle.
    #[error(transparent)]
    Notify(#[from] LoadError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A plugin cannot be used.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The port of a block of the configuration cannot be bound.
    #[error("{block}")]
    Port {
        /// The block's name.
        block: &'static str,
        /// Why not.
        source: ListenError,
    },
    /// The OIDC discovery provider cannot be served.
    #[error(transparent)]
    Oidc(#[from] signet_oidc::listener::BindError),
    /// The server's own ID cannot be kept.
    #[error(transparent)]
    ServerId(#[from] ServerIdError),
    /// The store cannot be read.
    #[error("reading the registration store")]
    Store(#[from] StoreError),
    /// TLS cannot be set up.
    #[error("setting up TLS")]
    Tls(#[from] TlsError),
}

impl BuildError {
    fn port(block: &'static str) -> impl FnOnce(ListenError) -> Self {
        move |source| Self::Port { block, source }
    }
}

/// A server that is bound and not yet running.
#[derive(Debug)]
pub struct App {
    context: Context,
    ca_manager: CaManager,
    follower: Follower,
    identity: ServerIdentity,
    attestors: Attestors,
    bundle_events: Arc<BundleEvents>,
    keys: OpenKeyManager,
    tcp: TcpListener,
    tls: Arc<tokio_rustls::rustls::ServerConfig>,
    local: UnixSocket,
    bundle_endpoint: Option<BundleEndpoint>,
    oidc: Option<OidcProvider>,
    metrics: Option<MetricsServer>,
    health: Option<HealthServer>,
    console: Option<ConsoleServer>,
    recent: Option<Arc<Recent>>,
    otlp: Option<OtlpDelivery>,
    lock: DirLock,
}

/// What is open already, for whoever starts a server and has its store, or knows where it is to
/// listen. What is missing is opened or bound as the configuration says.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The store.
    pub store: Option<Store>,
    /// For the API on the network.
    pub api: Option<TcpListener>,
    /// For metrics, where the configuration wants them.
    pub metrics: Option<TcpListener>,
    /// For health checks, where the configuration wants them.
    pub health: Option<TcpListener>,
    /// For the bundle endpoint, where the configuration wants one.
    pub bundle_endpoint: Option<TcpListener>,
    /// For the web console, where the configuration wants it.
    pub console: Option<TcpListener>,
}

/// What [`App::spawn`] leaves to be held while the server runs.
#[derive(Debug)]
pub struct Running {
    store: Store,
    chain: Option<Chain>,
    _lock: DirLock,
}

impl App {
    /// Binds, opens and recovers everything.
    ///
    /// # Errors
    /// [`BuildError`]; what was bound or opened is closed again.
    pub async fn build(
        config: Config,
        clock: SharedClock,
        log: LogHandle,
    ) -> Result<Self, BuildError> {
        Self::build_on(Prepared::default(), config, clock, log).await
    }

    /// As [`App::build`], on what is open already instead of what the configuration names.
    ///
    /// # Errors
    /// [`BuildError`]; what was bound or opened is closed again, but for the store.
    pub async fn build_on(
        prepared: Prepared,
        config: Config,
        clock: SharedClock,
        log: LogHandle,
    ) -> Result<Self, BuildError> {
        let config = Arc::new(config);
        let trust_domain = config.trust_domain.clone();
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        // Bound before anything is made or opened: another program that listens there is found out
        // while there is nothing to clean up. Who connects meanwhile waits.
        check_unix_path(&config.socket_path, SOCKET)?;
        let lock = DirLock::acquire(&config.data_dir, "signet-server.lock")?;
        let tcp = match prepared.api {
            Some(listener) => listener,
            None => {
                let bound = bind_host(&config.bind_address, config.bind_port).await;
                bound.map_err(BuildError::port("server bind_address and bind_port"))?
            }
        };
        let host = hostname();
        let metrics = Metrics::new(&config.telemetry, "spire_server", trust_domain.as_str(), &host);
        let metrics_server = match (&config.telemetry.prometheus, prepared.metrics) {
            (Some(_), Some(listener)) => Some(MetricsServer::on(listener, metrics.clone())?),
            (Some(settings), None) => {
                let bound = MetricsServer::bind(settings, metrics.clone()).await;
                Some(bound.map_err(BuildError::port("telemetry Prometheus"))?)
            }
            (None, _) => None,
        };
        let health = Health::new();
        let health_server = match (&config.health_checks, prepared.health) {
            (Some(settings), Some(listener)) => {
                Some(HealthServer::on(listener, settings, health.clone())?)
            }
            (Some(settings), None) => {
                let bound = HealthServer::bind(settings, health.clone()).await;
                Some(bound.map_err(BuildError::port("health_checks"))?)
            }
            (None, _) => None,
        };
        let console = match &config.console {
            Some(settings) => Some(ConsoleServer::bind(settings, prepared.console).await?),
            None => None,
        };
        let local = bind_unix(&config.socket_path, SOCKET).await?;
        let (chain, sinks, otlp) = audit::sinks(&config, &clock, &host)?;
        // A key file that cannot be opened is found out before the database is touched.
        let keys = OpenKeyManager::open(&config.plugins.key_manager, &trust_domain, &clock)?;
        let counted = ServerMetrics::new(&metrics);
        let store = match prepared.store {
            Some(store) => store,
            None => {
                let observer = Some(Arc::clone(&counted.store) as _);
                config.plugins.data_store.settings.open(config.store_rules(), observer).await?
            }
        };
        let server_id = server_id::claim(&store, &config.data_dir, clock.unix()).await?;
        let id = server_id.clone();
        let measured = Arc::new(MeasuredKeys::new(keys.port(), &metrics));
        let (ca_manager, authority) =
            Self::authority(&config, &store, measured, &counted, &clock, id).await?;
        let (cache, follower) = Cache::open(store.clone(), trust_domain.clone()).await?;
        let authorities = own_authorities(&cache);
        let scope = Scope { trust_domain: &trust_domain, clock: &clock, authorities: &authorities };
        let attestors =
            Attestors::new(node_attestor::open(&config.plugins.node_attestors, &scope)?);
        let bundle_events = BundleEvents::new(&config.plugins, &scope)?;
        bundle_events.load(cache.own_bundle().as_deref()).await?;
        let identity = {
            let rotations = counted.svid_rotate.clone();
            ServerIdentity::new(authority.clone(), Arc::clone(&clock), rotations).await?
        };
        let tls_options = TlsOptions { require_pq_kem: config.experimental.require_pq_kem };
        let clients = ClientPolicy {
            trust_domain: trust_domain.clone(),
            admin_ids: config.admin_ids.clone().into(),
        };
        let metrics_server = match &config.telemetry.prometheus {
            Some(PrometheusSettings { tls: Some(tls), .. }) => {
                let svid =
                    SvidSource { identity: identity.tls(), bundles: Arc::clone(&cache) as _ };
                let pq = config.experimental.require_pq_kem;
                let https = Arc::new(Https::open(tls, svid, Arc::clone(&clock), pq)?);
                metrics_server.map(|server| server.secured(https))
            }
            _ => metrics_server,
        };
        let tls = server_config(
            identity.tls(),
            Arc::clone(&cache) as _,
            clients,
            Arc::clone(&clock),
            tls_options,
        )?;
        let bundle_endpoint = match &config.federation.bundle_endpoint {
            Some(settings) => {
                let sources = bundle_endpoint::Sources {
                    identity: identity.tls(),
                    keys: keys.port(),
                    data_dir: config.data_dir.clone(),
                };
                let (listener, clock) = (prepared.bundle_endpoint, Arc::clone(&clock));
                Some(BundleEndpoint::bind(settings, listener, sources, clock, tls_options).await?)
            }
            None => None,
        };
        let oidc = match &config.oidc {
            Some(serving) => Some(OidcProvider::bind(serving, Arc::clone(&clock)).await?),
            None => None,
        };
        let acme = [
            bundle_endpoint.as_ref().and_then(BundleEndpoint::acme),
            oidc.as_ref().and_then(OidcProvider::acme),
        ];
        let federator = Federator::new(
            &config,
            (store.clone(), server_id.to_string()),
            Arc::clone(&cache),
            Arc::clone(&clock),
            &metrics,
        );

        let policy = Policy::new(&config.policy, audit::effective_uid());
        let mut sinks = sinks;
        let recent = console.as_ref().map(|_| Arc::new(Recent::new(Arc::clone(&clock))));
        sinks.extend(recent.iter().map(|recent| Arc::clone(recent) as Arc<dyn Sink>));
        let auditor = Auditor::to_all(sinks)
            .counting(counted.refusals.clone())
            .counting_tenants(counted.tenancy_denied.clone())
            .relying_on(chain);
        let context = Context {
            parts: Parts {
                trust_domain,
                policy,
                store,
                cache,
                authority,
                federator,
                limits: Limits::new(
                    config.ratelimit,
                    counted.rate_limits.clone(),
                    Turns::new(&metrics),
                ),
                clock,
                counted,
                rules: Rules::of(&config),
            },
            server_id: server_id.into(),
            auditor,
            acme: acme.into_iter().flatten().collect(),
            config,
            metrics,
            health,
            log,
            server_svid: identity.chain(),
            logins: Logins::default(),
            started: Instant::now(),
        };
        context.parts.counted.show(&context.metrics, context.shown());
        context.metrics.show_process();
        context.health.show(&context.metrics);
        health::register(&context);
        Ok(Self {
            context,
            ca_manager,
            follower,
            identity,
            attestors,
            bundle_events: Arc::new(bundle_events),
            keys,
            tcp,
            tls,
            local,
            bundle_endpoint,
            oidc,
            metrics: metrics_server,
            health: health_server,
            console,
            recent,
            otlp,
            lock,
        })
    }

    async fn authority(
        config: &Config,
        store: &Store,
        keys: Arc<MeasuredKeys>,
        counted: &ServerMetrics,
        clock: &SharedClock,
        id: String,
    ) -> Result<(CaManager, Authority), BuildError> {
        let trust_domain = &config.trust_domain;
        let port = Arc::new(AuthorityStore::new(
            store.clone(),
            trust_domain.clone(),
            Arc::clone(clock),
            id,
        ));
        let plugins = &config.plugins;
        // Nothing is signed before there is a bundle.
        let authorities: Authorities = Arc::new(Vec::new);
        let scope = Scope { trust_domain, clock, authorities: &authorities };
        let ports = AuthorityPorts {
            keys,
            trust_root: match plugins.upstream_authority.as_ref() {
                Some(plugin) => TrustRoot::Upstream(upstream_authority::open(plugin, &scope)?),
                None => TrustRoot::SelfSigned,
            },
            journal: Arc::clone(&port) as _,
            bundle: port,
            composers: credential_composer::open(&plugins.credential_composers),
            observer: Some(Arc::clone(&counted.authorities) as _),
        };
        let subject = Name {
            country: config.ca.subject.country.clone(),
            organization: config.ca.subject.organization.clone(),
            common_name: config.ca.subject.common_name.clone().unwrap_or_default(),
            ..Name::default()
        };
        let options = AuthorityOptions {
            trust_domain: trust_domain.clone(),
            x509_key_type: config.ca.key_type,
            jwt_key_type: config.ca.jwt_key_type,
            ca_subject: subject,
            ca_ttl: config.ca.ttl,
            x509_svid_ttl: config.ttl.x509_svid,
            jwt_svid_ttl: config.ttl.jwt_svid,
            agent_ttl: config.ttl.agent,
            jwt_issuer: config.jwt_issuer.clone(),
            // Three refresh hints: whoever fetches the bundle has seen it by then.
            published_for: config
                .federation
                .bundle_endpoint
                .as_ref()
                .map_or(Duration::ZERO, |endpoint| endpoint.refresh_hint.saturating_mul(3)),
            jwt_disabled: config.disable_jwt_svids,
            second_jwt: config.ca.second_jwt.clone(),
            wit: config.experimental.wit.as_ref().map(|wit| WitOptions {
                key_type: wit.key_type,
                issuer: wit.issuer.clone(),
                ..WitOptions::default()
            }),
            local_intermediate: config.ca.local_intermediate,
            lost_keys: if config.ca.replace_lost_keys {
                LostKeys::Replace
            } else {
                LostKeys::Refuse
            },
        };
        let (mut ca_manager, authority) =
            CaManager::open(options, ports, Arc::clone(clock)).await?;
        ca_manager.tick().await?;
        Ok((ca_manager, authority))
    }

    /// Starts everything. The server runs until the tasks end; hold what is returned, and close it
    /// then.
    ///
    /// # Errors
    /// [`BuildError`] when the API cannot be described or signals cannot be handled.
    pub fn spawn(self, tasks: &Tasks) -> Result<Running, BuildError> {
        let Self {
            context, ca_manager, follower, identity, attestors, keys, tcp, tls, local, ..
        } = self;
        let bundle_events = self.bundle_events;
        let token = tasks.token();
        let authorizer = Authorizer::new(&context.parts);
        // One for all listeners: writers of entries take turns, wherever they come from.
        let use_cases = UseCases::new(&context.parts, &attestors);
        let network = grpc::routes(&context, &use_cases, &authorizer, tasks);
        let nearby = grpc::local_routes(&context, &use_cases, &authorizer, tasks);
        let auditor = context.auditor.clone();
        let watching = auditor.clone().watch_authorities(context.parts.authority.view());
        tasks.spawn_until_end("authority_audit", watching);
        if let Some(otlp) = self.otlp {
            tasks.spawn("audit_otlp", otlp.run(token.clone()));
        }
        if let (Some(console), Some(recent)) = (self.console, self.recent) {
            let hosts = context.config.console.as_ref().map(|console| console.hosts.clone());
            let pages = Console::new(
                &context,
                use_cases,
                authorizer.clone(),
                auditor.clone(),
                recent,
                hosts.unwrap_or_default(),
            );
            console.spawn(tasks, pages, &tls);
        }
        let interceptor = Interceptor::new(authorizer, auditor.clone(), &context.metrics);
        let address = tcp.local_addr().map(|address| address.to_string()).unwrap_or_default();
        let trusted = context.config.proxy_protocol_trusted_cidrs.clone();
        bundle_events.spawn(tasks, &context.parts.cache, &context.parts.counted);
        let upkeep = keys.port();
        tasks.spawn_until_end("key_manager", async move { upkeep.run().await });
        reload::spawn(tasks, &context, &attestors, bundle_events, keys)?;
        prune::spawn(tasks, &context);
        context.parts.federator.spawn(tasks);
        if let Some(endpoint) = self.bundle_endpoint {
            endpoint.spawn(tasks, &context.parts.cache);
        }
        if let Some(oidc) = self.oidc {
            oidc.spawn(tasks, &context.parts.cache);
        }
        servers::spawn(tasks, &context);
        tasks.spawn("ca", ca_manager.run(token.clone()));
        let staleness = context.config.max_store_staleness;
        let follower = follower.counting(context.parts.counted.cache_reload.clone());
        tasks.spawn_critical("change_feed", follower.run(token.clone(), staleness));
        tasks.spawn("server_svid", identity.run(token.clone()));

        let limits = CallLimits::new(auditor.clone());
        limits.show(&context.metrics);
        let accepted = listen::tcp(tasks, tcp, tls, trusted, auditor);
        let server = http2::known().layer(limits.clone()).layer(interceptor.clone());
        http2::serve(tasks, "server_api", server, network.clone(), accepted.known);
        let server = http2::stranger().layer(limits.clone()).layer(interceptor.clone());
        http2::serve(tasks, "server_api", server, network, accepted.strangers);
        let server = http2::local().layer(limits).layer(interceptor);
        http2::serve(tasks, "local_api", server, nearby, listen::local(tasks, local));
        if let Some(metrics) = self.metrics {
            context.health.watch(tasks);
            metrics.spawn(tasks);
        }
        if let Some(health) = self.health {
            health.spawn(tasks);
        }
        tracing::info!(
            address,
            socket = %context.config.socket_path.display(),
            trust_domain = %context.parts.trust_domain,
            "Server APIs are served"
        );
        let chain = context.auditor.chain().cloned();
        Ok(Running { store: context.parts.store, chain, _lock: self.lock })
    }
}

/// The X.509 authorities of a bundle whenever it is asked for.
type Authorities = Arc<dyn Fn() -> Vec<Certificate> + Send + Sync>;

/// The X.509 authorities of the server's own bundle, as plugins ask for them.
fn own_authorities(cache: &Arc<Cache>) -> Authorities {
    let cache = Arc::clone(cache);
    Arc::new(move || {
        let trust = cache.own_bundle().and_then(|own| own.trust.clone());
        trust.map(|trust| trust.authorities().to_vec()).unwrap_or_default()
    })
}

impl Running {
    /// Writes the store's log back and closes it; after the tasks have ended.
    pub async fn close(self) {
        self.store.close().await;
        if let Some(chain) = self.chain {
            // Waits for the disk.
            _ = tokio::task::spawn_blocking(move || chain.close(LAST_RECORDS)).await;
        }
    }
}
