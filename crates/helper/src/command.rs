//! Telling programs that files have changed.

use std::path::Path;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signet_base::files::read_regular;
use tokio::process::Child;

use crate::config::Command;

/// The program that is started with the first files, and again after it has ended.
#[derive(Debug)]
pub struct Program {
    command: Command,
    signal: Option<Signal>,
    child: Option<Child>,
}

impl Program {
    /// A program that is not running.
    pub fn new(command: Command, signal: Option<Signal>) -> Self {
        Self { command, signal, child: None }
    }

    /// Starts the program, or signals the one that runs.
    ///
    /// # Errors
    /// A sentence, when it cannot be started or signalled.
    pub fn renewed(&mut self) -> Result<(), String> {
        let program = &self.command.program;
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => {
                    let Some(signal) = self.signal else { return Ok(()) };
                    // It has not been waited for, so that its pid is still its own.
                    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
                    let Some(pid) = pid else { return Ok(()) };
                    return kill(Pid::from_raw(pid), signal)
                        .map_err(|error| format!("signalling {program}: {error}"));
                }
                Ok(Some(status)) => tracing::info!(program, %status, "The program has ended"),
                Err(error) => tracing::warn!(program, %error, "Asking for a program's state"),
            }
        }
        let child = tokio::process::Command::new(program)
            .args(&self.command.args)
            .spawn()
            .map_err(|error| format!("starting {program}: {error}"))?;
        tracing::info!(program, pid = child.id(), "Started the program");
        self.child = Some(child);
        Ok(())
    }
}

/// Signals the process whose pid a file holds.
///
/// # Errors
/// A sentence, when the file holds no pid or the process cannot be signalled.
pub fn signal_pid_file(path: &Path, signal: Signal) -> Result<(), String> {
    let shown = path.display();
    let text = read_regular(path, 64).map_err(|error| format!("reading {shown}: {error}"))?;
    let text = String::from_utf8_lossy(&text);
    // PostgreSQL's has more lines, of which the first is the pid.
    let first = text.lines().next().unwrap_or_default().trim();
    let pid = first.parse::<i32>().ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(|| format!("{shown} holds no pid but {first:?}"))?;
    kill(Pid::from_raw(pid), signal).map_err(|error| format!("signalling process {pid}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_holds_a_pid_in_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        for bad in ["", "x", "0", "-5"] {
            std::fs::write(&path, bad).unwrap();
            assert!(signal_pid_file(&path, Signal::SIGCONT).unwrap_err().contains("holds no pid"));
        }
        std::fs::write(&path, format!("{}\n/data\n", std::process::id())).unwrap();
        signal_pid_file(&path, Signal::SIGCONT).unwrap();
    }
}
