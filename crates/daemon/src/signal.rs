//! What the operating system asks of the process.

use std::{fmt, io, process};

use signet_base::{CancellationToken, Tasks};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT end the program: the first cancels the token of the tasks, the second exits
/// at once with status 1.
///
/// # Errors
/// What the system answers when the handlers cannot be set.
pub fn end_on_signal(tasks: &Tasks) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = tasks.token().clone();
    // Not one of the tasks: it must outlive them to hear the second signal.
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "Stopping");
        token.cancel();
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "Exiting at once");
        process::exit(1);
    });
    Ok(())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// A signal that the program is asked something by. Without one, SIGUSR1 and SIGUSR2 kill.
pub struct UserSignal {
    name: &'static str,
    signal: Signal,
}

impl UserSignal {
    /// SIGUSR1: configure plugins anew.
    ///
    /// # Errors
    /// What the system answers when the handler cannot be set.
    pub fn usr1() -> io::Result<Self> {
        Ok(Self { name: "SIGUSR1", signal: signal(SignalKind::user_defined1())? })
    }

    /// SIGUSR2: open the log file anew.
    ///
    /// # Errors
    /// What the system answers when the handler cannot be set.
    pub fn usr2() -> io::Result<Self> {
        Ok(Self { name: "SIGUSR2", signal: signal(SignalKind::user_defined2())? })
    }

    /// Waits for the next one; several at once may count as one. `false` once `token` is cancelled.
    pub async fn recv(&mut self, token: &CancellationToken) -> bool {
        token.run_until_cancelled(self.signal.recv()).await.flatten().is_some()
    }
}

impl fmt::Debug for UserSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Reopens the log on every SIGUSR2 until the tasks end.
///
/// # Errors
/// What the system answers when the handler cannot be set.
pub fn reopen_log_on_usr2(tasks: &Tasks, log: crate::logging::LogHandle) -> io::Result<()> {
    let mut usr2 = UserSignal::usr2()?;
    let token = tasks.token().clone();
    tasks.spawn("log_reopen", async move {
        while usr2.recv(&token).await {
            match log.reopen() {
                Ok(()) => tracing::info!("Log file reopened"),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Failed to reopen log file"
                ),
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal as Number, raise};

    use super::*;

    #[tokio::test]
    async fn user_signals_are_heard_and_end_with_the_token() {
        let mut usr1 = UserSignal::usr1().unwrap();
        let token = CancellationToken::new();
        raise(Number::SIGUSR1).unwrap();
        assert!(usr1.recv(&token).await);
        token.cancel();
        assert!(!usr1.recv(&token).await);
    }
}
