//! A remote key manager that is slow, hangs, fails or returns garbage.

use std::time::Duration;

use super::{
    KeyManager, ManagedKey, SigningLimits, conformance,
    fake::{Behaviour, FakeRemoteKeyManager},
};
use crate::{KeyType, PrivateKey, SignError, SignatureAlgorithm};

const LIMITS: SigningLimits =
    SigningLimits { at_once: 4, waiting: 8, deadline: Duration::from_secs(10) };

async fn remote(key_type: KeyType) -> (FakeRemoteKeyManager, ManagedKey) {
    let keys = FakeRemoteKeyManager::new(LIMITS);
    let key = keys.generate_key("x509-CA-A", key_type).await.unwrap();
    (keys, key)
}

#[tokio::test(start_paused = true)]
async fn a_remote_key_manager_keeps_the_promises_of_a_key_manager_even_when_slow() {
    for behaviour in [Behaviour::Good, Behaviour::Slow(Duration::from_secs(2))] {
        let keys = FakeRemoteKeyManager::new(SigningLimits::default());
        keys.behave(behaviour);
        conformance::check(&keys).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_signature_comes_within_the_deadline_or_fails_with_its_reason() {
    let (keys, key) = remote(KeyType::EcP256).await;
    let holder = "fake";
    for (behaviour, wanted) in [
        (Behaviour::Hangs, SignError::TimedOut { holder, after: LIMITS.deadline }),
        (
            Behaviour::Slow(Duration::from_secs(11)),
            SignError::TimedOut { holder, after: LIMITS.deadline },
        ),
        (Behaviour::Fails, SignError::Failed("503 Service Unavailable".to_owned())),
    ] {
        keys.behave(behaviour);
        let begun = tokio::time::Instant::now();
        assert_eq!(key.sign_issued(b"message").await.unwrap_err(), wanted);
        assert!(begun.elapsed() <= LIMITS.deadline + Duration::from_millis(1), "{behaviour:?}");
        assert_eq!(keys.fault().unwrap().last, wanted);
    }
    assert_eq!(keys.fault().unwrap().in_a_row, 3);
    keys.behave(Behaviour::Slow(Duration::from_secs(9)));
    key.sign_issued(b"message").await.unwrap();
    assert_eq!(keys.fault(), None, "it signs again");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_signature_of_the_key_is_never_handed_out() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        for behaviour in [Behaviour::ForeignSignatures, Behaviour::NoSignatures] {
            let (keys, key) = remote(key_type).await;
            keys.behave(behaviour);
            let refused = key.sign_issued(b"message").await.unwrap_err();
            assert_eq!(refused, SignError::Mismatch { holder: "fake" }, "{behaviour:?}");
        }
    }
}

#[tokio::test]
async fn every_way_of_signing_is_checked_with_the_right_rule() {
    use SignatureAlgorithm as A;
    for (key_type, algorithms) in [
        (KeyType::EcP256, [A::EcdsaP256Sha256].as_slice()),
        (KeyType::EcP384, &[A::EcdsaP384Sha384, A::EcdsaP384Sha256]),
        (
            KeyType::Rsa2048,
            &[
                A::RsaPkcs1Sha256,
                A::RsaPkcs1Sha384,
                A::RsaPkcs1Sha512,
                A::RsaPssSha256,
                A::RsaPssSha384,
                A::RsaPssSha512,
            ],
        ),
    ] {
        let (_keys, key) = remote(key_type).await;
        for algorithm in algorithms {
            key.sign(*algorithm, b"message").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_new_key_shows_that_it_is_what_was_asked_for() {
    for behaviour in [Behaviour::OtherKeyTypes, Behaviour::OtherPublicKeys] {
        let keys = FakeRemoteKeyManager::new(LIMITS);
        keys.behave(behaviour);
        let key = keys.generate_key("a", KeyType::EcP256).await.unwrap();
        key.prove(KeyType::EcP256).await.unwrap_err();
    }
    let (_keys, key) = remote(KeyType::EcP384).await;
    key.prove(KeyType::EcP384).await.unwrap();
    let local: ManagedKey = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap().into();
    local.prove(KeyType::EcP256).await.unwrap();
    local.prove(KeyType::Rsa2048).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_hung_back_end_holds_no_more_than_its_queue_and_comes_back_by_itself() {
    let (keys, key) = remote(KeyType::EcP256).await;
    keys.behave(Behaviour::Hangs);
    let asked = (0..1000).map(|_| {
        let key = key.clone();
        tokio::spawn(async move { key.sign_issued(b"message").await.unwrap_err() })
    });
    let (mut busy, mut late) = (0, 0);
    for task in asked.collect::<Vec<_>>() {
        match task.await.unwrap() {
            SignError::Busy { .. } => busy += 1,
            SignError::TimedOut { .. } => late += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((busy, late), (988, 12), "4 at work, 8 waiting, the others refused at once");
    assert_eq!(keys.most_at_work(), 4);
    keys.behave(Behaviour::Good);
    key.sign_issued(b"message").await.unwrap();
}

#[tokio::test]
async fn a_key_in_this_process_signs_without_waiting() {
    let key: ManagedKey = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap().into();
    let mut signing = std::pin::pin!(key.sign_issued(b"message"));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(signing.as_mut().poll(&mut context).is_ready(), "ready when first polled");
}
