//! What an operator may do, with SPIRE's refusals.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use signet_authority::{Authority, Keeper, OperationClass, OperationError, journal::Status};
use signet_base::CancellationToken;
use support::Machine;

struct Running {
    token: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn run(keeper: Keeper) -> Running {
    let token = CancellationToken::new();
    let task = tokio::spawn(keeper.run(token.clone()));
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
    let (keeper, authority) = machine.start_ticked().await;
    let running = run(keeper);
    let first = active(&authority);

    let no_id = (InvalidArgument, "no authority ID provided".to_owned());
    let unexpected = (InvalidArgument, "unexpected authority ID".to_owned());
    assert_eq!(refused(authority.activate_x509("").await), no_id);
    assert_eq!(refused(authority.activate_x509(&first).await), unexpected);
    assert_eq!(refused(authority.taint_x509("").await), no_id);
    assert_eq!(
        refused(authority.taint_x509(&first).await),
        (InvalidArgument, "unable to taint current local authority".into())
    );

    let prepared = authority.prepare_x509().await.unwrap();
    assert_eq!(prepared.status, Status::Prepared);
    assert_eq!(
        refused(authority.taint_x509(&prepared.authority_id).await).0,
        InvalidArgument,
        "a prepared authority is not tainted"
    );
    let activated = authority.activate_x509(&prepared.authority_id).await.unwrap();
    assert_eq!(active(&authority), activated.authority_id);
    machine.issues(&authority).await;
    assert_eq!(
        refused(authority.activate_x509(&first).await),
        (
            Internal,
            "only Prepared authorities can be activated: unsupported local authority status: OLD"
                .into()
        )
    );
    assert_eq!(
        refused(authority.revoke_x509(&first).await).1,
        "failed to revoke X.509 authority: it is not possible to revoke an untainted root CA"
    );

    let mut taints = authority.taints();
    taints.mark_unchanged();
    assert_eq!(authority.taint_x509(&first).await.unwrap().authority_id, first);
    assert!(taints.has_changed().unwrap());
    assert_eq!(machine.bundle().x509_authorities.iter().filter(|a| a.tainted).count(), 1);
    assert_eq!(
        refused(authority.taint_x509(&first).await).1,
        "failed to taint X.509 authority: root CA is already tainted"
    );
    authority.revoke_x509(&first).await.unwrap();
    assert_eq!(machine.bundle().x509_authorities.len(), 1);
    assert_eq!(
        refused(authority.revoke_x509(&activated.authority_id).await).1,
        "invalid authority ID: unable to use current authority"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_forced_jwt_rotation_goes_from_prepare_to_revoke() {
    let machine = Machine::new();
    let (keeper, authority) = machine.start_ticked().await;
    let running = run(keeper);
    let first = authority.view().borrow().jwt.active.clone().unwrap().authority_id;
    let prepared = authority.prepare_jwt().await.unwrap().authority_id;
    assert_eq!(
        refused(authority.revoke_jwt(&prepared).await).1,
        "invalid authority ID: unable to use a prepared key"
    );
    authority.activate_jwt(&prepared).await.unwrap();
    assert_eq!(
        refused(authority.revoke_jwt(&first).await).1,
        "failed to revoke JWT authority: it is not possible to revoke an untainted key"
    );
    authority.taint_jwt(&first).await.unwrap();
    authority.revoke_jwt(&first).await.unwrap();
    assert_eq!(machine.bundle().jwt_authorities.len(), 1);
    assert_eq!(
        refused(authority.revoke_jwt(&first).await).1,
        "invalid authority ID: no JWT authority found with provided authority ID"
    );
    machine.issues(&authority).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn preparing_twice_replaces_the_prepared_authority() {
    let machine = Machine::new();
    let (keeper, authority) = machine.start_ticked().await;
    let running = run(keeper);
    let one = authority.prepare_x509().await.unwrap().authority_id;
    let two = authority.prepare_x509().await.unwrap().authority_id;
    assert_ne!(one, two);
    assert_eq!(refused(authority.activate_x509(&one).await).1, "unexpected authority ID");
    running.stop().await;
    let (_keeper, authority) = machine.start_ticked().await;
    let view = authority.view().borrow().clone();
    assert_eq!(view.x509.prepared().unwrap().authority_id, two);
}

#[tokio::test(start_paused = true)]
async fn an_operation_whose_caller_goes_away_is_finished() {
    let machine = Machine::new();
    let (keeper, authority) = machine.start_ticked().await;
    let running = run(keeper);
    let mut view = authority.view();
    {
        let asked = authority.prepare_x509();
        tokio::pin!(asked);
        let polled = futures_poll_once(asked.as_mut()).await;
        assert!(polled.is_none(), "answered without the keeper");
    }
    view.wait_for(|view| view.x509.prepared().is_some()).await.unwrap();
    running.stop().await;
    let (_keeper, authority) = machine.start_ticked().await;
    assert!(authority.view().borrow().x509.prepared().is_some());
}

#[tokio::test(start_paused = true)]
async fn with_an_upstream_only_the_upstream_is_tainted_and_revoked() {
    use OperationClass::{FailedPrecondition, InvalidArgument};
    let machine = Machine::with_upstream();
    let upstream = machine.upstream.clone().unwrap();
    let (keeper, authority) = machine.start_ticked().await;
    let running = run(keeper);
    let root = upstream.root_id();
    assert_eq!(refused(authority.taint_x509("x").await).0, FailedPrecondition);
    assert_eq!(refused(authority.revoke_x509("x").await).0, FailedPrecondition);
    assert_eq!(refused(authority.taint_upstream("").await).0, InvalidArgument);
    assert_eq!(refused(authority.taint_upstream(&root).await).0, InvalidArgument);

    upstream.replace(false);
    let prepared = authority.prepare_x509().await.unwrap();
    assert_eq!(prepared.upstream_authority_id, upstream.root_id());
    authority.activate_x509(&prepared.authority_id).await.unwrap();
    machine.issues(&authority).await;
    // Upper case is taken too.
    assert_eq!(authority.taint_upstream(&root.to_uppercase()).await.unwrap(), root);
    assert_eq!(machine.bundle().x509_authorities.iter().filter(|a| a.tainted).count(), 1);
    authority.revoke_upstream(&root).await.unwrap();
    assert_eq!(machine.bundle().x509_authorities.len(), 1);
    machine.issues(&authority).await;
    running.stop().await;

    let plain = Machine::new();
    let (keeper, authority) = plain.start_ticked().await;
    let running = run(keeper);
    assert_eq!(refused(authority.taint_upstream("x").await).0, FailedPrecondition);
    assert_eq!(refused(authority.revoke_upstream("x").await).0, FailedPrecondition);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_tainted_upstream_is_left_before_it_is_tainted_here() {
    let machine = Machine::with_upstream();
    let upstream = machine.upstream.clone().unwrap();
    let (keeper, authority) = machine.start_ticked().await;
    let running = run(keeper);
    let first = active(&authority);
    let mut taints = authority.taints();
    taints.mark_unchanged();
    upstream.replace(true);
    taints.changed().await.unwrap();
    assert_ne!(active(&authority), first);
    let verified = machine.issues(&authority).await;
    assert_eq!(verified.leaf.authority_key_id_hex(), active(&authority));
    assert_eq!(machine.bundle().x509_authorities.iter().filter(|a| a.tainted).count(), 1);
    // When it is gone upstream, it goes here.
    upstream.older.lock().unwrap().clear();
    while machine.bundle().x509_authorities.len() > 1 {
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    }
    machine.issues(&authority).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn jwt_operations_say_that_jwt_is_off() {
    let mut machine = Machine::new();
    machine.options.jwt_disabled = true;
    let (keeper, authority) = machine.start_ticked().await;
    let running = run(keeper);
    let off = (OperationClass::Unimplemented, "JWT functionality is disabled".to_owned());
    assert_eq!(refused(authority.prepare_jwt().await), off);
    assert_eq!(refused(authority.activate_jwt("x").await), off);
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
