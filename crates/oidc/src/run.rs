//! Running the provider until it is told to stop.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use signet_base::{ShutdownError, SystemClock, Tasks};
use signet_daemon::{
    cli::EXIT_USAGE,
    logging, process,
    run::{Failure, exit_code, prepare_process},
    signal,
};

use crate::{
    app::App,
    config::{Config, RunFlags},
};

/// How long open connections may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// The most threads, however many processors there are: each costs memory.
const MAX_WORKERS: usize = 4;

/// Runs the provider; `name` is what it was called by.
pub fn run(name: &'static str, flags: &RunFlags) -> ExitCode {
    let config = match Config::load(flags, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{name}: the configuration is invalid:\n{error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    exit_code(name, serve(config).map_err(Failure::new))
}

fn serve(config: Config) -> anyhow::Result<()> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("starting threads")?;
    runtime.block_on(live(config))
}

async fn live(config: Config) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let log = logging::init(&config.log, Arc::clone(&clock))?;
    prepare_process();
    let tasks = Tasks::new();
    signal::end_on_signal(&tasks).context("handling signals")?;
    signal::reopen_log_on_usr2(&tasks, log).context("handling signals")?;
    let app = match App::build(config, clock).await {
        Ok(app) => app,
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::error!(error = format!("{error:#}"), "The provider cannot start");
            return Err(error);
        }
    };
    app.spawn(&tasks);
    process::notify_ready();
    tasks.token().cancelled().await;
    process::notify_stopping();
    match tasks.shutdown(GRACE).await {
        Ok(()) => tracing::info!("Provider stopped gracefully"),
        Err(ShutdownError::Unfinished(left)) => {
            tracing::info!(?left, "Provider stopped; open connections were cut off");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
