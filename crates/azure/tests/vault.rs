//! The key manager `azure_key_vault` against a fake of Azure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where it fails"
)]

use std::{sync::Arc, time::Duration};

use signet_azure::{Azure, Credentials, KeyVault, VaultSettings};
use signet_base::{Clock, SharedClock, SystemClock, TestClock};
use signet_pki::{
    KeyManager, KeyType, SignError, SignatureAlgorithm,
    key_manager::{KeyStore, RemoteKeyManager, SigningLimits, conformance},
};
use signet_testkit::clouds::{FakeAzure, Fault};
use tokio::task::JoinSet;

const SERVER: &str = "server-1";

struct Cloud {
    fake: FakeAzure,
    clock: SharedClock,
}

impl Cloud {
    fn new() -> Self {
        Self { fake: FakeAzure::start(), clock: SystemClock::shared() }
    }

    fn secret(&self) -> Credentials {
        let (tenant_id, client_id, secret) = self.fake.application();
        Credentials::Secret {
            authority: self.fake.url(),
            tenant_id: tenant_id.to_owned(),
            client_id: client_id.to_owned(),
            secret: secret.to_owned().into(),
        }
    }

    fn store_of(&self, server_id: &str, credentials: Credentials) -> KeyVault {
        let vault = format!("{}/", self.fake.url());
        let azure = Azure::new(credentials, KeyVault::resource(&vault)).unwrap();
        let settings = VaultSettings { vault, server_id: server_id.to_owned() };
        KeyVault::new(azure, settings, &"example.org".parse().unwrap(), Arc::clone(&self.clock))
    }

    fn store(&self) -> KeyVault {
        self.store_of(SERVER, self.secret())
    }

    fn manager(&self) -> RemoteKeyManager {
        managed(self.store())
    }

    fn count(&self, part: &str) -> usize {
        self.fake.asked().iter().filter(|line| line.contains(part)).count()
    }

    fn put(&self, name: &str, server_id: &str, updated: i64) {
        let tags = [("spire-server-td", "example.org"), ("spire-server-id", server_id)];
        self.fake.put_key(name, &tags, updated);
    }
}

fn managed(store: KeyVault) -> RemoteKeyManager {
    let limits = SigningLimits { deadline: Duration::from_secs(5), ..SigningLimits::default() };
    RemoteKeyManager::new(Arc::new(store), limits)
}

fn name(number: u32, id: &str) -> String {
    format!("spire-key-0b2d8d4e-6a4c-4f0e-9d43-0d2f2f0f{number:04}-{id}")
}

#[tokio::test]
async fn conforms_with_keys_named_and_tagged_as_spire_does() {
    let cloud = Cloud::new();
    let keys = cloud.manager();
    conformance::check(&keys).await;
    assert_eq!(cloud.fake.keys().len(), 6, "five, and the one that was replaced");
    assert_eq!(keys.clean().await, 0);
    assert_eq!(cloud.fake.keys().len(), 5);
    for name in cloud.fake.keys().keys() {
        let tags = cloud.fake.tags(name);
        assert_eq!((&*tags["spire-server-td"], &*tags["spire-server-id"]), ("example.org", SERVER));
        assert!(name.starts_with("spire-key-"), "{name}");
    }
    let rsa = keys.get_key("rsa-2048").await.unwrap().unwrap();
    for algorithm in [
        SignatureAlgorithm::RsaPkcs1Sha384,
        SignatureAlgorithm::RsaPkcs1Sha512,
        SignatureAlgorithm::RsaPssSha256,
        SignatureAlgorithm::RsaPssSha384,
        SignatureAlgorithm::RsaPssSha512,
    ] {
        rsa.sign(algorithm, b"m").await.unwrap();
    }
    let p384 = keys.get_key("ec-p384").await.unwrap().unwrap();
    let odd = p384.sign(SignatureAlgorithm::EcdsaP384Sha256, b"m").await.unwrap_err();
    assert!(odd.to_string().contains("does not make"), "{odd}");
    let bad = keys.generate_key("a_b", KeyType::EcP256).await.unwrap_err();
    assert!(bad.to_string().contains("cannot be in the name of a key"), "{bad}");
    assert_eq!(cloud.count("/oauth2/v2.0/token"), 1, "one token for all of it");
}

