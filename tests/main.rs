//! Black-box tests of the built binaries. Each file holds the promises of one area.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says by a panic that something is not as it should be"
)]

#[path = "tests/acme.rs"]
mod acme;
#[path = "tests/anchors.rs"]
mod anchors;
#[path = "tests/attestors.rs"]
mod attestors;
#[path = "tests/audit_sinks.rs"]
mod audit_sinks;
#[path = "tests/authorities.rs"]
mod authorities;
#[path = "tests/bad_input.rs"]
mod bad_input;
#[path = "tests/bootstrap.rs"]
mod bootstrap;
#[path = "tests/broker.rs"]
mod broker;
#[path = "tests/broker_api.rs"]
mod broker_api;
#[path = "tests/broker_engines.rs"]
mod broker_engines;
#[path = "tests/bundle_events.rs"]
mod bundle_events;
#[path = "tests/cli_agent.rs"]
mod cli_agent;
#[path = "tests/cli_reference.rs"]
mod cli_reference;
#[path = "tests/cli_server.rs"]
mod cli_server;
#[path = "tests/clock.rs"]
mod clock;
#[path = "tests/clouds.rs"]
mod clouds;
#[path = "tests/config.rs"]
mod config;
#[path = "tests/console.rs"]
mod console;
#[path = "tests/controller.rs"]
mod controller;
#[path = "tests/csi.rs"]
mod csi;
#[path = "tests/csrs.rs"]
mod csrs;
#[path = "tests/delegated.rs"]
mod delegated;
#[path = "tests/deploy.rs"]
mod deploy;
#[path = "tests/disk.rs"]
mod disk;
#[path = "tests/doctor.rs"]
mod doctor;
#[path = "tests/envoy.rs"]
mod envoy;
#[path = "tests/examples.rs"]
mod examples;
#[path = "tests/federation.rs"]
mod federation;
#[path = "tests/files.rs"]
mod files;
#[path = "tests/fleet.rs"]
mod fleet;
#[path = "tests/grpc.rs"]
mod grpc;
#[path = "tests/helper.rs"]
mod helper;
#[path = "tests/keys.rs"]
mod keys;
#[path = "tests/migrate.rs"]
mod migrate;
#[path = "tests/monitoring.rs"]
mod monitoring;
#[path = "tests/moving.rs"]
mod moving;
#[path = "tests/nested.rs"]
mod nested;
#[path = "tests/oauth.rs"]
mod oauth;
#[path = "tests/oidc.rs"]
mod oidc;
#[path = "tests/openbao.rs"]
mod openbao;
#[path = "tests/packages.rs"]
mod packages;
#[path = "tests/pids.rs"]
mod pids;
#[path = "tests/postgres.rs"]
mod postgres;
#[path = "tests/push.rs"]
mod push;
#[path = "tests/quickstart.rs"]
mod quickstart;
#[path = "tests/resilience.rs"]
mod resilience;
#[path = "tests/restarts.rs"]
mod restarts;
#[path = "tests/server_sets.rs"]
mod server_sets;
#[path = "tests/signals.rs"]
mod signals;
#[path = "tests/spire_agent.rs"]
mod spire_agent;
#[path = "tests/spire_server.rs"]
mod spire_server;
#[path = "tests/tenants.rs"]
mod tenants;
#[path = "tests/tokens.rs"]
mod tokens;
#[path = "tests/traces.rs"]
mod traces;
#[path = "tests/web.rs"]
mod web;
#[path = "tests/wit.rs"]
mod wit;
#[path = "tests/workload.rs"]
mod workload;
