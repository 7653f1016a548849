//! The commands of the README: `cargo xtask demo`, `cargo xtask test`, and what developers need.

mod demo;
mod run;
mod test;
#[cfg(test)]
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, shows and tests Signet")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a server and an agent on this machine, fetch identities, show a rotation and a refusal
    Demo,
    /// Build, check the formatting, and run all tests
    Test {
        /// Arguments for `cargo test`, and after another `--` for the test programs
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Demo => demo::run(),
        Command::Test { args } => test::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
