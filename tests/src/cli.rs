//! Commands that are run to their end.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// What a command did.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    command: String,
}

impl Output {
    /// Panics unless the exit code was 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == 0, "{self}");
        self
    }

    /// Panics unless the exit code was `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code == code, "expected exit code {code}: {self}");
        self
    }

    /// The standard output of a command that worked, as JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let this = self.ok();
        serde_json::from_str(&this.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {this}"))
    }

    /// Panics unless one of the outputs contains `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "expected {text:?}: {self}"
        );
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} exited {}\n[stdout]\n{}\n[stderr]\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

/// A program and the flags that all its commands get.
#[derive(Clone, Debug)]
pub struct Cli {
    program: PathBuf,
    common: Vec<String>,
}

impl Cli {
    /// Commands of `program` on the socket given.
    pub fn new(program: PathBuf, socket: &Path) -> Self {
        Self { program, common: vec!["-socketPath".to_owned(), socket.display().to_string()] }
    }

    /// Commands of `program` with no flags of ours.
    pub fn bare(program: PathBuf) -> Self {
        Self { program, common: Vec::new() }
    }

    /// Runs a command given as words.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.run_with(args, "")
    }

    /// Runs a command with `input` as its standard input.
    pub fn run_with<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Output {
        let mut command = Command::new(&self.program);
        command.args(args).args(&self.common);
        run(&mut command, input)
    }

    /// Runs a command given as one line of words.
    pub fn line(&self, line: &str) -> Output {
        self.run(line.split_whitespace())
    }

    /// Runs a command given as one line with `-output json` and returns what it printed.
    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        self.line(&format!("{line} -output json")).json()
    }
}

/// Runs a command to its end, which must come within a minute.
///
/// # Panics
///
/// When it cannot be started or does not end.
pub fn run(command: &mut Command, input: &str) -> Output {
    let text = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("starting {text}: {e}"));
    // A program that does not read its input may be gone already.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().expect("the state of a child") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{text} did not end\n{}", stderr.join().unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output {
        code: status.code().unwrap_or(-1),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
        command: text,
    }
}

fn reader<R: Read + Send + 'static>(from: Option<R>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
