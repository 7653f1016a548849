//! `signet-agent run`.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use signet_base::{ShutdownError, SystemClock, Tasks};
use signet_daemon::{
    logging::{self, LogLevel, LogSettings},
    process,
    program::Program,
    signal, spans,
};

use crate::{
    app::App,
    config::{Config, RunFlags},
};

/// How long open calls may take to end after the signal to stop.
const GRACE: Duration = Duration::from_secs(10);
/// The exit code for wrong usage or configuration.
pub const EXIT_USAGE: u8 = 64;
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
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.seen {
                eprintln!("{}: {:#}", program.agent_name(), failure.error);
            }
            ExitCode::FAILURE
        }
    }
}

/// Why the agent ended.
struct Failure {
    error: anyhow::Error,
    /// Whether standard output has it, from the log.
    seen: bool,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { error, seen: false }
    }
}

/// Logs why the agent ends. With a log on standard output that is all that is said.
fn crashed(error: anyhow::Error, log: &LogSettings) -> Failure {
    tracing::error!(error = format!("{error:#}"), "Agent crashed");
    Failure { error, seen: log.file.is_none() && log.level >= LogLevel::Error }
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
        .context("starting threads")?;
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
        .map_err(anyhow::Error::new)?;
    process::restrict_umask();
    process::raise_nofile();
    if let Err(error) = process::protect_memory() {
        tracing::warn!(%error, "Keys in memory are not kept from core dumps");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        trust_domain = %config.trust_domain,
        data_dir = %config.data_dir.display(),
        "Starting agent"
    );
    let tasks = Tasks::new();
    signal::end_on_signal(&tasks).context("handling signals")?;
    signal::reopen_log_on_usr2(&tasks, log.clone()).context("handling signals")?;
    let build = App::build(config, clock, Some(log));
    let app = match tasks.token().clone().run_until_cancelled(build).await {
        // Told to stop while waiting for another agent to end.
        None => return Ok(()),
        Some(Ok(app)) => app,
        Some(Err(error)) => return Err(crashed(error.into(), &settings)),
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
    match tasks.shutdown(GRACE).await {
        Ok(()) => tracing::info!("Agent stopped gracefully"),
        Err(ShutdownError::Unfinished(left)) => {
            tracing::info!(?left, "Agent stopped; open calls were cut off");
        }
        Err(error) => return Err(crashed(error.into(), &settings)),
    }
    spans::flush().await;
    Ok(())
}
