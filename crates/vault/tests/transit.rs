//! The key manager `hashicorp_vault` against a real OpenBao server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test ends where it fails"
)]

mod support;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use signet_pki::{
    KeyManager, KeyType, SignError, SignatureAlgorithm,
    key_manager::{KeyStore, RemoteKeyManager, SigningLimits, conformance},
};
use signet_testkit::{Bao, Suspended, skip};
use signet_vault::{Auth, Client, Request, Transit};
use support::admin;
use zeroize::Zeroizing;

/// What SPIRE's documentation tells operators to allow.
const POLICY: &str = r#"
path "transit/keys/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "transit/sign/*" { capabilities = ["update"] }
"#;

async fn with_engine(admin: &Client) {
    admin.write("sys/mounts/transit", &json!({ "type": "transit" })).await.unwrap();
}

fn manager(client: &Client, server_id: &str, limits: SigningLimits) -> RemoteKeyManager {
    RemoteKeyManager::new(Arc::new(Transit::new(client.clone(), "transit", server_id)), limits)
}

#[tokio::test]
async fn conforms_with_the_rights_that_spire_asks_for() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = admin(&bao);
    with_engine(&admin).await;
    admin.write("sys/policies/acl/spire", &json!({ "policy": POLICY })).await.unwrap();
    let token = admin.write("auth/token/create", &json!({ "policies": ["spire"] })).await.unwrap();
    let token = Zeroizing::new(token.token.unwrap().token.to_string());
    let client = support::client(&bao, Auth::Token(token));
    let keys = manager(&client, "server-1", SigningLimits::default());
    conformance::check(&keys).await;

    let rsa = keys.get_key("rsa-2048").await.unwrap().unwrap();
    for algorithm in [
        SignatureAlgorithm::RsaPkcs1Sha384,
        SignatureAlgorithm::RsaPkcs1Sha512,
        SignatureAlgorithm::RsaPssSha256,
        SignatureAlgorithm::RsaPssSha512,
    ] {
        rsa.sign(algorithm, b"m").await.unwrap();
    }
    let p384 = keys.get_key("ec-p384").await.unwrap().unwrap();
    p384.sign(SignatureAlgorithm::EcdsaP384Sha256, b"m").await.unwrap();
    let wrong = p384.sign(SignatureAlgorithm::RsaPssSha256, b"m").await.unwrap_err();
    assert!(matches!(wrong, SignError::WrongAlgorithm { .. }));

    assert_eq!(admin.list("transit/keys").await.unwrap().len(), 6);
    assert_eq!(keys.clean().await, 0);
    assert_eq!(admin.list("transit/keys").await.unwrap().len(), 5, "replaced keys are deleted");
    let store = Transit::new(client.clone(), "transit", "server-1");
    store.delete("server-1-none").await.unwrap();
    let bad = keys.generate_key("a/b", KeyType::EcP256).await.unwrap_err();
    assert!(bad.to_string().contains("cannot name a transit key"), "{bad}");
}

#[tokio::test]
async fn keys_are_named_as_spire_names_them_and_those_of_others_are_left_alone() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = admin(&bao);
    with_engine(&admin).await;
    let uuid = "0b2d8d4e-6a4c-4f0e-9d43-0d2f2f0f5a01";
    let ours = format!("srv-{uuid}-x509-CA-A");
    // A SPIRE server's own key, keys of servers whose IDs begin alike, and of nobody.
    for (name, kind) in [
        (&*ours, "ecdsa-p256"),
        (&*format!("srv-1-{uuid}-x509-CA-A"), "ecdsa-p256"),
        (&*format!("other-{uuid}-x509-CA-A"), "ecdsa-p256"),
        (&*format!("srv-{uuid}"), "ecdsa-p256"),
        (&*format!("srv-{uuid}-x509-CA-B"), "ed25519"),
    ] {
        admin.write(format!("transit/keys/{name}"), &json!({ "type": kind })).await.unwrap();
    }
    let keys = manager(&admin, "srv", SigningLimits::default());
    let found = keys.list().await.unwrap();
    assert_eq!(found.iter().map(|(id, _)| &**id).collect::<Vec<_>>(), ["x509-CA-A"]);
    found[0].1.sign_issued(b"m").await.unwrap();

    let made = keys.generate_key("x509-CA-A", KeyType::EcP384).await.unwrap();
    keys.clean().await;
    let left = admin.list("transit/keys").await.unwrap();
    assert!(!left.contains(&ours) && left.len() == 5, "{left:?}");
    let again = manager(&admin, "srv", SigningLimits::default());
    let found = again.get_key("x509-CA-A").await.unwrap().unwrap();
    assert_eq!(found.public_key(), made.public_key(), "a restart finds the key");

    // One that the engine does not take as it is.
    let id = "bundle-acme-acme_account+key";
    let made = keys.generate_key(id, KeyType::EcP256).await.unwrap();
    let again = manager(&admin, "srv", SigningLimits::default());
    let found = again.get_key(id).await.unwrap().unwrap();
    assert_eq!(found.public_key(), made.public_key());
}

#[tokio::test]
async fn a_back_end_that_is_sealed_or_silent_is_told_and_used_again_when_it_is_back() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = admin(&bao);
    with_engine(&admin).await;
    let limits = SigningLimits { deadline: Duration::from_secs(1), ..SigningLimits::default() };
    let keys = manager(&admin, "srv", limits);
    let key = keys.generate_key("a", KeyType::EcP256).await.unwrap();

    let suspended = Suspended::process(bao.pid());
    let silent = key.sign_issued(b"m").await.unwrap_err();
    drop(suspended);
    assert!(matches!(silent, SignError::TimedOut { .. }), "{silent}");
    assert_eq!(keys.fault().unwrap().in_a_row, 1);
    key.sign_issued(b"m").await.unwrap();
    assert_eq!(keys.fault(), None);

    admin.send(Request::new(http::Method::PUT, "sys/seal")).await.unwrap();
    let sealed = key.sign_issued(b"m").await.unwrap_err();
    assert!(sealed.to_string().contains("the Vault server is sealed"), "{sealed}");
    let unseal = Request::new(http::Method::PUT, "sys/unseal").without_token();
    admin.send(unseal.json(&json!({ "key": bao.unseal_key() }))).await.unwrap();
    support::eventually(|| admin.read("transit/keys?list=true")).await;
    key.sign_issued(b"m").await.unwrap();

    // The engine is gone: nothing is mistaken for an empty one.
    admin.delete("sys/mounts/transit").await.unwrap();
    let gone = manager(&admin, "srv", limits).list().await.unwrap_err();
    assert!(gone.to_string().contains("transit/keys"), "{gone}");
}
