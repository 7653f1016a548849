//! Signing JWT-SVIDs.

use std::sync::Arc;

use serde_json::{Map, Value};
use signet_identity::SpiffeId;

use crate::{SignError, Signer, random::RandomError};

/// What a JWT-SVID says.
#[derive(Clone, Copy, Debug)]
pub struct JwtClaims<'a> {
    /// `sub`.
    pub spiffe_id: &'a SpiffeId,
    /// `aud`, at least one; always written as an array.
    pub audience: &'a [String],
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// `exp`, Unix seconds; the caller caps it by the key's expiry.
    pub expires_at: i64,
    /// `iss`, if configured.
    pub issuer: Option<&'a str>,
    /// Whether a random `jti` is added.
    pub jti: bool,
}

/// Why a JWT-SVID could not be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtSignError {
    /// No audience.
    #[error("at least one audience is required")]
    NoAudience,
    /// The claims could not be written as JSON.
    #[error("encoding claims")]
    Encode(#[source] serde_json::Error),
    /// No randomness for `jti`.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The signer failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// P-521 keys are not used for JWT-SVIDs.
    #[error("unsupported key kind for JWT-SVIDs, expected RSA, P-256 or P-384")]
    UnsupportedKey,
}

/// A token just signed. The token is a secret: it prints as `(..)`.
#[derive(Clone)]
pub struct SignedJwt {
    /// The compact serialisation.
    pub token: String,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// `exp`, Unix seconds.
    pub expires_at: i64,
}

impl std::fmt::Debug for SignedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignedJwt(.., expires_at: {})", self.expires_at)
    }
}

/// A JWT authority that signs: a signer with its key ID. The header is encoded once.
#[derive(Debug)]
pub struct JwtIssuer {
    key_id: Arc<str>,
    expires_at: i64,
    signer: Arc<dyn Signer>,
}

impl JwtIssuer {
    /// An issuer under `key_id` whose key is published until `expires_at` (Unix seconds).
    ///
    /// # Errors
    /// [`JwtSignError::UnsupportedKey`].
    pub fn new(
        key_id: impl Into<Arc<str>>,
        expires_at: i64,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, JwtSignError> {
        Ok(Self { key_id: key_id.into(), expires_at, signer })
    }

    /// The key ID.
    pub fn key_id(&self) -> &Arc<str> {
        &self.key_id
    }

    /// When the key expires, Unix seconds.
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// The signer.
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }

    /// Signs; `expires_at` of the claims is capped by the key's.
    ///
    /// # Errors
    /// [`JwtSignError`].
    pub fn sign(&self, claims: &JwtClaims<'_>) -> Result<SignedJwt, JwtSignError> {
        let _ = claims;
        todo!()
    }

    /// The claims as a JSON object, for composers that change them; sign with
    /// [`JwtIssuer::sign_claims`].
    ///
    /// # Errors
    /// [`JwtSignError`].
    pub fn claims(&self, claims: &JwtClaims<'_>) -> Result<Map<String, Value>, JwtSignError> {
        let _ = claims;
        todo!()
    }

    /// Signs a JSON object of claims as it is; `iat` and `exp` are read from it.
    ///
    /// # Errors
    /// [`JwtSignError`].
    pub fn sign_claims(&self, claims: &Map<String, Value>) -> Result<SignedJwt, JwtSignError> {
        let _ = claims;
        todo!()
    }
}
