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
pub mod process;
pub mod program;
pub mod signal;
pub mod support;
