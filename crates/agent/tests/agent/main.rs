//! The agent as a whole, between a server that does what it is told and workloads that call.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends where it fails"
)]

mod audit;
mod cli;
mod fake_server;
mod fixture;
mod intruders;
mod life;
mod sds;
mod serving;
mod svid_store;
