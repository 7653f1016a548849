//! `signet-broker run`.

use std::{fs, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use signet_attest::procfs::ProcRoot;
use signet_audit::{LogSink, Sink};
use signet_base::{CancellationToken, Readiness, SharedClock, ShutdownError, SystemClock, Tasks};
use signet_daemon::{
    cli::EXIT_USAGE,
    health::{Health, HealthServer},
    listen::{UnixOptions, bind_host, bind_unix},
    logging,
    metrics::{Metrics, MetricsServer},
    process::{self, DirLock},
    run::{Failure, exit_code},
    signal, spans,
};
use signet_k8s::{ApiServer, KubeSource};
use signet_pki::tls::{ServerCheck, TlsOptions, client_config};
use tokio::{
    signal::unix::{SignalKind, signal as on_signal},
    sync::mpsc,
};

use crate::{
    bao::{self, Bao, Sessions, check_version},
    caller::{Proofs, Replays, TokenRules},
    certs,
    config::{Config, RunFlags, ServerAt},
    csi,
    identity::Identity,
    issue::Issuer,
    lease_store::LeaseStore,
    metrics::BrokerMetrics,
    policy::Policy,
    revoke::Revoker,
    serve::{Api, Attested, spawn_local, spawn_tls, tls},
    watch::{Server, View, Watch},
};

/// How long open requests have when the program ends.
const GRACE: Duration = Duration::from_secs(10);
/// How often OpenBao is asked whether it is still one that may be used.
const BAO_CHECK: Duration = Duration::from_secs(30);

/// Runs the broker until it is told to stop.
pub fn run(name: &'static str, flags: &RunFlags) -> ExitCode {
    let loaded = Config::load(flags)
        .and_then(|config| Policy::load(&config.policy_file).map(|policy| (config, policy)));
    let (config, (policy, warnings)) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{name}: the configuration is invalid:\n{error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let served = || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("starting threads")?;
        let result = runtime.block_on(live(config, policy, warnings));
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    };
    exit_code(name, served().map_err(Failure::new))
}

async fn live(config: Config, policy: Policy, warnings: Vec<String>) -> anyhow::Result<()> {
    let clock: SharedClock = SystemClock::shared();
    let traces = config.telemetry.traces.as_ref();
    let log = logging::init_traced(&config.log, traces, "signet-broker", Arc::clone(&clock))?;
    process::restrict_umask();
    process::raise_nofile();
    if let Err(error) = process::protect_memory() {
        tracing::warn!(%error, "Secrets in memory are not kept from core dumps");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        trust_domain = %config.trust_domain,
        tenants = policy.tenants().count(),
        rules = policy.rules().len(),
        "Starting broker"
    );
    for warning in config.warnings.iter().chain(&warnings) {
        tracing::warn!("{warning}");
    }
    let tasks = Tasks::new();
    signal::end_on_signal(&tasks).context("handling signals")?;
    signal::reopen_log_on_usr2(&tasks, log).context("handling signals")?;
    fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("creating {}", config.data_dir.display()))?;
    let _lock =
        DirLock::wait(&config.data_dir, "signet-broker.lock", Duration::from_secs(5)).await?;
    let readiness = Readiness::new();
    let started = start(&config, policy, &clock, &tasks, &readiness).await;
    if let Err(error) = started {
        tracing::error!(error = format!("{error:#}"), "The broker cannot start");
        return Err(error);
    }
    tokio::select! {
        () = tasks.token().cancelled() => {}
        () = readiness.ready() => {
            tracing::info!("The broker is ready");
            process::notify_ready();
            tasks.token().cancelled().await;
        }
    }
    process::notify_stopping();
    match tasks.shutdown(GRACE).await {
        Ok(()) => tracing::info!("Broker stopped gracefully; what was handed out goes on"),
        Err(ShutdownError::Unfinished(left)) => tracing::info!(?left, "Broker stopped"),
        Err(error) => return Err(error.into()),
    }
    spans::flush().await;
    Ok(())
}

