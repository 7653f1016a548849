//! The `signet-agent` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    signet_agent::cli::main(signet_agent::run::run)
}
