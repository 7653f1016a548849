//! What any long-running process of ours needs: HCL and JSON reader, logging, metrics, health, listeners.

pub mod cli;
pub mod config;
pub mod health;
pub mod http;
pub mod listen;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod program;
pub mod signal;
