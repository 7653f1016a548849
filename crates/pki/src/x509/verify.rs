//! Verifying X.509-SVIDs against the bundle of their trust domain (X509-SVID standard, section 5).

use std::sync::Arc;

use signet_identity::{Bundle, SpiffeId, TrustDomain};
use signet_time::UnixTime;

use super::{
    Certificate,
    error::{CertError, MAX_AUTHORITIES, MAX_CHAIN},
    parse_chain,
    path::{PathError, Purpose, verify_path},
};

const KEY_CERT_SIGN: u16 = 1 << 5;
const CRL_SIGN: u16 = 1 << 6;

/// The X.509 authorities of one trust domain, prepared for verification.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Arc<[Certificate]>,
}

impl TrustBundle {
    /// Prepares DER certificates. Authorities that cannot be read are refused.
    ///
    /// # Errors
    /// [`CertError`] when one is malformed or has a key that is not supported.
    pub fn new<T: AsRef<[u8]>>(
        trust_domain: TrustDomain,
        authorities: &[T],
    ) -> Result<Self, CertError> {
        let authorities = authorities
            .iter()
            .take(MAX_AUTHORITIES)
            .map(|der| Certificate::from_der(der.as_ref()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CertError::Malformed("X.509 authority"))?;
        Ok(Self { trust_domain, authorities: authorities.into() })
    }

    /// Prepares a bundle's X.509 authorities.
    ///
    /// # Errors
    /// [`CertError`] when one is malformed or has a key that is not supported.
    pub fn from_bundle(bundle: &Bundle) -> Result<Self, CertError> {
        let ders: Vec<&[u8]> = bundle.x509_authorities.iter().map(|a| &*a.der).collect();
        Self::new(bundle.trust_domain.clone(), &ders)
    }

    /// Whose bundle it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities. Whether they may be one is checked when something leads to them.
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }
}

impl std::fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrustBundle({}, {} authorities)", self.trust_domain, self.authorities.len())
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
    /// The certificate that should sign others may not.
    #[error("the certificate may not sign certificates")]
    CaMayNotSign,
    /// A CA certificate is signed by none of the roots that were given for it.
    #[error("the CA certificate does not lead to a root of the bundle")]
    CaOfOtherRoot,
    /// The chain is empty.
    #[error("no certificate")]
    Empty,
    /// The leaf is a CA certificate, or may sign certificates.
    #[error("leaf certificate may sign certificates: not an X.509-SVID")]
    LeafIsCa,
    /// No bundle for the trust domain of the leaf.
    #[error("no X.509 bundle for trust domain {0}")]
    NoBundle(TrustDomain),
    /// No chain to an authority of the bundle.
    #[error("certificate signed by unknown authority of trust domain {0}")]
    UnknownAuthority(TrustDomain),
    /// Anything else path validation finds.
    #[error(transparent)]
    Path(PathError),
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
/// bundle's authorities, validity of all of it at `now` (Unix seconds).
///
/// # Errors
/// [`VerifyError`] when the chain is empty or malformed, leads to no authority, is not valid at
/// that time, or its first certificate is not of the kind asked for.
pub fn verify_svid<T: AsRef<[u8]>>(
    chain: &[T],
    bundle: &TrustBundle,
    now: UnixTime,
) -> Result<VerifiedSvid, VerifyError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::Empty)?;
    let svid = check_leaf(leaf.as_ref())?;
    verify_leaf(&svid, intermediates, bundle, now)?;
    Ok(svid)
}

/// The rest of [`verify_svid`], for a leaf that [`check_leaf`] has read.
pub(crate) fn verify_leaf<T: AsRef<[u8]>>(
    svid: &VerifiedSvid,
    intermediates: &[T],
    bundle: &TrustBundle,
    now: UnixTime,
) -> Result<(), VerifyError> {
    let (found, expected) = (svid.id.trust_domain(), bundle.trust_domain());
    if found != expected {
        return Err(VerifyError::OtherTrustDomain {
            found: found.clone(),
            expected: expected.clone(),
        });
    }
    // Counted before they are read.
    if intermediates.len() >= MAX_CHAIN {
        return Err(VerifyError::Path(PathError::TooLong));
    }
    let intermediates = parse_chain(intermediates)?;
    verify_path(&svid.leaf, &intermediates, bundle.authorities(), Purpose::Any, now)
        .map(drop)
        .map_err(|error| match error {
            PathError::UnknownAuthority => VerifyError::UnknownAuthority(expected.clone()),
            other => VerifyError::Path(other),
        })
}

/// Verifies that a CA certificate (first of `chain`) leads to one of `roots` and may sign what
/// TLS servers use: the check of SPIRE's `disk` upstream authority.
///
/// # Errors
/// [`VerifyError`] when the chain is empty or malformed, leads to no authority, is not valid at
/// that time, or its first certificate is not of the kind asked for.
pub fn verify_ca<T: AsRef<[u8]>>(
    chain: &[T],
    roots: &[T],
    now: UnixTime,
) -> Result<Certificate, VerifyError> {
    let certificates = parse_chain(chain)?;
    let (ca, intermediates) = certificates.split_first().ok_or(VerifyError::Empty)?;
    if !ca.is_ca() || ca.key_usage().is_some_and(|usage| usage & KEY_CERT_SIGN == 0) {
        return Err(VerifyError::CaMayNotSign);
    }
    verify_path(ca, intermediates, &parse_chain(roots)?, Purpose::Server, now).map_err(
        |error| match error {
            PathError::UnknownAuthority => VerifyError::CaOfOtherRoot,
            other => VerifyError::Path(other),
        },
    )?;
    Ok(ca.clone())
}

/// Checks of the leaf alone: one SPIFFE ID, and no authority to sign certificates or CRLs.
pub(crate) fn check_leaf(der: &[u8]) -> Result<VerifiedSvid, VerifyError> {
    let leaf = Certificate::from_der(der)?;
    let id = leaf.spiffe_id()?;
    let may_sign = leaf.key_usage().is_some_and(|usage| usage & (KEY_CERT_SIGN | CRL_SIGN) != 0);
    if leaf.is_ca() || may_sign {
        return Err(VerifyError::LeafIsCa);
    }
    Ok(VerifiedSvid { id, leaf })
}
