//! The life of the authorities: rotation, crashes, jumps of the clock.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use signet_authority::{IssueError, JwtSvidParams, WorkloadX509Params, journal::Journal};
use signet_identity::SpiffeId;
use signet_pki::{
    CredentialComposer, KeyType, MemoryKeyManager, PrivateKey, PublicKey,
    jwt::{JwtBundle, validate},
    ports::{PortError, X509SvidAttributes},
    x509::TrustBundle,
};
use signet_time::UnixTime;
use support::Machine;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: i64 = 86_400;

#[tokio::test(start_paused = true)]
async fn starts_with_one_active_authority_of_each_kind_that_is_in_the_bundle() {
    let machine = Machine::new();
    let (_manager, authority) = machine.start_ticked().await;
    let view = authority.view().borrow().clone();
    let x509 = view.x509.active.unwrap();
    assert_eq!(x509.expires_at, UnixTime::from_seconds(machine.now() + DAY));
    assert!(view.x509.next.is_none() && view.jwt.next.is_none());
    assert_eq!(view.jwt.active.unwrap().authority_id.len(), 32);
    let bundle = machine.bundle();
    assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1));
    assert_eq!(machine.issues(&authority).await.leaf.authority_key_id_hex(), x509.authority_id);
}

#[tokio::test(start_paused = true)]
async fn everything_ever_issued_verifies_until_it_expires_over_many_rotations() {
    let machine = Machine::new();
    let (mut manager, authority) = machine.start_ticked().await;
    let mut alive: Vec<(i64, signet_authority::X509Svid)> = Vec::new();
    let mut authorities = std::collections::HashSet::new();
    for hour in 0..24 * 30 {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id = "spiffe://td/w".parse().unwrap();
        let svid = authority
            .sign_workload_x509(WorkloadX509Params {
                spiffe_id: &id,
                public_key: key.public_key(),
                ttl: Some(4 * HOUR),
                dns_names: &[],
                subject: None,
            })
            .await
            .unwrap();
        assert_eq!(
            svid.not_after,
            UnixTime::from_seconds(machine.now() + 4 * 3600),
            "cut short in hour {hour}"
        );
        alive.push((svid.not_after.seconds(), svid));
        machine.pass(&mut manager, HOUR).await;
        if hour % 6 == 5 {
            manager.prune_bundle().await.unwrap();
        }
        let trust = TrustBundle::from_bundle(&machine.bundle()).unwrap();
        alive.retain(|(not_after, _)| *not_after > machine.now());
        for (_, svid) in &alive {
            signet_pki::x509::verify_svid(
                &svid.chain,
                &trust,
                UnixTime::from_seconds(machine.now()),
            )
            .unwrap();
        }
        let view = authority.view().borrow().clone();
        authorities.insert(view.x509.active.unwrap().authority_id);
    }
    // 20 hours from activation to activation: prepared at 12 h, activated at 20 h.
    assert!((50..=64).contains(&authorities.len()), "{} authorities", authorities.len());
    let bundle = machine.bundle();
    assert!(bundle.x509_authorities.len() <= 6, "{} roots", bundle.x509_authorities.len());
    let journal = machine.journal.data.lock().unwrap().clone().unwrap();
    assert!(Journal::decode(&journal).unwrap().x509.len() <= 10);
}

#[tokio::test(start_paused = true)]
async fn the_next_authority_is_in_the_bundle_hours_before_it_signs() {
    let machine = Machine::new();
    let (mut manager, authority) = machine.start_ticked().await;
    let first = authority.view().borrow().x509.active.clone().unwrap();
    machine.pass(&mut manager, 12 * HOUR).await;
    let view = authority.view().borrow().clone();
    let prepared = view.x509.prepared().unwrap().clone();
    assert_eq!(view.x509.active.unwrap(), first);
    assert_eq!(machine.bundle().x509_authorities.len(), 2);
    machine.pass(&mut manager, 8 * HOUR - Duration::from_secs(1)).await;
    assert_eq!(authority.view().borrow().x509.active.clone().unwrap(), first);
    machine.pass(&mut manager, Duration::from_secs(1)).await;
    let view = authority.view().borrow().clone();
    assert_eq!(view.x509.active.clone().unwrap().authority_id, prepared.authority_id);
    assert_eq!(view.x509.old().unwrap().authority_id, first.authority_id);
}

