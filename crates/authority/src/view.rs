//! What the outside may know about the authorities: states, without keys.

use signet_time::UnixTime;

use crate::journal::{SlotId, Status};

/// The state of one authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityState {
    /// Lower-case hex subject key ID for X.509, key ID for JWT and WIT.
    pub authority_id: String,
    /// How far it has come.
    pub status: Status,
    /// The slot it is in; `None` for one that is only in the bundle still.
    pub slot: Option<SlotId>,
    /// When it was made, Unix seconds; 0 for one that is only in the bundle still.
    pub issued_at: UnixTime,
    /// When it expires, Unix seconds.
    pub expires_at: UnixTime,
    /// The subject key ID of the upstream authority that signed it, lower-case hex; empty without.
    pub upstream_authority_id: String,
}

/// The authorities of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindView {
    /// The one that signs; `None` while the server starts.
    pub active: Option<AuthorityState>,
    /// The one in the other slot: prepared or old.
    pub next: Option<AuthorityState>,
}

impl KindView {
    /// The prepared authority, if there is one.
    pub fn prepared(&self) -> Option<&AuthorityState> {
        self.next.as_ref().filter(|state| state.status == Status::Prepared)
    }

    /// The old authority, if there is one.
    pub fn old(&self) -> Option<&AuthorityState> {
        self.next.as_ref().filter(|state| state.status == Status::Old)
    }
}

/// The state of everything, as of the last change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorityView {
    /// X.509 authorities.
    pub x509: KindView,
    /// JWT authorities.
    pub jwt: KindView,
    /// Second JWT authorities; none unless a second key is configured.
    pub second_jwt: KindView,
    /// WIT authorities; none unless there are WIT-SVIDs.
    pub wit: KindView,
    /// How many rotations failed in a row (prepare or activate); 0 when all is well.
    pub failed_rotations: u32,
}
