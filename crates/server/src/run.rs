//! `signet-server run` and `validate`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use signet_base::{SystemClock, Tasks, chain};
use signet_daemon::{
    logging::{self, LogLevel, LogSettings},
    process,
    program::Program,
    signal, spans,
};
use signet_oidc::listener::Listener;
use signet_pki::tls::CertFiles;

use crate::{
    app::App,
    config::{Config, EndpointProfile, RunFlags},
};

/// How long open calls may take to end after the signal to stop.
const GRACE: Duration = Duration::from_secs(10);
/// The exit code for wrong usage or configuration.
pub const EXIT_USAGE: u8 = 64;
/// The most threads that serve calls, however many processors there are: each costs memory.
const MAX_WORKERS: usize = 16;

/// Runs the server until it is told to stop.
pub fn run(program: Program, flags: &RunFlags) -> ExitCode {
    let config = match load(program, flags) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.seen {
                eprintln!("{}: {:#}", program.server_name(), failure.error);
            }
            ExitCode::FAILURE
        }
    }
}

/// Why the server ended.
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

/// Logs why the server ends. With a log on standard output that is all that is said.
fn failed(message: &str, error: impl Into<anyhow::Error>, log: &LogSettings) -> Failure {
    let error = error.into();
    tracing::error!(error = format!("{error:#}"), "{message}");
    Failure { error, seen: log.file.is_none() && log.level >= LogLevel::Error }
}

/// Checks the configuration as [`run`] does, and reads the files that its plugins name; opens, binds
/// and creates nothing. Such a file that is missing or wrong is a failure, as it is when the server
/// starts.
pub fn validate(program: Program, flags: &RunFlags) -> ExitCode {
    let config = match load(program, flags) {
        Ok(config) => config,
        Err(code) => return code,
    };
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let problems = config.plugins.check(&config.trust_domain, &SystemClock::shared());
    let problems = problems.iter().map(ToString::to_string);
    let problems: Vec<_> = problems.chain(certificate_problems(&config)).collect();
    for problem in &problems {
        eprintln!("{}: {problem}", program.server_name());
    }
    if !problems.is_empty() {
        return ExitCode::FAILURE;
    }
    println!("{} server configuration file is valid.", name(program));
    ExitCode::SUCCESS
}

/// What is wrong with the certificate files of the HTTP listeners.
fn certificate_problems(config: &Config) -> Vec<String> {
    let mut files = Vec::new();
    if let Some(endpoint) = &config.federation.bundle_endpoint
        && let EndpointProfile::HttpsWeb(pair) = &endpoint.profile
    {
        files.push((&pair.cert, &pair.key));
    }
    if let Some(oidc) = &config.oidc
        && let Listener::CertFiles { cert, key, .. } = &oidc.listener
    {
        files.push((cert, key));
    }
    let loaded = files.into_iter().map(|(cert, key)| CertFiles::load(cert, key));
    loaded.filter_map(|loaded| loaded.err().map(|error| chain(&error).to_string())).collect()
}

fn name(program: Program) -> &'static str {
    match program {
        Program::Signet => "Signet",
        Program::Spire => "SPIRE",
    }
}

fn load(program: Program, flags: &RunFlags) -> Result<Config, ExitCode> {
    Config::load(program, flags, &|name| std::env::var(name).ok()).map_err(|error| {
        eprintln!("{}: {error:#}", program.server_name());
        ExitCode::from(EXIT_USAGE)
    })
}

fn serve(config: Config) -> Result<(), Failure> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("starting threads")?;
    runtime.block_on(async {
        let clock = SystemClock::shared();
        let settings = config.log.clone();
        let traces = config.telemetry.traces.as_ref();
        let clock_of_log = std::sync::Arc::clone(&clock);
        let log = logging::init_traced(&settings, traces, "signet-server", clock_of_log);
        let log = log.map_err(anyhow::Error::new)?;
        process::restrict_umask();
        process::raise_nofile();
        if let Err(error) = process::protect_memory() {
            tracing::warn!(%error, "Keys in memory are not kept from core dumps");
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            trust_domain = %config.trust_domain,
            data_dir = %config.data_dir.display(),
            admin_ids = ?config.admin_ids,
            "Configured"
        );
        let tasks = Tasks::new();
        signal::end_on_signal(&tasks).context("handling signals")?;
        let app = match App::build(config, clock, log).await {
            Ok(app) => app,
            Err(error) => return Err(failed("The server cannot start", error, &settings)),
        };
        let spawned = app.spawn(&tasks);
        let running =
            spawned.map_err(|error| failed("The server cannot start", error, &settings))?;
        process::notify_ready();
        tasks.token().cancelled().await;
        process::notify_stopping();
        let ended = tasks.shutdown(GRACE).await;
        running.close().await;
        spans::flush().await;
        match ended {
            Ok(()) => tracing::info!("Server stopped gracefully"),
            Err(signet_base::ShutdownError::Unfinished(left)) => {
                tracing::info!(?left, "Server stopped; open calls were cut off");
            }
            Err(error) => return Err(failed("Fatal run error", error, &settings)),
        }
        Ok(())
    })
}
