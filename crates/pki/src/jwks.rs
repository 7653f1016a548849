//! Trust bundles as documents: the SPIFFE bundle format, the Workload API's JWKS, and PEM.

use signet_identity::{Bundle, JwtAuthority, TrustDomain};

use crate::{KeyError, x509::CertError};

/// The longest bundle document that is read, bytes.
pub const MAX_BUNDLE_LEN: usize = 4 * 1024 * 1024;
/// The most keys that one document may hold.
pub const MAX_KEYS: usize = 4096;

/// Why a bundle document was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// A certificate in it is refused.
    #[error("bundle entry {index}")]
    Cert {
        /// Which key of the document, from 0.
        index: usize,
        /// Why.
        #[source]
        source: CertError,
    },
    /// An entry breaks a rule of the format.
    #[error("bundle entry {index}: {reason}")]
    Entry {
        /// Which key of the document, from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// Not JSON of the expected shape.
    #[error("bundle is not a JWKS document")]
    Json(#[source] serde_json::Error),
    /// A public key in it is refused.
    #[error("bundle entry {index}")]
    Key {
        /// Which key of the document, from 0.
        index: usize,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// Not PEM certificates.
    #[error(transparent)]
    Pem(#[from] crate::pem::PemError),
    /// Not text.
    #[error("bundle is not UTF-8 text")]
    NotText,
    /// More bytes than a bundle may have.
    #[error("bundle is longer than {MAX_BUNDLE_LEN} bytes")]
    TooLong,
    /// More keys than a bundle may have.
    #[error("bundle holds more than {MAX_KEYS} keys")]
    TooMany,
}

/// Writes the SPIFFE bundle format (`use`, `x5c`, `spiffe_sequence`, `spiffe_refresh_hint`),
/// indented with four spaces; zero sequence and refresh hint are left out.
///
/// # Errors
/// [`BundleError`] when an authority is not readable.
pub fn encode_spiffe(bundle: &Bundle) -> Result<String, BundleError> {
    let _ = bundle;
    todo!()
}

/// Reads the SPIFFE bundle format. An unknown `use` is an error.
///
/// # Errors
/// [`BundleError`].
pub fn decode_spiffe(trust_domain: TrustDomain, text: &[u8]) -> Result<Bundle, BundleError> {
    let _ = (trust_domain, text);
    todo!()
}

/// Writes JWT authorities as the Workload API's `JWTBundlesResponse` carries them: JWKS without
/// `use`, indented with four spaces.
///
/// # Errors
/// [`BundleError`] when an authority is not readable.
pub fn encode_jwt_jwks(authorities: &[JwtAuthority]) -> Result<String, BundleError> {
    let _ = authorities;
    todo!()
}

/// Reads JWT authorities from such a document (`use` is ignored when `jwt-svid` or absent).
///
/// # Errors
/// [`BundleError`].
pub fn decode_jwt_jwks(text: &[u8]) -> Result<Vec<JwtAuthority>, BundleError> {
    let _ = text;
    todo!()
}

/// Writes the X.509 authorities as PEM.
pub fn encode_pem(bundle: &Bundle) -> String {
    crate::pem::encode_certificates(bundle.x509_authorities.iter().map(|a| &*a.der))
}

/// Reads PEM certificates as a bundle without JWT authorities.
///
/// # Errors
/// [`BundleError`].
pub fn decode_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Bundle, BundleError> {
    let _ = (trust_domain, text);
    todo!()
}
