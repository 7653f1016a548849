//! X.509-SVIDs as the agent holds them.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use signet_identity::SpiffeId;
use signet_time::UnixTime;
use zeroize::Zeroizing;

use crate::rotation::{self, RotationRule};

/// An X.509-SVID with its private key.
pub struct X509Svid {
    /// Whose it is, read from the leaf.
    pub spiffe_id: SpiffeId,
    /// Certificates, DER, leaf first.
    pub chain: Vec<Box<[u8]>>,
    /// The private key, PKCS#8 DER; wiped on drop.
    pub key: Zeroizing<Vec<u8>>,
    /// Start of validity, Unix seconds.
    pub not_before: UnixTime,
    /// End of validity, Unix seconds.
    pub not_after: UnixTime,
    /// Where in the spread its rotation falls, `0.0..1.0`.
    pub draw: f64,
    /// When it came, Unix seconds; its start of validity where that is not known.
    pub received_at: UnixTime,
}

impl X509Svid {
    /// An SVID from its parts; `not_before` and `not_after` are Unix seconds of the leaf.
    pub fn new(
        spiffe_id: SpiffeId,
        chain: Vec<Box<[u8]>>,
        key: Zeroizing<Vec<u8>>,
        (not_before, not_after): (UnixTime, UnixTime),
    ) -> Arc<Self> {
        Self::received(spiffe_id, chain, key, (not_before, not_after), not_before)
    }

    /// An SVID that came at `received_at`.
    pub fn received(
        spiffe_id: SpiffeId,
        chain: Vec<Box<[u8]>>,
        key: Zeroizing<Vec<u8>>,
        (not_before, not_after): (UnixTime, UnixTime),
        received_at: UnixTime,
    ) -> Arc<Self> {
        let draw = rotation::draw(chain.first().map_or(&[][..], |leaf| leaf));
        Arc::new(Self { spiffe_id, chain, key, not_before, not_after, draw, received_at })
    }

    /// When it is to be replaced, Unix seconds. One that came when it was due already (its life is
    /// hardly longer than what issuers allow for skewed clocks) is given half of what was left.
    pub fn due_at(&self, rule: RotationRule) -> UnixTime {
        let due = rule.x509_due_at(self.not_before, self.not_after, self.draw);
        if due > self.received_at || self.received_at <= self.not_before {
            return due;
        }
        self.received_at + ((self.not_after - self.received_at) / 2).max(1)
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
    pub fn expired(&self, now: UnixTime) -> bool {
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
        write!(f, "X509Svid({}, not_after: {}, ..)", self.spiffe_id, self.not_after.seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_svid_that_is_due_when_it_comes_does_not_make_the_agent_spin() {
        let rule = RotationRule::default();
        let svid = |received_at, not_after| {
            let id = "spiffe://td/w".parse().unwrap();
            let key = Zeroizing::new(Vec::new());
            X509Svid::received(
                id,
                Vec::new(),
                key,
                (UnixTime::from_seconds(990), not_after),
                received_at,
            )
        };
        // Ten seconds of cushion and four of life: half of it has passed before it came.
        assert_eq!(
            svid(UnixTime::from_seconds(1000), UnixTime::from_seconds(1004)).due_at(rule),
            UnixTime::from_seconds(1002)
        );
        assert_eq!(
            svid(UnixTime::from_seconds(1000), UnixTime::from_seconds(1001)).due_at(rule),
            UnixTime::from_seconds(1001)
        );
        let usual = svid(UnixTime::from_seconds(1000), UnixTime::from_seconds(4600)).due_at(rule);
        assert!((2600..=3000).contains(&usual.seconds()), "{usual}");
    }
}