async fn start(
    config: &Config,
    policy: Policy,
    clock: &SharedClock,
    tasks: &Tasks,
    readiness: &Readiness,
) -> anyhow::Result<()> {
    let metrics = Metrics::new(
        &config.telemetry,
        "signet_broker",
        config.trust_domain.as_str(),
        &process::hostname(),
    );
    let measured = BrokerMetrics::new(&metrics);
    let audit: Arc<dyn Sink> = Arc::new(LogSink::new("broker"));
    let identity = Identity::new(config.workload_api.clone(), config.trust_domain.clone());
    tasks.spawn_until_end(
        "x509_svid",
        Arc::clone(&identity).follow_x509(readiness.guard("x509_svid")),
    );
    tasks.spawn_until_end(
        "jwt_bundles",
        Arc::clone(&identity).follow_jwt(readiness.guard("jwt_bundles")),
    );
    if !config.tokens.proof_uris.is_empty() {
        tasks.spawn_until_end("wit_bundles", Arc::clone(&identity).follow_wit());
    }

    let bao = bao::open(&config.openbao)?;
    let vault = config.openbao.vault;
    // A version with holes between tenants is never used; one that does not answer is waited for.
    if let Ok(health) = bao.health().await {
        check_version(&health.version, vault)?;
    }
    let store = LeaseStore::open(&config.data_dir.join("leases.journal"), clock.unix())?;
    let view = View::new(Arc::clone(clock), config.max_staleness);
    let sessions = Sessions::new(bao.clone(), identity.clone(), config.openbao.audience.clone());
    let issuer = Issuer::new(
        policy,
        store.clone(),
        sessions,
        view.clone(),
        Arc::clone(clock),
        config.limits,
        measured,
    );
    let revoker = Revoker::new(issuer.clone(), tasks.clone(), Arc::clone(&audit));
    let (verdicts, follow) = mpsc::channel(64);
    let server = server(&config.server, &identity, clock)?;
    let watch =
        Watch::new(server, config.trust_domain.clone(), view, store, Arc::clone(clock), verdicts);
    tasks.spawn_until_end("server", watch.run(readiness.guard("server")));
    tasks.spawn_until_end(
        "revocations",
        revoker.clone().run(follow, readiness.guard("revocations")),
    );
    tasks.spawn_until_end(
        "openbao",
        watch_version(bao, vault, tasks.token().clone(), readiness.guard("openbao")),
    );
    reload(config, &issuer, &revoker, tasks)?;
    if config.openbao.cert_roles {
        let (issuer, bundle) = (issuer.clone(), identity.bundle_pem());
        let trust_domain = config.trust_domain.clone();
        tasks.spawn_until_end("cert_roles", certs::keep(issuer, trust_domain, bundle));
    }

    if let Some(settings) = &config.csi {
        let source = KubeSource::named_or_inferred(settings.kubeconfig.as_deref());
        let cluster =
            ApiServer::new(source, Arc::clone(clock)).context("finding the API server")?;
        let provider = csi::Provider {
            issuer: issuer.clone(),
            trust_domain: config.trust_domain.clone(),
            path_template: settings.path_template.clone(),
            namespaces: settings.namespaces.clone(),
            audience: settings.audience.clone(),
            api: Arc::new(cluster),
            audit: Arc::clone(&audit),
        };
        csi::serve(&settings.socket, provider, tasks).await?;
    }
    let api = Arc::new(Api {
        issuer,
        revoker,
        identity: Arc::clone(&identity),
        tokens: TokenRules {
            trust_domain: config.trust_domain.clone(),
            issuer: config.tokens.issuer.clone(),
            audience: config.tokens.audience.clone(),
            max_lifetime: i64::try_from(config.tokens.max_lifetime.as_secs()).unwrap_or(i64::MAX),
            max_uses: config.tokens.uses,
        },
        require_jti: config.tokens.require_jti,
        replays: Replays::default(),
        proofs: Proofs::new(config.tokens.proof_uris.clone()),
        attested: config
            .agent_admin
            .as_ref()
            .map(|path| Attested::new(path, config.tokens.audience.clone())),
        audit,
    });
    if let Some((host, port)) = &config.bind {
        let listener = bind_host(host, *port).await?;
        tracing::info!(address = %listener.local_addr()?, "Serving over TLS");
        let tls = tls(
            Arc::clone(identity.tls()),
            identity.bundles(),
            config.trust_domain.clone(),
            Arc::clone(clock),
        )?;
        spawn_tls(tasks, listener, tls, Arc::clone(&api));
    }
    if let Some(path) = &config.socket {
        let options = UnixOptions { dir_mode: Some(0o755), socket_mode: 0o777, take_over: false };
        let socket = bind_unix(path, options).await?;
        tracing::info!(socket = %path.display(), "Serving on a Unix socket");
        spawn_local(tasks, socket, ProcRoot::from_env(), api);
    }
    if let Some(settings) = &config.health {
        let health = Health::new();
        health.add("broker", Arc::new(readiness.clone()));
        HealthServer::bind(settings, health).await?.spawn(tasks);
    }
    if let Some(settings) = &config.telemetry.prometheus {
        MetricsServer::bind(settings, metrics).await?.spawn(tasks);
    }
    Ok(())
}

