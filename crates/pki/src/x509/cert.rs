//! Reading certificates.

use std::sync::Arc;

use signet_identity::{SpiffeId, SpiffeIdError};

use super::Name;
use crate::{KeyError, PublicKey};

/// The longest certificate that is read, bytes.
pub const MAX_CERT_LEN: usize = 64 * 1024;

/// Why bytes are not a certificate we use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// Not DER of the expected structure.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// More bytes than a certificate may have.
    #[error("certificate is longer than {MAX_CERT_LEN} bytes")]
    TooLong,
    /// The public key is of a kind or size that is not accepted.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No URI SAN, or more than one.
    #[error("certificate has {0} URI SANs, expected exactly one")]
    UriCount(usize),
    /// The URI SAN is not a SPIFFE ID.
    #[error("certificate URI SAN is not a SPIFFE ID")]
    SpiffeId(#[from] SpiffeIdError),
}

/// A certificate, read once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    der: Arc<[u8]>,
    serial: super::Serial,
    subject: Name,
    raw_subject: Vec<u8>,
    raw_issuer: Vec<u8>,
    not_before: i64,
    not_after: i64,
    uris: Vec<String>,
    dns_names: Vec<String>,
    public_key: Option<PublicKey>,
    key_error: Option<KeyError>,
    is_ca: bool,
    key_usage: Option<u16>,
    subject_key_id: Vec<u8>,
    authority_key_id: Vec<u8>,
}

impl Certificate {
    /// Reads one DER certificate; trailing bytes are refused.
    ///
    /// # Errors
    /// [`CertError`]. A key of a kind we do not use is no error here, but in
    /// [`Certificate::public_key`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        let _ = der;
        todo!()
    }

    /// The DER bytes.
    pub fn der(&self) -> &Arc<[u8]> {
        &self.0.der
    }
    /// The serial number.
    pub fn serial(&self) -> &super::Serial {
        &self.0.serial
    }
    /// The subject.
    pub fn subject(&self) -> &Name {
        &self.0.subject
    }
    /// DER of the subject, byte for byte.
    pub fn raw_subject(&self) -> &[u8] {
        &self.0.raw_subject
    }
    /// DER of the issuer, byte for byte.
    pub fn raw_issuer(&self) -> &[u8] {
        &self.0.raw_issuer
    }
    /// Start of validity, Unix seconds.
    pub fn not_before(&self) -> i64 {
        self.0.not_before
    }
    /// End of validity, Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.0.not_after
    }
    /// The URI SANs.
    pub fn uris(&self) -> &[String] {
        &self.0.uris
    }
    /// The DNS SANs.
    pub fn dns_names(&self) -> &[String] {
        &self.0.dns_names
    }
    /// The public key.
    ///
    /// # Errors
    /// [`KeyError`] when it is of a kind or size that is not accepted.
    pub fn public_key(&self) -> Result<&PublicKey, KeyError> {
        self.0
            .public_key
            .as_ref()
            .ok_or_else(|| self.0.key_error.clone().unwrap_or(KeyError::Unsupported))
    }
    /// Basic constraints say CA.
    pub fn is_ca(&self) -> bool {
        self.0.is_ca
    }
    /// Key usage bits, bit n = the n-th of RFC 5280 4.2.1.3; `None` without the extension.
    pub fn key_usage(&self) -> Option<u16> {
        self.0.key_usage
    }
    /// Subject key identifier, empty without the extension.
    pub fn subject_key_id(&self) -> &[u8] {
        &self.0.subject_key_id
    }
    /// Subject key identifier in lower-case hex: SPIRE's authority ID.
    pub fn subject_key_id_hex(&self) -> String {
        hex::encode(&self.0.subject_key_id)
    }
    /// Authority key identifier, empty without the extension.
    pub fn authority_key_id(&self) -> &[u8] {
        &self.0.authority_key_id
    }
    /// Authority key identifier in lower-case hex.
    pub fn authority_key_id_hex(&self) -> String {
        hex::encode(&self.0.authority_key_id)
    }
    /// Whether subject and issuer are the same and the key signed itself.
    pub fn is_self_signed(&self) -> bool {
        todo!()
    }
    /// Whether `issuer`'s key signed this certificate (names are not compared).
    pub fn is_signed_by(&self, issuer: &PublicKey) -> bool {
        let _ = issuer;
        todo!()
    }
    /// The one URI SAN as a SPIFFE ID.
    ///
    /// # Errors
    /// [`CertError`] when there is not exactly one, or it is not a SPIFFE ID.
    pub fn spiffe_id(&self) -> Result<SpiffeId, CertError> {
        match self.0.uris.as_slice() {
            [uri] => Ok(uri.parse()?),
            uris => Err(CertError::UriCount(uris.len())),
        }
    }
}

/// Reads a chain of DER certificates, leaf first.
///
/// # Errors
/// [`CertError`] of the first that is refused.
pub fn parse_chain<T: AsRef<[u8]>>(ders: &[T]) -> Result<Vec<Certificate>, CertError> {
    ders.iter().map(|der| Certificate::from_der(der.as_ref())).collect()
}

/// Splits concatenated DER certificates, as the Workload API carries them.
///
/// # Errors
/// [`CertError::Malformed`] when the bytes do not end with the end of a certificate.
pub fn split_der_chain(bytes: &[u8]) -> Result<Vec<&[u8]>, CertError> {
    let _ = bytes;
    todo!()
}
