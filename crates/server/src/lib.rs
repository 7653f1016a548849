//! The Signet server as a library, its binary and its CLI.

pub mod app;
pub mod attestors;
pub mod audit;
pub mod backup;
pub mod bundle_events;
pub mod cache;
pub mod cli;
pub mod config;
pub mod console;
pub mod context;
pub mod entry_id;
pub mod federation;
pub mod grpc;
pub mod http;
pub mod identity;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod migrate;
pub mod plugins;
pub mod policy;
pub mod ports;
pub mod run;
pub mod server_id;
pub mod servers;
pub mod usecase;
