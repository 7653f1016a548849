//! The key manager `gcp_kms` against a fake of Cloud KMS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where it fails"
)]

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::json;
use signet_base::{Clock, SharedClock, SystemClock, TestClock};
use signet_gcp::{CloudKms, Credentials, Gcp, KmsSettings};
use signet_pki::{
    KeyManager, KeyType, SignError, SignatureAlgorithm,
    digest::sha1_hex,
    key_manager::{KeyStore, RemoteKeyManager, SigningLimits, conformance},
};
use signet_testkit::clouds::{FakeGcp, Fault, KEY_RING};
use tokio::task::JoinSet;

const SERVER: &str = "server-1";

struct Cloud {
    fake: FakeGcp,
    _dir: tempfile::TempDir,
    account: PathBuf,
    clock: SharedClock,
}

impl Cloud {
    fn new() -> Self {
        let fake = FakeGcp::start();
        let dir = tempfile::tempdir().unwrap();
        let account = fake.service_account_file(dir.path());
        Self { fake, _dir: dir, account, clock: SystemClock::shared() }
    }

    fn store_of(&self, server_id: &str, credentials: Credentials) -> CloudKms {
        let settings = KmsSettings {
            endpoint: self.fake.url(),
            key_ring: KEY_RING.to_owned(),
            server_id: server_id.to_owned(),
            policy: None,
        };
        let gcp = Gcp::new(credentials, SystemClock::shared()).unwrap();
        let trust_domain = "example.org".parse().unwrap();
        CloudKms::new(gcp, settings, &trust_domain, Arc::clone(&self.clock))
    }

    fn store(&self) -> CloudKms {
        self.store_of(SERVER, Credentials::ServiceAccount(self.account.clone()))
    }

    fn manager(&self) -> RemoteKeyManager {
        managed(self.store())
    }

    fn count(&self, part: &str) -> usize {
        self.fake.asked().iter().filter(|line| line.contains(part)).count()
    }
}

fn managed(store: CloudKms) -> RemoteKeyManager {
    let limits = SigningLimits { deadline: Duration::from_secs(5), ..SigningLimits::default() };
    RemoteKeyManager::new(Arc::new(store), limits)
}

