//! The `signet-agent` program.

fn main() {}
