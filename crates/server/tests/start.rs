//! What keeps a server from starting is found before anything is made.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::sync::Arc;

use signet_base::{SharedClock, TestClock};
use signet_daemon::program::Program;
use signet_server::{
    app::{App, Prepared},
    config::{Config, RunFlags},
};

async fn refusal(dir: &std::path::Path) -> String {
    build(support::config(dir, &support::Options::default())).await
}

async fn build(config: Config) -> String {
    let clock = TestClock::new();
    let shared: SharedClock = Arc::new(clock.clone());
    let error = App::build(config, shared, support::log(&clock)).await.unwrap_err();
    signet_base::chain(&error).to_string()
}

#[tokio::test]
async fn an_impossible_socket_is_found_before_database_and_keys_are_made() {
    for (is_dir, complaint) in [(true, "is a directory"), (false, "is not a socket")] {
        let dir = tempfile::Builder::new().prefix("sg").tempdir().unwrap();
        let path = dir.path().join("api.sock");
        if is_dir {
            std::fs::create_dir(&path).unwrap();
        } else {
            std::fs::write(&path, "precious").unwrap();
        }
        let error = refusal(dir.path()).await;
        assert!(error.contains("api.sock") && error.contains(complaint), "{error}");
        assert!(!dir.path().join("data").exists());
    }
}

#[tokio::test]
async fn a_socket_of_another_server_is_found_before_database_and_keys_are_made() {
    let dir = tempfile::Builder::new().prefix("sg").tempdir().unwrap();
    let _other = std::os::unix::net::UnixListener::bind(dir.path().join("api.sock")).unwrap();
    let error = refusal(dir.path()).await;
    assert!(error.contains("is in use by another process"), "{error}");
    for name in ["db", "keys.json"] {
        assert!(!dir.path().join("data").join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_found_before_database_and_keys_are_made() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let health = format!("health_checks {{ listener_enabled = true bind_port = \"{port}\" }}");
    let metrics = format!("telemetry {{ Prometheus {{ port = {port} }} }}");
    let api = format!("bind_port = {port}");
    for (block, server, top) in [
        ("server bind_address and bind_port", api.as_str(), ""),
        ("health_checks", "", health.as_str()),
        ("telemetry Prometheus", "", metrics.as_str()),
    ] {
        let dir = tempfile::Builder::new().prefix("sg").tempdir().unwrap();
        let options = support::Options { server: server.to_owned(), ..support::Options::default() };
        let mut config = support::config(dir.path(), &options);
        if !top.is_empty() {
            let path = dir.path().join("server.conf");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, format!("{text}\n{top}")).unwrap();
            let flags = RunFlags { config: path, ..RunFlags::default() };
            config = Config::load(Program::Signet, &flags, &|_| None).unwrap();
        }
        let error = build(config).await;
        let expected = format!("{block}: port {port} is in use by another process");
        assert!(error.contains(&expected), "{error}");
        for name in ["db", "keys.json"] {
            assert!(!dir.path().join("data").join(name).exists(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_server_serves_on_the_listener_that_it_is_handed() {
    let dir = tempfile::Builder::new().prefix("sg").tempdir().unwrap();
    let api = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = api.local_addr().unwrap();
    // Whatever the configuration says.
    let options = support::Options { server: "bind_port = 1".into(), ..Default::default() };
    let config = support::config(dir.path(), &options);
    let clock = TestClock::new();
    let shared: SharedClock = Arc::new(clock.clone());
    let prepared = Prepared { api: Some(api), ..Prepared::default() };
    let app = App::build_on(prepared, config, shared, support::log(&clock)).await.unwrap();
    assert_eq!(app.address().unwrap(), address);
}
