//! Running the helper.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use signet_base::{ShutdownError, SystemClock, Tasks};
use signet_daemon::{logging, signal};

use crate::{
    config::Config,
    follow::Follower,
    health::{self, State},
};

/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Runs until it is told to stop, or once.
///
/// # Errors
/// Why it ended otherwise.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting threads")?;
    let result = runtime.block_on(live(Arc::new(config)));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn live(config: Arc<Config>) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let log = logging::init(&config.log, Arc::clone(&clock)).map_err(anyhow::Error::new)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let tasks = Tasks::new();
    signal::end_on_signal(&tasks).context("handling signals")?;
    signal::reopen_log_on_usr2(&tasks, log).context("handling signals")?;
    let state = State::new(&config);
    let follower = || {
        let stop = tasks.token().clone();
        Follower::new(Arc::clone(&config), state.clone(), Arc::clone(&clock), stop)
    };
    if !config.daemon_mode {
        let done = follower().once().await;
        tasks.token().cancel();
        return Ok(done?);
    }
    if let Some(settings) = &config.health {
        health::serve(settings, state.clone(), &tasks).await?;
    }
    if !config.outputs.is_empty() {
        tasks.spawn_critical("x509_svids", follower().x509());
    }
    if let Some((path, mode)) = &config.jwt_bundle {
        tasks.spawn_critical("jwt_bundles", follower().jwt_bundles(path.clone(), *mode));
    }
    for file in &config.jwt_svids {
        tasks.spawn_critical("jwt_svid", follower().token(file.clone()));
    }
    tasks.token().cancelled().await;
    match tasks.shutdown(GRACE).await {
        Ok(()) => Ok(()),
        Err(ShutdownError::TaskFailed(why)) => Err(anyhow!(why)),
        Err(error) => Err(error.into()),
    }
}
