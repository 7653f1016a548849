//! The `signet-helper` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    signet_helper::main(std::env::args_os())
}
