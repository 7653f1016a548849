//! The second JWT authorities: keys that sign by another algorithm than the JWT authorities do, for
//! the audiences that want it. Verifiers find both among the JWT authorities of the bundle.

use signet_identity::{Bundle, JwtAuthority};
use signet_pki::{KeyType, ManagedKey};

use super::{Jwt, Kind, KindNames, NewAuthority, Published, Withdrawal, jwt};
use crate::{
    AuthorityError, AuthorityOptions, OperationError,
    context::Context,
    journal::{Journal, JwtRecord, SlotId},
    material::JwtKey,
    slot::LocalAuthority,
};

/// Second JWT authorities.
#[derive(Debug)]
pub(crate) struct SecondJwt;

impl Kind for SecondJwt {
    type Material = JwtKey;
    type Record = JwtRecord;
    type Publication = JwtAuthority;

    const NAMES: KindNames = KindNames {
        log: "second JWT key",
        api: "second JWT",
        disabled: "there is no second JWT key",
        ..Jwt::NAMES
    };
    const TAINT_IS_ANNOUNCED: bool = false;

    fn key_id(slot: SlotId) -> String {
        slot.second_jwt_key_id()
    }

    fn key_type(options: &AuthorityOptions) -> KeyType {
        options.second_jwt.as_ref().map_or(KeyType::Rsa2048, |second| second.key_type)
    }

    fn is_enabled(options: &AuthorityOptions) -> bool {
        Jwt::is_enabled(options) && options.second_jwt.is_some()
    }

    fn records(journal: &Journal) -> &[JwtRecord] {
        &journal.second_jwt
    }

    fn records_mut(journal: &mut Journal) -> &mut Vec<JwtRecord> {
        &mut journal.second_jwt
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
        Jwt::publish(context, key).await
    }

    fn load(record: &JwtRecord, key: ManagedKey) -> Result<JwtKey, AuthorityError> {
        Jwt::load(record, key)
    }

    fn must_be_in_bundle(context: &Context) -> bool {
        Jwt::must_be_in_bundle(context)
    }

    fn loss_locks_out(context: &Context) -> bool {
        Jwt::loss_locks_out(context)
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

    fn may_be_withdrawn(context: &Context, withdrawal: Withdrawal) -> Result<(), OperationError> {
        Jwt::may_be_withdrawn(context, withdrawal)
    }

    fn revoked(context: &mut Context, id: &str) {
        Jwt::revoked(context, id);
    }
}
