//! `cargo xtask bench`: what the programs need, measured on release builds.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::run::{bin_dir, cargo};

/// What is measured, and how.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Less work, and fail only below half of a goal: for shared machines
    #[arg(long)]
    small: bool,
    /// Only this part: idle, fetch, jwt, propagate, streams, sign, attest, scale,
    /// k8s_first_svid, k8s_burst_200 or k8s_idle_110; may be repeated. floods and sds (as root) only
    /// when they are named
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Measure this server instead of ours
    #[arg(long, value_name = "PROGRAM", requires = "agent")]
    server: Option<PathBuf>,
    /// Measure this agent instead of ours
    #[arg(long, value_name = "PROGRAM", requires = "server")]
    agent: Option<PathBuf>,
}

/// Builds everything in release mode and runs the measuring client; it prints JSON lines.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut packages = vec!["-p", "e2e", "--bin", "bench", "--bin", "sds-load"];
    if options.server.is_none() {
        packages.extend(["-p", "signet-server", "--bin", "signet-server"]);
        packages.extend(["-p", "signet-agent", "--bin", "signet-agent"]);
    }
    crate::run::run(cargo(&["build", "--locked", "--release"]).args(packages))?;
    let release = bin_dir()?.parent().context("the target directory")?.join("release");
    let mut bench = Command::new(release.join("bench"));
    if options.small {
        bench.arg("--small");
    }
    for part in &options.only {
        bench.args(["--only", part]);
    }
    for (flag, program) in [("--server", &options.server), ("--agent", &options.agent)] {
        if let Some(program) = program {
            bench.arg(flag).arg(program);
        }
    }
    crate::run::run(&mut bench)
}
