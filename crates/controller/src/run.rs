//! `signet-controller run`.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use signet_base::{Readiness, SystemClock, Tasks};
use signet_daemon::{
    cli::EXIT_USAGE,
    logging, process,
    run::{Failure, exit_code, prepare_process, stop},
    signal,
};
use signet_k8s::{ApiServer, KubeSource};

use crate::{
    app::App,
    config::{Config, RunFlags},
    explain::ExplainFlags,
};

/// Threads for slow work. Each costs memory.
const MAX_BLOCKING_THREADS: usize = 4;

/// Runs the controller until it is told to stop; `name` is what it was called by.
pub fn run(name: &'static str, flags: &RunFlags) -> ExitCode {
    let config = match Config::load(flags, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{name}: the configuration is invalid:\n{error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    to_end(name, live(config, flags))
}

/// Runs a program to its end, and says how it exits.
pub(crate) fn to_end(name: &str, live: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    exit_code(name, serve(live).map_err(Failure::new))
}

/// Explains one pod.
pub fn explain(name: &'static str, flags: &ExplainFlags) -> ExitCode {
    let config = match Config::load(&flags.run, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{name}: the configuration is invalid:\n{error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let (namespace, pod) = &flags.pod;
    let explained = || -> anyhow::Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting threads")?;
        let api = ApiServer::new(cluster(&flags.run), SystemClock::shared())
            .context("finding the cluster's API server")?;
        Ok(runtime.block_on(crate::explain::explain(&config, &api, namespace, pod))?)
    };
    match explained() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where the cluster's API server is named.
fn cluster(flags: &RunFlags) -> KubeSource {
    KubeSource::named_or_inferred(flags.kubeconfig.as_deref())
}

fn serve(live: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // One thread owns everything; what it does is short, or done in slices.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
        .context("starting threads")?;
    let result = runtime.block_on(live);
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn live(config: Config, flags: &RunFlags) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let log = logging::init(&config.log, Arc::clone(&clock))?;
    prepare_process();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        trust_domain = %config.trust_domain,
        cluster_name = config.cluster_name,
        class_name = config.class.name,
        entry_id_prefix = config.ownership.prefix,
        server_socket = %config.server_socket.display(),
        "Starting controller"
    );
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if config.ownership.prefix.is_empty() {
        tracing::warn!(
            "Every entry of the server that no resource declares is deleted, as \
             spire-controller-manager does; with entryIDPrefix only this controller's are"
        );
    }
    let tasks = Tasks::new();
    signal::end_on_signal(&tasks).context("handling signals")?;
    signal::reopen_log_on_usr2(&tasks, log).context("handling signals")?;
    let grace = config.grace;
    let app = match App::build(config, cluster(flags), clock).await {
        Ok(app) => app,
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::error!(error = format!("{error:#}"), "The controller cannot start");
            return Err(error);
        }
    };
    let readiness = app.readiness();
    app.spawn(&tasks);
    until_stopped("Controller", &tasks, &readiness, grace).await
}

/// Waits until the tasks are told to stop, says meanwhile that the program is ready once it is, and
/// ends them; `what` is what the log calls it.
pub(crate) async fn until_stopped(
    what: &str,
    tasks: &Tasks,
    readiness: &Readiness,
    grace: Duration,
) -> anyhow::Result<()> {
    tokio::select! {
        () = tasks.token().cancelled() => {}
        () = readiness.ready() => {
            process::notify_ready();
            tasks.token().cancelled().await;
        }
    }
    process::notify_stopping();
    Ok(stop(what, tasks, grace).await?)
}
