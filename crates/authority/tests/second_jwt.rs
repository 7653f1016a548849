//! The second JWT key: another algorithm for the audiences that want it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use signet_authority::{
    Authority, AuthorityKind, CaManager, IssueError, JwtSvidParams, OperationClass,
    SecondJwtOptions, journal::Journal,
};
use signet_base::CancellationToken;
use signet_identity::SpiffeId;
use signet_pki::{
    KeyType, MemoryKeyManager,
    jwt::{JwtBundle, validate},
};
use signet_time::UnixTime;
use support::Machine;
use tokio::task::JoinHandle;

const HOUR: Duration = Duration::from_secs(3600);
const ENTRA: &str = "api://AzureADTokenExchange";

fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.options.second_jwt = Some(SecondJwtOptions {
        key_type: KeyType::Rsa2048,
        audiences: vec![ENTRA.parse().unwrap(), "https://rsa.example/*".parse().unwrap()],
    });
    machine
}

/// Signs a token for these audiences, verifies it with the bundle, and answers with its algorithm
/// and key ID.
async fn token(
    machine: &Machine,
    authority: &Authority,
    audience: &[&str],
) -> Result<(String, String), IssueError> {
    let id: SpiffeId = "spiffe://td/w".parse().unwrap();
    let audience: Vec<String> = audience.iter().map(|one| (*one).to_owned()).collect();
    let params = JwtSvidParams {
        spiffe_id: &id,
        audience: &audience,
        ttl: None,
        include_jti: false,
        tenant: None,
    };
    let token = authority.sign_jwt_svid(params).await?.token.to_string();
    let keys = JwtBundle::from_bundle(&machine.bundle());
    let asked: Vec<String> = audience.iter().filter(|one| !one.is_empty()).cloned().collect();
    validate(&token, &asked, UnixTime::from_seconds(machine.now()), |_| Some(&keys)).unwrap();
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    let text = |name: &str| header[name].as_str().unwrap().to_owned();
    Ok((text("alg"), text("kid")))
}

fn run(manager: CaManager) -> (CancellationToken, JoinHandle<()>) {
    let token = CancellationToken::new();
    (token.clone(), tokio::spawn(manager.run(token)))
}

fn second(authority: &Authority) -> String {
    authority.view().borrow().second_jwt.active.as_ref().unwrap().authority_id.clone()
}

fn first(authority: &Authority) -> String {
    authority.view().borrow().jwt.active.as_ref().unwrap().authority_id.clone()
}

#[tokio::test(start_paused = true)]
async fn a_listed_audience_gets_the_other_algorithm_and_nobody_else_does() {
    let machine = machine();
    let (_manager, authority) = machine.start_ticked().await;
    assert_eq!(machine.bundle().jwt_authorities.len(), 2);
    for audience in [ENTRA, "https://rsa.example/", "https://rsa.example/a/b"] {
        let found = token(&machine, &authority, &[audience]).await.unwrap();
        assert_eq!(found, ("RS256".to_owned(), second(&authority)), "{audience}");
    }
    for audience in ["a", "https://rsa.example", "api://azureadtokenexchange"] {
        let found = token(&machine, &authority, &[audience]).await.unwrap();
        assert_eq!(found, ("ES256".to_owned(), first(&authority)), "{audience}");
    }
    let several = token(&machine, &authority, &[ENTRA, "https://rsa.example/x", ""]).await;
    assert_eq!(several.unwrap().0, "RS256");
    assert_eq!(token(&machine, &authority, &["a", "b"]).await.unwrap().0, "ES256");
    machine.issues(&authority).await;
}

