//! What differs between the kinds of authority; the machine that is the same for all is
//! [`Machine`](crate::machine::Machine).

mod jwt;
mod second_jwt;
mod wit;
mod x509;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use signet_identity::{Bundle, JwtAuthority};
use signet_pki::{
    KeyType, ManagedKey,
    ports::{PortError, UpstreamAuthority},
};
use signet_time::UnixTime;

pub(crate) use jwt::Jwt;
pub(crate) use second_jwt::SecondJwt;
pub(crate) use wit::Wit;
pub(crate) use x509::{X509, ca_attributes, check_ca};

use crate::{
    AuthorityError, AuthorityOptions, OperationError,
    context::{Context, KeysUpstream},
    journal::{Journal, JwtRecord, Record, SlotId},
    material::JwtKey,
    ports::BundleEdit,
    slot::LocalAuthority,
};

/// The kinds of authority that a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthorityKind {
    /// Signs X.509-SVIDs.
    X509,
    /// Signs JWT-SVIDs.
    Jwt,
    /// Signs JWT-SVIDs for the audiences that want another algorithm.
    SecondJwt,
    /// Signs WIT-SVIDs.
    Wit,
}

impl AuthorityKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::X509, Self::Jwt, Self::SecondJwt, Self::Wit];

    /// As answers and logs name it: `X.509`, `JWT`, `second JWT`, `WIT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::X509 => X509::NAMES.api,
            Self::Jwt => Jwt::NAMES.api,
            Self::SecondJwt => SecondJwt::NAMES.api,
            Self::Wit => Wit::NAMES.api,
        }
    }

    /// What is answered where there are no SVIDs of this kind.
    pub fn disabled(self) -> &'static str {
        match self {
            Self::X509 => X509::NAMES.disabled,
            Self::Jwt => Jwt::NAMES.disabled,
            Self::SecondJwt => SecondJwt::NAMES.disabled,
            Self::Wit => Wit::NAMES.disabled,
        }
    }

    pub(crate) fn is_enabled(self, options: &AuthorityOptions) -> bool {
        match self {
            Self::X509 => X509::is_enabled(options),
            Self::Jwt => Jwt::is_enabled(options),
            Self::SecondJwt => SecondJwt::is_enabled(options),
            Self::Wit => Wit::is_enabled(options),
        }
    }
}

/// A kind of authority.
pub(crate) trait Kind: fmt::Debug + Send + Sync + Sized + 'static {
    /// What signs.
    type Material: fmt::Debug + Send + Sync;
    /// What the journal knows of one.
    type Record: Record;
    /// What verifiers are told of one.
    type Publication: Send;

    const NAMES: KindNames;
    /// Whether those who hold what a tainted authority signed are told to replace it at once.
    const TAINT_IS_ANNOUNCED: bool;

    /// The key manager's key of a slot.
    fn key_id(slot: SlotId) -> String;

    fn key_type(options: &AuthorityOptions) -> KeyType;

    /// Whether the server has this kind at all.
    fn is_enabled(options: &AuthorityOptions) -> bool;

    fn records(journal: &Journal) -> &[Self::Record];

    fn records_mut(journal: &mut Journal) -> &mut Vec<Self::Record>;

    /// Makes an authority of a key that proved itself. Nobody is told yet.
    fn make(
        context: &mut Context,
        slot: SlotId,
        key: ManagedKey,
    ) -> impl Future<Output = Result<NewAuthority<Self>, AuthorityError>> + Send;

    /// What verifiers are to be told of a recorded authority.
    fn publication(record: &Self::Record) -> Self::Publication;

    /// Tells verifiers. Doing it again changes nothing.
    fn publish(
        context: &mut Context,
        publication: Self::Publication,
    ) -> impl Future<Output = Result<(), AuthorityError>> + Send;

    /// What signs, of a record and its key.
    fn load(record: &Self::Record, key: ManagedKey) -> Result<Self::Material, AuthorityError>;

    /// Whether what an authority signs verifies only while that authority itself is in the bundle.
    fn must_be_in_bundle(context: &Context) -> bool;

    /// Whether those who trust this server no longer can when its authority is replaced without
    /// notice.
    fn loss_locks_out(context: &Context) -> bool;

    /// Whether verifiers can know of a recorded authority.
    fn is_in_bundle(bundle: &Bundle, record: &Self::Record) -> bool;

    /// Whether nobody is to rely any more on what signs: it, or a root that it is under, is
    /// tainted in the bundle or gone from it.
    fn is_withdrawn(bundle: &Bundle, authority: &LocalAuthority<Self::Material>) -> bool;

    /// The authorities of the bundle with this ID: several when a key has several certificates.
    fn published(bundle: &Bundle, id: &str) -> Vec<Published>;

    /// Whether an operator may taint and revoke authorities of this kind himself.
    fn may_be_withdrawn(context: &Context, withdrawal: Withdrawal) -> Result<(), OperationError>;

    /// An operator revoked the authority with this ID.
    fn revoked(context: &mut Context, id: &str);
}