#[tokio::test]
async fn a_restart_finds_the_newest_of_each_name_and_leaves_those_of_others_alone() {
    let cloud = Cloud::new();
    let (older, newer) = (name(1, "x509-CA-A"), name(2, "x509-CA-A"));
    cloud.put(&newer, SERVER, 2_000);
    cloud.put(&older, SERVER, 1_000);
    let others = [name(3, "x509-CA-A"), name(4, "x509-CA-A"), "somebodys".to_owned()];
    cloud.put(&others[0], "server-10", 3_000);
    let tags = [("spire-server-td", "example.org.eu"), ("spire-server-id", SERVER)];
    cloud.fake.put_key(&others[1], &tags, 3_000);
    cloud.fake.put_key(&others[2], &[], 3_000);

    let keys = cloud.manager();
    let found = keys.list().await.unwrap();
    assert_eq!(found.iter().map(|(id, _)| &**id).collect::<Vec<_>>(), ["x509-CA-A"]);
    found[0].1.sign_issued(b"m").await.unwrap();
    assert_eq!(keys.clean().await, 0);
    let left = cloud.fake.keys();
    assert!(!left.contains_key(&older) && left.contains_key(&newer), "{left:?}");
    assert!(others.iter().all(|name| left.contains_key(name)), "{left:?}");

    // Two within a second: the newer one is known all the same.
    for _ in 0..3 {
        cloud.manager().generate_key("JWT-Signer-A", KeyType::EcP256).await.unwrap();
    }
    let last = keys.generate_key("JWT-Signer-A", KeyType::EcP256).await.unwrap();
    let again = cloud.manager();
    let found = again.get_key("JWT-Signer-A").await.unwrap().unwrap();
    assert_eq!(found.public_key(), last.public_key());
    again.clean().await;
    found.sign_issued(b"m").await.unwrap();
    assert_eq!(cloud.fake.keys().keys().filter(|name| name.ends_with("JWT-Signer-A")).count(), 1);

    cloud.fake.enable(&newer, false);
    let disabled = cloud.manager().list().await.unwrap_err().to_string();
    assert!(disabled.contains("is disabled: enable or delete it"), "{disabled}");
}

