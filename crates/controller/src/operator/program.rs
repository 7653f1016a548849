//! `signet-controller operator`.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use signet_base::{Backoff, Readiness, SystemClock, Tasks, files::read_regular_text};
use signet_config::{HealthSettings, LogLevel, LogSettings, log_format};
use signet_daemon::{
    cli::{EXIT_USAGE, print},
    health::{Health, HealthServer},
    logging, process, signal,
};
use signet_k8s::{ApiServer, KubeSource};
use tokio::sync::mpsc;

use super::{
    SINGLETON,
    api::{self, AgentSpec, CsiSpec, ManagerSpec, OidcSpec, ServerSpec},
    cache::{self, Event},
    check::{self, Problem},
    kinds::Kind,
    reconcile::Operator,
    render::{self, Declared, Wanted},
    settings::{Images, Platform, Settings},
};
use crate::{
    config::ElectionSettings,
    error_throttle::ApiErrorThrottle,
    leader::{self, Election},
    lint, run,
};

/// The lease.
const LEASE: &str = "signet-operator";
/// How many events may wait.
const EVENTS: usize = 64;
/// How long open calls may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// The longest file of resources, bytes.
const MAX_FILE: u64 = 1 << 20;
/// The namespace that `-render` renders for, unless it is told another.
const NAMESPACE: &str = "zero-trust-workload-identity-manager";

/// Flags of `operator`.
#[derive(Clone, Debug, clap::Args)]
pub struct OperatorFlags {
    /// The namespace of everything that is made; by default $OPERATOR_NAMESPACE or the pod's own
    #[arg(long = "namespace", value_name = "NAME")]
    pub namespace: Option<String>,
    /// The kubeconfig file to use in place of $KUBECONFIG, the pod's own account or ~/.kube/config
    #[arg(long = "kubeconfig", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where /healthz and /readyz are served; empty for nowhere
    #[arg(long = "health-address", value_name = "HOST:PORT", default_value = ":8081")]
    pub health_address: String,
    /// Act without a lease: for a single operator outside of the cluster
    #[arg(long = "no-leader-election")]
    pub no_election: bool,
    /// The log level: debug, info, warn or error
    #[arg(long = "log-level", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// The log format: text or json
    #[arg(long = "log-format", value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
    /// Print what resources in a file would become, and do nothing else; may be repeated
    #[arg(long = "render", value_name = "FILE")]
    pub render: Vec<PathBuf>,
    /// With -render: as on OpenShift
    #[arg(long = "openshift", requires = "render")]
    pub openshift: bool,
}

/// Why the command line or the environment is wrong.
#[derive(Debug)]
struct Usage(String);

/// Does what the flags say.
pub fn main(name: &'static str, flags: &OperatorFlags) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if !flags.render.is_empty() {
        return match rendered(flags, &env) {
            Ok(text) => print(&text),
            Err(Usage(why)) => usage(name, &why),
        };
    }
    let (log, health) = match (log(flags), health(&flags.health_address)) {
        (Ok(log), Ok(health)) => (log, health),
        (Err(Usage(why)), _) | (_, Err(Usage(why))) => return usage(name, &why),
    };
    run::to_end(name, live(flags, &env, &log, health))
}

fn usage(name: &str, why: &str) -> ExitCode {
    eprintln!("{name}: {why}");
    ExitCode::from(EXIT_USAGE)
}

async fn live(
    flags: &OperatorFlags,
    env: &dyn Fn(&str) -> Option<String>,
    log: &LogSettings,
    health: Option<HealthSettings>,
) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let log = logging::init(log, Arc::clone(&clock))?;
    process::restrict_umask();
    let source = KubeSource::named_or_inferred(flags.kubeconfig.as_deref());
    let api = Arc::new(
        ApiServer::new(source, Arc::clone(&clock)).context("finding the cluster's API server")?,
    );
    let namespace = match flags.namespace.clone().or_else(|| env("OPERATOR_NAMESPACE")) {
        Some(namespace) => namespace,
        None => api.namespace().context("finding the namespace")?,
    };
    let tasks = Tasks::new();
    signal::end_on_signal(&tasks).context("handling signals")?;
    signal::reopen_log_on_usr2(&tasks, log).context("handling signals")?;
    let readiness = Readiness::new();
    let guard = readiness.guard("operator");
    if let Some(settings) = &health {
        let health = Health::new();
        health.add("operator", Arc::new(readiness.clone()));
        HealthServer::bind(settings, health).await?.spawn(&tasks);
    }
    let Some(platform) = tasks.token().run_until_cancelled(platform(&api)).await else {
        return Ok(());
    };
    let settings = Settings {
        namespace,
        images: Images::from_env(env),
        platform,
        create_only: env("CREATE_ONLY_MODE").is_some_and(|value| value == "true"),
        operator_condition: env("OPERATOR_CONDITION_NAME"),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = settings.namespace,
        openshift = settings.platform.openshift,
        create_only = settings.create_only,
        "Starting operator"
    );
    let election = match flags.no_election {
        true => None,
        false => {
            let lease = ElectionSettings::of(LEASE.to_owned());
            Some(Election::new(&lease, settings.namespace.clone())?)
        }
    };
    spawn(&tasks, api, settings, election, guard);
    run::until_stopped("Operator", &tasks, &readiness, GRACE).await
}

