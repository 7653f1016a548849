//! What running programs do alike from their start to their end.

use std::{error::Error, process::ExitCode, time::Duration};

use signet_base::{ShutdownError, Tasks, chain};

use crate::{
    logging::{LogLevel, LogSettings},
    process,
};

/// What a program does for itself once it can log, before it opens anything: the files that it makes
/// are its user's, it may have as many descriptors as the system lets it, and what it holds in memory
/// is kept from core dumps.
pub fn prepare_process() {
    process::restrict_umask();
    process::raise_nofile();
    if let Err(error) = process::protect_memory() {
        tracing::warn!(%error, "Keys in memory are not kept from core dumps");
    }
}

/// Stops the tasks, which have `grace` to end what they do; `what` is what the log calls the program.
///
/// # Errors
/// [`ShutdownError`] when a task failed. Calls that had to be cut off are no error.
pub async fn stop(what: &str, tasks: &Tasks, grace: Duration) -> Result<(), ShutdownError> {
    match tasks.shutdown(grace).await {
        Ok(()) => tracing::info!("{what} stopped gracefully"),
        Err(ShutdownError::Unfinished(left)) => {
            tracing::info!(?left, "{what} stopped; open calls were cut off");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Why a program ended.
#[derive(Debug)]
pub struct Failure {
    error: Box<dyn Error + Send + Sync>,
    /// Whether standard output has it, from the log.
    is_seen: bool,
}

impl Failure {
    /// One that nobody was told of yet.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), is_seen: false }
    }

    /// One that `message` tells the log of. With a log on standard output that is all that is said.
    pub fn logged(
        message: &str,
        error: impl Into<Box<dyn Error + Send + Sync>>,
        log: &LogSettings,
    ) -> Self {
        let error = error.into();
        tracing::error!(error = chain(&*error), "{message}");
        Self { error, is_seen: log.file.is_none() && log.level >= LogLevel::Error }
    }
}

/// The exit code of the program `name`, which says on standard error why it failed unless that was
/// seen already.
pub fn exit_code(name: &str, ended: Result<(), Failure>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_seen {
                eprintln!("{name}: {}", chain(&*failure.error));
            }
            ExitCode::FAILURE
        }
    }
}
