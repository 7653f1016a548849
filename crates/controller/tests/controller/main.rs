//! The controller between an API server and a registration server, both played by tests.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::result_large_err,
    reason = "a test ends where it fails"
)]

mod bad_weather;
mod bundle;
mod election;
mod entries;
mod fake_kube;
mod fake_server;
mod federation;
mod fixture;
mod operator;
