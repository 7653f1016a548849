//! `cargo xtask test`: everything that must hold before a change lands.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, bail};

use crate::run;

/// Builds the programs, checks the formatting, runs all tests, and repeats cargo's closing lines.
pub fn run(args: &[String]) -> anyhow::Result<()> {
    run::checked(run::cargo().args(["fmt", "--all", "--check"]))
        .context("some files are not formatted: run `cargo fmt --all`")?;
    // The black-box tests start the programs as they are built here.
    run::build_programs()?;
    let mut command = run::cargo();
    command.args(["test", "--workspace"]);
    if !args.iter().any(|arg| arg == "--no-fail-fast") {
        command.arg("--no-fail-fast");
    }
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        // Most black-box tests wait for something, so more of them than cores may run at once.
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        command.env("RUST_TEST_THREADS", cores.max(4).to_string());
    }
    let mut child = command.args(args).stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let mut closing = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            if line.starts_with("test result:") || line.ends_with("... FAILED") {
                closing.push(line);
            }
        }
    }
    let status = child.wait()?;
    println!("\n{}", closing.join("\n"));
    if !status.success() {
        bail!("cargo test: {status}");
    }
    Ok(())
}
