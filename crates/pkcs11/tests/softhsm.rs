//! The key manager `pkcs11` against a real module, SoftHSM. It reads its environment when it is
//! loaded, so this program starts itself once more with that.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, exit},
    sync::Arc,
    time::Duration,
};

use signet_base::SystemClock;
use signet_pkcs11::{Pin, Settings, TokenKeys, TokenName};
use signet_pki::{
    KeyManager, KeyType, SignatureAlgorithm,
    key_manager::{RemoteKeyManager, SigningLimits, conformance},
};

const CONFIG: &str = "SOFTHSM2_CONF";
const MODULES: &[&str] = &[
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

fn main() {
    // Only a listing is asked for.
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    let Some(module) = MODULES.iter().map(Path::new).find(|path| path.is_file()) else {
        signet_testkit::skipped("there is no SoftHSM");
        return;
    };
    match std::env::var_os("SIGNET_SOFTHSM_DIR") {
        Some(dir) => inside(module, &PathBuf::from(dir)),
        None => outside(),
    }
}

fn outside() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    fs::create_dir(&tokens).unwrap();
    let config = dir.path().join("softhsm2.conf");
    fs::write(&config, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
        .unwrap();
    for (label, pin) in [("signet", "1234"), ("other", "5678")] {
        let made = Command::new("softhsm2-util")
            .env(CONFIG, &config)
            .args(["--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", "0000"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    fs::write(dir.path().join("pin"), "1234\n").unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .env(CONFIG, &config)
        .env("SIGNET_SOFTHSM_DIR", dir.path())
        .status()
        .unwrap();
    // SoftHSM may crash while the process ends, after all is done: its own threads outlive OpenSSL.
    let crashed_late = status.code().is_none() && dir.path().join("done").exists();
    drop(dir);
    exit(if crashed_late { 0 } else { status.code().unwrap_or(1) });
}

fn inside(module: &Path, dir: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let settings = Settings {
        module_path: module.to_owned(),
        token: TokenName::Label("signet".to_owned()),
        pin: Pin::File(dir.join("pin")),
        max_sessions: 4,
    };
    runtime.block_on(async {
        println!("test wrong_settings_are_named_and_a_wrong_pin_is_tried_once");
        wrong_settings_are_named_and_a_wrong_pin_is_tried_once(&settings, dir).await;
        println!("test conforms_and_leaves_nothing_behind");
        conforms_and_leaves_nothing_behind(&settings).await;
        println!("test a_restart_and_another_server_find_their_own_keys");
        a_restart_and_another_server_find_their_own_keys(&settings).await;
        println!("test many_signatures_at_once");
        many_signatures_at_once(&settings).await;
    });
    fs::write(dir.join("done"), "").unwrap();
}

fn manager(settings: &Settings, server: &str) -> RemoteKeyManager {
    let store = TokenKeys::new(settings.clone(), server, Arc::new(SystemClock)).unwrap();
    let limits = SigningLimits { at_once: settings.max_sessions, ..SigningLimits::default() };
    RemoteKeyManager::new(Arc::new(store), limits)
}

async fn wrong_settings_are_named_and_a_wrong_pin_is_tried_once(settings: &Settings, dir: &Path) {
    let fails =
        async |settings: Settings| manager(&settings, "s").list().await.unwrap_err().to_string();
    let token = TokenName::Label("none".to_owned());
    let error = fails(Settings { token, ..settings.clone() }).await;
    assert!(error.contains("has no token with the label \"none\"; it has "), "{error}");
    assert!(error.contains("\"signet\""), "{error}");
    let error = fails(Settings { module_path: "/none.so".into(), ..settings.clone() }).await;
    assert!(error.contains("/none.so is not a usable PKCS#11 module"), "{error}");

    let pin = dir.join("other-pin");
    fs::write(&pin, "9999\n").unwrap();
    let token = TokenName::Label("other".to_owned());
    let keys = manager(&Settings { token, pin: Pin::File(pin.clone()), ..settings.clone() }, "s");
    let error = keys.list().await.unwrap_err().to_string();
    assert!(error.contains("refuses the PIN (PinIncorrect)"), "{error}");
    let error = keys.list().await.unwrap_err().to_string();
    assert!(error.contains("refuses the PIN (as before)"), "{error}");
    fs::write(&pin, "5678\n").unwrap();
    assert!(keys.list().await.unwrap().is_empty(), "the right PIN is taken up");
}

async fn conforms_and_leaves_nothing_behind(settings: &Settings) {
    let keys = manager(settings, "conformance");
    conformance::check(&keys).await;
    let rsa = keys.get_key("rsa-2048").await.unwrap().unwrap();
    for algorithm in [
        SignatureAlgorithm::RsaPkcs1Sha384,
        SignatureAlgorithm::RsaPssSha256,
        SignatureAlgorithm::RsaPssSha512,
    ] {
        rsa.sign(algorithm, b"m").await.unwrap();
    }
    let p384 = keys.get_key("ec-p384").await.unwrap().unwrap();
    p384.sign(SignatureAlgorithm::EcdsaP384Sha256, b"m").await.unwrap();
    assert_eq!(keys.clean().await, 0);
    let again = manager(settings, "conformance");
    assert_eq!(again.list().await.unwrap().len(), 5);
    assert_eq!(again.clean().await, 0);
}

async fn a_restart_and_another_server_find_their_own_keys(settings: &Settings) {
    let keys = manager(settings, "one");
    let first = keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    let newest = keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    assert_ne!(first.public_key(), newest.public_key());
    assert!(manager(settings, "two").list().await.unwrap().is_empty());
    let again = manager(settings, "one");
    let found = again.get_key("x509-CA-A").await.unwrap().unwrap();
    assert_eq!(found.public_key(), newest.public_key());
    again.clean().await;
    newest.sign_issued(b"m").await.unwrap();
    let gone = first.sign_issued(b"m").await.unwrap_err().to_string();
    assert!(gone.contains("is not on the token") || gone.contains("HandleInvalid"), "{gone}");
}

async fn many_signatures_at_once(settings: &Settings) {
    let keys = manager(settings, "many");
    let key = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    for number in 0..200_u32 {
        let key = key.clone();
        all.spawn(async move { key.sign_issued(&number.to_be_bytes()).await });
    }
    while let Some(signed) = all.join_next().await {
        signed.unwrap().unwrap();
    }
    // A call that nobody waits for any more leaves no key behind.
    let cut = keys.generate_key("b", KeyType::Rsa4096);
    assert!(tokio::time::timeout(Duration::from_millis(1), cut).await.is_err());
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        keys.clean().await;
        let names: Vec<String> =
            manager(settings, "many").list().await.unwrap().into_iter().map(|(id, _)| id).collect();
        if names == ["a"] {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "{names:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
