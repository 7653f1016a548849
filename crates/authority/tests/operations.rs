//! What an operator may do, with SPIRE's refusals.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::sync::Arc;

use signet_authority::{
    Authority, AuthorityKind,
    AuthorityKind::{Jwt, X509},
    CaManager, OperationClass, OperationError,
    journal::Status,
};
use signet_base::CancellationToken;
use signet_pki::MemoryKeyManager;
use signet_testkit::Captured;
use signet_time::UnixTime;
use support::Machine;

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

/// Writes this thread's log there until the guard is dropped.
fn log_to(log: &Captured) -> tracing::subscriber::DefaultGuard {
    let log = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
    // A line that another test met first, with nobody listening, would be taken for one that nobody
    // ever wants.
    let everyone = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
    let _ = tracing::subscriber::set_global_default(everyone);
    let guard = tracing::subscriber::set_default(subscriber);
    tracing::callsite::rebuild_interest_cache();
    guard
}

struct Running {
    token: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn run(manager: CaManager) -> Running {
    let token = CancellationToken::new();
    let task = tokio::spawn(manager.run(token.clone()));
    Running { token, task }
}

impl Running {
    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap();
    }
}

fn refused(outcome: Result<impl std::fmt::Debug, OperationError>) -> (OperationClass, String) {
    let error = outcome.unwrap_err();
    (error.class(), error.to_string())
}

fn active(authority: &Authority) -> String {
    authority.view().borrow().x509.active.clone().unwrap().authority_id
}

