//! Harness for black-box tests of the built binaries.
//!
//! A test makes a [`Server`] and an [`Agent`] (or a [`Node`], which is both), drives them through
//! their command lines and sockets, and looks from outside at what comes out. Every wait is for a
//! condition with a deadline; everything started is ended and removed when the test is over; what
//! the programs logged is printed when it fails.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says by a panic that something is not as it should be"
)]

pub mod agent;
pub mod bins;
pub mod cli;
pub mod clients;
pub mod csi;
pub mod dir;
pub mod envoy;
pub mod helper;
pub mod http;
pub mod https;
pub mod keycloak;
pub mod kubernetes;
pub mod node;
pub mod pebble;
pub mod process;
pub mod raw;
pub mod secrets;
pub mod server;
pub mod wait;
pub mod wall;
pub mod webpki;

pub use agent::{Agent, AgentOptions};
pub use cli::{Cli, Output};
pub use clients::{Client, Lines};
pub use dir::TestDir;
pub use envoy::Envoy;
pub use keycloak::Keycloak;
pub use nix::sys::signal::Signal;
pub use node::Node;
pub use pebble::Pebble;
pub use process::Process;
pub use server::{Server, ServerOptions};
pub use signet_testkit::{
    Bao, PgBouncer, Postgres, SmallDisk, free_port, free_ports, on_path, skip,
};
pub use wait::{DEADLINE, eventually, eventually_within};
pub use wall::WallClock;
pub use webpki::WebCertificate;
