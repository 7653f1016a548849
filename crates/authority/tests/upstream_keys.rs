//! JWT and WIT keys that all servers under one upstream server share.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]
#![allow(dead_code, reason = "the support is shared")]

mod support;

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use signet_authority::{
    Authority,
    AuthorityKind::{self, Jwt, Wit},
    WitOptions,
};
use signet_base::CancellationToken;
use signet_identity::JwtAuthority;
use signet_time::UnixTime;
use support::{Machine, Upstream};

/// Long enough that upstream was asked.
const ASKED: Duration = Duration::from_secs(120);

fn machine() -> (Machine, Arc<Upstream>) {
    let mut machine = Machine::with_upstream();
    machine.options.wit = Some(WitOptions::default());
    let upstream = machine.upstream.clone().unwrap();
    upstream.tells_revocation.store(true, Ordering::Relaxed);
    (machine, upstream)
}

fn above(upstream: &Upstream, kind: AuthorityKind) -> &Mutex<Option<Vec<JwtAuthority>>> {
    if kind == Jwt { &upstream.jwt_keys } else { &upstream.wit_keys }
}

/// The key IDs of a bundle, and whether they are tainted.
fn here(machine: &Machine, kind: AuthorityKind) -> Vec<(String, bool)> {
    let bundle = machine.bundle();
    let keys = if kind == Jwt { bundle.jwt_authorities } else { bundle.wit_authorities };
    keys.iter().map(|key| (key.key_id.to_string(), key.tainted)).collect()
}

fn active(authority: &Authority, kind: AuthorityKind) -> String {
    let view = authority.view().borrow().clone();
    let kind = if kind == Jwt { view.jwt } else { view.wit };
    kind.active.unwrap().authority_id
}

fn key(machine: &Machine, id: &str) -> JwtAuthority {
    let public_key = machine.bundle().jwt_authorities[0].public_key.clone();
    let expires_at = UnixTime::from_seconds(machine.now() + 86_400);
    JwtAuthority { public_key, key_id: id.into(), expires_at, tainted: false }
}

async fn keys_are_shared(kind: AuthorityKind) {
    let (machine, upstream) = machine();
    *above(&upstream, kind).lock().unwrap() = Some(Vec::new());
    let (manager, authority) = machine.start_ticked().await;
    let own = active(&authority, kind);
    let published = || above(&upstream, kind).lock().unwrap().clone().unwrap();
    assert_eq!(*published()[0].key_id, *own);
    let token = CancellationToken::new();
    let task = tokio::spawn(manager.run(token.clone()));

    // What another server published is here, and what was lost there is published again.
    *above(&upstream, kind).lock().unwrap() = Some(vec![key(&machine, "other")]);
    tokio::time::sleep(ASKED).await;
    assert_eq!(here(&machine, kind), [(own.clone(), false), ("other".to_owned(), false)]);
    assert_eq!(published().len(), 2);

    // Taints and revocations there are followed here, for what signs here too.
    let taint = |id: &str| {
        let mut keys = above(&upstream, kind).lock().unwrap();
        let key = keys.as_mut().unwrap().iter_mut().find(|key| *key.key_id == *id);
        key.unwrap().tainted = true;
    };
    taint("other");
    taint(&own);
    tokio::time::sleep(ASKED).await;
    assert!(here(&machine, kind).iter().filter(|key| key.1).count() == 2);
    let second = active(&authority, kind);
    assert_ne!(second, own, "a tainted authority does not sign on");
    above(&upstream, kind).lock().unwrap().as_mut().unwrap().retain(|key| !key.tainted);
    tokio::time::sleep(ASKED).await;
    assert_eq!(here(&machine, kind), [(second.clone(), false)]);

    // A key that is revoked here does not come back because it is still named there.
    let third = authority.prepare(kind).await.unwrap().authority_id;
    authority.activate(kind, &third).await.unwrap();
    authority.taint(kind, &second).await.unwrap();
    authority.revoke(kind, &second).await.unwrap();
    tokio::time::sleep(ASKED).await;
    assert_eq!(here(&machine, kind), [(third.clone(), false)]);
    let fourth = authority.prepare(kind).await.unwrap().authority_id;
    assert_eq!(here(&machine, kind), [(third, false), (fourth, false)]);
    assert!(published().iter().any(|key| *key.key_id == *second), "it is revoked here only");
    token.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn jwt_keys_are_those_of_all_servers_and_follow_taints_and_revocations() {
    keys_are_shared(Jwt).await;
}

#[tokio::test(start_paused = true)]
async fn wit_keys_are_those_of_all_servers_and_follow_taints_and_revocations() {
    keys_are_shared(Wit).await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_without_wit_keys_is_given_none_and_changes_nothing() {
    let (machine, upstream) = machine();
    let (manager, authority) = machine.start_ticked().await;
    let own = active(&authority, Wit);
    let token = CancellationToken::new();
    let task = tokio::spawn(manager.run(token.clone()));
    tokio::time::sleep(ASKED).await;
    assert_eq!(here(&machine, Wit), [(own, false)]);
    assert_eq!(*upstream.wit_keys.lock().unwrap(), None);
    token.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_wit_key_of_others_is_in_the_bundle_of_a_server_without_wit_svids() {
    let (mut machine, upstream) = machine();
    machine.options.wit = None;
    let (manager, _authority) = machine.start_ticked().await;
    *upstream.wit_keys.lock().unwrap() = Some(vec![key(&machine, "other")]);
    let token = CancellationToken::new();
    let task = tokio::spawn(manager.run(token.clone()));
    tokio::time::sleep(ASKED).await;
    assert!(machine.bundle().wit_authorities.is_empty());
    token.cancel();
    task.await.unwrap();
}
