//! The Signet node agent as a library, its binary and its CLI.
//!
//! One task ([`sync`]) owns the truth that comes from the server and writes it into the
//! [`cache`]; the endpoints ([`serve`]) read the cache and the workload attestors, and nothing else.

pub mod agent_identity;
pub mod app;
pub mod audit;
pub mod bootstrap;
pub mod cache;
pub mod caller;
pub mod cli;
pub mod client;
pub mod config;
pub mod csi;
pub mod data_dir;
pub mod entry;
pub mod health;
pub mod jwt;
pub mod jwt_cache;
pub mod metrics;
pub mod plugins;
pub mod refusals;
mod request_id;
pub mod rotation;
pub mod run;
pub mod sealed;
pub mod serve;
pub mod server_sets;
pub mod state;
pub mod status;
pub mod svid;
pub mod svid_store;
pub mod sync;
pub mod trace;
mod wake;
pub mod wit;
pub mod wit_cache;
mod workload;
mod workload_keys;
pub mod x509pop_source;
