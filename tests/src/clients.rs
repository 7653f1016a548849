//! Stock clients of the Workload API, one program per language with the same commands:
//! `x509`, `watch`, `bundles`, `jwt AUDIENCES`, `validate AUDIENCE TOKEN`, `serve CALLER`,
//! `call PORT SERVER`. Each prints JSON lines.

mod build;
mod lines;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

pub use build::{
    csi_binary, go_binary, kubernetes_authenticator, kubernetes_judge, kubernetes_schemas, pebble,
};
pub use lines::Lines;

use crate::cli::{self, Output};

/// Whose library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// go-spiffe.
    Go,
    /// java-spiffe.
    Java,
    /// py-spiffe.
    Python,
    /// The `spiffe` crate.
    Rust,
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Go, Self::Java, Self::Python, Self::Rust];

    /// Builds the program if need be. An error says which tool this machine lacks.
    pub fn prepare(self) -> Result<(), String> {
        build::prepare(self)
    }

    /// The words that start it; the first is its program.
    ///
    /// # Errors
    /// Says which tool this machine lacks.
    pub fn words(self) -> Result<Vec<String>, String> {
        build::prepare_words(self)
    }

    /// One of its commands, on the Workload API socket given.
    ///
    /// # Panics
    ///
    /// When the program cannot be built.
    pub fn command(self, socket: &Path) -> Command {
        let words = build::prepare_words(self).unwrap_or_else(|e| panic!("{e}"));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()));
        command
    }

    /// Runs a command to its end.
    pub fn run(self, socket: &Path, args: &[&str]) -> Output {
        cli::run(self.command(socket).args(args), "")
    }

    /// Starts a command whose lines are read as they come.
    pub fn start(self, socket: &Path, args: &[&str]) -> Lines {
        Lines::start(self.command(socket).args(args))
    }

    /// What `unix:path` is for its processes.
    ///
    /// # Panics
    ///
    /// When the program cannot be built.
    pub fn executable(self) -> PathBuf {
        let words = build::prepare_words(self).unwrap_or_else(|e| panic!("{e}"));
        let path = Path::new(&words[0]);
        let found = if path.is_absolute() { path.to_owned() } else { build::which(&words[0]) };
        std::fs::canonicalize(&found).unwrap_or(found)
    }
}
