//! JWT authorities.

use std::sync::Arc;

use signet_identity::{Bundle, JwtAuthority};
use signet_pki::{
    KeyType, ManagedKey, PublicKey,
    jwt::JwtAuthorityHeader,
    ports::{PortError, UpstreamAuthority},
    random,
};
use signet_time::UnixTime;

use super::{Handle, KeyEdit, KeyKind, Kind, KindNames, NewAuthority, Published, Withdrawal};
use crate::{
    AuthorityError, AuthorityOptions, OperationError,
    context::{Context, KeysUpstream},
    journal::{Journal, JwtRecord, Record, SlotId, Status},
    material::JwtKey,
    ports::BundleEdit,
    slot::LocalAuthority,
};

/// JWT authorities: keys under random key IDs.
#[derive(Debug)]
pub(crate) struct Jwt;

impl Kind for Jwt {
    type Material = JwtKey;
    type Record = JwtRecord;
    type Publication = JwtAuthority;

    const NAMES: KindNames = KindNames {
        log: "JWT key",
        api: "JWT",
        disabled: "JWT functionality is disabled",
        nothing_to_taint: "no JWT Key found with provided key ID",
        already_tainted: "key is already tainted",
        nothing_to_revoke: None,
        prepared_is_not_revoked: "unable to use a prepared key",
        not_tainted: "it is not possible to revoke an untainted key",
    };
    const TAINT_IS_ANNOUNCED: bool = false;

    fn key_id(slot: SlotId) -> String {
        slot.jwt_key_id()
    }

    fn key_type(options: &AuthorityOptions) -> KeyType {
        options.jwt_key_type
    }

    fn is_enabled(options: &AuthorityOptions) -> bool {
        !options.jwt_disabled
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
    ) -> Result<NewAuthority<Self>, AuthorityError> {
        made(context, slot, key)
    }

    fn publication(record: &JwtRecord) -> JwtAuthority {
        JwtAuthority {
            public_key: record.public_key.clone().into(),
            key_id: record.key_id.as_str().into(),
            expires_at: record.not_after,
            tainted: false,
        }
    }

    async fn publish(context: &mut Context, key: JwtAuthority) -> Result<(), AuthorityError> {
        context.publish_key::<Self>(key).await.map(drop)
    }

    fn load(record: &JwtRecord, key: ManagedKey) -> Result<JwtKey, AuthorityError> {
        let key_id: Arc<str> = record.key_id.as_str().into();
        let header = JwtAuthorityHeader::new(key_id, record.not_after, key.public_key())
            .map_err(AuthorityError::JwtKey)?;
        Ok(JwtKey { header, key, issued_at: record.issued_at })
    }

    fn must_be_in_bundle(_core: &Context) -> bool {
        true
    }

    /// Agents are told of the new key over connections that X.509 secures.
    fn loss_locks_out(_core: &Context) -> bool {
        false
    }

    fn is_in_bundle(bundle: &Bundle, record: &JwtRecord) -> bool {
        holds(&bundle.jwt_authorities, record)
    }

    fn is_withdrawn(bundle: &Bundle, authority: &LocalAuthority<JwtKey>) -> bool {
        Self::published(bundle, &authority.authority_id).iter().all(|key| key.tainted)
    }

    fn published(bundle: &Bundle, id: &str) -> Vec<Published> {
        published(&bundle.jwt_authorities, id, Handle::KeyId)
    }

    fn may_be_withdrawn(_core: &Context, _withdrawal: Withdrawal) -> Result<(), OperationError> {
        Ok(())
    }

    fn revoked(context: &mut Context, id: &str) {
        remember_revoked::<Self>(context, id);
    }
}

impl KeyKind for Jwt {
    fn keys(bundle: &Bundle) -> &[JwtAuthority] {
        &bundle.jwt_authorities
    }

    fn edit(KeyEdit { append, taint, remove }: KeyEdit) -> BundleEdit {
        BundleEdit {
            append_jwt: append,
            taint_jwt: taint,
            remove_jwt: remove,
            ..BundleEdit::default()
        }
    }

    fn upstream_of(context: &mut Context) -> &mut KeysUpstream {
        &mut context.jwt_upstream
    }

    async fn publish_upstream(
        upstream: &dyn UpstreamAuthority,
        key: &JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, PortError> {
        upstream.publish_jwt_key(key).await
    }
}

/// An operator revoked a key. Upstream may name it for as long as it is not revoked there too.
pub(super) fn remember_revoked<K: KeyKind>(context: &mut Context, id: &str) {
    if context.has_upstream() {
        K::upstream_of(context).revoked.insert(id.into());
    }
}

/// An authority made now, under a random key ID, of a kind whose authorities are keys.
pub(super) fn made<K>(
    context: &Context,
    slot: SlotId,
    key: ManagedKey,
) -> Result<NewAuthority<K>, AuthorityError>
where
    K: Kind<Material = JwtKey, Record = JwtRecord, Publication = JwtAuthority>,
{
    let now = context.now();
    let record = JwtRecord {
        slot,
        status: Status::Prepared,
        issued_at: now,
        not_after: now + context.shared.options.ca_ttl,
        key_id: random::key_id()?,
        public_key: key.public_key().spki_der().to_vec(),
    };
    Ok(NewAuthority {
        authority: LocalAuthority::prepared(&record, K::load(&record, key)?),
        publication: K::publication(&record),
        record,
        publish_first: false,
    })
}

/// Whether a recorded authority is among the keys of a bundle.
pub(super) fn holds(keys: &[JwtAuthority], record: &JwtRecord) -> bool {
    keys.iter().any(|key| *key.key_id == *record.key_id)
}

/// The keys of a bundle with this ID; `handle` says of which kind they are.
pub(super) fn published(
    keys: &[JwtAuthority],
    id: &str,
    handle: fn(Arc<str>) -> Handle,
) -> Vec<Published> {
    let with_id = keys.iter().filter(|key| *key.key_id == *id);
    with_id
        .map(|key| Published {
            handle: handle(Arc::clone(&key.key_id)),
            tainted: key.tainted,
            expires_at: key.expires_at,
        })
        .collect()
}

impl Record for JwtRecord {
    fn slot(&self) -> SlotId {
        self.slot
    }

    fn status(&self) -> Status {
        self.status
    }

    fn set_status(&mut self, status: Status) {
        self.status = status;
    }

    fn issued_at(&self) -> UnixTime {
        self.issued_at
    }

    fn not_after(&self) -> UnixTime {
        self.not_after
    }

    fn authority_id(&self) -> &str {
        &self.key_id
    }

    fn upstream_authority_id(&self) -> &str {
        ""
    }

    fn is_for(&self, key: &PublicKey) -> bool {
        key.spki_der() == self.public_key
    }
}
