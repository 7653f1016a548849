//! Processes that do not answer.

use std::{
    fs,
    io::ErrorKind,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a process may take to stop.
const STOP: Duration = Duration::from_secs(30);

/// A process that stands still until this is dropped.
#[derive(Debug)]
pub struct Suspended(Pid);

impl Suspended {
    /// Stops the process `pid`, and returns when each of its threads stands still: the signal
    /// alone says nothing, a thread that runs on another core may answer one more request.
    ///
    /// # Panics
    /// When there is no such process, or it does not stop.
    #[must_use]
    pub fn process(pid: u32) -> Self {
        let process = Pid::from_raw(pid.try_into().expect("a process ID"));
        kill(process, Signal::SIGSTOP).expect("a process that can be stopped");
        let suspended = Self(process);
        let started = Instant::now();
        while !all_threads_stopped(pid) {
            assert!(started.elapsed() < STOP, "process {pid} does not stop");
            thread::yield_now();
        }
        suspended
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        // It may have ended meanwhile.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Whether each thread of a process has the state `T`, proc(5).
fn all_threads_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    threads.map(|thread| thread.expect("a thread").path().join("stat")).all(|stat| {
        match fs::read_to_string(stat) {
            // The state follows the name, which is in parentheses and may hold any.
            Ok(text) => text.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    })
}
