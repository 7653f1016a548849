//! The local intermediate: X.509-SVIDs without the key manager.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{sync::Arc, time::Duration};

use signet_authority::{Authority, AuthorityKind, WorkloadX509Params};
use signet_base::CancellationToken;
use signet_pki::{
    KeyType, PrivateKey,
    key_manager::{
        SigningLimits,
        fake::{Behaviour, FakeRemoteKeyManager},
    },
    x509::{Certificate, TrustBundle, verify_svid},
};
use signet_time::UnixTime;
use support::Machine;

const HOUR: Duration = Duration::from_secs(3600);

fn machine(upstream: bool) -> (Machine, FakeRemoteKeyManager) {
    let keys = FakeRemoteKeyManager::new(SigningLimits::default());
    let mut machine = Machine::new().with_keys(Arc::new(keys.clone()));
    machine.options.local_intermediate = Some(HOUR);
    (if upstream { machine.under_upstream() } else { machine }, keys)
}

/// The chain of a new SVID, which is verified as agents and workloads do.
async fn chain(machine: &Machine, authority: &Authority) -> Vec<Certificate> {
    let id = "spiffe://td/w".parse().unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let params = WorkloadX509Params {
        spiffe_id: &id,
        public_key: key.public_key(),
        ttl: None,
        dns_names: &[],
        subject: None,
    };
    let svid = authority.sign_workload_x509(params).await.unwrap();
    let trust = TrustBundle::from_bundle(&machine.bundle()).unwrap();
    verify_svid(&svid.chain, &trust, UnixTime::from_seconds(machine.now())).unwrap();
    svid.chain.iter().map(|der| Certificate::from_der(der).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn svids_need_no_key_manager_for_as_long_as_it_lives() {
    for upstream in [false, true] {
        let (machine, keys) = machine(upstream);
        let (mut manager, authority) = machine.start_ticked().await;
        let first = chain(&machine, &authority).await;
        assert_eq!(first.len(), if upstream { 3 } else { 2 }, "the chain grows by one");
        assert!(
            first[1].is_ca()
                && first[1].not_after() <= UnixTime::from_seconds(machine.now() + 3600)
        );
        assert!(first[0].not_after() <= first[1].not_after());

        keys.behave(Behaviour::Fails);
        tokio::time::advance(HOUR / 4).await;
        manager.tick().await.unwrap();
        chain(&machine, &authority).await;
        assert_eq!(authority.signing_fault(), None, "nothing was asked of it");
        // At half its life it is renewed, which fails and does no harm.
        tokio::time::advance(HOUR / 2).await;
        manager.tick().await.unwrap();
        assert!(authority.signing_fault().is_some());
        assert!(authority.local_intermediate_expires_at().is_some());
        let same = chain(&machine, &authority).await;
        assert_eq!(same[1].der(), first[1].der());
        // When it is over the key itself is asked, and says what is wrong.
        tokio::time::advance(HOUR / 2).await;
        assert_eq!(authority.local_intermediate_expires_at(), None);
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let refused = authority.sign_server_x509(key.public_key()).await.unwrap_err();
        assert!(signet_base::chain(&refused).contains("503"), "{refused}");
        keys.behave(Behaviour::Good);
        chain(&machine, &authority).await;
        manager.tick().await.unwrap();
        let next = chain(&machine, &authority).await;
        assert_ne!(next[1].der(), first[1].der());
    }
}

#[tokio::test(start_paused = true)]
async fn it_changes_with_the_authority_above_it() {
    let (machine, _) = machine(false);
    let (manager, authority) = machine.start_ticked().await;
    let token = CancellationToken::new();
    let running = tokio::spawn(manager.run(token.clone()));
    let old = chain(&machine, &authority).await;
    let next = authority.prepare(AuthorityKind::X509).await.unwrap().authority_id;
    assert_eq!(chain(&machine, &authority).await[1].der(), old[1].der());
    authority.activate(AuthorityKind::X509, &next).await.unwrap();
    // The answer is given before the next intermediate is made; until then the authority signs.
    for _ in 0..2 {
        let new = chain(&machine, &authority).await;
        assert_eq!(new.last().unwrap().authority_key_id_hex(), next);
        authority.view().borrow().x509.active.clone().unwrap();
        authority.prepare(AuthorityKind::X509).await.unwrap();
    }
    assert_eq!(chain(&machine, &authority).await.len(), 2);
    token.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_in_this_process_signs_itself() {
    let mut machine = Machine::new();
    machine.options.local_intermediate = Some(HOUR);
    let (_manager, authority) = machine.start_ticked().await;
    assert_eq!(chain(&machine, &authority).await.len(), 1);
    assert_eq!(authority.local_intermediate_expires_at(), None);
}
