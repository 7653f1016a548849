//! What any long-running process of ours needs: HCL and JSON reader, logging, metrics, health, listeners.

pub mod config;
pub mod program;
