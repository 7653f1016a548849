//! The Signet server as a library, its binary and its CLI.

pub mod audit;
pub mod cache;
pub mod caller;
pub mod config;
pub mod context;
pub mod limits;
pub mod service;
