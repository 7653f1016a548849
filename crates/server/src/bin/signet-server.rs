//! The `signet-server` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    signet_server::cli::main()
}
