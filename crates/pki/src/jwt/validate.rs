//! Validating JWT-SVIDs.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};
use signet_identity::{Bundle, JwtAuthority, SpiffeId, SpiffeIdError, TrustDomain};
use signet_time::UnixTime;

use crate::{
    PublicKey, SignatureAlgorithm,
    der::ecdsa_signature,
    signer::{BadSignature, verify_made},
};

/// How far clocks may differ, seconds.
pub const LEEWAY: i64 = 60;
/// The longest token that is read, bytes.
pub const MAX_JWT_LEN: usize = 64 * 1024;
/// What tokens may be signed with, by its name in `alg` (RFC 7518, section 3.1).
pub(crate) const ALGORITHMS: [(&str, SignatureAlgorithm); 9] = [
    ("RS256", SignatureAlgorithm::RsaPkcs1Sha256),
    ("RS384", SignatureAlgorithm::RsaPkcs1Sha384),
    ("RS512", SignatureAlgorithm::RsaPkcs1Sha512),
    ("ES256", SignatureAlgorithm::EcdsaP256Sha256),
    ("ES384", SignatureAlgorithm::EcdsaP384Sha384),
    ("ES512", SignatureAlgorithm::EcdsaP521Sha512),
    ("PS256", SignatureAlgorithm::RsaPssSha256),
    ("PS384", SignatureAlgorithm::RsaPssSha384),
    ("PS512", SignatureAlgorithm::RsaPssSha512),
];

/// Why a token is not a valid JWT-SVID. Messages name no content of the token but its `kid`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// No `aud`, or none of the wanted audiences among it.
    #[error("audience does not match")]
    Audience,
    /// The signature does not match.
    #[error("signature does not match")]
    BadSignature,
    /// `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// `iat` or `nbf` is in the future.
    #[error("token is not valid yet")]
    NotYetValid,
    /// Not three base64url parts of JSON objects.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    /// A required claim or header field is absent or of the wrong type.
    #[error("token has no valid {0:?}")]
    Missing(&'static str),
    /// An encrypted or nested token.
    #[error("nested or encrypted tokens are not accepted")]
    Nested,
    /// No JWT bundle for the trust domain of `sub`.
    #[error("no JWT bundle for trust domain {0}")]
    NoBundle(TrustDomain),
    /// `sub` is not a SPIFFE ID.
    #[error("token subject is not a SPIFFE ID")]
    Subject(#[from] SpiffeIdError),
    /// More bytes than a token may have.
    #[error("token is longer than {MAX_JWT_LEN} bytes")]
    TooLong,
    /// `alg` is `none`, symmetric or unknown, or does not fit the key.
    #[error("token algorithm is not accepted")]
    Algorithm,
    /// `typ` is neither absent, `JWT` nor `JOSE`.
    #[error("token type is not accepted")]
    Type,
    /// The bundle has no key of that ID.
    #[error("no JWT authority {kid:?} in the bundle of {trust_domain}")]
    UnknownKey {
        /// The key ID of the token.
        kid: String,
        /// The trust domain of the subject.
        trust_domain: TrustDomain,
    },
}

/// The JWT authorities of one trust domain, prepared for verification.
#[derive(Clone, Debug)]
pub struct JwtBundle {
    trust_domain: TrustDomain,
    keys: Arc<HashMap<Arc<str>, PublicKey>>,
}

impl JwtBundle {
    /// Prepares authorities; tainted ones still verify, as in SPIRE. Of two with one key ID the
    /// last counts. Keys of kinds that are not accepted verify nothing, and stand in nobody's way.
    pub fn new(trust_domain: TrustDomain, keys: &[JwtAuthority]) -> Self {
        let keys = keys
            .iter()
            .filter_map(|key| {
                Some((key.key_id.clone(), PublicKey::from_spki(&key.public_key).ok()?))
            })
            .collect();
        Self { trust_domain, keys: Arc::new(keys) }
    }

    /// Prepares a bundle's JWT authorities.
    pub fn from_bundle(bundle: &Bundle) -> Self {
        Self::new(bundle.trust_domain.clone(), &bundle.jwt_authorities)
    }

    /// Whose bundle it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// A key by its ID.
    pub fn key(&self, kid: &str) -> Option<&PublicKey> {
        self.keys.get(kid)
    }
}

/// A token that was validated.
#[derive(Clone, Debug)]
pub struct ValidatedJwt {
    /// `sub`.
    pub id: SpiffeId,
    /// `aud`.
    pub audience: Vec<String>,
    /// `exp`, Unix seconds.
    pub expires_at: UnixTime,
    /// All claims; `aud` always as a list.
    pub claims: Map<String, Value>,
}

/// Validates a token for one of `audience` at `now`, with `bundles` giving the bundle of the
/// subject's trust domain.
///
/// # Errors
/// [`JwtError`] when it is malformed or too long, of another audience, expired or not valid yet,
/// names no known key, or its signature is wrong.
pub fn validate<'a>(
    token: &str,
    audience: &[String],
    now: UnixTime,
    bundles: impl FnOnce(&TrustDomain) -> Option<&'a JwtBundle>,
) -> Result<ValidatedJwt, JwtError> {
    let parts = Parts::split(token)?;
    let header: Header = parts.header()?;
    header.check()?;
    let kid = header.kid.filter(|kid| !kid.is_empty()).ok_or(JwtError::Missing("kid"))?;
    let mut claims = parts.claims()?;
    let subject = text(&claims, "sub")?.filter(|sub| !sub.is_empty());
    let id: SpiffeId = subject.ok_or(JwtError::Missing("sub"))?.parse()?;
    let expires_at = numeric_date(&claims, "exp")?.ok_or(JwtError::Missing("exp"))?;
    let not_before = numeric_date(&claims, "nbf")?;
    let issued_at = numeric_date(&claims, "iat")?;
    let token_audience = audience_of(&claims)?;

    let trust_domain = id.trust_domain();
    let bundle = bundles(trust_domain).ok_or_else(|| JwtError::NoBundle(trust_domain.clone()))?;
    let key = bundle
        .key(&kid)
        .ok_or_else(|| JwtError::UnknownKey { kid, trust_domain: trust_domain.clone() })?;
    verify_signature(&header.alg, key, parts.signed, &parts.signature()?)?;

    if now > expires_at + LEEWAY {
        return Err(JwtError::Expired);
    }
    let future = |at: Option<UnixTime>| at.is_some_and(|at| now + LEEWAY < at);
    if future(not_before) || future(issued_at) {
        return Err(JwtError::NotYetValid);
    }
    if !audience.iter().any(|wanted| token_audience.contains(wanted)) {
        return Err(JwtError::Audience);
    }
    claims.insert("aud".to_owned(), token_audience.iter().cloned().map(Value::String).collect());
    Ok(ValidatedJwt { id, audience: token_audience, expires_at, claims })
}

