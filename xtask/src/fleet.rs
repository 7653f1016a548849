//! `cargo xtask fleet`: thousands of simulated agents against the server.

use std::process::Command;

use anyhow::Result;

use crate::{
    package::target_dir,
    run::{cargo, run},
};

/// What is passed on.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Arguments of the simulator; `-- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds the server and the simulator for release, and runs it. `--server` in the arguments puts
/// another server in place of ours.
pub(crate) fn run_all(options: &Options) -> Result<()> {
    run(&mut cargo(&[
        "build",
        "--release",
        "--locked",
        "-p",
        "signet-server",
        "-p",
        "signet-fleet",
    ]))?;
    let bins = target_dir()?.join("release");
    let mut command = Command::new(bins.join("signet-fleet"));
    if !options
        .arguments
        .iter()
        .any(|argument| argument.starts_with("--server") && !argument.starts_with("--servers"))
    {
        command.arg("--server").arg(bins.join("signet-server"));
    }
    run(command.args(&options.arguments))
}
