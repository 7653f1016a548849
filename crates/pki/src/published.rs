//! Bundles in the forms that bundle publishers write, and what each of them has published.

use std::{
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use signet_identity::Bundle;

use crate::jwks::{self, BundleError};

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

impl BundleFormat {
    /// A bundle in this form; `refresh_hint`, seconds, takes the place of the bundle's own where the
    /// form has one.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn document(
        self,
        bundle: &Bundle,
        refresh_hint: Option<i64>,
    ) -> Result<String, BundleError> {
        match self {
            Self::Pem => Ok(jwks::encode_pem(bundle)),
            Self::Jwks => jwks::encode_published(bundle, false),
            Self::Spiffe => {
                let mut bundle = bundle.clone();
                bundle.refresh_hint = refresh_hint.unwrap_or(bundle.refresh_hint);
                jwks::encode_published(&bundle, true)
            }
        }
    }

    /// The media type of such a document.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jwks | Self::Spiffe => "application/json",
            Self::Pem => "application/x-pem-file",
        }
    }
}

/// The bundle that was published last.
#[derive(Debug, Default)]
pub struct Published(Mutex<Option<Bundle>>);

impl Published {
    /// Whether it is this one.
    pub fn is(&self, bundle: &Bundle) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(bundle)
    }

    /// Is this one from now on.
    pub fn set(&self, bundle: &Bundle) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bundle.clone());
    }
}
