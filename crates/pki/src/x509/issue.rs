//! Issuing: SVIDs and CA certificates.

use std::sync::Arc;

use signet_identity::{SpiffeId, TrustDomain};

use super::{CertError, Certificate, Name, Oid};
use crate::{PublicKey, SignError, Signer, random::RandomError};

/// How far before now a certificate starts to be valid, seconds, against clock skew.
pub const NOT_BEFORE_CUSHION: i64 = 10;

/// A serial number: an unsigned integer of at most 20 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// A random serial in 1..2^128-1.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn random() -> Result<Self, RandomError> {
        todo!()
    }

    /// From big-endian bytes; leading zeroes are dropped.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeroes = bytes.iter().take_while(|&&b| b == 0).count();
        Self(bytes.get(zeroes..).unwrap_or_default().to_vec())
    }

    /// Big-endian bytes without leading zeroes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Display for Serial {
    /// Decimal, as SPIRE stores and prints serials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = f;
        todo!()
    }
}

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// An extension added as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Which.
    pub oid: Oid,
    /// Whether a reader that does not know it must refuse the certificate.
    pub critical: bool,
    /// DER of the value.
    pub value: Vec<u8>,
}

/// Why a certificate could not be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The CA certificate is not usable.
    #[error("CA certificate")]
    Ca(#[source] CertError),
    /// The CA certificate is not for the signer's key.
    #[error("the CA certificate does not match its key")]
    KeyMismatch,
    /// The CA chain is empty.
    #[error("the CA has no certificate")]
    NoCertificate,
    /// The CA has expired: everything it could sign would be expired too.
    #[error("the CA expired")]
    CaExpired,
    /// No randomness for the serial number.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The signer failed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// A certificate just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// DER of the certificate alone.
    pub der: Vec<u8>,
    /// Its serial number.
    pub serial: Serial,
    /// Start of validity, Unix seconds.
    pub not_before: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
}

/// What an X.509-SVID says.
#[derive(Clone, Copy, Debug)]
pub struct SvidParams<'a> {
    /// Whom it names: the one URI SAN.
    pub spiffe_id: &'a SpiffeId,
    /// The key it certifies.
    pub public_key: &'a PublicKey,
    /// DNS SANs; the caller sets the subject's common name (SPIRE: the first of these).
    pub dns_names: &'a [String],
    /// The subject; `None` for C=US, O=SPIRE with the first DNS name as common name.
    pub subject: Option<&'a Name>,
    /// Further extensions.
    pub extensions: &'a [Extension],
    /// Now, Unix seconds; validity starts 10 s before.
    pub now: i64,
    /// Wanted end of validity, Unix seconds; capped by the CA's.
    pub not_after: i64,
}

/// What a CA certificate says.
#[derive(Clone, Debug)]
pub struct CaParams {
    /// Whose CA: the URI SAN `spiffe://<td>`.
    pub trust_domain: TrustDomain,
    /// The subject; without a serial number, the certificate's is put there (decimal).
    pub subject: Name,
    /// Further extensions.
    pub extensions: Vec<Extension>,
    /// Now, Unix seconds; validity starts 10 s before.
    pub now: i64,
    /// Wanted end of validity, Unix seconds.
    pub not_after: i64,
}

/// A CA that issues: a signer with its certificate. Everything that does not change from
/// certificate to certificate is encoded once.
#[derive(Debug)]
pub struct CaIssuer {
    certificate: Certificate,
    upstream_chain: Vec<Arc<[u8]>>,
    signer: Arc<dyn Signer>,
}

impl CaIssuer {
    /// `chain` is the CA's own certificate first, then the intermediates up to but without the
    /// root, as they are to be sent after a leaf; a self-signed CA has one certificate, which is
    /// not sent (`sends_self` false).
    ///
    /// # Errors
    /// [`IssueError`] when the certificate is not usable or is not the signer's.
    pub fn new(
        certificate: Certificate,
        upstream_chain: Vec<Arc<[u8]>>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, IssueError> {
        Ok(Self { certificate, upstream_chain, signer })
    }

    /// The CA certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What is sent after each leaf: empty for a self-signed CA.
    pub fn upstream_chain(&self) -> &[Arc<[u8]>] {
        &self.upstream_chain
    }

    /// The signer.
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }

    /// Issues an X.509-SVID.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_svid(&self, params: &SvidParams<'_>) -> Result<Issued, IssueError> {
        let _ = params;
        todo!()
    }

    /// Issues a CA certificate for another key (downstream server, or as an upstream authority).
    /// With `subject` of `params` as given; AKI is this CA's key identifier.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_ca(&self, key: &PublicKey, params: &CaParams) -> Result<Issued, IssueError> {
        let _ = (key, params);
        todo!()
    }
}

/// Issues a self-signed CA certificate.
///
/// # Errors
/// [`IssueError`].
pub fn self_sign_ca(signer: &dyn Signer, params: &CaParams) -> Result<Issued, IssueError> {
    let _ = (signer, params);
    todo!()
}
