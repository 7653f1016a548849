//! Signing JWT-SVIDs.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::{Map, Value};
use signet_identity::SpiffeId;
use signet_time::UnixTime;

use super::MAX_JWT_LEN;
use crate::{
    KeyAlgorithm, ManagedKey, PublicKey, SignError, Signer,
    der::ecdsa_numbers,
    random::{self, RandomError},
};

/// The longest signature in base64url with its dot: RSA of 8192 bits.
const MAX_SIGNATURE_LEN: usize = 1367;

/// What a JWT-SVID says.
#[derive(Clone, Copy, Debug)]
pub struct JwtClaims<'a> {
    /// `sub`.
    pub spiffe_id: &'a SpiffeId,
    /// `aud`, at least one; always written as an array.
    pub audience: &'a [String],
    /// `iat`, Unix seconds.
    pub issued_at: UnixTime,
    /// `exp`, Unix seconds; the caller caps it by the key's expiry.
    pub expires_at: UnixTime,
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
    /// The token would be longer than any that is read.
    #[error("the token would be longer than {MAX_JWT_LEN} bytes")]
    TooLong,
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
    pub issued_at: UnixTime,
    /// `exp`, Unix seconds.
    pub expires_at: UnixTime,
}

impl std::fmt::Debug for SignedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignedJwt(.., expires_at: {})", self.expires_at.seconds())
    }
}

/// A JWT authority without its key: what its tokens say. The header is encoded once.
#[derive(Debug)]
pub struct JwtAuthorityHeader {
    key_id: Arc<str>,
    expires_at: UnixTime,
    algorithm: KeyAlgorithm,
    /// The encoded header with its dot.
    header: String,
}

/// A JWT authority whose key is in this process.
#[derive(Debug)]
pub struct JwtIssuer {
    header: JwtAuthorityHeader,
    signer: Arc<dyn Signer>,
}

/// The claims, in the order of their names as SPIRE writes them.
#[derive(Serialize)]
struct Payload<'a> {
    aud: &'a [String],
    exp: UnixTime,
    iat: UnixTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    sub: String,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
    typ: &'static str,
}

impl JwtAuthorityHeader {
    /// An authority under `key_id` whose key, published until `expires_at` (Unix seconds), is
    /// `key`.
    ///
    /// # Errors
    /// [`JwtSignError::UnsupportedKey`].
    pub fn new(
        key_id: impl Into<Arc<str>>,
        expires_at: UnixTime,
        key: &PublicKey,
    ) -> Result<Self, JwtSignError> {
        Self::of_type("JWT", key_id, expires_at, key)
    }

    /// As [`JwtAuthorityHeader::new`], for tokens whose `typ` is another one.
    ///
    /// # Errors
    /// [`JwtSignError::UnsupportedKey`].
    pub(crate) fn of_type(
        typ: &'static str,
        key_id: impl Into<Arc<str>>,
        expires_at: UnixTime,
        key: &PublicKey,
    ) -> Result<Self, JwtSignError> {
        let (key_id, algorithm) = (key_id.into(), key.algorithm());
        let alg = match algorithm {
            KeyAlgorithm::EcP256 => "ES256",
            KeyAlgorithm::EcP384 => "ES384",
            KeyAlgorithm::Rsa { .. } => "RS256",
            KeyAlgorithm::EcP521 => return Err(JwtSignError::UnsupportedKey),
        };
        let header = Header { alg, kid: &key_id, typ };
        let json = serde_json::to_vec(&header).map_err(JwtSignError::Encode)?;
        let header = format!("{}.", URL_SAFE_NO_PAD.encode(json));
        Ok(Self { key_id, expires_at, algorithm, header })
    }

    /// The key ID.
    pub fn key_id(&self) -> &Arc<str> {
        &self.key_id
    }

    /// When the key expires, Unix seconds.
    pub fn expires_at(&self) -> UnixTime {
        self.expires_at
    }

    /// A token, to be signed with this authority's key; `expires_at` of the claims is capped by
    /// the key's.
    ///
    /// # Errors
    /// [`JwtSignError`]: no audience, or no randomness.
    pub fn token(&self, claims: &JwtClaims<'_>) -> Result<UnsignedJwt, JwtSignError> {
        let payload = self.payload(claims)?;
        let json = serde_json::to_vec(&payload).map_err(JwtSignError::Encode)?;
        self.encode(&json, payload.iat, payload.exp)
    }

    /// The claims as a JSON object, for composers that change them; go on with
    /// [`JwtAuthorityHeader::token_of`].
    ///
    /// # Errors
    /// As [`JwtAuthorityHeader::token`].
    pub fn claims(&self, claims: &JwtClaims<'_>) -> Result<Map<String, Value>, JwtSignError> {
        match serde_json::to_value(self.payload(claims)?).map_err(JwtSignError::Encode)? {
            Value::Object(map) => Ok(map),
            _ => Ok(Map::new()),
        }
    }

    /// A token of a JSON object of claims as it is; `iat` and `exp` are read from it.
    ///
    /// # Errors
    /// [`JwtSignError::Encode`], in theory.
    pub fn token_of(&self, claims: &Map<String, Value>) -> Result<UnsignedJwt, JwtSignError> {
        let time = |name| {
            UnixTime::from_seconds(claims.get(name).and_then(Value::as_i64).unwrap_or_default())
        };
        let json = serde_json::to_vec(claims).map_err(JwtSignError::Encode)?;
        self.encode(&json, time("iat"), time("exp"))
    }

