//! The `signet-controller` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    signet_controller::cli::main(signet_controller::run::run)
}