#[tokio::test(start_paused = true)]
async fn audiences_that_want_different_keys_are_refused_by_name() {
    let machine = machine();
    let (_manager, authority) = machine.start_ticked().await;
    for audience in [["a", ENTRA], [ENTRA, "a"]] {
        let error = token(&machine, &authority, &audience).await.unwrap_err();
        assert!(error.is_askers_fault() && !error.is_temporary());
        assert_eq!(
            error.to_string(),
            "the audience \"api://AzureADTokenExchange\" wants the second JWT key and \"a\" the \
             first: ask for a JWT-SVID for each"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_key_rotates_by_itself_and_both_are_kept_over_a_restart() {
    let machine = machine();
    let (mut manager, authority) = machine.start_ticked().await;
    let (one, two) = (first(&authority), second(&authority));
    machine.pass(&mut manager, 12 * HOUR).await;
    let view = authority.view().borrow().clone();
    let (next_one, next_two) = (
        view.jwt.prepared().unwrap().authority_id.clone(),
        view.second_jwt.prepared().unwrap().authority_id.clone(),
    );
    assert_eq!(machine.bundle().jwt_authorities.len(), 4, "both successors are known");
    let journal = Journal::decode(machine.journal.data.lock().unwrap().as_ref().unwrap()).unwrap();
    assert_eq!((journal.jwt.len(), journal.second_jwt.len()), (2, 2));
    drop((manager, authority));

    let (mut manager, authority) = machine.start_ticked().await;
    assert_eq!((first(&authority), second(&authority)), (one, two));
    machine.pass(&mut manager, 9 * HOUR).await;
    assert_eq!((first(&authority), second(&authority)), (next_one.clone(), next_two.clone()));
    assert_eq!(token(&machine, &authority, &[ENTRA]).await.unwrap(), ("RS256".into(), next_two));
    assert_eq!(token(&machine, &authority, &["a"]).await.unwrap(), ("ES256".into(), next_one));
}

#[tokio::test(start_paused = true)]
async fn a_second_key_is_activated_tainted_and_revoked_by_its_id_alone() {
    use AuthorityKind::{Jwt, SecondJwt};
    let machine = machine();
    let (manager, authority) = machine.start_ticked().await;
    let (stop, running) = run(manager);
    let (one, old) = (first(&authority), second(&authority));
    // As a JWT authority it is no stranger: neither is touched while it signs.
    for id in [&one, &old] {
        for kind in [Jwt, SecondJwt] {
            let error = authority.taint(kind, id).await.unwrap_err();
            assert_eq!(error.class(), OperationClass::InvalidArgument);
            assert_eq!(error.to_string(), "unable to taint current local authority");
            authority.revoke(kind, id).await.unwrap_err();
        }
    }
    let new = authority.prepare(SecondJwt).await.unwrap().authority_id;
    authority.taint(Jwt, &new).await.unwrap_err();
    assert_eq!(authority.activate(Jwt, &new).await.unwrap().authority_id, new);
    assert_eq!((first(&authority), second(&authority)), (one.clone(), new.clone()));
    authority.taint(Jwt, &old).await.unwrap();
    authority.revoke(SecondJwt, &old).await.unwrap();
    let left: Vec<_> =
        machine.bundle().jwt_authorities.iter().map(|key| key.key_id.to_string()).collect();
    assert_eq!(left, [one, new.clone()]);
    assert_eq!(token(&machine, &authority, &[ENTRA]).await.unwrap(), ("RS256".into(), new));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_key_that_was_withdrawn_elsewhere_is_replaced_and_the_first_one_stays() {
    let here = machine();
    let there = Machine { journal: Machine::new().journal, ..here.clone() };
    let there = there.with_keys(Arc::new(MemoryKeyManager::new()));
    let (mut manager, authority) = here.start_ticked().await;
    let (other, elsewhere) = there.start_ticked().await;
    let (stop, running) = run(other);
    let (one, withdrawn) = (first(&authority), second(&authority));
    elsewhere.taint(AuthorityKind::Jwt, &withdrawn).await.unwrap();
    manager.tick().await.unwrap();
    assert_ne!(second(&authority), withdrawn);
    assert_eq!(first(&authority), one);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn switched_off_again_its_tokens_verify_and_an_earlier_program_reads_the_journal() {
    let machine = machine();
    let (manager, authority) = machine.start_ticked().await;
    let known = second(&authority);
    drop((manager, authority));
    let mut without = machine.clone();
    without.options.second_jwt = None;
    let (mut manager, authority) = without.start_ticked().await;
    assert!(!authority.has(AuthorityKind::SecondJwt));
    assert!(authority.view().borrow().second_jwt.active.is_none());
    assert_eq!(token(&without, &authority, &[ENTRA]).await.unwrap().0, "ES256");
    assert!(without.bundle().jwt_authorities.iter().any(|key| *key.key_id == *known));
    without.pass(&mut manager, 12 * HOUR).await;
    let journal = machine.journal.data.lock().unwrap().clone().unwrap();
    assert!(journal.starts_with(br#"{"version":1,"#));
    let error = authority.prepare(AuthorityKind::SecondJwt);
    let (stop, running) = run(manager);
    assert_eq!(error.await.unwrap_err().to_string(), "there is no second JWT key");
    stop.cancel();
    running.await.unwrap();
}
