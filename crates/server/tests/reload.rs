//! SIGUSR1 configures plugins anew while the server runs.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use signet_authority::AuthorityKind;
use signet_base::{SharedClock, Tasks, TestClock};
use signet_daemon::{
    logging::{LogSettings, with_writer},
    program::Program,
};
use signet_pki::{DiskKeyManager, KeyManager as _, key_manager::Sealing};
use signet_server::{
    app::App,
    config::{Config, RunFlags},
};
use signet_testkit::Captured;

/// A configuration whose key manager and composer have files of their own.
fn config(dir: &Path) -> Config {
    support::config(dir, &support::Options::default());
    let file = dir.join("server.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    let dir = dir.display();
    let inline = format!("plugin_data {{ keys_path = \"{dir}/data/keys.json\" }}");
    let text = text.replace(&inline, &format!("plugin_data_file = \"{dir}/keys.conf\""));
    let composer = format!(
        "CredentialComposer \"uniqueid\" {{ plugin_data_file = \"{dir}/uniqueid.conf\" }}\n \
         NodeAttestor"
    );
    let text = text.replacen("NodeAttestor", &composer, 1);
    assert!(text.contains("keys.conf") && text.contains("uniqueid.conf"), "{text}");
    std::fs::write(&file, text).unwrap();
    let flags = RunFlags { config: file, ..RunFlags::default() };
    Config::load(Program::Signet, &flags, &|_| None).unwrap()
}

fn keys_at(dir: &Path, name: &str) {
    let text = format!("keys_path = \"{}\"", dir.join(name).display());
    std::fs::write(dir.join("keys.conf"), text).unwrap();
}

async fn signal() {
    let pid = std::process::id().to_string();
    let status = tokio::process::Command::new("kill").args(["-USR1", &pid]).status().await;
    assert!(status.unwrap().success());
}

async fn eventually(check: impl Fn() -> bool) {
    let waiting = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("in time");
}

#[tokio::test]
async fn keys_move_with_their_settings_and_a_wrong_file_changes_nothing() {
    let dir = tempfile::Builder::new().prefix("sg").tempdir().unwrap();
    let path = dir.path();
    keys_at(path, "first.json");
    std::fs::write(path.join("uniqueid.conf"), "").unwrap();
    let clock = TestClock::new();
    let shared: SharedClock = Arc::new(clock.clone());
    let log = Captured::default();
    let settings = LogSettings::default();
    let (subscriber, _) = with_writer(&settings, Arc::clone(&shared), log.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let app = App::build(config(path), shared, support::log(&clock)).await.unwrap();
    let authority = app.context().parts.authority.clone();
    let tasks = Tasks::new();
    let running = app.spawn(&tasks).unwrap();

    keys_at(path, "second.json");
    signal().await;
    eventually(|| path.join("second.json").exists()).await;
    let keys = |name: &str| DiskKeyManager::open(path.join(name), Sealing::Off).unwrap();
    assert_eq!(keys("second.json").export().len(), keys("first.json").export().len());
    // The next key goes there, and there only.
    authority.prepare(AuthorityKind::X509).await.unwrap();
    let (first, second) = (keys("first.json").export(), keys("second.json").export());
    assert_eq!((first.len() + 1, second.len()), (second.len(), 3));

    assert!(log.text().contains("plugin_name=disk plugin_type=KeyManager"));
    assert!(log.text().contains("plugin_name=uniqueid plugin_type=CredentialComposer"));

    // One wrong file: the right one beside it is not taken either.
    keys_at(path, "third.json");
    std::fs::write(path.join("uniqueid.conf"), "nosuch = 1").unwrap();
    signal().await;
    eventually(|| log.text().contains("Failed to reconfigure plugins")).await;
    assert!(log.text().contains("uniqueid.conf:1:1"), "the file is named");
    assert!(!path.join("third.json").exists());

    keys_at(path, "fourth.json");
    std::fs::write(path.join("uniqueid.conf"), "").unwrap();
    signal().await;
    eventually(|| path.join("fourth.json").exists()).await;
    assert!(keys("fourth.json").get_key("x509-CA-B").await.unwrap().is_some());

    tasks.token().cancel();
    let _ = tasks.shutdown(Duration::from_secs(5)).await;
    running.close().await;
}
