//! The `signet-broker` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    signet_broker::cli::main()
}
