//! Workload proof tokens (draft-ietf-wimse-wpt): that whoever presents a WIT-SVID has its key.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use signet_identity::SpiffeId;
use signet_time::UnixTime;

use super::{
    Replays, TooManyProofs,
    token::{ProofAlgorithm, Wit},
};
use crate::{
    PrivateKey, SignError, Signer, digest,
    jwt::{
        JwtError, MAX_JWT_LEN,
        sign::push_signature,
        validate::{Parts, numeric_date, text, verify_signature},
    },
    random::{self, RandomError},
};

/// `typ` of a proof.
const PROOF_TYPE: &str = "wpt+jwt";
/// How far clocks may differ where proofs are concerned, seconds.
pub const PROOF_LEEWAY: i64 = 30;
/// How far in the future a proof may expire, seconds: the draft wants seconds to minutes.
pub const MAX_PROOF_LIFE: i64 = 300;
/// The longest `jti`, bytes.
const MAX_ID_LEN: usize = 256;
/// The most tokens that one proof is bound to.
const MAX_OTHERS: usize = 32;

/// The tokens of a request besides the WIT-SVID and its proof, which the proof binds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tokens<'a> {
    /// An OAuth access token (`ath`).
    pub access_token: Option<&'a str>,
    /// A transaction token (`tth`).
    pub transaction_token: Option<&'a str>,
    /// Others (`oth`): the name of the header field, lower case, and its value. Whatever is not
    /// listed here must have no say in what the request may do.
    pub others: &'a [(&'a str, &'a str)],
}

/// What a proof is to say.
#[derive(Clone, Copy, Debug)]
pub struct ProofParams<'a> {
    /// The WIT-SVID that it goes with.
    pub wit: &'a str,
    /// The algorithm that the WIT-SVID names.
    pub algorithm: ProofAlgorithm,
    /// The target URI; its query and fragment are left out.
    pub audience: &'a str,
    /// When it expires.
    pub expires_at: UnixTime,
    /// The other tokens of the request.
    pub tokens: Tokens<'a>,
}

/// Makes a proof with the key of a WIT-SVID.
///
/// # Errors
/// [`ProofError`] when the key cannot sign that way.
pub fn prove(key: &PrivateKey, params: &ProofParams<'_>) -> Result<String, ProofError> {
    let header = Map::from_iter([
        ("alg".to_owned(), Value::from(params.algorithm.as_str())),
        ("typ".to_owned(), Value::from(PROOF_TYPE)),
    ]);
    let mut claims = Map::new();
    let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    let tokens = params.tokens;
    if let Some(token) = tokens.access_token {
        put("ath", hash_of(token).into());
    }
    put("aud", without_query(params.audience).into());
    put("exp", params.expires_at.seconds().into());
    put("jti", URL_SAFE_NO_PAD.encode(random::bytes::<16>()?).into());
    if !tokens.others.is_empty() {
        let others = tokens.others.iter();
        let others = others.map(|(name, value)| ((*name).to_owned(), hash_of(value.trim()).into()));
        put("oth", Map::from_iter(others).into());
    }
    if let Some(token) = tokens.transaction_token {
        put("tth", hash_of(token).into());
    }
    put("wth", hash_of(params.wit).into());
    let mut text = format!("{}.{}", encoded(header), encoded(claims));
    let signature = key.signer()?.sign(params.algorithm.signature(), text.as_bytes())?;
    push_signature(&mut text, key.public_key().algorithm(), &signature)?;
    match text.len() {
        0..=MAX_JWT_LEN => Ok(text),
        _ => Err(JwtError::TooLong.into()),
    }
}

