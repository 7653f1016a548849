//! The Signet server as a library, its binary and its CLI.

pub mod config;
