//! The commands of the README.

mod bench;
mod demo;
mod example;
mod fleet;
mod fuzz;
mod package;
mod release;
mod run;
mod setup;
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
    /// Measure CPU, memory and delays of the release builds; prints JSON lines
    Bench(bench::Options),
    /// Show the whole thing at work on this machine, in temporary directories, and clean up
    Demo {
        /// Which part; the identities alone unless said otherwise
        #[arg(value_enum, default_value = "identity")]
        part: DemoPart,
    },
    /// Simulate thousands of agents against the server; arguments after -- are the simulator's
    Fleet(fleet::Options),
    /// Run the coverage-guided tests of all readers of foreign bytes
    Fuzz(fuzz::Options),
    /// Run an example of docs/examples against the demo's server and agent
    Example(example::Options),
    /// Make .deb, .rpm and OCI images of built programs
    Package(package::Options),
    /// Test, build, package and compare what is released
    Release(release::Options),
    /// Run every test that CI runs
    Test(test::Options),
    /// Check the shape of the tree: edges between crates, file sizes, what may be used where
    Tidy,
}

/// A part of the demo.
#[derive(Clone, Copy, clap::ValueEnum)]
enum DemoPart {
    /// A workload gets, renews and loses its identity
    Identity,
    /// A workload gets a database login by its identity, and loses it
    ZeroTrust,
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Bench(options) => bench::run(&options),
        Command::Demo { part: DemoPart::Identity } => demo::run(),
        Command::Demo { part: DemoPart::ZeroTrust } => demo::zero_trust(),
        Command::Fleet(options) => fleet::run_all(&options),
        Command::Fuzz(options) => fuzz::run_all(&options),
        Command::Example(options) => example::run(&options),
        Command::Package(options) => package::run_all(&options),
        Command::Release(options) => release::run_all(&options),
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