#[tokio::test(start_paused = true)]
async fn a_restart_recovers_what_signs_and_what_is_prepared() {
    let machine = Machine::new();
    let (mut manager, authority) = machine.start_ticked().await;
    machine.pass(&mut manager, 12 * HOUR).await;
    let before = authority.view().borrow().clone();
    drop((manager, authority));
    let (_manager, authority) = machine.start_ticked().await;
    assert_eq!(*authority.view().borrow(), before);
    machine.issues(&authority).await;
    assert_eq!(machine.bundle().x509_authorities.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_in_memory_mean_a_new_authority_at_each_start() {
    let memory = || Arc::new(MemoryKeyManager::new());
    let machine = Machine::new().with_keys(memory());
    let (_, authority) = machine.start_ticked().await;
    let before = authority.view().borrow().x509.active.clone().unwrap();
    let restarted = machine.with_keys(memory());
    let (_, authority) = restarted.start_ticked().await;
    let after = authority.view().borrow().x509.active.clone().unwrap();
    assert_ne!(before.authority_id, after.authority_id);
    assert_eq!(restarted.bundle().x509_authorities.len(), 2);
    restarted.issues(&authority).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_of_start_prepare_and_activate_is_recovered() {
    let machines: [fn() -> Machine; 2] = [Machine::new, Machine::with_upstream];
    for (writes, machine) in (0..40).flat_map(|n| machines.map(|machine| (n, machine))) {
        let machine = machine();
        machine.crash.after(writes);
        // Lives until the crash: starts, prepares at half, activates at five sixths, once more.
        let mut last_active = None;
        if let Ok((mut manager, authority)) = machine.start().await {
            for _ in 0..4 {
                let outcome = manager.tick().await;
                last_active = authority.view().borrow().x509.active.clone().or(last_active);
                if outcome.is_err() {
                    break;
                }
                tokio::time::advance(10 * HOUR).await;
            }
        }
        machine.crash.revive();
        let (mut manager, authority) = machine.start_ticked().await;
        machine.issues(&authority).await;
        let now = authority.view().borrow().x509.active.clone().unwrap();
        if let Some(last) = last_active
            && last.expires_at > UnixTime::from_seconds(machine.now() + 5 * 3600)
        {
            // What signed before the crash goes on, unless its successor's time had come.
            let known = machine.bundle().x509_authorities.len();
            assert!(now.authority_id == last.authority_id || known >= 2, "crash {writes}");
        }
        for _ in 0..6 {
            machine.pass(&mut manager, 5 * HOUR).await;
            machine.issues(&authority).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_journal_stops_the_start_with_a_clear_error() {
    let machine = Machine::new();
    machine.start_ticked().await;
    *machine.journal.data.lock().unwrap() = Some(b"{\"version\":1,\"x5".to_vec());
    let error = machine.start().await.unwrap_err();
    assert_eq!(error.to_string(), "the CA journal in the registration store is corrupt");
    *machine.journal.data.lock().unwrap() = Some(b"{\"version\":7}".to_vec());
    let error = machine.start().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the CA journal has format version 7, this program reads up to 4"
    );
}

#[tokio::test(start_paused = true)]
async fn an_authority_missing_from_the_bundle_is_not_used_again() {
    let machine = Machine::new();
    let (_, authority) = machine.start_ticked().await;
    let before = authority.view().borrow().clone();
    machine.bundle.bundle.lock().unwrap().x509_authorities.clear();
    let (_, authority) = machine.start_ticked().await;
    let after = authority.view().borrow().clone();
    assert_ne!(after.x509.active, before.x509.active);
    assert_eq!(after.jwt.active, before.jwt.active);
    machine.issues(&authority).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_keeps_the_active_authority_signing_and_heals_by_itself() {
    let machine = Machine::new();
    let (mut manager, authority) = machine.start_ticked().await;
    let first = authority.view().borrow().x509.active.clone().unwrap();
    *machine.journal.fails.lock().unwrap() = true;
    tokio::time::advance(20 * HOUR).await;
    assert!(manager.tick().await.is_err());
    assert_eq!(authority.view().borrow().failed_rotations, 1);
    assert_eq!(authority.view().borrow().x509.active.clone().unwrap(), first);
    machine.issues(&authority).await;
    *machine.journal.fails.lock().unwrap() = false;
    manager.tick().await.unwrap();
    let view = authority.view().borrow().clone();
    assert_eq!(view.failed_rotations, 0);
    assert_ne!(view.x509.active.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_forward_past_expiry_gets_a_new_authority_at_once() {
    let machine = Machine::new();
    let (mut manager, authority) = machine.start_ticked().await;
    machine.clock.jump_forward(72 * HOUR);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let refused = authority.sign_server_x509(key.public_key()).await.unwrap_err();
    assert!(matches!(refused, IssueError::NotValidNow(_)), "{refused}");
    manager.tick().await.unwrap();
    machine.issues(&authority).await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_gets_a_new_authority_at_once() {
    let machine = Machine::new();
    let (mut manager, authority) = machine.start_ticked().await;
    machine.clock.jump_back(48 * HOUR);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let refused = authority.sign_server_x509(key.public_key()).await.unwrap_err();
    assert!(matches!(refused, IssueError::NotValidNow(_)), "{refused}");
    manager.tick().await.unwrap();
    machine.issues(&authority).await;
    // A small correction is no reason to replace anything.
    let before = authority.view().borrow().x509.active.clone();
    machine.clock.jump_back(Duration::from_secs(30));
    manager.tick().await.unwrap();
    assert_eq!(authority.view().borrow().x509.active, before);
}

#[tokio::test(start_paused = true)]
async fn a_refused_signature_wakes_the_manager_rather_than_waiting_for_its_round() {
    let machine = Machine::new();
    let (manager, authority) = machine.start_ticked().await;
    let token = signet_base::CancellationToken::new();
    let running = tokio::spawn(manager.run(token.clone()));
    let mut view = authority.view();
    machine.clock.jump_forward(72 * HOUR);
    let begun = tokio::time::Instant::now();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    authority.sign_server_x509(key.public_key()).await.unwrap_err();
    let now = machine.now();
    view.wait_for(|view| {
        view.x509.active.as_ref().is_some_and(|a| a.expires_at > UnixTime::from_seconds(now))
    })
    .await
    .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    token.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pruning_never_drops_the_last_authority_of_a_kind() {
    let machine = Machine::new();
    let (mut manager, _authority) = machine.start_ticked().await;
    machine.clock.jump_forward(10 * 24 * HOUR);
    assert!(!manager.prune_bundle().await.unwrap());
    assert_eq!(machine.bundle().x509_authorities.len(), 1);
    manager.tick().await.unwrap();
    assert!(manager.prune_bundle().await.unwrap());
    let bundle = machine.bundle();
    assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn svids_end_with_their_authority_and_foreign_ids_are_refused() {
    let machine = Machine::new();
    let (_manager, authority) = machine.start_ticked().await;
    let ca = authority.view().borrow().x509.active.clone().unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let mut params = WorkloadX509Params {
        spiffe_id: &"spiffe://td/w".parse().unwrap(),
        public_key: key.public_key(),
        ttl: Some(100 * 24 * HOUR),
        dns_names: &["a.example".to_owned(), "b.example".to_owned()],
        subject: None,
    };
    let svid = authority.sign_workload_x509(params).await.unwrap();
    assert_eq!(svid.not_after, ca.expires_at);
    let leaf = signet_pki::x509::Certificate::from_der(&svid.chain[0]).unwrap();
    assert_eq!(leaf.subject().common_name, "a.example");
    assert_eq!(leaf.serial().to_string(), svid.serial_number);
    assert_eq!(leaf.not_before(), UnixTime::from_seconds(machine.now() - 10));
    let foreign = "spiffe://other/w".parse().unwrap();
    params.spiffe_id = &foreign;
    let refused = authority.sign_workload_x509(params).await.unwrap_err();
    assert!(matches!(refused, IssueError::Foreign(_)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn every_key_type_signs() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let mut machine = Machine::new();
        machine.options.x509_key_type = key_type;
        machine.options.jwt_key_type = key_type;
        let (_manager, authority) = machine.start_ticked().await;
        machine.issues(&authority).await;
    }
}

/// Puts its own common name and a claim into everything.
#[derive(Debug)]
struct Marker;

#[async_trait::async_trait]
impl CredentialComposer for Marker {
    fn name(&self) -> &'static str {
        "marker"
    }

    async fn workload_x509_svid(
        &self,
        _id: &SpiffeId,
        _key: &PublicKey,
        mut attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PortError> {
        assert_eq!(attributes.subject.common_name, "a.example");
        attributes.subject.common_name = "composed".into();
        Ok(attributes)
    }

    async fn workload_jwt_svid(
        &self,
        _id: &SpiffeId,
        mut claims: Map<String, Value>,
    ) -> Result<Map<String, Value>, PortError> {
        claims.insert("composed".into(), true.into());
        Ok(claims)
    }
}

#[tokio::test(start_paused = true)]
async fn composers_have_the_last_word() {
    let machine = Machine { composers: vec![Arc::new(Marker)], ..Machine::new() };
    let (_manager, authority) = machine.start_ticked().await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let id: SpiffeId = "spiffe://td/w".parse().unwrap();
    let params = WorkloadX509Params {
        spiffe_id: &id,
        public_key: key.public_key(),
        ttl: None,
        dns_names: &["a.example".to_owned()],
        subject: None,
    };
    let svid = authority.sign_workload_x509(params).await.unwrap();
    let leaf = signet_pki::x509::Certificate::from_der(&svid.chain[0]).unwrap();
    assert_eq!(leaf.subject().common_name, "composed");
    assert_eq!(leaf.subject().organization, ["SPIRE"]);
    let audience = ["a".to_owned()];
    let jwt = authority
        .sign_jwt_svid(JwtSvidParams {
            spiffe_id: &id,
            audience: &audience,
            ttl: None,
            include_jti: false,
            tenant: None,
        })
        .await
        .unwrap();
    let keys = JwtBundle::from_bundle(&machine.bundle());
    let valid =
        validate(&jwt.token, &audience, UnixTime::from_seconds(machine.now()), |_| Some(&keys))
            .unwrap();
    assert_eq!(valid.claims["composed"], true);
    assert_eq!(jwt.expires_at, UnixTime::from_seconds(machine.now() + 300));
}
