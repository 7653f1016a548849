//! The Signet node agent as a library, its binary and its CLI.

pub mod config;