fn server(at: &ServerAt, identity: &Identity, clock: &SharedClock) -> anyhow::Result<Server> {
    Ok(match at {
        ServerAt::Socket(path) => Server::at_socket(path),
        ServerAt::Tls { address, id } => {
            let check = ServerCheck::Id { id: id.clone(), bundles: identity.bundles() };
            let tls = client_config(
                check,
                Some(Arc::clone(identity.tls())),
                Arc::clone(clock),
                TlsOptions::default(),
            )?;
            Server::over_tls(address.clone(), tls)
        }
    })
}

/// Reads the policy again on SIGHUP and SIGUSR1. One that is not whole changes nothing.
fn reload(
    config: &Config,
    issuer: &Issuer,
    revoker: &Revoker,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let mut hangup = on_signal(SignalKind::hangup()).context("handling signals")?;
    let mut user = on_signal(SignalKind::user_defined1()).context("handling signals")?;
    let (path, issuer, revoker) = (config.policy_file.clone(), issuer.clone(), revoker.clone());
    tasks.spawn_until_end("policy", async move {
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => {}
                Some(()) = user.recv() => {}
                else => return,
            }
            match Policy::load(&path) {
                Ok((policy, warnings)) => {
                    for warning in warnings {
                        tracing::warn!("{warning}");
                    }
                    let (tenants, rules) = (policy.tenants().count(), policy.rules().len());
                    let ended = issuer.replace(policy);
                    revoker.take_back(ended.tokens, ended.leases);
                    tracing::info!(tenants, rules, "The policy was read again");
                }
                Err(error) => {
                    tracing::error!(%error, "The policy is not whole; the one before stays in force");
                }
            }
        }
    });
    Ok(())
}

/// Waits for OpenBao, and ends the program if it is one that must not be used.
async fn watch_version(
    bao: Bao,
    vault: bool,
    token: CancellationToken,
    ready: signet_base::ReadyGuard,
) {
    let mut ready = Some(ready);
    let mut before = None;
    loop {
        let state = match bao.health().await {
            Ok(health) => {
                if let Err(error) = check_version(&health.version, vault) {
                    tracing::error!(%error, "This OpenBao is not used");
                    token.cancel();
                    return;
                }
                drop(ready.take());
                if health.sealed { "sealed" } else { "unsealed" }
            }
            Err(error) => {
                tracing::debug!(error = signet_base::chain(&error), "OpenBao does not answer");
                "away"
            }
        };
        if before != Some(state) {
            tracing::info!(state, "OpenBao");
            before = Some(state);
        }
        let pause = if ready.is_some() { Duration::from_secs(1) } else { BAO_CHECK };
        tokio::time::sleep(pause).await;
    }
}

/// What `validate` checks.
///
/// # Errors
/// What is wrong.
pub fn validate(flags: &RunFlags) -> anyhow::Result<Vec<String>> {
    let config = Config::load(flags)?;
    let (_, warnings) = Policy::load(&config.policy_file)?;
    if config.openbao.addresses.is_empty() {
        bail!("openbao: no addresses");
    }
    Ok([config.warnings, warnings].concat())
}
