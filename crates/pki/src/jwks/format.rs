//! The forms in which bundle publishers publish a bundle, as SPIRE's do.

use std::str::FromStr;

use signet_identity::Bundle;

use super::{BundleError, encode_pem, encode_published};

/// The form of a published bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleFormat {
    /// A JWK set of the X.509 and JWT authorities without SPIFFE's own members.
    Jwks,
    /// The X.509 authorities.
    Pem,
    /// The SPIFFE bundle document.
    Spiffe,
}

/// Not a [`BundleFormat`].
#[derive(Debug, thiserror::Error)]
#[error("unknown bundle format {0:?}, expected spiffe, jwks or pem")]
pub struct FormatError(String);

impl BundleFormat {
    /// The document; `refresh_hint`, in seconds, takes the place of the bundle's own in the SPIFFE
    /// bundle document.
    ///
    /// # Errors
    /// [`BundleError`] when an authority is not readable.
    pub fn encode(self, bundle: &Bundle, refresh_hint: Option<i64>) -> Result<String, BundleError> {
        match self {
            Self::Pem => Ok(encode_pem(bundle)),
            Self::Jwks => encode_published(bundle, false),
            Self::Spiffe => {
                let mut bundle = bundle.clone();
                bundle.refresh_hint = refresh_hint.unwrap_or(bundle.refresh_hint);
                encode_published(&bundle, true)
            }
        }
    }
}

impl FromStr for BundleFormat {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text.to_ascii_lowercase().as_str() {
            "jwks" => Ok(Self::Jwks),
            "pem" => Ok(Self::Pem),
            "spiffe" => Ok(Self::Spiffe),
            _ => Err(FormatError(text.to_owned())),
        }
    }
}
