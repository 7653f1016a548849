//! Black-box tests of the built binaries. Each file holds the promises of one area.

#[path = "tests/workload.rs"]
mod workload;
