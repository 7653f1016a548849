//! Keeps identities in files, for programs that only read files.
//!
//! It is a client of the Workload API: it writes certificates, keys, bundles and tokens where its
//! configuration says, in the place of spiffe-helper and with its configuration, and tells programs
//! when they change. All files of one rotation change as one.

mod args;
pub mod command;
pub mod config;
pub mod context;
mod follow;
mod health;
pub mod material;
pub mod place;
mod run;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use signet_config::LogFlags;
use signet_daemon::cli::{EXIT_USAGE, parse};

use config::Config;

/// Flags of the helper, on its own and in `signet-agent helper`.
#[derive(Clone, Debug, clap::Args)]
pub struct Flags {
    /// The configuration file, HCL 1 or JSON, as spiffe-helper's
    #[arg(long = "config", value_name = "FILE", default_value = "helper.conf")]
    pub config: PathBuf,
    /// Keep everything up to date (true), or fetch everything once and end (false)
    #[arg(
        long = "daemon-mode",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub daemon_mode: Option<bool>,
    /// Only check the configuration file
    #[arg(long = "validate")]
    pub validate: bool,
}

#[derive(Debug, clap::Parser)]
#[command(
    version,
    about = "Keeps SPIFFE identities in files for programs that only read files",
    after_help = "Flags may be written with one dash or two: -config FILE, --config=FILE."
)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

/// Does what the command line says.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse::<Cli>("signet-helper", args) {
        Ok(cli) => run(&cli.flags),
        Err(code) => code.into(),
    }
}

/// Runs the helper until it is told to stop; once with `daemon_mode = false`.
pub fn run(flags: &Flags) -> ExitCode {
    let environment = |name: &str| std::env::var(name).ok();
    let config = match Config::load(flags, &LogFlags::default(), &environment) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("signet-helper: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if flags.validate {
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        println!("The configuration file is valid.");
        return ExitCode::SUCCESS;
    }
    match run::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-helper: {error:#}");
            ExitCode::FAILURE
        }
    }
}
