//! The local intermediate: a short-lived CA in memory, signed by the active X.509 authority, so
//! that X.509-SVIDs cost no call to a key that is elsewhere.
//!
//! It is renewed at half its life. Whatever is wrong with it (it was not made yet, its key manager
//! is away, the authority above it was replaced), the authority itself signs as without it.

use std::sync::Arc;

use signet_time::UnixTime;

use crate::{material::X509Ca, timing};

/// A CA in memory and the authority that signed it.
#[derive(Debug)]
pub(crate) struct LocalIntermediate {
    under: Arc<X509Ca>,
    ca: Arc<X509Ca>,
}

impl LocalIntermediate {
    pub(crate) fn new(under: Arc<X509Ca>, ca: X509Ca) -> Self {
        Self { under, ca: Arc::new(ca) }
    }

    /// What signs in place of `active`, if it may now.
    pub(crate) fn stand_in(&self, active: &Arc<X509Ca>, now: UnixTime) -> Option<Arc<X509Ca>> {
        let is_valid = now < self.ca.ca.certificate().not_after()
            && self.ca.issued_at <= now + timing::BACKWARD_TOLERANCE;
        (Arc::ptr_eq(&self.under, active) && is_valid).then(|| Arc::clone(&self.ca))
    }

    /// Whether it is time for the next one.
    pub(crate) fn is_due(&self, active: &Arc<X509Ca>, now: UnixTime) -> bool {
        let life = self.ca.ca.certificate().not_after() - self.ca.issued_at;
        let half = self.ca.issued_at + life / 2;
        self.stand_in(active, now).is_none() || now >= half
    }
}
