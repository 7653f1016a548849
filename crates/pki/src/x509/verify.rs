//! Verifying X.509-SVIDs against the bundle of their trust domain (X509-SVID standard, section 5).

use std::sync::Arc;

use signet_identity::{Bundle, SpiffeId, TrustDomain};

use super::{CertError, Certificate};

/// The most authorities of one trust domain that are used.
pub const MAX_AUTHORITIES: usize = 1024;

/// The X.509 authorities of one trust domain, prepared for verification.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    anchors: Arc<[rustls_pki_types::TrustAnchor<'static>]>,
    roots: Arc<[Arc<[u8]>]>,
}

impl TrustBundle {
    /// Prepares DER certificates. Authorities that cannot be read are refused.
    ///
    /// # Errors
    /// [`CertError`].
    pub fn new<T: AsRef<[u8]>>(
        trust_domain: TrustDomain,
        authorities: &[T],
    ) -> Result<Self, CertError> {
        let _ = (trust_domain, authorities);
        todo!()
    }

    /// Prepares a bundle's X.509 authorities.
    ///
    /// # Errors
    /// [`CertError`].
    pub fn from_bundle(bundle: &Bundle) -> Result<Self, CertError> {
        let _ = bundle;
        todo!()
    }

    /// Whose bundle it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// DER of the authorities.
    pub fn authorities(&self) -> &[Arc<[u8]>] {
        &self.roots
    }
}

impl std::fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrustBundle({}, {} authorities)", self.trust_domain, self.anchors.len())
    }
}

/// A leaf that was verified.
#[derive(Clone, Debug)]
pub struct VerifiedSvid {
    /// Whom it names.
    pub id: SpiffeId,
    /// The leaf.
    pub leaf: Certificate,
}

/// Why a chain is not a valid X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A certificate could not be read, or the leaf has no single SPIFFE ID.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// The chain is empty.
    #[error("no certificate")]
    Empty,
    /// The leaf is a CA certificate, or may sign certificates.
    #[error("leaf certificate may sign certificates: not an X.509-SVID")]
    LeafIsCa,
    /// No bundle for the trust domain of the leaf.
    #[error("no X.509 bundle for trust domain {0}")]
    NoBundle(TrustDomain),
    /// The certificate has expired.
    #[error("certificate expired")]
    Expired,
    /// The certificate is not valid yet.
    #[error("certificate is not valid yet")]
    NotYetValid,
    /// No chain to an authority of the bundle.
    #[error("certificate signed by unknown authority of trust domain {0}")]
    UnknownAuthority(TrustDomain),
    /// Anything else path validation finds.
    #[error("invalid certificate chain: {0}")]
    Path(String),
    /// The bundle given is of another trust domain than the leaf.
    #[error("certificate is of trust domain {found}, expected {expected}")]
    OtherTrustDomain {
        /// Of the leaf.
        found: TrustDomain,
        /// Of the bundle.
        expected: TrustDomain,
    },
}

/// Verifies a chain (leaf first) as an X.509-SVID: exactly one URI SAN that is a SPIFFE ID of the
/// bundle's trust domain, a leaf that is no CA and may not sign certificates, a path to one of the
/// bundle's authorities, validity at `now`.
///
/// # Errors
/// [`VerifyError`].
pub fn verify_svid<T: AsRef<[u8]>>(
    chain: &[T],
    bundle: &TrustBundle,
    now: i64,
) -> Result<VerifiedSvid, VerifyError> {
    let _ = (chain, bundle, now);
    todo!()
}
