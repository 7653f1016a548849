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
use signet_server::app::App;

async fn refusal(dir: &std::path::Path) -> String {
    let clock = TestClock::new();
    let shared: SharedClock = Arc::new(clock.clone());
    let config = support::config(dir, &support::Options::default());
    App::build(config, shared, support::log(&clock)).await.unwrap_err().to_string()
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