/// What a token says of its times, not verified: for caches of tokens from a trusted peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeekedClaims {
    /// `iat`, Unix seconds; 0 if absent.
    pub issued_at: UnixTime,
    /// `exp`, Unix seconds; 0 if absent.
    pub expires_at: UnixTime,
}

/// Reads times without verifying anything.
///
/// # Errors
/// [`JwtError`] when it is not a token at all.
pub fn peek_claims(token: &str) -> Result<PeekedClaims, JwtError> {
    let claims = Parts::split(token)?.claims()?;
    Ok(PeekedClaims {
        issued_at: numeric_date(&claims, "iat")?.unwrap_or_default(),
        expires_at: numeric_date(&claims, "exp")?.unwrap_or_default(),
    })
}

/// What names a token and the key that signed it, not verified: to say which token was issued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeekedIds {
    /// `kid`.
    pub key_id: Option<String>,
    /// `jti`.
    pub jti: Option<String>,
}

/// Reads what names a token without verifying anything.
///
/// # Errors
/// [`JwtError`] when it is not a token at all.
pub fn peek_ids(token: &str) -> Result<PeekedIds, JwtError> {
    let parts = Parts::split(token)?;
    Ok(PeekedIds {
        key_id: parts.header()?.kid,
        jti: text(&parts.claims()?, "jti")?.map(str::to_owned),
    })
}

/// Reads `sub` without verifying anything.
///
/// # Errors
/// [`JwtError`] when it is not a token at all or has no SPIFFE ID as subject.
pub fn peek_subject(token: &str) -> Result<SpiffeId, JwtError> {
    let claims = Parts::split(token)?.claims()?;
    Ok(text(&claims, "sub")?.ok_or(JwtError::Missing("sub"))?.parse()?)
}

