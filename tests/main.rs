//! Black-box tests of the built binaries. Each file holds the promises of one area.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says by a panic that something is not as it should be"
)]

#[path = "tests/attestors.rs"]
mod attestors;
#[path = "tests/authorities.rs"]
mod authorities;
#[path = "tests/bad_input.rs"]
mod bad_input;
#[path = "tests/cli_agent.rs"]
mod cli_agent;
#[path = "tests/cli_server.rs"]
mod cli_server;
#[path = "tests/config.rs"]
mod config;
#[path = "tests/grpc.rs"]
mod grpc;
#[path = "tests/migrate.rs"]
mod migrate;
#[path = "tests/push.rs"]
mod push;
#[path = "tests/resilience.rs"]
mod resilience;
#[path = "tests/spire_agent.rs"]
mod spire_agent;
#[path = "tests/spire_server.rs"]
mod spire_server;
#[path = "tests/tokens.rs"]
mod tokens;
#[path = "tests/workload.rs"]
mod workload;
