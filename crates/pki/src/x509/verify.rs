//! Verifying X.509-SVIDs against the bundle of their trust domain (X509-SVID standard, section 5).

use std::{sync::Arc, time::Duration};

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use signet_identity::{Bundle, SpiffeId, TrustDomain};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use super::{CertError, Certificate, cert::MAX_CHAIN};

/// The most authorities of one trust domain that are used.
pub const MAX_AUTHORITIES: usize = 1024;

/// The X.509 authorities of one trust domain, prepared for verification.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    anchors: Arc<[TrustAnchor<'static>]>,
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
        let roots: Vec<Arc<[u8]>> =
            authorities.iter().take(MAX_AUTHORITIES).map(|der| der.as_ref().into()).collect();
        let anchors = roots
            .iter()
            .map(|der| {
                webpki::anchor_from_trusted_cert(&CertificateDer::from(&**der))
                    .map(|anchor| anchor.to_owned())
                    .map_err(|_| CertError::Malformed("X.509 authority"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { trust_domain, anchors: anchors.into(), roots: roots.into() })
    }

    /// Prepares a bundle's X.509 authorities.
    ///
    /// # Errors
    /// [`CertError`].
    pub fn from_bundle(bundle: &Bundle) -> Result<Self, CertError> {
        let ders: Vec<&[u8]> = bundle.x509_authorities.iter().map(|a| &*a.der).collect();
        Self::new(bundle.trust_domain.clone(), &ders)
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
    let (leaf_der, intermediates) = chain.split_first().ok_or(VerifyError::Empty)?;
    if intermediates.len() >= MAX_CHAIN {
        return Err(VerifyError::Path(format!("more than {MAX_CHAIN} certificates")));
    }
    let svid = check_leaf(leaf_der.as_ref())?;
    if svid.id.trust_domain() != bundle.trust_domain() {
        return Err(VerifyError::OtherTrustDomain {
            found: svid.id.trust_domain().clone(),
            expected: bundle.trust_domain().clone(),
        });
    }
    let leaf_der = CertificateDer::from(leaf_der.as_ref());
    let end_entity =
        EndEntityCert::try_from(&leaf_der).map_err(|_| CertError::Malformed("certificate"))?;
    let intermediates: Vec<CertificateDer<'_>> =
        intermediates.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().unwrap_or_default()));
    end_entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &bundle.anchors,
            &intermediates,
            at,
            AnyUsage,
            None,
            None,
        )
        .map_err(|error| path_error(&error, bundle.trust_domain()))?;
    Ok(svid)
}

/// Verifies that a CA certificate (first of `chain`) leads to one of `roots` and may sign.
///
/// # Errors
/// [`VerifyError`].
pub fn verify_ca<T: AsRef<[u8]>>(
    chain: &[T],
    roots: &[T],
    now: i64,
) -> Result<Certificate, VerifyError> {
    let mut current = Certificate::from_der(chain.first().ok_or(VerifyError::Empty)?.as_ref())?;
    let first = current.clone();
    let pool = |ders: &[T]| super::parse_chain(ders);
    let (intermediates, roots) = (pool(chain)?, pool(roots)?);
    // Each step goes one certificate up, so no loop is longer than the chain.
    for _ in 0..=chain.len() {
        check_ca(&current, now)?;
        if roots.iter().any(|root| root.der() == current.der()) {
            return Ok(first);
        }
        let signed_by = |candidate: &&Certificate| {
            candidate.raw_subject() == current.raw_issuer()
                && candidate.public_key().is_ok_and(|key| current.is_signed_by(key))
        };
        if let Some(root) = roots.iter().find(signed_by) {
            check_ca(root, now)?;
            return Ok(first);
        }
        let Some(next) = intermediates.iter().find(signed_by) else { break };
        current = next.clone();
    }
    Err(VerifyError::Path("the CA certificate does not lead to a root of the bundle".to_owned()))
}

fn check_ca(ca: &Certificate, now: i64) -> Result<(), VerifyError> {
    const KEY_CERT_SIGN: u16 = 1 << 5;
    if !ca.is_ca() || ca.key_usage().is_some_and(|usage| usage & KEY_CERT_SIGN == 0) {
        return Err(VerifyError::Path("the certificate may not sign certificates".to_owned()));
    }
    if now > ca.not_after() {
        return Err(VerifyError::Expired);
    }
    if now < ca.not_before() {
        return Err(VerifyError::NotYetValid);
    }
    Ok(())
}

/// Checks of the leaf alone: one SPIFFE ID, and no authority to sign certificates or CRLs.
pub(crate) fn check_leaf(der: &[u8]) -> Result<VerifiedSvid, VerifyError> {
    const KEY_CERT_SIGN_OR_CRL_SIGN: u16 = 1 << 5 | 1 << 6;
    let leaf = Certificate::from_der(der)?;
    let id = leaf.spiffe_id()?;
    let may_sign = leaf.key_usage().is_some_and(|usage| usage & KEY_CERT_SIGN_OR_CRL_SIGN != 0);
    if leaf.is_ca() || may_sign {
        return Err(VerifyError::LeafIsCa);
    }
    Ok(VerifiedSvid { id, leaf })
}

/// X.509-SVIDs are not bound to one side of TLS: extended key usage is not looked at, as in SPIRE.
pub(super) struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        usages.into_iter().try_for_each(|usage| usage.map(drop))
    }
}

fn path_error(error: &webpki::Error, trust_domain: &TrustDomain) -> VerifyError {
    match error {
        webpki::Error::CertExpired { .. } => VerifyError::Expired,
        webpki::Error::CertNotValidYet { .. } => VerifyError::NotYetValid,
        webpki::Error::UnknownIssuer => VerifyError::UnknownAuthority(trust_domain.clone()),
        // An authority of the right name and another key: to the caller the same.
        webpki::Error::InvalidSignatureForPublicKey => {
            VerifyError::UnknownAuthority(trust_domain.clone())
        }
        webpki::Error::CaUsedAsEndEntity => VerifyError::LeafIsCa,
        other => VerifyError::Path(format!("{other:?}")),
    }
}
