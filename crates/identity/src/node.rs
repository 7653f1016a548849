//! Attested nodes and join tokens.

use signet_time::UnixTime;

use crate::{SelectorSet, SpiffeId};

/// An attested agent, as the registration store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestedNode {
    /// The agent ID.
    pub spiffe_id: SpiffeId,
    /// The node attestor's type, for example `join_token`.
    pub attestation_type: String,
    /// The active serial number of the agent's X.509-SVID, decimal; empty when banned.
    pub serial_number: String,
    /// Expiry of that SVID, Unix seconds.
    pub expires_at: UnixTime,
    /// The serial of an SVID that was issued and not yet used (two-phase renewal); empty if none.
    pub new_serial_number: String,
    /// Expiry of that SVID, Unix seconds; 0 if none.
    pub new_expires_at: UnixTime,
    /// What the node attestor found.
    pub selectors: SelectorSet,
    /// Whether the agent may attest again.
    pub can_reattest: bool,
    /// The agent's program version as it last reported; empty if never.
    pub agent_version: String,
}

impl AttestedNode {
    /// Whether the agent is banned: it has no serial number at all.
    pub fn is_banned(&self) -> bool {
        self.serial_number.is_empty() && self.new_serial_number.is_empty()
    }
}

/// A join token as the registration store knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The token's value: a secret.
    pub token: String,
    /// Expiry, Unix seconds.
    pub expires_at: UnixTime,
    /// SHA-256 over the SubjectPublicKeyInfo of the CSR that spent the token, once spent.
    pub spent_by: Option<[u8; 32]>,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinToken(.., expires_at: {})", self.expires_at.seconds())
    }
}
