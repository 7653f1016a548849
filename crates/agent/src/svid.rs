//! X.509-SVIDs as the agent holds them.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use signet_identity::SpiffeId;
use zeroize::Zeroizing;

use crate::rotation;

/// An X.509-SVID with its private key.
pub struct X509Svid {
    /// Whose it is, read from the leaf.
    pub spiffe_id: SpiffeId,
    /// Certificates, DER, leaf first.
    pub chain: Vec<Box<[u8]>>,
    /// The private key, PKCS#8 DER; wiped on drop.
    pub key: Zeroizing<Vec<u8>>,
    /// Start of validity, Unix seconds.
    pub not_before: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
    /// Where in the spread its rotation falls, `0.0..1.0`.
    pub draw: f64,
}

impl X509Svid {
    /// An SVID from its parts; `not_before` and `not_after` are Unix seconds of the leaf.
    pub fn new(
        spiffe_id: SpiffeId,
        chain: Vec<Box<[u8]>>,
        key: Zeroizing<Vec<u8>>,
        (not_before, not_after): (i64, i64),
    ) -> Arc<Self> {
        let draw = rotation::draw(chain.first().map_or(&[][..], |leaf| leaf));
        Arc::new(Self { spiffe_id, chain, key, not_before, not_after, draw })
    }

    /// The whole chain as one run of DER, leaf first.
    pub fn chain_der(&self) -> Vec<u8> {
        self.chain.concat()
    }

    /// The private key for a message, without a copy of it.
    pub fn key_bytes(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(KeyOf(Arc::clone(self)))
    }

    /// Whether it has expired at `now`.
    pub fn expired(&self, now: i64) -> bool {
        now >= self.not_after
    }
}

struct KeyOf(Arc<X509Svid>);

impl AsRef<[u8]> for KeyOf {
    fn as_ref(&self) -> &[u8] {
        &self.0.key
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X509Svid({}, not_after: {}, ..)", self.spiffe_id, self.not_after)
    }
}