/// What a recipient holds a proof against. Nothing of it may come from the request itself but the
/// tokens.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The URIs that this recipient answers to, one of which the proof must be for.
    pub audiences: &'a [&'a str],
    /// The other tokens of the request.
    pub tokens: Tokens<'a>,
    /// Now.
    pub now: UnixTime,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// `alg` is not the one that the WIT-SVID names.
    #[error("the proof's alg is not that of the WIT-SVID's key")]
    Algorithm,
    /// It is for somebody else, or for several.
    #[error("the proof is not for this recipient")]
    Audience,
    /// No room to remember it.
    #[error(transparent)]
    Busy(#[from] TooManyProofs),
    /// The signature does not match, it has expired, or is no token.
    #[error("proof: {0}")]
    Jwt(#[from] JwtError),
    /// It expires too late.
    #[error("the proof is valid for longer than {MAX_PROOF_LIFE} s")]
    LongLived,
    /// A hash of a token is missing, or of another token, or of none that is here.
    #[error("the proof's {0:?} does not match the request")]
    Hash(&'static str),
    /// It was used before.
    #[error("the proof was used before")]
    Replayed,
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The key does not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// `typ` is not `wpt+jwt`.
    #[error("the proof's type is not {PROOF_TYPE}")]
    Type,
}

impl Wit<'_> {
    /// Checks the proof that came with the WIT-SVID, and gives whom that authenticates. With
    /// `replays`, a proof is good for one use.
    ///
    /// # Errors
    /// [`ProofError`] when the proof is not for this request, audience or token, is forged, lives
    /// too long or was used before, or when too many are remembered.
    pub fn authenticate(
        &self,
        proof: &str,
        expected: &Expected<'_>,
        replays: Option<&Replays>,
    ) -> Result<SpiffeId, ProofError> {
        let parts = Parts::split(proof)?;
        let header = parts.header()?;
        header.is_plain()?;
        let media_type = header.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
        if media_type.strip_prefix("application/").unwrap_or(&media_type) != PROOF_TYPE {
            return Err(ProofError::Type);
        }
        if header.alg != self.algorithm.as_str() {
            return Err(ProofError::Algorithm);
        }
        verify_signature(&header.alg, &self.key, parts.signed, &parts.signature()?)?;

        let claims = parts.claims()?;
        let now = expected.now;
        let expires_at = numeric_date(&claims, "exp")?.ok_or(JwtError::Missing("exp"))?;
        if now > expires_at + PROOF_LEEWAY {
            return Err(JwtError::Expired.into());
        }
        if expires_at > now + (MAX_PROOF_LIFE + PROOF_LEEWAY) {
            return Err(ProofError::LongLived);
        }
        if numeric_date(&claims, "nbf")?.is_some_and(|at| now + PROOF_LEEWAY < at) {
            return Err(JwtError::NotYetValid.into());
        }
        let audience = audience(&claims).ok_or(ProofError::Audience)?;
        let audience = without_query(audience);
        if !expected.audiences.iter().any(|own| without_query(own) == audience) {
            return Err(ProofError::Audience);
        }
        check_hashes(&claims, self.token, &expected.tokens)?;
        let id = text(&claims, "jti")?.filter(|id| (1..=MAX_ID_LEN).contains(&id.len()));
        let id = id.ok_or(JwtError::Missing("jti"))?;
        if let Some(replays) = replays {
            let until = expires_at + PROOF_LEEWAY;
            if !replays.take(&self.subject.to_string(), id, until, now)? {
                return Err(ProofError::Replayed);
            }
        }
        Ok(self.subject.clone())
    }
}

/// The one recipient that a proof is for: what is for several can be used by one at another.
fn audience(claims: &Map<String, Value>) -> Option<&str> {
    let one = match claims.get("aud")? {
        Value::Array(list) => match list.as_slice() {
            [one] => one.as_str(),
            _ => None,
        },
        one => one.as_str(),
    };
    one.filter(|one| !one.is_empty())
}

/// Each token of the request is bound, and nothing that is not in the request.
fn check_hashes(
    claims: &Map<String, Value>,
    wit: &str,
    tokens: &Tokens<'_>,
) -> Result<(), ProofError> {
    let single =
        [("wth", Some(wit)), ("ath", tokens.access_token), ("tth", tokens.transaction_token)];
    for (name, token) in single {
        if text(claims, name)?.map(str::to_owned) != token.map(hash_of) {
            return Err(ProofError::Hash(name));
        }
    }
    let bad = || ProofError::Hash("oth");
    let listed = match claims.get("oth") {
        None => &Map::new(),
        Some(Value::Object(listed)) if listed.len() <= MAX_OTHERS => listed,
        Some(_) => return Err(bad()),
    };
    let is_bound = |(name, value): &(&str, &str)| {
        listed.get(*name).and_then(Value::as_str) == Some(hash_of(value.trim()).as_str())
    };
    let is_known = |name: &String| tokens.others.iter().any(|(known, _)| known == name);
    match tokens.others.iter().all(is_bound) && listed.keys().all(is_known) {
        true => Ok(()),
        false => Err(bad()),
    }
}

/// A target URI without its query and fragment.
pub fn without_query(uri: &str) -> &str {
    uri.split(['?', '#']).next().unwrap_or(uri)
}

/// `ath`, `tth`, `wth`: base64url of the SHA-256 of a token.
fn hash_of(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::sha256(token.as_bytes()))
}

fn encoded(map: Map<String, Value>) -> String {
    URL_SAFE_NO_PAD.encode(Value::Object(map).to_string())
}
