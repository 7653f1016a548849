//! SPIFFE certificate verification for rustls.

use std::{fmt, sync::Arc};

use rustls_pki_types::CertificateDer;
use signet_identity::{SpiffeId, TrustDomain};

use crate::x509::{CertError, Certificate, TrustBundle};

/// Where verification finds the bundle of a trust domain. Read at each handshake.
pub trait BundleSource: Send + Sync + fmt::Debug {
    /// The bundle now, if that trust domain is known.
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>>;
}

/// Bundles that do not change: for tests and for one connection.
#[derive(Debug, Default)]
pub struct StaticBundles(pub Vec<Arc<TrustBundle>>);

impl BundleSource for StaticBundles {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        self.0.iter().find(|b| b.trust_domain() == trust_domain).cloned()
    }
}

/// A peer that was authenticated by its handshake.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Whom its leaf names.
    pub id: SpiffeId,
    /// The leaf it presented.
    pub leaf: Certificate,
}

/// The peer of a connection whose handshake was verified by this crate; `None` when it presented
/// no certificate.
///
/// # Errors
/// [`CertError`] cannot happen after our verification, and is passed on instead of a panic.
pub fn peer_of(certs: Option<&[CertificateDer<'_>]>) -> Result<Option<Peer>, CertError> {
    let Some(leaf) = certs.and_then(<[_]>::first) else { return Ok(None) };
    let leaf = Certificate::from_der(leaf)?;
    Ok(Some(Peer { id: leaf.spiffe_id()?, leaf }))
}
