//! A kind that the server does not have lives like the others: the machine is one for all.

use std::sync::Mutex;

use async_trait::async_trait;
use signet_base::{SharedClock, TestClock};
use signet_pki::{MemoryKeyManager, jwt::JwtClaims};

use super::{Arc, AuthorityError, Bundle, BundleEdit, Handle, Jwt, JwtKey, KeyType, Kind};
use super::{Made, ManagedKey, OperationError, Published, Withdrawal, Words, edit_of};
use crate::{
    AuthorityOptions, AuthorityPorts, LostKeys, TrustRoot,
    authority::Shared,
    context::Context,
    journal::{Journal, JwtRecord, SlotId},
    machine::{Current, Machine},
    ports::{BundleStore, JournalStore, PortError},
    slot::{Due, LocalAuthority},
};

/// Workload identity tokens: signed by keys of their own, otherwise as JWT-SVIDs.
#[derive(Debug)]
struct Wit;

impl Kind for Wit {
    type Material = JwtKey;
    type Record = JwtRecord;
    type Publication = <Jwt as Kind>::Publication;

    const WORDS: Words = Words { log: "WIT key", api: "WIT", ..Jwt::WORDS };
    const TAINT_IS_ANNOUNCED: bool = false;

    fn key_id(slot: SlotId) -> String {
        format!("WIT-Signer-{}", slot.as_str())
    }

    fn key_type(_options: &AuthorityOptions) -> KeyType {
        KeyType::EcP384
    }

    fn is_enabled(_options: &AuthorityOptions) -> bool {
        true
    }

    fn records(journal: &Journal) -> &[JwtRecord] {
        &journal.jwt
    }

    fn records_mut(journal: &mut Journal) -> &mut Vec<JwtRecord> {
        &mut journal.jwt
    }

    async fn make(
        context: &mut Context,
        slot: SlotId,
        key: ManagedKey,
    ) -> Result<Made<Self>, AuthorityError> {
        let Made { authority, record, publication, publish_first } =
            Jwt::make(context, slot, key).await?;
        Ok(Made { authority, record, publication, publish_first })
    }

    fn publication(record: &JwtRecord) -> Self::Publication {
        Jwt::publication(record)
    }

    async fn publish(
        context: &mut Context,
        publication: Self::Publication,
    ) -> Result<(), AuthorityError> {
        Jwt::publish(context, publication).await
    }

    fn load(record: &JwtRecord, key: ManagedKey) -> Result<JwtKey, AuthorityError> {
        Jwt::load(record, key)
    }

    fn must_be_in_bundle(_context: &Context) -> bool {
        true
    }

    fn loss_locks_out(_context: &Context) -> bool {
        true
    }

    fn is_in_bundle(bundle: &Bundle, record: &JwtRecord) -> bool {
        Jwt::is_in_bundle(bundle, record)
    }

    fn is_withdrawn(bundle: &Bundle, authority: &LocalAuthority<JwtKey>) -> bool {
        Jwt::is_withdrawn(bundle, authority)
    }

    fn published(bundle: &Bundle, id: &str) -> Vec<Published> {
        Jwt::published(bundle, id)
    }

    fn may_be_withdrawn(_context: &Context, _withdrawal: Withdrawal) -> Result<(), OperationError> {
        Ok(())
    }
}

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
async fn a_third_kind_is_prepared_activated_recovered_tainted_and_revoked() {
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
    let claims = JwtClaims {
        spiffe_id: &"spiffe://td/w".parse().unwrap(),
        audience: &["a".to_owned()],
        issued_at: context.now(),
        expires_at: context.now() + 60,
        issuer: None,
        jti: false,
    };
    let signer = active.material.as_ref().unwrap();
    let token = signer.header.token(&claims).unwrap().sign_with(&signer.key).await.unwrap();
    assert_eq!(token.token.split('.').count(), 3);

    machine.activate(&mut context).await.unwrap();
    let second = machine.slots.active().unwrap().authority_id.clone();
    assert_ne!(second, first);
    for withdrawal in [Withdrawal::Taint, Withdrawal::Revoke] {
        let found = Wit::published(&context.read_bundle().await.unwrap(), &first);
        assert!(matches!(found[0].handle, Handle::KeyId(_)));
        context.edit_bundle(edit_of(&found, withdrawal)).await.unwrap();
    }
    let left = context.read_bundle().await.unwrap().jwt_authorities;
    assert_eq!(left.len(), 1);
    assert_eq!(*left[0].key_id, *second);
}
