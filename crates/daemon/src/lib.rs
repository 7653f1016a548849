//! What any long-running process of ours needs: logging, metrics, health, listeners, common flags.

pub mod cli;
pub mod doctor;
pub mod flags;
pub mod go_json;
pub mod health;
pub mod http;
pub mod listen;
pub mod logging;
pub mod metrics;
#[cfg(feature = "otel")]
mod otel;
pub mod process;
pub mod program;
pub mod run;
pub mod settings;
pub mod signal;
pub mod spans;
pub mod support;