#[tokio::test(start_paused = true)]
async fn a_forced_x509_rotation_goes_from_prepare_to_revoke() {
    use OperationClass::{Internal, InvalidArgument};
    let machine = Machine::new();
    let (manager, authority) = machine.start_ticked().await;
    let running = run(manager);
    let first = active(&authority);

    let no_id = (InvalidArgument, "no authority ID provided".to_owned());
    let unexpected = (InvalidArgument, "unexpected authority ID".to_owned());
    assert_eq!(refused(authority.activate(X509, "").await), no_id);
    assert_eq!(refused(authority.activate(X509, &first).await), unexpected);
    assert_eq!(refused(authority.taint(X509, "").await), no_id);
    assert_eq!(
        refused(authority.taint(X509, &first).await),
        (InvalidArgument, "unable to taint current local authority".into())
    );

    let prepared = authority.prepare(X509).await.unwrap();
    assert_eq!(prepared.status, Status::Prepared);
    assert_eq!(
        refused(authority.taint(X509, &prepared.authority_id).await).0,
        InvalidArgument,
        "a prepared authority is not tainted"
    );
    let activated = authority.activate(X509, &prepared.authority_id).await.unwrap();
    assert_eq!(active(&authority), activated.authority_id);
    machine.issues(&authority).await;
    assert_eq!(
        refused(authority.activate(X509, &first).await),
        (
            Internal,
            "only Prepared authorities can be activated: unsupported local authority status: OLD"
                .into()
        )
    );
    assert_eq!(
        refused(authority.revoke(X509, &first).await).1,
        "failed to revoke X.509 authority: it is not possible to revoke an untainted root CA"
    );

    let mut taints = authority.taints();
    taints.mark_unchanged();
    assert_eq!(authority.taint(X509, &first).await.unwrap().authority_id, first);
    assert!(taints.has_changed().unwrap());
    assert_eq!(machine.bundle().x509_authorities.iter().filter(|a| a.tainted).count(), 1);
    assert_eq!(
        refused(authority.taint(X509, &first).await).1,
        "failed to taint X.509 authority: root CA is already tainted"
    );
    authority.revoke(X509, &first).await.unwrap();
    assert_eq!(machine.bundle().x509_authorities.len(), 1);
    assert_eq!(
        refused(authority.revoke(X509, &activated.authority_id).await).1,
        "invalid authority ID: unable to use current authority"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_forced_jwt_rotation_goes_from_prepare_to_revoke() {
    let machine = Machine::new();
    let (manager, authority) = machine.start_ticked().await;
    let running = run(manager);
    let first = authority.view().borrow().jwt.active.clone().unwrap().authority_id;
    let prepared = authority.prepare(Jwt).await.unwrap().authority_id;
    assert_eq!(
        refused(authority.revoke(Jwt, &prepared).await).1,
        "invalid authority ID: unable to use a prepared key"
    );
    authority.activate(Jwt, &prepared).await.unwrap();
    assert_eq!(
        refused(authority.revoke(Jwt, &first).await).1,
        "failed to revoke JWT authority: it is not possible to revoke an untainted key"
    );
    authority.taint(Jwt, &first).await.unwrap();
    authority.revoke(Jwt, &first).await.unwrap();
    assert_eq!(machine.bundle().jwt_authorities.len(), 1);
    assert_eq!(
        refused(authority.revoke(Jwt, &first).await).1,
        "invalid authority ID: no JWT authority found with provided authority ID"
    );
    machine.issues(&authority).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn preparing_twice_replaces_the_prepared_authority() {
    let machine = Machine::new();
    let (manager, authority) = machine.start_ticked().await;
    let running = run(manager);
    let one = authority.prepare(X509).await.unwrap().authority_id;
    let two = authority.prepare(X509).await.unwrap().authority_id;
    assert_ne!(one, two);
    assert_eq!(refused(authority.activate(X509, &one).await).1, "unexpected authority ID");
    running.stop().await;
    let (_manager, authority) = machine.start_ticked().await;
    let view = authority.view().borrow().clone();
    assert_eq!(view.x509.prepared().unwrap().authority_id, two);
}

#[tokio::test(start_paused = true)]
async fn an_operation_whose_caller_goes_away_is_finished() {
    let machine = Machine::new();
    let (manager, authority) = machine.start_ticked().await;
    let running = run(manager);
    let mut view = authority.view();
    {
        let asked = authority.prepare(X509);
        tokio::pin!(asked);
        let polled = futures_poll_once(asked.as_mut()).await;
        assert!(polled.is_none(), "answered without the manager");
    }
    view.wait_for(|view| view.x509.prepared().is_some()).await.unwrap();
    running.stop().await;
    let (_manager, authority) = machine.start_ticked().await;
    assert!(authority.view().borrow().x509.prepared().is_some());
}

#[tokio::test(start_paused = true)]
async fn with_an_upstream_only_the_upstream_is_tainted_and_revoked() {
    use OperationClass::{FailedPrecondition, InvalidArgument};
    let machine = Machine::with_upstream();
    let upstream = machine.upstream.clone().unwrap();
    let (manager, authority) = machine.start_ticked().await;
    let running = run(manager);
    let root = upstream.root_id();
    assert_eq!(refused(authority.taint(X509, "x").await).0, FailedPrecondition);
    assert_eq!(refused(authority.revoke(X509, "x").await).0, FailedPrecondition);
    assert_eq!(refused(authority.taint_upstream("").await).0, InvalidArgument);
    assert_eq!(refused(authority.taint_upstream(&root).await).0, InvalidArgument);

    upstream.replace(false);
    let prepared = authority.prepare(X509).await.unwrap();
    assert_eq!(prepared.upstream_authority_id, upstream.root_id());
    authority.activate(X509, &prepared.authority_id).await.unwrap();
    machine.issues(&authority).await;
    // Upper case is taken too.
    assert_eq!(authority.taint_upstream(&root.to_uppercase()).await.unwrap(), root);
    assert_eq!(machine.bundle().x509_authorities.iter().filter(|a| a.tainted).count(), 1);
    authority.revoke_upstream(&root).await.unwrap();
    assert_eq!(machine.bundle().x509_authorities.len(), 1);
    machine.issues(&authority).await;
    running.stop().await;

    let plain = Machine::new();
    let (manager, authority) = plain.start_ticked().await;
    let running = run(manager);
    assert_eq!(refused(authority.taint_upstream("x").await).0, FailedPrecondition);
    assert_eq!(refused(authority.revoke_upstream("x").await).0, FailedPrecondition);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_tainted_upstream_is_left_before_it_is_tainted_here() {
    let machine = Machine::with_upstream();
    let upstream = machine.upstream.clone().unwrap();
    let (manager, authority) = machine.start_ticked().await;
    let running = run(manager);
    let first = active(&authority);
    let mut taints = authority.taints();
    taints.mark_unchanged();
    upstream.replace(true);
    taints.changed().await.unwrap();
    assert_ne!(active(&authority), first);
    let verified = machine.issues(&authority).await;
    assert_eq!(verified.leaf.authority_key_id_hex(), active(&authority));
    assert_eq!(machine.bundle().x509_authorities.iter().filter(|a| a.tainted).count(), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_tainted_root_that_is_gone_upstream_stays_until_an_operator_revokes_it() {
    let machine = Machine::with_upstream();
    let upstream = machine.upstream.clone().unwrap();
    let log = Captured::default();
    let (manager, authority) = machine.start_ticked().await;
    let first = upstream.root_id();
    let _guard = log_to(&log);
    let running = run(manager);
    upstream.replace(true);
    authority.taints().changed().await.unwrap();
    upstream.older.lock().unwrap().clear();
    tokio::time::sleep(HOUR).await;
    let tainted: Vec<_> =
        machine.bundle().x509_authorities.iter().map(|authority| authority.tainted).collect();
    assert_eq!(tainted, [true, false]);
    let log = log.take();
    assert_eq!(log.matches("tainted: the upstream authority says so").count(), 1, "{log}");
    assert_eq!(log.matches("no longer names a tainted").count(), 1, "one line an hour: {log}");
    assert!(log.matches(&first).count() >= 2, "{log}");
    assert_eq!(authority.revoke_upstream(&first).await.unwrap(), first);
    assert_eq!(machine.bundle().x509_authorities.len(), 1);
    machine.issues(&authority).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_root_does_not_come_back_because_the_upstream_still_names_it() {
    let machine = Machine::with_upstream();
    let upstream = machine.upstream.clone().unwrap();
    let (manager, authority) = machine.start_ticked().await;
    let running = run(manager);
    let first = upstream.root_id();
    upstream.replace(false);
    let prepared = authority.prepare(X509).await.unwrap().authority_id;
    authority.activate(X509, &prepared).await.unwrap();
    authority.taint_upstream(&first).await.unwrap();
    authority.revoke_upstream(&first).await.unwrap();
    tokio::time::sleep(HOUR).await;
    authority.prepare(X509).await.unwrap();
    assert_eq!(machine.bundle().x509_authorities.len(), 1);
    machine.issues(&authority).await;
    running.stop().await;
}

/// Rotates a kind `times`; the IDs, oldest first, the last one active.
async fn rotate(authority: &Authority, kind: AuthorityKind, times: usize) -> Vec<String> {
    let view = authority.view().borrow().clone();
    let first = if kind == X509 { view.x509.active } else { view.jwt.active };
    let mut ids = vec![first.unwrap().authority_id];
    for _ in 0..times {
        let id = authority.prepare(kind).await.unwrap().authority_id;
        authority.activate(kind, &id).await.unwrap();
        ids.push(id);
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn any_authority_of_the_bundle_that_does_not_sign_can_be_tainted_and_revoked() {
    use OperationClass::InvalidArgument;
    for kind in [X509, Jwt] {
        let machine = Machine::new();
        let (manager, authority) = machine.start_ticked().await;
        let running = run(manager);
        let ids = rotate(&authority, kind, 3).await;
        let prepared = authority.prepare(kind).await.unwrap().authority_id;
        for id in &ids[..3] {
            let not_tainted = refused(authority.revoke(kind, id).await).1;
            assert!(not_tainted.contains("not possible to revoke an untainted"), "{not_tainted}");
            let state = authority.taint(kind, id).await.unwrap();
            assert_eq!((&state.authority_id, state.status), (id, Status::Old));
            assert!(state.expires_at > UnixTime::from_seconds(machine.now()));
            assert!(refused(authority.taint(kind, id).await).1.contains("already tainted"));
        }
        for id in [&ids[3], &prepared] {
            assert_eq!(refused(authority.taint(kind, id).await).0, InvalidArgument);
            assert_eq!(refused(authority.revoke(kind, id).await).0, InvalidArgument);
        }
        for unknown in ["", "beef"] {
            assert_eq!(refused(authority.taint(kind, unknown).await).0, InvalidArgument);
            assert_eq!(refused(authority.revoke(kind, unknown).await).0, InvalidArgument);
        }
        machine.issues(&authority).await;
        for id in &ids[..3] {
            authority.revoke(kind, id).await.unwrap();
        }
        let bundle = machine.bundle();
        let left =
            if kind == X509 { bundle.x509_authorities.len() } else { bundle.jwt_authorities.len() };
        assert_eq!(left, 2, "the active and the prepared one");
        machine.issues(&authority).await;
        authority.activate(kind, &prepared).await.unwrap();
        machine.issues(&authority).await;
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_another_server_withdrew_from_the_bundle_is_left_at_the_next_look() {
    for kind in [X509, Jwt] {
        let here = Machine::new();
        let there = Machine { journal: Machine::new().journal, ..here.clone() };
        let there = there.with_keys(Arc::new(MemoryKeyManager::new()));
        let (mut manager, authority) = here.start_ticked().await;
        let (other, elsewhere) = there.start_ticked().await;
        let other = run(other);
        let active = || {
            let view = authority.view().borrow().clone();
            if kind == X509 { view.x509.active } else { view.jwt.active }.unwrap().authority_id
        };
        let first = active();
        elsewhere.taint(kind, &first).await.unwrap();
        manager.tick().await.unwrap();
        let second = active();
        assert_ne!(second, first);
        manager.tick().await.unwrap();
        assert_eq!(active(), second, "and no other one");
        here.issues(&authority).await;
        there.issues(&elsewhere).await;

        // One that is prepared is as little used.
        let view = authority.view();
        here.pass(&mut manager, 12 * HOUR).await;
        let prepared = || {
            let view = view.borrow().clone();
            let kind = if kind == X509 { view.x509 } else { view.jwt };
            kind.prepared().unwrap().authority_id.clone()
        };
        let withdrawn = prepared();
        elsewhere.taint(kind, &withdrawn).await.unwrap();
        elsewhere.revoke(kind, &withdrawn).await.unwrap();
        manager.tick().await.unwrap();
        assert_ne!(prepared(), withdrawn);
        assert_eq!(active(), second);
        here.pass(&mut manager, 8 * HOUR).await;
        here.issues(&authority).await;
        other.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn any_upstream_root_that_nothing_in_use_is_under_can_be_tainted_and_revoked() {
    use OperationClass::InvalidArgument;
    let machine = Machine::with_upstream();
    let upstream = machine.upstream.clone().unwrap();
    let (manager, authority) = machine.start_ticked().await;
    let running = run(manager);
    let mut roots = vec![upstream.root_id()];
    for _ in 0..3 {
        upstream.replace(false);
        roots.push(upstream.root_id());
        let id = authority.prepare(X509).await.unwrap().authority_id;
        authority.activate(X509, &id).await.unwrap();
    }
    upstream.replace(false);
    roots.push(upstream.root_id());
    authority.prepare(X509).await.unwrap();
    upstream.older.lock().unwrap().clear();
    for root in &roots[..3] {
        assert_eq!(&authority.taint_upstream(root).await.unwrap(), root);
    }
    for root in &roots[3..] {
        assert_eq!(refused(authority.taint_upstream(root).await).0, InvalidArgument);
        assert_eq!(refused(authority.revoke_upstream(root).await).0, InvalidArgument);
    }
    assert_eq!(refused(authority.taint_upstream("beef").await).0, InvalidArgument);
    for root in &roots[..3] {
        authority.revoke_upstream(root).await.unwrap();
    }
    assert_eq!(machine.bundle().x509_authorities.len(), 2);
    machine.issues(&authority).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn jwt_operations_say_that_jwt_is_off() {
    let mut machine = Machine::new();
    machine.options.jwt_disabled = true;
    let (manager, authority) = machine.start_ticked().await;
    let running = run(manager);
    let off = (OperationClass::Unimplemented, "JWT functionality is disabled".to_owned());
    assert_eq!(refused(authority.prepare(Jwt).await), off);
    assert_eq!(refused(authority.activate(Jwt, "x").await), off);
    assert!(machine.bundle().jwt_authorities.is_empty());
    machine.issues(&authority).await;
    running.stop().await;
}

async fn futures_poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