/// A compact serialisation taken apart.
pub(crate) struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// Header and payload with the dot between: what is signed.
    pub(crate) signed: &'a str,
}

/// The fields of a header that we look at.
#[derive(Deserialize)]
pub(crate) struct Header {
    pub(crate) alg: String,
    pub(crate) kid: Option<String>,
    pub(crate) typ: Option<String>,
    cty: Option<Value>,
    enc: Option<Value>,
    zip: Option<Value>,
    crit: Option<Value>,
}

impl<'a> Parts<'a> {
    pub(crate) fn split(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_JWT_LEN {
            return Err(JwtError::TooLong);
        }
        let malformed = || JwtError::Malformed("expected three parts");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        match payload.matches('.').count() {
            0 => Ok(Self { header, payload, signature, signed }),
            // Five parts are a JWE.
            2 => Err(JwtError::Nested),
            _ => Err(malformed()),
        }
    }

    pub(crate) fn header(&self) -> Result<Header, JwtError> {
        let bad = JwtError::Malformed("header is not a JSON object with alg");
        let json = URL_SAFE_NO_PAD.decode(self.header).map_err(|_| bad.clone())?;
        serde_json::from_slice(&json).map_err(|_| bad)
    }

    pub(crate) fn claims(&self) -> Result<Map<String, Value>, JwtError> {
        let bad = JwtError::Malformed("payload is not a JSON object");
        let json = URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| bad.clone())?;
        serde_json::from_slice(&json).map_err(|_| bad)
    }

    pub(crate) fn signature(&self) -> Result<Vec<u8>, JwtError> {
        let bad = JwtError::Malformed("signature is not base64url");
        URL_SAFE_NO_PAD.decode(self.signature).map_err(|_| bad)
    }
}

impl Header {
    /// That it is signed only, and needs nothing that is not understood here.
    pub(crate) fn is_plain(&self) -> Result<(), JwtError> {
        if self.cty.is_some() || self.enc.is_some() || self.zip.is_some() {
            return Err(JwtError::Nested);
        }
        if self.crit.is_some() {
            return Err(JwtError::Malformed("critical header extensions are not understood"));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), JwtError> {
        self.is_plain()?;
        match self.typ.as_deref() {
            None | Some("" | "JWT" | "JOSE") => Ok(()),
            Some(_) => Err(JwtError::Type),
        }
    }
}

pub(crate) fn verify_signature(
    alg: &str,
    key: &PublicKey,
    signed: &str,
    signature: &[u8],
) -> Result<(), JwtError> {
    let named = ALGORITHMS.into_iter().find(|(name, _)| *name == alg);
    let fitting = named.filter(|(_, algorithm)| algorithm.is_for(key.algorithm()));
    let (_, algorithm) = fitting.ok_or(JwtError::Algorithm)?;
    let message = signed.as_bytes();
    let verified = match key.algorithm().coordinate_len() {
        None => verify_made(key, algorithm, message, signature),
        Some(size) => match signature.split_at_checked(size) {
            Some((r, s)) if s.len() == size => {
                verify_made(key, algorithm, message, &ecdsa_signature(r, s))
            }
            _ => Err(BadSignature),
        },
    };
    verified.map_err(|BadSignature| JwtError::BadSignature)
}

pub(crate) fn text<'a>(
    claims: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, JwtError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(JwtError::Missing(name)),
    }
}

/// A NumericDate (RFC 7519 §2); fractions of a second are cut off. `None` where there is none.
///
/// # Errors
/// [`JwtError::Missing`] where it is something else, or too large.
pub fn numeric_date(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<UnixTime>, JwtError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Ok(Some(UnixTime::from_seconds(whole))),
            // 2^53: above it a float is no longer a whole number of seconds.
            (None, Some(fraction)) if fraction.abs() < 9_007_199_254_740_992.0 => {
                Ok(Some(UnixTime::from_seconds(fraction as i64)))
            }
            _ => Err(JwtError::Missing(name)),
        },
        Some(_) => Err(JwtError::Missing(name)),
    }
}

fn audience_of(claims: &Map<String, Value>) -> Result<Vec<String>, JwtError> {
    let bad = || JwtError::Missing("aud");
    match claims.get("aud") {
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(list)) => {
            list.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(bad)).collect()
        }
        _ => Err(bad()),
    }
}