fn labels(server_id: &str, updated: &str) -> [(&'static str, String); 4] {
    [
        ("spire-server-td", sha1_hex(b"example.org")),
        ("spire-server-id", server_id.to_owned()),
        ("spire-active", "true".to_owned()),
        ("spire-last-update", updated.to_owned()),
    ]
}

fn put(cloud: &Cloud, id: &str, server_id: &str, updated: &str) {
    let labels = labels(server_id, updated);
    let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
    cloud.fake.put_key(id, &labels, "EC_SIGN_P256_SHA256");
}

#[tokio::test]
async fn conforms_with_keys_named_and_labelled_as_spire_does() {
    let cloud = Cloud::new();
    cloud.fake.generate_slowly(2);
    let keys = cloud.manager();
    conformance::check(&keys).await;
    assert_eq!(keys.clean().await, 0);
    let versions = cloud.fake.versions();
    assert_eq!(versions["spire-key-server-1-ec-p256"], ["DESTROY_SCHEDULED", "ENABLED"]);
    assert_eq!(cloud.fake.alive(), 5);

    let found = cloud.fake.labels("spire-key-server-1-ec-p384");
    assert_eq!(found["spire-server-td"], sha1_hex(b"example.org"));
    assert_eq!((&*found["spire-server-id"], &*found["spire-active"]), (SERVER, "true"));
    let policy = cloud.fake.policy("spire-key-server-1-ec-p384");
    let binding = json!([{
        "role": "roles/cloudkms.signerVerifier",
        "members": ["serviceAccount:signet@p-1.iam.gserviceaccount.com"],
    }]);
    assert_eq!((&policy["bindings"], &policy["version"]), (&binding, &json!(3)));

    let rsa = keys.get_key("rsa-2048").await.unwrap().unwrap();
    let pss = rsa.sign(SignatureAlgorithm::RsaPssSha256, b"m").await.unwrap_err();
    assert!(pss.to_string().contains("PKCS#1 v1.5"), "{pss}");
    // A key of another kind in the same place.
    let key = keys.generate_key("ec-p256", KeyType::EcP384).await.unwrap();
    key.prove(KeyType::EcP384).await.unwrap();
    let bad = keys.generate_key("a.b", KeyType::EcP256).await.unwrap_err();
    assert!(bad.to_string().contains("cannot name a CryptoKey"), "{bad}");
    assert_eq!(cloud.count("POST /token"), 1, "one token for all of it");
}

#[tokio::test]
async fn a_restart_finds_the_newest_of_each_name_and_leaves_those_of_others_alone() {
    let cloud = Cloud::new();
    put(&cloud, "spire-key-server-1-x509-CA-A", SERVER, "1");
    cloud.fake.put_version("spire-key-server-1-x509-CA-A");
    put(&cloud, "spire-key-server-10-x509-CA-A", "server-10", "1");
    put(&cloud, "spire-key-server-1-x509-CA-B", SERVER, "1");
    cloud.fake.set_label("spire-key-server-1-x509-CA-B", "spire-server-td", "other");
    put(&cloud, "spire-key-server-1-JWT-Signer-A", SERVER, "1");
    cloud.fake.set_label("spire-key-server-1-JWT-Signer-A", "spire-active", "false");
    cloud.fake.put_key("somebodys", &[], "EC_SIGN_P256_SHA256");

    let keys = cloud.manager();
    let found = keys.list().await.unwrap();
    assert_eq!(found.iter().map(|(id, _)| &**id).collect::<Vec<_>>(), ["x509-CA-A"]);
    found[0].1.sign_issued(b"m").await.unwrap();
    assert_eq!(keys.clean().await, 0);
    let versions = cloud.fake.versions();
    assert_eq!(versions["spire-key-server-1-x509-CA-A"], ["DESTROY_SCHEDULED", "ENABLED"]);
    for other in ["spire-key-server-10-x509-CA-A", "spire-key-server-1-x509-CA-B", "somebodys"] {
        assert_eq!(versions[other], ["ENABLED"]);
    }
    // Another server found it stale once: it is used again, under the next number.
    let key = keys.generate_key("JWT-Signer-A", KeyType::EcP256).await.unwrap();
    assert_eq!(cloud.fake.labels("spire-key-server-1-JWT-Signer-A")["spire-active"], "true");
    let foreign = keys.generate_key("x509-CA-B", KeyType::EcP256).await.unwrap_err();
    assert!(foreign.to_string().contains("without the labels of this server"), "{foreign}");
    let again = cloud.manager();
    let found = again.get_key("JWT-Signer-A").await.unwrap().unwrap();
    assert_eq!(found.public_key(), key.public_key());
}

#[tokio::test]
async fn whatever_call_breaks_no_key_is_lost_and_none_is_left_over() {
    // An answer fails at each call of making a second key of one name, and a first one of another.
    let mut cases = JoinSet::new();
    for fault in [Fault::Cut, Fault::Lost, Fault::Status(503), Fault::Garbage] {
        for skip in 0..7 {
            if cases.len() >= 7
                && let Some(case) = cases.join_next().await
            {
                case.unwrap();
            }
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
        cloud.fake.fault("/v1/", skip, 100, fault);
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
    assert_eq!(cloud.fake.alive(), 2, "{fault:?} {skip}: {:?}", cloud.fake.versions());
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
        cloud.fake.fault("/v1/", round % 8, 100, [Fault::Cut, Fault::Lost][round / 8 % 2]);
        // Stopped while a key is made: what is in memory is gone with it.
        let making = keys.generate_key("x509-CA-A", KeyType::EcP256);
        drop(tokio::time::timeout(Duration::from_millis(300), making).await);
        cloud.fake.heal();
        assert!(cloud.fake.alive() <= 2, "{:?}", cloud.fake.versions());
        let next = cloud.manager();
        next.list().await.unwrap();
        next.clean().await;
    }
    assert!(cloud.fake.alive() <= 1, "{:?}", cloud.fake.versions());
}

#[tokio::test]
async fn a_lost_answer_does_not_make_a_second_key() {
    let cloud = Cloud::new();
    let keys = cloud.manager();
    cloud.fake.fault("POST /v1/", 0, 1, Fault::Lost);
    keys.generate_key("a", KeyType::EcP256).await.unwrap();
    cloud.fake.fault("/cryptoKeyVersions", 0, 1, Fault::Lost);
    keys.generate_key("a", KeyType::EcP256).await.unwrap();
    keys.clean().await;
    assert_eq!(cloud.fake.versions()["spire-key-server-1-a"], ["DESTROY_SCHEDULED", "ENABLED"]);
}

#[tokio::test]
async fn throttling_and_short_failures_are_waited_out_and_damage_is_noticed() {
    let cloud = Cloud::new();
    let keys = cloud.manager();
    let key = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    for fault in [Fault::Status(429), Fault::Status(503), Fault::Cut, Fault::Lost] {
        cloud.fake.fault(":asymmetricSign", 0, 1, fault);
        key.sign_issued(b"m").await.unwrap();
        cloud.fake.heal();
    }
    cloud.fake.revoke_tokens();
    key.sign_issued(b"m").await.unwrap();
    assert_eq!(keys.fault(), None);

    for (fault, want) in [
        (Fault::Damaged, "damaged on its way"),
        (Fault::Garbage, "no JSON"),
        (Fault::Status(403), "403"),
        (Fault::Status(500), "500"),
    ] {
        cloud.fake.fault(":asymmetricSign", 0, 9, fault);
        let error = key.sign_issued(b"m").await.unwrap_err().to_string();
        cloud.fake.heal();
        assert!(error.contains(want), "{fault:?}: {error}");
    }
    assert_eq!(keys.fault().unwrap().in_a_row, 4);
    cloud.fake.fault("/publicKey", 0, 1, Fault::Damaged);
    let error = cloud.manager().list().await.unwrap_err().to_string();
    assert!(error.contains("damaged on its way"), "{error}");

    cloud.fake.fault(":asymmetricSign", 0, 1, Fault::Silent);
    let limits = SigningLimits { deadline: Duration::from_millis(300), ..Default::default() };
    let impatient = RemoteKeyManager::new(Arc::new(cloud.store()), limits);
    let silent = impatient.get_key("a").await.unwrap().unwrap();
    let silent = silent.sign_issued(b"m").await.unwrap_err();
    assert!(matches!(silent, SignError::TimedOut { .. }), "{silent}");
    key.sign_issued(b"m").await.unwrap();
    assert_eq!(keys.fault(), None);
}

#[tokio::test]
async fn keys_are_marked_as_alive_and_those_of_dead_servers_destroyed() {
    let mut cloud = Cloud::new();
    let clock = TestClock::new();
    cloud.clock = Arc::new(clock.clone());
    let store = cloud.store();
    let keys = managed(store.clone());
    keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    let id = "spire-key-server-1-x509-CA-A";
    cloud.fake.set_label(id, "team", "red");
    store.keep_alive().await.unwrap();
    let now = clock.unix().seconds();
    let found = cloud.fake.labels(id);
    assert_eq!((&*found["spire-last-update"], &*found["team"]), (&*now.to_string(), "red"));
    store.keep_alive().await.unwrap();
    assert_eq!(cloud.count("PATCH"), 1, "what was just marked is not marked again");
    clock.jump_forward(Duration::from_secs(6 * 3600));
    store.keep_alive().await.unwrap();
    assert_eq!(cloud.fake.labels(id)["spire-last-update"], (now + 6 * 3600).to_string());

    let now = clock.unix().seconds();
    let (old, young) = ((now - 15 * 86_400).to_string(), (now - 13 * 86_400).to_string());
    put(&cloud, "spire-key-dead-x509-CA-A", "dead", &old);
    put(&cloud, "spire-key-alive-x509-CA-A", "alive", &young);
    put(&cloud, "spire-key-server-1-old", SERVER, &old);
    put(&cloud, "spire-key-other-x509-CA-A", "other", &old);
    cloud.fake.set_label("spire-key-other-x509-CA-A", "spire-server-td", "another");
    put(&cloud, "spire-key-new-x509-CA-A", "new", "");
    store.dispose().await.unwrap();
    let versions = cloud.fake.versions();
    assert_eq!(versions["spire-key-dead-x509-CA-A"], ["DESTROY_SCHEDULED"]);
    for kept in [
        "spire-key-alive-x509-CA-A",
        "spire-key-server-1-old",
        "spire-key-other-x509-CA-A",
        "spire-key-new-x509-CA-A",
        id,
    ] {
        assert_eq!(versions[kept], ["ENABLED"], "{kept}");
    }
    assert_eq!(cloud.fake.labels("spire-key-dead-x509-CA-A")["spire-active"], "true");
    store.dispose().await.unwrap();
    assert_eq!(cloud.fake.labels("spire-key-dead-x509-CA-A")["spire-active"], "false");
}

#[tokio::test]
async fn every_kind_of_credentials_is_taken() {
    let cloud = Cloud::new();
    let dir = tempfile::tempdir().unwrap();
    let machine = Credentials::Instance { host: format!("127.0.0.1:{}", cloud.fake.port) };
    for (id, credentials) in [
        ("m", machine),
        ("f", Credentials::File(cloud.account.clone())),
        ("i", Credentials::File(cloud.fake.external_account_file(dir.path(), true))),
    ] {
        credentials.check().unwrap();
        let keys = managed(cloud.store_of(id, credentials));
        let key = keys.generate_key("k", KeyType::EcP256).await.unwrap();
        key.sign_issued(b"m").await.unwrap();
        let members = &cloud.fake.policy(&format!("spire-key-{id}-k"))["bindings"][0]["members"];
        assert_eq!(members[0], "serviceAccount:signet@p-1.iam.gserviceaccount.com", "{id}");
    }
    let external = cloud.fake.external_account_file(dir.path(), false);
    let keys = managed(cloud.store_of("e", Credentials::File(external.clone())));
    keys.generate_key("k", KeyType::EcP256).await.unwrap();
    assert!(cloud.fake.policy("spire-key-e-k")["bindings"].is_null(), "nobody to name there");

    let wrong = Credentials::ServiceAccount(external).check().unwrap_err();
    assert!(
        wrong.contains("external.json") && wrong.contains("expected service_account"),
        "{wrong}"
    );
    for (text, want) in [
        ("{", "it is no JSON"),
        ("{\"type\":\"service_account\"}", "missing field"),
        ("{\"type\":\"x\"}", "expected service_account, external_account or authorized_user"),
        (
            "{\"type\":\"service_account\",\"client_email\":\"e\",\"private_key\":\"hush\",\
             \"token_uri\":\"http://example.org\"}",
            "expected an https:// URL",
        ),
        (
            "{\"type\":\"service_account\",\"client_email\":\"e\",\"private_key\":\"hush\"}",
            "private_key",
        ),
    ] {
        let path = dir.path().join("bad.json");
        std::fs::write(&path, text).unwrap();
        let error = Credentials::File(path).check().unwrap_err();
        assert!(error.contains("bad.json: ") && error.contains(want), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
    // A key that the service does not know is told, and tried again after a pause only.
    let other = FakeGcp::strange();
    let stranger = other.service_account_file(dir.path());
    let text = std::fs::read_to_string(&stranger).unwrap();
    std::fs::write(&stranger, text.replace(&other.port.to_string(), &cloud.fake.port.to_string()))
        .unwrap();
    let store = cloud.store_of("s", Credentials::ServiceAccount(stranger));
    let error = store.list().await.unwrap_err().to_string();
    assert!(error.contains("invalid_grant"), "{error}");
    let error = store.list().await.unwrap_err().to_string();
    assert!(error.contains("tried again soon"), "{error}");
}
