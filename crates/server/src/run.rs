//! `signet-server run` and `validate`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use signet_base::{SystemClock, Tasks, chain};
use signet_daemon::{
    cli::EXIT_USAGE,
    logging, process,
    program::Program,
    run::{Failure, exit_code, prepare_process, stop},
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
/// What the log says of a server that does not come up.
const CANNOT_START: &str = "The server cannot start";
/// The most threads that serve calls, however many processors there are: each costs memory.
const MAX_WORKERS: usize = 16;

/// Runs the server until it is told to stop.
pub fn run(program: Program, flags: &RunFlags) -> ExitCode {
    let config = match load(program, flags) {
        Ok(config) => config,
        Err(code) => return code,
    };
    exit_code(program.server_name(), serve(config))
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
        .context("starting threads")
        .map_err(Failure::new)?;
    runtime.block_on(async {
        let clock = SystemClock::shared();
        let settings = config.log.clone();
        let traces = config.telemetry.traces.as_ref();
        let clock_of_log = std::sync::Arc::clone(&clock);
        let log = logging::init_traced(&settings, traces, "signet-server", clock_of_log);
        let log = log.map_err(Failure::new)?;
        prepare_process();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            trust_domain = %config.trust_domain,
            data_dir = %config.data_dir.display(),
            admin_ids = ?config.admin_ids,
            "Configured"
        );
        let tasks = Tasks::new();
        signal::end_on_signal(&tasks).context("handling signals").map_err(Failure::new)?;
        let app = match App::build(config, clock, log).await {
            Ok(app) => app,
            Err(error) => return Err(Failure::logged(CANNOT_START, error, &settings)),
        };
        let spawned = app.spawn(&tasks);
        let running = spawned.map_err(|error| Failure::logged(CANNOT_START, error, &settings))?;
        process::notify_ready();
        tasks.token().cancelled().await;
        process::notify_stopping();
        let ended = stop("Server", &tasks, GRACE).await;
        running.close().await;
        spans::flush().await;
        ended.map_err(|error| Failure::logged("Fatal run error", error, &settings))
    })
}
