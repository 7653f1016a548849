//! Keys behind a remote key manager: the whole suite again, and what happens when it is slow,
//! hangs, fails or returns garbage.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]
#![allow(clippy::duplicate_mod, reason = "the files of tests that are run again bring theirs")]

#[path = "life.rs"]
mod life;
#[path = "operations.rs"]
mod operations;
mod support;

use std::{sync::Arc, time::Duration};

use signet_authority::{
    Authority, AuthorityError, AuthorityKind, IssueError, JwtSvidParams, WorkloadX509Params,
};
use signet_base::CancellationToken;
use signet_pki::{
    KeyType, PrivateKey,
    key_manager::{
        SigningLimits,
        fake::{Behaviour, FakeRemoteKeyManager},
    },
};
use support::Machine;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);
const DEADLINE: Duration = Duration::from_secs(10);

fn machine() -> (Machine, FakeRemoteKeyManager) {
    let keys = FakeRemoteKeyManager::new(SigningLimits::default());
    (Machine::new().with_keys(Arc::new(keys.clone())), keys)
}

/// What becomes of one of each credential.
async fn issue(authority: &Authority) -> [Result<(), IssueError>; 2] {
    let id = "spiffe://td/w".parse().unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let x509 = authority.sign_workload_x509(WorkloadX509Params {
        spiffe_id: &id,
        public_key: key.public_key(),
        ttl: None,
        dns_names: &[],
        subject: None,
    });
    let audience = ["a".to_owned()];
    let jwt = authority.sign_jwt_svid(JwtSvidParams {
        spiffe_id: &id,
        audience: &audience,
        ttl: None,
        include_jti: false,
        tenant: None,
    });
    [x509.await.map(drop), jwt.await.map(drop)]
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[tokio::test(start_paused = true)]
async fn issuing_says_within_the_deadline_what_is_wrong_and_heals_by_itself() {
    let (machine, keys) = machine();
    let (_manager, authority) = machine.start_ticked().await;
    for (behaviour, text, is_temporary) in [
        (Behaviour::Hangs, "key manager fake: it did not sign within 10 s", true),
        (Behaviour::Slow(2 * DEADLINE), "key manager fake: it did not sign within 10 s", true),
        (Behaviour::Fails, "signing failed: 503 Service Unavailable", false),
        (
            Behaviour::ForeignSignatures,
            "key manager fake: it returned a signature that does not match its key",
            false,
        ),
        (
            Behaviour::NoSignatures,
            "key manager fake: it returned a signature that does not match its key",
            false,
        ),
    ] {
        keys.behave(behaviour);
        for outcome in issue(&authority).await {
            let begun = Instant::now();
            let error = outcome.unwrap_err();
            assert!(begun.elapsed() <= DEADLINE, "{behaviour:?}");
            assert!(chain(&error).ends_with(text), "{behaviour:?}: {}", chain(&error));
            assert_eq!(error.is_temporary(), is_temporary, "{behaviour:?}");
        }
        assert!(authority.signing_fault().is_some());
        keys.behave(Behaviour::Good);
        machine.issues(&authority).await;
        assert_eq!(authority.signing_fault(), None);
    }
    keys.behave(Behaviour::Slow(DEADLINE / 2));
    machine.issues(&authority).await;
}

#[tokio::test(start_paused = true)]
async fn a_hung_key_manager_leaves_everything_else_at_work() {
    let (machine, keys) = machine();
    let (manager, authority) = machine.start_ticked().await;
    let old = authority.view().borrow().x509.active.clone().unwrap().authority_id;
    let token = CancellationToken::new();
    let running = tokio::spawn(manager.run(token.clone()));
    let next = authority.prepare(AuthorityKind::X509).await.unwrap().authority_id;
    authority.activate(AuthorityKind::X509, &next).await.unwrap();
    keys.behave(Behaviour::Hangs);
    let stuck = tokio::spawn({
        let authority = authority.clone();
        async move { issue(&authority).await }
    });
    // Needs no key: done while a signature hangs.
    authority.taint(AuthorityKind::X509, &old).await.unwrap();
    authority.revoke(AuthorityKind::X509, &old).await.unwrap();
    assert!(!stuck.is_finished());
    // Needs one: says so in time, and the next operation gets its turn.
    let begun = Instant::now();
    let refused = authority.prepare(AuthorityKind::X509).await.unwrap_err();
    assert!(chain(&refused).ends_with("the key manager did not answer in time"));
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    assert!(stuck.await.unwrap().iter().all(Result::is_err));
    keys.behave(Behaviour::Good);
    authority.prepare(AuthorityKind::X509).await.unwrap();
    machine.issues(&authority).await;
    token.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_does_not_sign_is_never_published_and_what_signs_goes_on() {
    for behaviour in [
        Behaviour::OtherKeyTypes,
        Behaviour::OtherPublicKeys,
        Behaviour::ForeignSignatures,
        Behaviour::NoSignatures,
    ] {
        let (machine, keys) = machine();
        keys.behave(behaviour);
        let (mut manager, _) = machine.start().await.unwrap();
        let error = manager.tick().await.unwrap_err();
        assert!(matches!(error, AuthorityError::NewKey(_)), "{behaviour:?}: {error}");
        assert_eq!(machine.bundle().x509_authorities.len(), 0, "{behaviour:?}");

        keys.behave(Behaviour::Good);
        manager.tick().await.unwrap();
        let (mut manager, authority) = machine.start_ticked().await;
        let before = (authority.view().borrow().x509.active.clone(), machine.bundle());
        keys.behave(behaviour);
        tokio::time::advance(12 * HOUR).await;
        manager.tick().await.unwrap_err();
        let after = (authority.view().borrow().x509.active.clone(), machine.bundle());
        assert_eq!(after, before, "{behaviour:?}");
        keys.behave(Behaviour::Good);
        machine.issues(&authority).await;
        manager.tick().await.unwrap();
        assert!(authority.view().borrow().x509.prepared().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_starts_without_the_upstream_leave_one_key() {
    let (machine, keys) = machine();
    let machine = machine.under_upstream();
    let upstream = machine.upstream.clone().unwrap();
    *upstream.is_away.lock().unwrap() = true;
    for _ in 0..1000 {
        let (mut manager, _) = machine.start().await.unwrap();
        manager.tick().await.unwrap_err();
    }
    assert_eq!(keys.made(), 1);
    *upstream.is_away.lock().unwrap() = false;
    let (_manager, authority) = machine.start_ticked().await;
    machine.issues(&authority).await;
    assert_eq!(keys.made(), 2, "one for each kind");
}

#[tokio::test(start_paused = true)]
async fn each_rotation_has_a_new_key() {
    let (machine, keys) = machine();
    let (mut manager, _authority) = machine.start_ticked().await;
    for rotation in 2..6 {
        machine.pass(&mut manager, 12 * HOUR).await;
        assert_eq!(keys.made(), 2 * rotation, "one for each kind");
        machine.pass(&mut manager, 8 * HOUR).await;
    }
}
