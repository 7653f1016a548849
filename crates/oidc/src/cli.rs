//! The command line of `signet-oidc`.
//!
//! Without a command it runs, as SPIRE's `oidc-discovery-provider` does. The exit code is 0 when it
//! did what it was asked to, 1 when it failed, 64 when the command line or the configuration is
//! wrong.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};
use signet_daemon::cli::{
    EXIT_DONE, EXIT_USAGE,
    completion::{self, Shell},
    manual, parse, print,
};

use crate::{
    check::{self, CheckFlags},
    config::{Config, RunFlags},
    run,
};

const HELP: &str = "\
The provider serves the keys of a trust domain to whoever verifies JWT-SVIDs by OpenID Connect: AWS, \
GCP, OpenBao, Kubernetes and others. It reads the configuration file of SPIRE's \
oidc-discovery-provider.

Exit codes: 0 done, 1 failed, 64 wrong command line or configuration.
Flags may be written with one dash or two: -config FILE, --config=FILE.";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    version,
    about = "An OpenID Connect discovery provider for JWT-SVIDs",
    after_help = HELP,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: RunFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether a cloud would take the tokens of an issuer, rule by rule, and what to tell it
    Check(Box<CheckFlags>),
    /// Print a script that completes this program's commands in a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, for packages
    #[command(hide = true)]
    Manual(manual::Form),
    /// Run the provider; the same as no command
    Run(Box<RunFlags>),
    /// Check a configuration file, and do nothing else
    Validate(Box<RunFlags>),
}

/// Does what the command line of the process says.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().map(Path::new).and_then(Path::file_name);
    let name = match called.and_then(|name| name.to_str()) {
        Some("oidc-discovery-provider") => "oidc-discovery-provider",
        _ => "signet-oidc",
    };
    let cli = match parse::<Cli>(name, args) {
        Ok(cli) => cli,
        Err(code) => return code.into(),
    };
    match cli.command {
        None => run::run(name, &cli.flags),
        Some(Command::Run(flags)) => run::run(name, &flags),
        Some(Command::Check(flags)) => check::main(name, &flags),
        Some(Command::Validate(flags)) => {
            validate(&flags, &mut io::stdout().lock(), &mut io::stderr()).into()
        }
        Some(Command::Completion { shell }) => {
            print(&completion::script(shell, &Cli::command(), name))
        }
        Some(Command::Manual(form)) => print(&manual::manual(&Cli::command(), name, &form)),
    }
}

fn validate(flags: &RunFlags, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    // Nobody is left to tell when even this cannot be printed.
    match Config::load(flags, &|name| std::env::var(name).ok()) {
        Ok(config) => {
            for warning in &config.warnings {
                let _ = writeln!(err, "warning: {warning}");
            }
            let _ = writeln!(out, "The provider's configuration is valid.");
            EXIT_DONE
        }
        Err(error) => {
            let _ = writeln!(err, "The provider's configuration is invalid:\n{error}");
            EXIT_USAGE
        }
    }
}
