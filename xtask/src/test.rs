//! `cargo xtask test`: what CI runs.

use std::env;

use anyhow::{Result, bail};

use crate::run::cargo;

/// How much is tested.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out the end-to-end tests, which start the built programs
    #[arg(long)]
    quick: bool,
    /// Also run clippy, with warnings as errors
    #[arg(long)]
    lint: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// Checks the formatting, builds the programs, runs every test (the tidy test among them).
///
/// All steps run even when one fails, so that one run shows everything that is wrong.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut failed = Vec::new();
    let mut step = |name: &'static str, args: &[&str]| {
        let mut command = cargo(args);
        if env::var_os("CI").is_some() {
            // In CI nothing may be missing: a test that is skipped fails.
            command.env("SIGNET_REQUIRE_ALL", "1");
        }
        if let Err(error) = crate::run::run(&mut command) {
            eprintln!("error: {error:#}");
            failed.push(name);
            return false;
        }
        true
    };
    step("formatting", &["fmt", "--all", "--check"]);
    // The end-to-end tests look for the programs beside themselves.
    let built = step("build", &["build", "--locked", "--workspace", "--bins"]);
    if built {
        let mut args = vec!["test", "--locked", "--workspace", "--no-fail-fast"];
        if options.quick {
            args.extend(["--exclude", "e2e"]);
        }
        if let Some(filter) = &options.filter {
            args.extend(["--", filter.as_str()]);
        }
        step("tests", &args);
    }
    if options.lint {
        let args = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
        step("lints", &args);
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    eprintln!("all good");
    Ok(())
}
