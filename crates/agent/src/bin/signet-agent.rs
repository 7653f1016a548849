//! The `signet-agent` program.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use signet_agent::{config::RunFlags, run};
use signet_daemon::program::Program;

#[derive(Parser)]
#[command(version, about = "Workload identity agent, compatible with SPIRE")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent
    Run(RunFlags),
    /// Check a configuration file
    Validate(RunFlags),
}

fn main() -> ExitCode {
    let program = Program::from_argv0(&std::env::args_os().next().unwrap_or_default());
    match Cli::parse().command {
        Command::Run(flags) => run::run(program, &flags),
        Command::Validate(flags) => run::validate(program, &flags),
    }
}
