//! A program that is talked to line by line.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::wait::DEADLINE;

/// A running program that prints JSON lines, and perhaps reads commands. Killed when dropped.
#[derive(Debug)]
pub struct Lines {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Lines {
    /// Starts `command`; its standard error goes where the test's goes.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("starting {command:?}: {e}"));
        let (tx, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if tx.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Self { stdin: child.stdin.take(), child, lines }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line.
    ///
    /// # Panics
    ///
    /// When it ends, or nothing comes for a minute.
    #[track_caller]
    pub fn read(&mut self) -> Value {
        self.next_within(DEADLINE).expect("a line within a minute")
    }

    /// The next line, or none within `timeout`.
    ///
    /// # Panics
    ///
    /// When it ends.
    #[track_caller]
    pub fn next_within(&mut self, timeout: Duration) -> Option<Value> {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => {
                Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}")))
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                panic!("the program ended: {:?}", self.child.wait())
            }
        }
    }

    /// The first line that is as wanted.
    ///
    /// # Panics
    ///
    /// When none is within a minute; the message names `what` was awaited.
    #[track_caller]
    pub fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        let mut last = Value::Null;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.next_within(left) {
                Some(line) if wanted(&line) => return line,
                Some(line) => last = line,
                None => panic!("not within {DEADLINE:?}: {what}; last: {last}"),
            }
        }
    }

    /// Writes a line without waiting for an answer.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("a standard input");
        writeln!(stdin, "{line}").expect("the program reads");
    }

    /// Writes a line and returns the next one that comes.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> Value {
        self.tell(line);
        self.read()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