/// A kind whose authorities are keys: those of all servers of a trust domain are known to the
/// upstream server, if there is one that knows such keys.
pub(crate) trait KeyKind:
    Kind<Material = JwtKey, Record = JwtRecord, Publication = JwtAuthority>
{
    /// The keys of this kind in a bundle.
    fn keys(bundle: &Bundle) -> &[JwtAuthority];

    /// The change of a bundle that is this change of its keys of this kind.
    fn edit(edit: KeyEdit) -> BundleEdit;

    /// What is remembered of this kind in view of the upstream authority.
    fn upstream_of(context: &mut Context) -> &mut KeysUpstream;

    /// Publishes a key upstream; all keys that are known there then.
    fn publish_upstream(
        upstream: &dyn UpstreamAuthority,
        key: &JwtAuthority,
    ) -> impl Future<Output = Result<Vec<JwtAuthority>, PortError>> + Send;
}

/// A change of the keys of one kind in a bundle.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyEdit {
    /// To add, unless their IDs are there.
    pub append: Vec<JwtAuthority>,
    /// IDs of keys to taint.
    pub taint: Vec<Arc<str>>,
    /// IDs of keys to remove.
    pub remove: Vec<Arc<str>>,
}

/// An authority that was just made.
pub(crate) struct NewAuthority<K: Kind> {
    pub authority: LocalAuthority<K::Material>,
    pub record: K::Record,
    pub publication: K::Publication,
    /// Whether verifiers are told before the journal is written: what they are told cannot be
    /// found out again from the journal, and does no harm whatever becomes of this authority.
    pub publish_first: bool,
}

/// An authority as it is in the bundle.
pub(crate) struct Published {
    /// Its certificate, DER, or its key ID.
    pub handle: Handle,
    pub tainted: bool,
    /// When it expires, Unix seconds; 0 for never.
    pub expires_at: UnixTime,
}

/// By what the bundle knows an authority.
#[derive(Clone)]
pub(crate) enum Handle {
    Certificate(Arc<[u8]>),
    KeyId(Arc<str>),
    WitKeyId(Arc<str>),
}

/// The two steps by which an authority is withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Withdrawal {
    Taint,
    Revoke,
}

impl Withdrawal {
    /// `tainted` or `revoked`.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Taint => "tainted",
            Self::Revoke => "revoked",
        }
    }
}

/// How SPIRE's logs and answers speak of a kind.
pub(crate) struct KindNames {
    /// In logs: `X509 CA`.
    pub log: &'static str,
    /// In answers: `X.509`.
    pub api: &'static str,
    /// When the kind is switched off.
    pub disabled: &'static str,
    /// The authority to taint is not in the bundle.
    pub nothing_to_taint: &'static str,
    /// It is tainted already.
    pub already_tainted: &'static str,
    /// The old authority is to be revoked and not in the bundle; `None` when that is answered as
    /// for any unknown ID.
    pub nothing_to_revoke: Option<&'static str>,
    /// It is prepared.
    pub prepared_is_not_revoked: &'static str,
    /// It must be tainted first.
    pub not_tainted: &'static str,
}

/// The removal or taint of certificates or keys, whichever they are.
pub(crate) fn edit_of(published: &[Published], withdrawal: Withdrawal) -> BundleEdit {
    let mut edit = BundleEdit::default();
    for one in published {
        match (one.handle.clone(), withdrawal) {
            (Handle::Certificate(der), Withdrawal::Taint) => edit.taint_x509.push(der),
            (Handle::Certificate(der), Withdrawal::Revoke) => edit.remove_x509.push(der),
            (Handle::KeyId(id), Withdrawal::Taint) => edit.taint_jwt.push(id),
            (Handle::KeyId(id), Withdrawal::Revoke) => edit.remove_jwt.push(id),
            (Handle::WitKeyId(id), Withdrawal::Taint) => edit.taint_wit.push(id),
            (Handle::WitKeyId(id), Withdrawal::Revoke) => edit.remove_wit.push(id),
        }
    }
    edit
}