#[tokio::test]
async fn whatever_call_breaks_no_key_is_lost_and_none_is_left_over() {
    let mut cases = JoinSet::new();
    for fault in [Fault::Cut, Fault::Lost, Fault::Status(503), Fault::Garbage] {
        for skip in 0..4 {
            cases.spawn(breaks(fault, skip));
        }
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

async fn breaks(fault: Fault, skip: usize) {
    let cloud = Cloud::new();
    let keys = cloud.manager();
    let old = keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    for id in ["x509-CA-A", "x509-CA-B"] {
        cloud.fake.fault("/keys", skip, 100, fault);
        let made = keys.generate_key(id, KeyType::EcP256).await;
        cloud.fake.heal();
        let now = keys.get_key("x509-CA-A").await.unwrap().unwrap();
        now.sign_issued(b"m").await.unwrap();
        if made.is_err() && id == "x509-CA-A" {
            assert_eq!(now.public_key(), old.public_key(), "{fault:?} {skip}");
        }
        assert_eq!(keys.clean().await, 0, "{fault:?} {skip}");
    }
    let last = keys.generate_key("x509-CA-B", KeyType::EcP256).await.unwrap();
    keys.clean().await;
    assert_eq!(cloud.fake.keys().len(), 2, "{fault:?} {skip}: {:?}", cloud.fake.keys());
    let again = cloud.manager();
    let found = again.get_key("x509-CA-B").await.unwrap().unwrap();
    assert_eq!(found.public_key(), last.public_key(), "{fault:?} {skip}");
}

#[tokio::test]
async fn a_crash_loop_leaves_two_keys_at_most() {
    let cloud = Cloud::new();
    for round in 0..24 {
        let keys = cloud.manager();
        assert!(keys.list().await.unwrap().len() <= 1);
        cloud.fake.fault("/keys", round % 4, 100, [Fault::Cut, Fault::Lost][round / 4 % 2]);
        // Stopped while a key is made: what is in memory is gone with it.
        let making = keys.generate_key("x509-CA-A", KeyType::EcP256);
        drop(tokio::time::timeout(Duration::from_millis(300), making).await);
        cloud.fake.heal();
        assert!(cloud.fake.keys().len() <= 2, "{:?}", cloud.fake.keys());
        let next = cloud.manager();
        next.list().await.unwrap();
        next.clean().await;
    }
    assert!(cloud.fake.keys().len() <= 1, "{:?}", cloud.fake.keys());
}

#[tokio::test]
async fn a_lost_answer_does_not_make_a_second_key() {
    let cloud = Cloud::new();
    let keys = cloud.manager();
    cloud.fake.fault("/create", 0, 1, Fault::Lost);
    keys.generate_key("a", KeyType::EcP256).await.unwrap();
    cloud.fake.fault("/create", 0, 2, Fault::Cut);
    keys.generate_key("b", KeyType::EcP256).await.unwrap();
    assert_eq!(cloud.fake.keys().into_values().collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn throttling_and_short_failures_are_waited_out_and_nonsense_is_noticed() {
    let cloud = Cloud::new();
    let keys = cloud.manager();
    let key = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    for fault in [Fault::Status(429), Fault::Status(503), Fault::Cut, Fault::Lost] {
        cloud.fake.fault("/sign", 0, 1, fault);
        key.sign_issued(b"m").await.unwrap();
        cloud.fake.heal();
    }
    cloud.fake.revoke_tokens();
    key.sign_issued(b"m").await.unwrap();
    assert_eq!(keys.fault(), None);

    for (fault, want) in [
        (Fault::Damaged, "does not match its key"),
        (Fault::Garbage, "no JSON"),
        (Fault::Status(403), "403"),
        (Fault::Status(500), "500"),
    ] {
        cloud.fake.fault("/sign", 0, 9, fault);
        let error = key.sign_issued(b"m").await.unwrap_err().to_string();
        cloud.fake.heal();
        assert!(error.contains(want), "{fault:?}: {error}");
    }
    assert_eq!(keys.fault().unwrap().in_a_row, 4);

    cloud.fake.fault("/sign", 0, 1, Fault::Silent);
    let limits = SigningLimits { deadline: Duration::from_millis(300), ..Default::default() };
    let impatient = RemoteKeyManager::new(Arc::new(cloud.store()), limits);
    let silent = impatient.get_key("a").await.unwrap().unwrap();
    let silent = silent.sign_issued(b"m").await.unwrap_err();
    assert!(matches!(silent, SignError::TimedOut { .. }), "{silent}");
    key.sign_issued(b"m").await.unwrap();
    assert_eq!(keys.fault(), None);
    // Other settings that lead to the same keys: they are used on.
    keys.replace_store(Arc::new(cloud.store())).await.unwrap();
    key.sign_issued(b"m").await.unwrap();
}

#[tokio::test]
async fn keys_are_marked_as_alive_and_those_of_dead_servers_deleted() {
    let mut cloud = Cloud::new();
    let clock = TestClock::new();
    cloud.clock = Arc::new(clock.clone());
    let begin = clock.unix().seconds();
    cloud.fake.set_now(begin);
    let store = cloud.store();
    let keys = managed(store.clone());
    keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    let own = cloud.fake.keys().into_keys().next().unwrap();
    store.keep_alive().await.unwrap();
    assert_eq!(cloud.count("PATCH"), 0, "what was just made is not marked again");
    clock.jump_forward(Duration::from_secs(6 * 3600));
    let now = clock.unix().seconds();
    cloud.fake.set_now(now);
    store.keep_alive().await.unwrap();
    assert_eq!((cloud.count("PATCH"), cloud.fake.updated(&own)), (1, now));

    let (old, young) = (now - 15 * 86_400, now - 13 * 86_400);
    let (dead, alive, mine) = (name(1, "a"), name(2, "a"), name(3, "a"));
    cloud.put(&dead, "dead", old);
    cloud.put(&alive, "alive", young);
    cloud.put(&mine, SERVER, old);
    let tags = [("spire-server-td", "another"), ("spire-server-id", "other")];
    cloud.fake.put_key(&name(4, "a"), &tags, old);
    cloud.fake.put_key(&name(5, "a"), &[("spire-server-td", "example.org")], old);
    cloud.put("not-a-server's", "dead", old);
    store.dispose().await.unwrap();
    let left = cloud.fake.keys();
    assert!(!left.contains_key(&dead), "{left:?}");
    assert_eq!(left.len(), 6, "{left:?}");
    assert!(left.contains_key(&alive) && left.contains_key(&mine) && left.contains_key(&own));
}

#[tokio::test]
async fn every_kind_of_credentials_is_taken() {
    let cloud = Cloud::new();
    let dir = tempfile::tempdir().unwrap();
    let (tenant_id, client_id, _) = cloud.fake.application();
    let (tenant_id, client_id) = (tenant_id.to_owned(), client_id.to_owned());
    let workload = Credentials::Workload {
        authority: cloud.fake.url(),
        tenant_id: tenant_id.clone(),
        client_id: client_id.clone(),
        token_file: cloud.fake.token_file(dir.path()),
    };
    let machine = |client_id| Credentials::Instance { url: cloud.fake.url(), client_id };
    for credentials in [workload, machine(None), machine(Some(client_id.clone()))] {
        credentials.check().unwrap();
        let keys = managed(cloud.store_of("w", credentials));
        keys.generate_key("k", KeyType::EcP256).await.unwrap().sign_issued(b"m").await.unwrap();
    }
    let token_file = dir.path().join("missing");
    let missing = Credentials::Workload {
        authority: cloud.fake.url(),
        tenant_id: tenant_id.clone(),
        client_id: client_id.clone(),
        token_file,
    };
    assert!(missing.check().unwrap_err().contains("missing: no such file"));
    let secret = "hush".to_owned().into();
    let wrong = Credentials::Secret { authority: cloud.fake.url(), tenant_id, client_id, secret };
    let store = cloud.store_of("s", wrong);
    let error = store.list().await.unwrap_err().to_string();
    assert!(error.contains("invalid_client") && !error.contains("hush"), "{error}");
    let error = store.list().await.unwrap_err().to_string();
    assert!(error.contains("tried again soon"), "{error}");
}
