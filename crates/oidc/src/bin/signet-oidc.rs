//! The `signet-oidc` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    signet_oidc::cli::main()
}
