//! WIT authorities: keys under random key IDs, as JWT authorities are, of their own.

use signet_identity::{Bundle, JwtAuthority};
use signet_pki::{
    KeyType, ManagedKey,
    ports::{PortError, UpstreamAuthority},
    wit,
};

use super::{
    Handle, Jwt, KeyEdit, KeyKind, Kind, KindNames, NewAuthority, Published, Withdrawal, jwt,
};
use crate::{
    AuthorityError, AuthorityOptions, OperationError,
    context::{Context, KeysUpstream},
    journal::{Journal, JwtRecord, SlotId},
    material::JwtKey,
    ports::BundleEdit,
    slot::LocalAuthority,
};

/// WIT authorities.
#[derive(Debug)]
pub(crate) struct Wit;

impl Kind for Wit {
    type Material = JwtKey;
    type Record = JwtRecord;
    type Publication = JwtAuthority;

    const NAMES: KindNames = KindNames {
        log: "WIT key",
        api: "WIT",
        disabled: "WIT functionality is disabled",
        nothing_to_taint: "no WIT Key found with provided key ID",
        ..Jwt::NAMES
    };
    const TAINT_IS_ANNOUNCED: bool = false;

    fn key_id(slot: SlotId) -> String {
        slot.wit_key_id()
    }

    fn key_type(options: &AuthorityOptions) -> KeyType {
        options.wit.as_ref().map_or(KeyType::EcP256, |wit| wit.key_type)
    }

    fn is_enabled(options: &AuthorityOptions) -> bool {
        options.wit.is_some()
    }

    fn records(journal: &Journal) -> &[JwtRecord] {
        &journal.wit
    }

    fn records_mut(journal: &mut Journal) -> &mut Vec<JwtRecord> {
        &mut journal.wit
    }

    async fn make(
        context: &mut Context,
        slot: SlotId,
        key: ManagedKey,
    ) -> Result<NewAuthority<Self>, AuthorityError> {
        jwt::made(context, slot, key)
    }

    fn publication(record: &JwtRecord) -> JwtAuthority {
        Jwt::publication(record)
    }

    async fn publish(context: &mut Context, key: JwtAuthority) -> Result<(), AuthorityError> {
        context.publish_key::<Self>(key).await.map(drop)
    }

    fn load(record: &JwtRecord, key: ManagedKey) -> Result<JwtKey, AuthorityError> {
        let header =
            wit::authority_header(record.key_id.as_str(), record.not_after, key.public_key())
                .map_err(AuthorityError::JwtKey)?;
        Ok(JwtKey { header, key, issued_at: record.issued_at })
    }

    fn must_be_in_bundle(context: &Context) -> bool {
        Jwt::must_be_in_bundle(context)
    }

    fn loss_locks_out(context: &Context) -> bool {
        Jwt::loss_locks_out(context)
    }

    fn is_in_bundle(bundle: &Bundle, record: &JwtRecord) -> bool {
        jwt::holds(&bundle.wit_authorities, record)
    }

    fn is_withdrawn(bundle: &Bundle, authority: &LocalAuthority<JwtKey>) -> bool {
        Self::published(bundle, &authority.authority_id).iter().all(|key| key.tainted)
    }

    fn published(bundle: &Bundle, id: &str) -> Vec<Published> {
        jwt::published(&bundle.wit_authorities, id, Handle::WitKeyId)
    }

    fn may_be_withdrawn(_context: &Context, _withdrawal: Withdrawal) -> Result<(), OperationError> {
        Ok(())
    }

    fn revoked(context: &mut Context, id: &str) {
        jwt::remember_revoked::<Self>(context, id);
    }
}

impl KeyKind for Wit {
    fn keys(bundle: &Bundle) -> &[JwtAuthority] {
        &bundle.wit_authorities
    }

    fn edit(KeyEdit { append, taint, remove }: KeyEdit) -> BundleEdit {
        BundleEdit {
            append_wit: append,
            taint_wit: taint,
            remove_wit: remove,
            ..BundleEdit::default()
        }
    }

    fn upstream_of(context: &mut Context) -> &mut KeysUpstream {
        &mut context.wit_upstream
    }

    async fn publish_upstream(
        upstream: &dyn UpstreamAuthority,
        key: &JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, PortError> {
        upstream.publish_wit_key(key).await
    }
}
