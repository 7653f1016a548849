//! Trust bundles as values (SPIFFE Trust Domain and Bundle standard).

use std::sync::Arc;

use signet_time::UnixTime;

use crate::TrustDomain;

/// An X.509 authority of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Authority {
    /// One certificate, DER.
    pub der: Arc<[u8]>,
    /// Whether what it signed is to be replaced at once.
    pub tainted: bool,
}

/// A JWT (or WIT) authority of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtAuthority {
    /// The public key, PKIX SubjectPublicKeyInfo DER.
    pub public_key: Arc<[u8]>,
    /// The key ID (`kid`).
    pub key_id: Arc<str>,
    /// Expiry in Unix seconds; 0 for none.
    pub expires_at: UnixTime,
    /// Whether what it signed is to be replaced at once.
    pub tainted: bool,
}

/// The bundle of a trust domain: what its members are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Whose bundle this is.
    pub trust_domain: TrustDomain,
    /// X.509 authorities, in the order they were added.
    pub x509_authorities: Vec<X509Authority>,
    /// JWT authorities, in the order they were added.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// WIT authorities, in the order they were added.
    pub wit_authorities: Vec<JwtAuthority>,
    /// How often a consumer should look again, seconds; 0 for unset.
    pub refresh_hint: i64,
    /// Grows by one with every change.
    pub sequence_number: u64,
}

impl Bundle {
    /// A bundle without authorities.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            wit_authorities: Vec::new(),
            refresh_hint: 0,
            sequence_number: 0,
        }
    }

    /// The same content, whatever its sequence number.
    pub fn same_content(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && self.x509_authorities == other.x509_authorities
            && self.jwt_authorities == other.jwt_authorities
            && self.wit_authorities == other.wit_authorities
            && self.refresh_hint == other.refresh_hint
    }
}
