//! `signet-agent run`.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use signet_base::{SystemClock, Tasks};
use signet_daemon::{
    cli::EXIT_USAGE,
    logging, process,
    program::Program,
    run::{Failure, exit_code, prepare_process, stop},
    signal, spans,
};

use crate::{
    app::App,
    config::{Config, RunFlags},
};

/// How long open calls may take to end after the signal to stop.
const GRACE: Duration = Duration::from_secs(10);
/// What the log says of an agent that ends by itself.
const CRASHED: &str = "Agent crashed";
/// Threads for slow work: hashing, the disk, many keys. Each costs memory.
const MAX_BLOCKING_THREADS: usize = 4;
/// Such a thread ends when it had nothing to do for this long.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to stop.
pub fn run(program: Program, flags: &RunFlags) -> ExitCode {
    let config = match load(program, flags) {
        Ok(config) => config,
        Err(code) => return code,
    };
    exit_code(program.agent_name(), serve(config))
}

fn load(program: Program, flags: &RunFlags) -> Result<Config, ExitCode> {
    Config::load(program, flags, &|name| std::env::var(name).ok()).map_err(|error| {
        eprintln!("{}: {error:#}", program.agent_name());
        ExitCode::from(EXIT_USAGE)
    })
}

fn serve(config: Config) -> Result<(), Failure> {
    // One thread answers everything: calls are short, and hopping between threads costs more.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .build()
        .context("starting threads")
        .map_err(Failure::new)?;
    let result = runtime.block_on(live(config));
    // A blocking thread that hangs on the disk must not keep the program.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn live(config: Config) -> Result<(), Failure> {
    let clock = SystemClock::shared();
    let settings = config.log.clone();
    let traces = config.telemetry.traces.as_ref();
    let log = logging::init_traced(&settings, traces, "signet-agent", Arc::clone(&clock))
        .map_err(Failure::new)?;
    prepare_process();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        trust_domain = %config.trust_domain,
        data_dir = %config.data_dir.display(),
        "Starting agent"
    );
    let tasks = Tasks::new();
    signal::end_on_signal(&tasks)
        .and_then(|()| signal::reopen_log_on_usr2(&tasks, log.clone()))
        .context("handling signals")
        .map_err(Failure::new)?;
    let build = App::build(config, clock, Some(log));
    let app = match tasks.token().clone().run_until_cancelled(build).await {
        // Told to stop while waiting for another agent to end.
        None => return Ok(()),
        Some(Ok(app)) => app,
        Some(Err(error)) => return Err(Failure::logged(CRASHED, error, &settings)),
    };
    let mut status = app.status();
    app.spawn(&tasks);
    // The status must not stay borrowed: nobody could change it.
    let ready = async { status.wait_for(|status| status.serving).await.is_ok() };
    // An agent that ends without ever having served was never ready.
    if tasks.token().run_until_cancelled(ready).await == Some(true) {
        process::notify_ready();
        tasks.token().cancelled().await;
    }
    process::notify_stopping();
    stop("Agent", &tasks, GRACE)
        .await
        .map_err(|error| Failure::logged(CRASHED, error, &settings))?;
    spans::flush().await;
    Ok(())
}
