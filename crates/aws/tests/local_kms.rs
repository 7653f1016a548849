//! The key manager `aws_kms` against `local-kms`, which somebody else has written.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use signet_aws::{Access, Credentials, Environment, Keys, Kms, KmsSettings, Place};
use signet_base::SystemClock;
use signet_pki::{
    KeyManager, KeyType, SignError,
    key_manager::{RemoteKeyManager, SigningLimits, conformance},
};
use signet_testkit::{LocalKms, Suspended, skip};

fn kms(local: &LocalKms, server_id: &str) -> Kms {
    let url = local.url();
    let environment =
        Environment::from_fn(move |name| (name == "AWS_ENDPOINT_URL_KMS").then(|| url.clone()));
    let place = Place::new(LocalKms::REGION, environment, SystemClock::shared());
    let access = Access { keys: Some(Keys::new("AK", "SK", None)), assume_role_arn: None };
    let settings = KmsSettings {
        trust_domain: "example.org".parse().unwrap(),
        server_id: server_id.to_owned(),
        policy: Some("{\"Version\":\"2012-10-17\",\"Statement\":[]}".to_owned()),
        tags: BTreeMap::from([("Team".to_owned(), "security".to_owned())]),
        by_tags: false,
    };
    Kms::new(&Credentials::new(place, &access), settings).unwrap()
}

fn manager(kms: &Kms) -> RemoteKeyManager {
    RemoteKeyManager::new(Arc::new(kms.clone()), SigningLimits::default())
}

#[tokio::test]
async fn conforms_and_finds_its_keys_again() {
    let Some(local) = LocalKms::start() else { skip!("there is no local-kms") };
    let store = kms(&local, "server-1");
    let keys = manager(&store);
    conformance::check(&keys).await;
    assert_eq!(keys.clean().await, 0);
    store.refresh().await.unwrap();
    store.dispose().await.unwrap();
    store.sweep().await.unwrap();

    let again = manager(&kms(&local, "server-1"));
    let (before, after) = (keys.list().await.unwrap(), again.list().await.unwrap());
    assert_eq!(before.len(), 5);
    for ((id, old), (other, new)) in before.iter().zip(&after) {
        assert_eq!((id, old.public_key()), (other, new.public_key()));
        new.sign_issued(b"m").await.unwrap();
    }
    assert_eq!(manager(&kms(&local, "server-10")).list().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_service_that_is_silent_is_told_and_used_again_when_it_is_back() {
    let Some(local) = LocalKms::start() else { skip!("there is no local-kms") };
    let limits = SigningLimits { deadline: Duration::from_secs(1), ..SigningLimits::default() };
    let keys = RemoteKeyManager::new(Arc::new(kms(&local, "srv")), limits);
    let key = keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    let suspended = Suspended::process(local.pid());
    let silent = key.sign_issued(b"m").await.unwrap_err();
    drop(suspended);
    assert!(matches!(silent, SignError::TimedOut { .. }), "{silent}");
    key.sign_issued(b"m").await.unwrap();
    assert_eq!(keys.fault(), None);
}
