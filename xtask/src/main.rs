//! The commands of the README.

mod demo;
mod run;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a developer or a newcomer does with this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the whole thing at work on this machine, in temporary directories, and clean up
    Demo,
    /// Run every test that CI runs
    Test(test::Options),
    /// Check the shape of the tree: edges between crates, file sizes, what may be used where
    Tidy,
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Demo => demo::run(),
        Command::Test(options) => test::run(&options),
        Command::Tidy => tidy::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
