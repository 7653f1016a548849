//! The Signet node agent as a library, its binary and its CLI.
//!
//! One task ([`sync`]) owns the truth that comes from the server and writes it into the
//! [`cache`]; the endpoints read the cache and the workload attestors, and nothing else.

pub mod agent_identity;
pub mod bootstrap;
pub mod cache;
pub mod client;
pub mod config;
pub mod entry;
pub mod jwt;
pub mod jwt_cache;
pub mod metrics;
pub mod rotation;
pub mod sealed;
pub mod state;
pub mod svid;
pub mod sync;
