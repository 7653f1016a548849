//! A start that finds the key of an authority that signs gone.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::{sync::Arc, time::Duration};

use signet_authority::{AuthorityError, LostKeys};
use signet_pki::{
    KeyManager, KeyType,
    key_manager::{SigningLimits, fake::FakeRemoteKeyManager},
};
use support::Machine;

const HOUR: Duration = Duration::from_secs(3600);

/// Keys that outlive a process.
fn durable() -> Arc<FakeRemoteKeyManager> {
    Arc::new(FakeRemoteKeyManager::new(SigningLimits::default()))
}

#[tokio::test(start_paused = true)]
async fn a_lost_ca_key_is_a_refusal_that_says_how_to_go_on() {
    let keys = durable();
    let machine = Machine::new().with_keys(keys.clone());
    let (_, authority) = machine.start_ticked().await;
    let lost = authority.view().borrow().x509.active.clone().unwrap().authority_id;
    let before = (machine.bundle(), machine.journal.data.lock().unwrap().clone());

    let without = machine.with_keys(durable());
    let error = without.start().await.unwrap_err();
    assert!(matches!(error, AuthorityError::LostKey { .. }), "{error}");
    let text = error.to_string();
    for part in [&*lost, "x509-CA-A", "\"fake\"", "keys_path", "-replaceLostKeys"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    let after = (machine.bundle(), machine.journal.data.lock().unwrap().clone());
    assert_eq!(after, before, "nothing was changed");

    // Brought back, it signs as before.
    let (_, authority) = machine.start_ticked().await;
    assert_eq!(authority.view().borrow().x509.active.clone().unwrap().authority_id, lost);
    // Another key under its name is as good as none.
    keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    assert!(matches!(machine.start().await, Err(AuthorityError::LostKey { .. })));

    let mut told = without;
    told.options.lost_keys = LostKeys::Replace;
    let (_, authority) = told.start_ticked().await;
    assert_ne!(authority.view().borrow().x509.active.clone().unwrap().authority_id, lost);
    assert_eq!(told.bundle().x509_authorities.len(), 2, "what the lost one signed still verifies");
    told.issues(&authority).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_key_that_locks_nobody_out_is_replaced() {
    // An upstream authority's roots are trusted already.
    let machine = Machine::with_upstream().with_keys(durable());
    machine.start_ticked().await;
    let without = machine.with_keys(durable());
    let (_, authority) = without.start_ticked().await;
    without.issues(&authority).await;

    // An expired authority would have been replaced anyway.
    let machine = Machine::new().with_keys(durable());
    machine.start_ticked().await;
    tokio::time::advance(25 * HOUR).await;
    let without = machine.with_keys(durable());
    let (_, authority) = without.start_ticked().await;
    without.issues(&authority).await;

    // A JWT key alone: its successor reaches everyone over X.509.
    let keys = durable();
    let machine = Machine::new().with_keys(keys.clone());
    let (_, authority) = machine.start_ticked().await;
    let before = authority.view().borrow().x509.active.clone();
    keys.generate_key("JWT-Signer-A", KeyType::EcP256).await.unwrap();
    let (_, authority) = machine.start_ticked().await;
    assert_eq!(authority.view().borrow().x509.active, before);
    assert_eq!(machine.bundle().jwt_authorities.len(), 2);
    machine.issues(&authority).await;
}

#[tokio::test(start_paused = true)]
async fn the_prepared_authority_takes_the_place_of_one_whose_key_was_lost() {
    let keys = durable();
    let machine = Machine::new().with_keys(keys.clone());
    let (mut manager, authority) = machine.start_ticked().await;
    machine.pass(&mut manager, 12 * HOUR).await;
    let prepared = authority.view().borrow().x509.prepared().cloned().unwrap().authority_id;
    keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    let (_, authority) = machine.start_ticked().await;
    assert_eq!(authority.view().borrow().x509.active.clone().unwrap().authority_id, prepared);
    machine.issues(&authority).await;
}