/// Starts an operator; without an election it acts as the only one.
pub fn spawn(
    tasks: &Tasks,
    api: Arc<ApiServer>,
    settings: Settings,
    election: Option<Election>,
    ready: signet_base::ReadyGuard,
) {
    let clock = SystemClock::shared();
    let error_throttle = ApiErrorThrottle::default();
    let election = election.map(|election| (Arc::clone(&api), election));
    let lead = leader::spawn(tasks, election, &clock, &error_throttle);
    let (out, events) = mpsc::channel::<Event>(EVENTS);
    cache::follow(tasks, &api, &settings, &error_throttle, &out);
    let operator = Operator::new(api, settings, events, lead, clock, error_throttle);
    tasks.spawn_until_end("operator", operator.run(ready));
}

/// What the cluster is like; asked until it says.
async fn platform(api: &ApiServer) -> Platform {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        match Platform::find(api).await {
            Ok(platform) => return platform,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Cannot find out what the cluster is like"
                );
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

fn log(flags: &OperatorFlags) -> Result<LogSettings, Usage> {
    let level = flags.log_level.parse::<LogLevel>();
    let level = level.map_err(|error| Usage(format!("-log-level: {error}")))?;
    let wrong = || Usage(format!("-log-format: {:?}; expected text or json", flags.log_format));
    let format = log_format(&flags.log_format).ok_or_else(wrong)?;
    Ok(LogSettings { level, format, ..LogSettings::default() })
}

fn health(address: &str) -> Result<Option<HealthSettings>, Usage> {
    if address.is_empty() {
        return Ok(None);
    }
    let (bind_address, bind_port) = crate::config::host_and_port(address)
        .map_err(|error| Usage(format!("-health-address: {error}")))?;
    Ok(Some(HealthSettings {
        bind_address,
        bind_port,
        live_path: "/healthz".to_owned(),
        ready_path: "/readyz".to_owned(),
    }))
}

/// What the resources in files would become, as a stream of documents in JSON, which is YAML.
fn rendered(flags: &OperatorFlags, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Usage> {
    let mut resources = Vec::new();
    for path in &flags.render {
        let wrong = |error: &dyn std::fmt::Display| Usage(format!("{}: {error}", path.display()));
        let text = read_regular_text(path, MAX_FILE).map_err(|error| wrong(&error))?;
        let documents = lint::parse(&path.display().to_string(), &text);
        resources.extend(documents.map_err(|error| Usage(format!("{error:#}")))?);
    }
    let settings = Settings {
        namespace: flags.namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned()),
        images: Images::from_env(env),
        platform: Platform { openshift: flags.openshift, ..Platform::KUBERNETES },
        create_only: false,
        operator_condition: None,
    };
    let documents: Vec<Value> = resources.into_iter().map(|document| document.object).collect();
    let wanted = render_all(&settings, &documents)?;
    let mut text = String::new();
    for one in wanted {
        text.push_str("---\n");
        text.push_str(&serde_json::to_string_pretty(&one.object).unwrap_or_default());
        text.push('\n');
    }
    Ok(text)
}

/// Renders all resources among `documents`.
fn render_all(settings: &Settings, documents: &[Value]) -> Result<Vec<Wanted>, Usage> {
    let manager: ManagerSpec = spec(documents, Kind::Manager)?
        .ok_or_else(|| Usage(format!("there is no {} in the files", Kind::Manager.name())))?;
    let server: Option<ServerSpec> = spec(documents, Kind::Server)?;
    let agent: Option<AgentSpec> = spec(documents, Kind::Agent)?;
    let csi: Option<CsiSpec> = spec(documents, Kind::Csi)?;
    let oidc: Option<OidcSpec> = spec(documents, Kind::Oidc)?;
    good(Kind::Manager, &check::manager(&manager))?;
    let mut all = Vec::new();
    if let Some(spec) = &server {
        good(Kind::Server, &check::server(settings, &manager, spec))?;
        check::times(spec).map_err(|why| Usage(format!("{}: {why}", Kind::Server.name())))?;
        all.extend(render::server(settings, &manager, spec, &Declared::new()));
    }
    if let Some(spec) = &agent {
        good(Kind::Agent, &check::agent(spec))?;
        all.extend(render::agent(settings, &manager, spec));
    }
    if let Some(spec) = &csi {
        good(Kind::Csi, &check::csi(spec, agent.as_ref()))?;
        all.extend(render::csi(settings, &manager, spec));
    }
    if let Some(spec) = &oidc {
        good(Kind::Oidc, &check::oidc(spec, csi.as_ref()))?;
        all.extend(render::oidc(settings, &manager, spec));
    }
    Ok(all)
}

fn good(kind: Kind, problems: &[Problem]) -> Result<(), Usage> {
    if problems.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> =
        problems.iter().map(|one| format!("{}: {}", kind.name(), one.message)).collect();
    Err(Usage(lines.join("\n")))
}

fn spec<T: DeserializeOwned>(documents: &[Value], kind: Kind) -> Result<Option<T>, Usage> {
    let says = |one: &Value, key: &str, text: &str| one.get(key).is_some_and(|it| it == text);
    let mut of_kind = documents
        .iter()
        .filter(|one| says(one, "apiVersion", kind.version()) && says(one, "kind", kind.name()));
    let Some(first) = of_kind.next() else { return Ok(None) };
    if of_kind.next().is_some() {
        return Err(Usage(format!("{} is there twice; it is one, named {SINGLETON}", kind.name())));
    }
    api::spec(first).map(Some).map_err(|why| Usage(format!("{}: {why}", kind.name())))
}
