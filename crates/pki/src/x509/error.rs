//! What certificates may be, and why one is refused.

use signet_identity::SpiffeIdError;

use crate::KeyError;

/// The longest certificate that is read, bytes.
pub const MAX_CERT_LEN: usize = 64 * 1024;

/// The most certificates that a chain may hold.
pub const MAX_CHAIN: usize = 16;

/// The most authorities of one trust domain that are used.
pub const MAX_AUTHORITIES: usize = 1024;

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
