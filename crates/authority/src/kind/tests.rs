//! A kind that is off by default lives like the others: the machine is one for all.

use std::sync::Mutex;

use async_trait::async_trait;
use signet_base::{SharedClock, TestClock};
use signet_pki::{MemoryKeyManager, PrivateKey, wit::WitClaims};

use super::{Arc, Bundle, BundleEdit, Handle, KeyType, Kind, Wit, Withdrawal, edit_of};
use crate::{
    AuthorityOptions, AuthorityPorts, LostKeys, TrustRoot, WitOptions,
    context::Context,
    machine::Machine,
    ports::{BundleStore, JournalStore, PortError},
    shared::{Current, Shared},
    slot::Due,
};

#[derive(Debug)]
struct Stored {
    journal: Mutex<Option<Vec<u8>>>,
    bundle: Mutex<Bundle>,
}

#[async_trait]
impl JournalStore for Stored {
    async fn load(&self) -> Result<Option<Vec<u8>>, PortError> {
        Ok(self.journal.lock().unwrap().clone())
    }

    async fn save(&self, data: Vec<u8>) -> Result<(), PortError> {
        *self.journal.lock().unwrap() = Some(data);
        Ok(())
    }
}

#[async_trait]
impl BundleStore for Stored {
    async fn bundle(&self) -> Result<Option<Bundle>, PortError> {
        Ok(Some(self.bundle.lock().unwrap().clone()))
    }

    async fn edit(&self, edit: BundleEdit) -> Result<(Bundle, bool), PortError> {
        let mut bundle = self.bundle.lock().unwrap();
        let changed = edit.apply(&mut bundle);
        Ok((bundle.clone(), changed))
    }
}

/// A start: the machine with what the journal and the key manager have.
async fn start(stored: &Arc<Stored>, keys: &Arc<MemoryKeyManager>) -> (Context, Machine<Wit>) {
    let options = AuthorityOptions {
        local_intermediate: None,
        lost_keys: LostKeys::Replace,
        wit: Some(WitOptions { key_type: KeyType::EcP384, ..WitOptions::default() }),
        ..AuthorityOptions::new("td".parse().unwrap())
    };
    let ports = AuthorityPorts {
        keys: Arc::clone(keys) as _,
        trust_root: TrustRoot::SelfSigned,
        journal: Arc::clone(stored) as _,
        bundle: Arc::clone(stored) as _,
        composers: vec![],
        observer: None,
    };
    let clock: SharedClock = Arc::new(TestClock::new());
    let shared = Shared::new(options, clock, vec![], false, Arc::clone(keys) as _);
    let mut context = Context::new(Arc::new(shared), ports);
    let mut machine = Machine::new(Current::default());
    if context.load_journal().await.unwrap() {
        let bundle = context.read_bundle().await.unwrap();
        machine.recover(&mut context, &bundle).await.unwrap();
    }
    (context, machine)
}

#[tokio::test(start_paused = true)]
async fn wit_authorities_are_prepared_activated_recovered_tainted_and_revoked() {
    let stored = Arc::new(Stored {
        journal: Mutex::default(),
        bundle: Mutex::new(Bundle::empty("td".parse().unwrap())),
    });
    let keys = Arc::new(MemoryKeyManager::new());
    let (mut context, mut machine) = start(&stored, &keys).await;
    assert_eq!(machine.slots.due(context.now(), 0), Due::Replace);
    machine.rotate(&mut context, None).await.unwrap();
    let first = machine.slots.active().unwrap().authority_id.clone();

    // Half a day later a successor is prepared, and a restart finds both.
    tokio::time::advance(std::time::Duration::from_secs(12 * 3600)).await;
    machine.rotate(&mut context, None).await.unwrap();
    let (mut context, mut machine) = start(&stored, &keys).await;
    let active = machine.slots.active().unwrap();
    assert_eq!(active.authority_id, first);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let claims = WitClaims {
        spiffe_id: &"spiffe://td/w".parse().unwrap(),
        key: key.public_key(),
        algorithm: "ES256".parse().unwrap(),
        issued_at: context.now(),
        expires_at: context.now() + 60,
        issuer: None,
    };
    let signer = active.material.as_ref().unwrap();
    let token = signer.header.token_of(&claims.to_map().unwrap()).unwrap();
    let token = token.sign_with(&signer.key).await.unwrap().token;
    let keys = context.read_bundle().await.unwrap().wit_authorities;
    let wit = signet_pki::wit::verify(&token, context.now(), |_| Some(keys)).unwrap();
    assert_eq!(wit.subject().to_string(), "spiffe://td/w");

    machine.activate(&mut context).await.unwrap();
    let second = machine.slots.active().unwrap().authority_id.clone();
    assert_ne!(second, first);
    for withdrawal in [Withdrawal::Taint, Withdrawal::Revoke] {
        let found = Wit::published(&context.read_bundle().await.unwrap(), &first);
        assert!(matches!(found[0].handle, Handle::WitKeyId(_)));
        context.edit_bundle(edit_of(&found, withdrawal)).await.unwrap();
    }
    let left = context.read_bundle().await.unwrap().wit_authorities;
    assert_eq!(left.len(), 1);
    assert_eq!(*left[0].key_id, *second);
}