    fn payload<'a>(&self, claims: &JwtClaims<'a>) -> Result<Payload<'a>, JwtSignError> {
        if claims.audience.is_empty() {
            return Err(JwtSignError::NoAudience);
        }
        let jti = match claims.jti {
            true => Some(URL_SAFE_NO_PAD.encode(random::uuid_v4_bytes()?)),
            false => None,
        };
        Ok(Payload {
            aud: claims.audience,
            exp: claims.expires_at.min(self.expires_at),
            iat: claims.issued_at,
            iss: claims.issuer,
            jti,
            sub: claims.spiffe_id.to_string(),
        })
    }

    fn encode(
        &self,
        json: &[u8],
        issued_at: UnixTime,
        expires_at: UnixTime,
    ) -> Result<UnsignedJwt, JwtSignError> {
        let mut text = String::with_capacity(self.header.len() + json.len() * 4 / 3 + 360);
        text.push_str(&self.header);
        URL_SAFE_NO_PAD.encode_string(json, &mut text);
        if text.len() > MAX_JWT_LEN - MAX_SIGNATURE_LEN {
            return Err(JwtSignError::TooLong);
        }
        Ok(UnsignedJwt { text, algorithm: self.algorithm, issued_at, expires_at })
    }
}

impl JwtIssuer {
    /// As [`JwtAuthorityHeader::new`].
    ///
    /// # Errors
    /// As [`JwtAuthorityHeader::new`].
    pub fn new(
        key_id: impl Into<Arc<str>>,
        expires_at: UnixTime,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, JwtSignError> {
        Ok(Self {
            header: JwtAuthorityHeader::new(key_id, expires_at, signer.public_key())?,
            signer,
        })
    }

    /// The key ID.
    pub fn key_id(&self) -> &Arc<str> {
        self.header.key_id()
    }

    /// When the key expires, Unix seconds.
    pub fn expires_at(&self) -> UnixTime {
        self.header.expires_at()
    }

    /// The signer.
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }

    /// Signs; `expires_at` of the claims is capped by the key's.
    ///
    /// # Errors
    /// [`JwtSignError`] when there is no audience, the token would be too long, or signing fails.
    pub fn sign(&self, claims: &JwtClaims<'_>) -> Result<SignedJwt, JwtSignError> {
        self.header.token(claims)?.sign(&*self.signer)
    }

    /// The claims as a JSON object, for composers that change them; sign with
    /// [`JwtIssuer::sign_claims`].
    ///
    /// # Errors
    /// [`JwtSignError`] when there is no audience, the token would be too long, or signing fails.
    pub fn claims(&self, claims: &JwtClaims<'_>) -> Result<Map<String, Value>, JwtSignError> {
        self.header.claims(claims)
    }

    /// Signs a JSON object of claims as it is; `iat` and `exp` are read from it.
    ///
    /// # Errors
    /// [`JwtSignError`] when there is no audience, the token would be too long, or signing fails.
    pub fn sign_claims(&self, claims: &Map<String, Value>) -> Result<SignedJwt, JwtSignError> {
        self.header.token_of(claims)?.sign(&*self.signer)
    }
}

/// A token that is complete but for its signature. It prints as `(..)`.
pub struct UnsignedJwt {
    /// Header and payload, encoded, with the dot between them.
    text: String,
    algorithm: KeyAlgorithm,
    issued_at: UnixTime,
    expires_at: UnixTime,
}

impl UnsignedJwt {
    /// Signs with a key in this process.
    ///
    /// # Errors
    /// [`JwtSignError::Sign`].
    pub fn sign(self, signer: &dyn Signer) -> Result<SignedJwt, JwtSignError> {
        let signature = signer.sign_issued(self.text.as_bytes())?;
        self.finish(&signature)
    }

    /// Signs with a key that may be elsewhere.
    ///
    /// # Errors
    /// [`JwtSignError::Sign`], within the deadline of the key's holder.
    pub async fn sign_with(self, key: &ManagedKey) -> Result<SignedJwt, JwtSignError> {
        let signature = key.sign_issued(self.text.as_bytes()).await?;
        self.finish(&signature)
    }

    fn finish(self, signature: &[u8]) -> Result<SignedJwt, JwtSignError> {
        let Self { text: mut token, algorithm, issued_at, expires_at } = self;
        push_signature(&mut token, algorithm, signature)?;
        Ok(SignedJwt { token, issued_at, expires_at })
    }
}

impl std::fmt::Debug for UnsignedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UnsignedJwt(.., expires_at: {})", self.expires_at.seconds())
    }
}

/// Ends a token with the signature that a key of this kind made of it.
pub(crate) fn push_signature(
    token: &mut String,
    algorithm: KeyAlgorithm,
    signature: &[u8],
) -> Result<(), SignError> {
    token.push('.');
    write_signature(token, algorithm, signature)
}

/// Appends a signature that a key of this kind made, as JWS writes it: base64url.
pub(crate) fn write_signature(
    text: &mut String,
    algorithm: KeyAlgorithm,
    signature: &[u8],
) -> Result<(), SignError> {
    match algorithm.coordinate_len() {
        Some(size) => URL_SAFE_NO_PAD.encode_string(fixed_width(signature, size)?, text),
        None => URL_SAFE_NO_PAD.encode_string(signature, text),
    }
    Ok(())
}

/// The form of JWS: r and s, each as long as the curve's coordinates (RFC 7518 3.4).
fn fixed_width(der: &[u8], size: usize) -> Result<Vec<u8>, SignError> {
    let bad = || SignError::Failed("the signer returned no DER signature".to_owned());
    let (r, s) = ecdsa_numbers(der).map_err(|_| bad())?;
    let mut out = Vec::with_capacity(2 * size);
    for number in [r, s] {
        let pad = size.checked_sub(number.len()).ok_or_else(bad)?;
        out.resize(out.len() + pad, 0);
        out.extend_from_slice(number);
    }
    Ok(out)
}
