//! The WIT-SVID itself: its claims, and checking it.

use std::{fmt, str::FromStr, sync::Arc};

use serde_json::{Map, Value};
use signet_identity::{JwtAuthority, SpiffeId, SpiffeIdError, TrustDomain};
use signet_time::UnixTime;

use crate::{
    KeyAlgorithm, PublicKey, SignatureAlgorithm, jwks,
    jwt::{
        JwtAuthorityHeader, JwtBundle, JwtError, JwtSignError, LEEWAY,
        validate::{ALGORITHMS, Parts, numeric_date, text, verify_signature},
    },
};

/// `typ` of a WIT-SVID (WIT-SVID, section 2.2).
pub const WIT_TYPE: &str = "wit+jwt";
/// Members of a JWK that are secret: a confirmation key that has one is everybody's.
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// An algorithm that a WIT-SVID may be signed with, and that it may bind its holder's proofs to
/// (WIT-SVID, sections 2.3 and 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProofAlgorithm {
    name: &'static str,
    signature: SignatureAlgorithm,
}

impl ProofAlgorithm {
    /// What a key of this kind signs with when nobody says otherwise.
    pub fn of(key: KeyAlgorithm) -> Self {
        let name = match key {
            KeyAlgorithm::EcP256 => "ES256",
            KeyAlgorithm::EcP384 => "ES384",
            KeyAlgorithm::EcP521 => "ES512",
            KeyAlgorithm::Rsa { .. } => "RS256",
        };
        Self { name, signature: SignatureAlgorithm::for_issuing(key) }
    }

    /// Its name in `alg`.
    pub fn as_str(self) -> &'static str {
        self.name
    }

    /// How it signs.
    pub fn signature(self) -> SignatureAlgorithm {
        self.signature
    }

    /// Whether a key of this kind signs that way.
    pub fn is_for(self, key: KeyAlgorithm) -> bool {
        self.signature.is_for(key)
    }
}

impl FromStr for ProofAlgorithm {
    type Err = WitError;

    fn from_str(name: &str) -> Result<Self, WitError> {
        let found = ALGORITHMS.into_iter().find(|(known, _)| *known == name);
        let (name, signature) = found.ok_or(WitError::Confirmation("alg is not accepted"))?;
        Ok(Self { name, signature })
    }
}

impl fmt::Display for ProofAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What a WIT-SVID says.
#[derive(Clone, Copy, Debug)]
pub struct WitClaims<'a> {
    /// `sub`.
    pub spiffe_id: &'a SpiffeId,
    /// `cnf.jwk`: the workload's key.
    pub key: &'a PublicKey,
    /// `cnf.jwk.alg`: how the workload signs its proofs.
    pub algorithm: ProofAlgorithm,
    /// `iat`.
    pub issued_at: UnixTime,
    /// `exp`; the caller caps it by the key's expiry.
    pub expires_at: UnixTime,
    /// `iss`, if configured.
    pub issuer: Option<&'a str>,
}

impl WitClaims<'_> {
    /// The claims as a JSON object, to be signed with [`JwtAuthorityHeader::token_of`]. There is no
    /// `jti`: whoever runs twice on a node may get the same token.
    ///
    /// # Errors
    /// [`JwtSignError::UnsupportedKey`] for a key that no JWK of ours can say.
    pub fn to_map(&self) -> Result<Map<String, Value>, JwtSignError> {
        let jwk = jwks::confirmation(self.key.spki_der(), self.algorithm.as_str());
        let jwk = jwk.ok_or(JwtSignError::UnsupportedKey)?;
        let mut claims = Map::new();
        claims.insert("cnf".to_owned(), Map::from_iter([("jwk".to_owned(), jwk)]).into());
        claims.insert("exp".to_owned(), self.expires_at.seconds().into());
        claims.insert("iat".to_owned(), self.issued_at.seconds().into());
        if let Some(issuer) = self.issuer {
            claims.insert("iss".to_owned(), issuer.into());
        }
        claims.insert("sub".to_owned(), self.spiffe_id.to_string().into());
        Ok(claims)
    }
}

/// What a WIT authority's tokens say, as for JWT authorities.
///
/// # Errors
/// [`JwtSignError::UnsupportedKey`].
pub fn authority_header(
    key_id: impl Into<Arc<str>>,
    expires_at: UnixTime,
    key: &PublicKey,
) -> Result<JwtAuthorityHeader, JwtSignError> {
    JwtAuthorityHeader::of_type(WIT_TYPE, key_id, expires_at, key)
}

/// Why a token is not a valid WIT-SVID. Messages name no content of the token but its `kid`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WitError {
    /// There is an `aud`: a WIT-SVID is for nobody in particular, its proofs are.
    #[error("a WIT-SVID must have no aud")]
    Audience,
    /// `cnf` is absent, or holds no key that proofs could be checked with.
    #[error("the confirmation key (cnf.jwk) is not usable: {0}")]
    Confirmation(&'static str),
    /// Whatever makes any token invalid.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// No WIT authorities for the trust domain of `sub`.
    #[error("no WIT bundle for trust domain {0}")]
    NoBundle(TrustDomain),
    /// `sub` is no SPIFFE ID of a workload, spelled as it must be.
    #[error("the subject is not a SPIFFE ID")]
    Subject(#[from] SpiffeIdError),
    /// `sub` names a trust domain, and nobody in it.
    #[error("the subject names a trust domain, not a workload")]
    NoWorkload,
    /// `typ` is not `wit+jwt`.
    #[error("token type is not {WIT_TYPE}")]
    Type,
    /// The bundle has no key of that ID.
    #[error("no WIT authority {kid:?} in the bundle of {trust_domain}")]
    UnknownKey {
        /// The key ID of the token.
        kid: String,
        /// The trust domain of the subject.
        trust_domain: TrustDomain,
    },
}

/// A WIT-SVID that an authority of its subject's trust domain signed. Whoever presented it is not
/// authenticated yet: it is no secret, and proofs go with it.
#[derive(Clone, Debug)]
pub struct Wit<'a> {
    pub(super) token: &'a str,
    pub(super) subject: SpiffeId,
    pub(super) key: PublicKey,
    pub(super) algorithm: ProofAlgorithm,
    expires_at: UnixTime,
    claims: Map<String, Value>,
}

impl Wit<'_> {
    /// Whom it names. Nobody is authenticated by that.
    pub fn subject(&self) -> &SpiffeId {
        &self.subject
    }

    /// How its holder's proofs are signed.
    pub fn algorithm(&self) -> ProofAlgorithm {
        self.algorithm
    }

    /// The key that its holder proves to have.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// `exp`.
    pub fn expires_at(&self) -> UnixTime {
        self.expires_at
    }

    /// All claims.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
}

/// Checks a WIT-SVID at `now`, with `authorities` giving the WIT authorities of the subject's trust
/// domain: no other authority can vouch for it, whatever `iss` says.
///
/// # Errors
/// [`WitError`] when it is malformed, expired, of no workload, names no known key, or its signature
/// is wrong.
pub fn verify<'a>(
    token: &'a str,
    now: UnixTime,
    authorities: impl FnOnce(&TrustDomain) -> Option<Vec<JwtAuthority>>,
) -> Result<Wit<'a>, WitError> {
    let parts = Parts::split(token)?;
    let header = parts.header()?;
    header.is_plain()?;
    if header.typ.as_deref() != Some(WIT_TYPE) {
        return Err(WitError::Type);
    }
    let kid = header.kid.filter(|kid| !kid.is_empty()).ok_or(JwtError::Missing("kid"))?;
    let claims = parts.claims()?;
    let subject = text(&claims, "sub")?.filter(|sub| !sub.is_empty());
    let subject: SpiffeId = subject.ok_or(JwtError::Missing("sub"))?.parse()?;
    if subject.path().is_empty() {
        return Err(WitError::NoWorkload);
    }
    let expires_at = numeric_date(&claims, "exp")?.ok_or(JwtError::Missing("exp"))?;
    let not_before = numeric_date(&claims, "nbf")?;
    if claims.contains_key("aud") {
        return Err(WitError::Audience);
    }

    let trust_domain = subject.trust_domain();
    let none = || WitError::NoBundle(trust_domain.clone());
    let authorities = authorities(trust_domain).filter(|keys| !keys.is_empty()).ok_or_else(none)?;
    let bundle = JwtBundle::new(trust_domain.clone(), &authorities);
    let unknown = || WitError::UnknownKey { kid: kid.clone(), trust_domain: trust_domain.clone() };
    let key = bundle.key(&kid).ok_or_else(unknown)?;
    verify_signature(&header.alg, key, parts.signed, &parts.signature()?)?;

    if now > expires_at + LEEWAY {
        return Err(JwtError::Expired.into());
    }
    // `iat` says when, and not from when on (WIT-SVID, section 3.6).
    if not_before.is_some_and(|at| now + LEEWAY < at) {
        return Err(JwtError::NotYetValid.into());
    }
    let (key, algorithm) = confirmation_key(&claims)?;
    Ok(Wit { token, subject, key, algorithm, expires_at, claims })
}

/// The algorithm that a WIT-SVID of one's own names for its proofs: nothing is verified.
///
/// # Errors
/// [`WitError`] when it is no WIT-SVID.
pub fn named_algorithm(token: &str) -> Result<ProofAlgorithm, WitError> {
    Ok(confirmation_key(&Parts::split(token)?.claims()?)?.1)
}

fn confirmation_key(claims: &Map<String, Value>) -> Result<(PublicKey, ProofAlgorithm), WitError> {
    let bad = WitError::Confirmation;
    let jwk = claims.get("cnf").and_then(|cnf| cnf.get("jwk")).and_then(Value::as_object);
    let jwk = jwk.ok_or(bad("there is none"))?;
    if SECRET_MEMBERS.iter().any(|member| jwk.contains_key(*member)) {
        return Err(bad("it holds a secret"));
    }
    let algorithm = jwk.get("alg").and_then(Value::as_str).ok_or(bad("it has no alg"))?;
    let algorithm: ProofAlgorithm = algorithm.parse()?;
    let key = jwks::public_key(jwk).and_then(|spki| PublicKey::from_spki(&spki).ok());
    let key = key.ok_or(bad("it is no RSA or EC key of an accepted size"))?;
    match algorithm.is_for(key.algorithm()) {
        true => Ok((key, algorithm)),
        false => Err(bad("alg does not fit the key")),
    }
}
