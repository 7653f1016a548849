//! Trust bundles as documents: the SPIFFE bundle format, the Workload API's JWKS, and PEM.

mod jwk;

use std::{collections::HashSet, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::{Map, Value};
use signet_identity::{Bundle, JwtAuthority, TrustDomain, X509Authority};
use signet_time::UnixTime;

use self::jwk::{Jwk, Members, NoKey, without_line_ends};
use crate::{
    KeyError, pem,
    x509::{CertError, Certificate},
};

/// The longest bundle document that is read, bytes.
pub const MAX_BUNDLE_LEN: usize = 4 * 1024 * 1024;
/// The most keys that one document may hold.
pub const MAX_KEYS: usize = 4096;

/// The longest ID of a key, bytes: it comes again in each token.
pub const MAX_KEY_ID_LEN: usize = 1024;
/// `use` of the keys that sign WIT-SVIDs (WIT-SVID, section 6.1).
const WIT_USE: &str = "wit-svid";

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
    /// Not JSON.
    #[error("bundle is not a JWKS document")]
    Json(#[source] serde_json::Error),
    /// JSON of another shape than a bundle's.
    #[error("bundle is not a JWKS document: {0}")]
    Shape(&'static str),
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
/// indented with four spaces; zero sequence and refresh hint are left out, and so are keys of a
/// kind that no JWK of ours can say.
///
/// # Errors
/// [`BundleError`] when an X.509 authority is not readable.
pub fn encode_spiffe(bundle: &Bundle) -> Result<String, BundleError> {
    write(&document(bundle, &bundle.wit_authorities)?)
}

/// Writes a bundle as SPIRE's bundle publishers do, on one line and without WIT authorities: as
/// the SPIFFE bundle format, or else as a plain JWK set of X.509 and JWT authorities.
///
/// # Errors
/// [`BundleError`] when an authority is not readable.
pub fn encode_published(bundle: &Bundle, as_spiffe: bool) -> Result<String, BundleError> {
    let mut document = document(bundle, &[])?;
    if !as_spiffe {
        document.spiffe_sequence = 0;
        document.spiffe_refresh_hint = 0;
        for key in &mut document.keys {
            key.usage = None;
        }
    }
    serde_json::to_string(&document).map_err(BundleError::Json)
}

/// Reads the SPIFFE bundle format as go-spiffe does: the names of the document's own members in any
/// letter case, `null` for absent, line ends in base64. Keys for another use than ours, or of a
/// kind that is not understood, are skipped, so that one strange key does not take the others with
/// it; a certificate that comes twice is kept once, and of two keys with one ID the last.
///
/// # Errors
/// [`BundleError`] when it is no such document, is too large, or holds a key or certificate that
/// cannot be read.
pub fn decode_spiffe(trust_domain: TrustDomain, text: &[u8]) -> Result<Bundle, BundleError> {
    let document = Document::read(text)?;
    let mut bundle = Bundle::empty(trust_domain);
    bundle.refresh_hint = document.refresh_hint.max(0);
    bundle.sequence_number = document.sequence;
    let mut certificates = HashSet::new();
    for (index, key) in document.keys().enumerate() {
        let key = key.map_err(|reason| BundleError::Entry { index, reason })?;
        match key.usage()? {
            "x509-svid" => {
                let der: Arc<[u8]> = key.certificate()?.into();
                if certificates.insert(Arc::clone(&der)) {
                    bundle.x509_authorities.push(X509Authority { der, tainted: false });
                }
            }
            "jwt-svid" => put(&mut bundle.jwt_authorities, key.authority()?),
            WIT_USE => put(&mut bundle.wit_authorities, key.authority()?),
            _ => {}
        }
    }
    Ok(bundle)
}

/// As [`encode_spiffe`], without the WIT authorities: SPIRE before 1.15.3 refuses a document that
/// holds a key for a use that it does not know.
///
/// # Errors
/// [`BundleError`] when an X.509 authority is not readable.
pub fn encode_spiffe_without_wit(bundle: &Bundle) -> Result<String, BundleError> {
    write(&document(bundle, &[])?)
}

/// Writes JWT or WIT authorities as the Workload API's bundle responses carry them: JWKS without
/// `use`, indented with four spaces. Keys of a kind that no JWK of ours can say are left out.
///
/// # Errors
/// [`BundleError`] when JSON cannot be written.
pub fn encode_jwt_jwks(authorities: &[JwtAuthority]) -> Result<String, BundleError> {
    let keys = encode_keys(authorities).collect();
    write(&Written { keys, spiffe_sequence: 0, spiffe_refresh_hint: 0 })
}

/// Writes JWT authorities as an OpenID Connect provider publishes them: JWKS with `alg`, indented
/// with two spaces, and `use: sig` where `with_use` asks for it (SPIRE's `set_key_use`). Keys that
/// sign no JWT-SVID are left out.
///
/// # Errors
/// [`BundleError`] when JSON cannot be written.
pub fn encode_oidc_jwks(
    authorities: &[JwtAuthority],
    with_use: bool,
) -> Result<String, BundleError> {
    let keys = encode_keys(authorities).filter_map(|mut jwk| {
        jwk.alg = Some(jwk.signature_algorithm()?);
        jwk.usage = with_use.then(|| "sig".to_owned());
        Some(jwk)
    });
    let keys: Vec<Jwk> = keys.collect();
    let written = Written { keys, spiffe_sequence: 0, spiffe_refresh_hint: 0 };
    serde_json::to_string_pretty(&written).map_err(BundleError::Json)
}

/// Reads WIT authorities from a JWKS document: keys whose `use` is absent (as in the Workload API) or
/// `wit-svid`; others are skipped, and so are those of a kind that is not understood.
///
/// # Errors
/// [`BundleError`] when it is no such document, is too large, or holds a key or certificate that
/// cannot be read.
pub fn decode_wit_jwks(text: &[u8]) -> Result<Vec<JwtAuthority>, BundleError> {
    decode_keys(text, &["", WIT_USE])
}

/// Reads JWT authorities from a JWKS document: keys whose `use` is absent, `jwt-svid` or `sig`;
/// others are skipped, and so are those of a kind that is not understood.
///
/// # Errors
/// [`BundleError`] when it is no such document, is too large, or holds a key or certificate that
/// cannot be read.
pub fn decode_jwt_jwks(text: &[u8]) -> Result<Vec<JwtAuthority>, BundleError> {
    decode_keys(text, &["", "jwt-svid", "sig"])
}

fn decode_keys(text: &[u8], uses: &[&str]) -> Result<Vec<JwtAuthority>, BundleError> {
    let document = Document::read(text)?;
    let mut authorities = Vec::new();
    for (index, key) in document.keys().enumerate() {
        let key = key.map_err(|reason| BundleError::Entry { index, reason })?;
        if uses.contains(&key.usage()?) {
            put(&mut authorities, key.authority()?);
        }
    }
    Ok(authorities)
}

/// Writes the X.509 authorities as PEM.
pub fn encode_pem(bundle: &Bundle) -> String {
    pem::encode_certificates(bundle.x509_authorities.iter().map(|a| &*a.der))
}

/// Reads PEM certificates as a bundle without JWT authorities.
///
/// # Errors
/// [`BundleError`] when it is no such document, is too large, or holds a key or certificate that
/// cannot be read.
pub fn decode_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Bundle, BundleError> {
    if text.len() > MAX_BUNDLE_LEN {
        return Err(BundleError::TooLong);
    }
    let text = std::str::from_utf8(text).map_err(|_| BundleError::NotText)?;
    let mut bundle = Bundle::empty(trust_domain);
    for (index, der) in pem::decode_certificates(text)?.into_iter().enumerate() {
        Certificate::from_der(&der).map_err(|source| BundleError::Cert { index, source })?;
        bundle.x509_authorities.push(X509Authority { der: der.into(), tainted: false });
    }
    Ok(bundle)
}

/// A document as it is written.
#[derive(Serialize)]
struct Written {
    keys: Vec<Jwk>,
    #[serde(skip_serializing_if = "is_zero")]
    spiffe_sequence: u64,
    #[serde(skip_serializing_if = "is_zero")]
    spiffe_refresh_hint: i64,
}

/// A document as it is read.
struct Document {
    keys: Vec<Value>,
    sequence: u64,
    refresh_hint: i64,
}

impl Document {
    fn read(text: &[u8]) -> Result<Self, BundleError> {
        if text.len() > MAX_BUNDLE_LEN {
            return Err(BundleError::TooLong);
        }
        let members: Map<String, Value> =
            serde_json::from_slice(text).map_err(BundleError::Json)?;
        let mut document = Self { keys: Vec::new(), sequence: 0, refresh_hint: 0 };
        let mut has_keys = false;
        // Go takes the names of its own struct's fields in any letter case.
        for (name, value) in members {
            match (name.to_ascii_lowercase().as_str(), value) {
                ("keys", Value::Array(keys)) => (document.keys, has_keys) = (keys, true),
                ("spiffe_sequence", Value::Number(number)) => {
                    document.sequence =
                        number.as_u64().ok_or(BundleError::Shape("spiffe_sequence"))?;
                }
                ("spiffe_refresh_hint", Value::Number(number)) => {
                    document.refresh_hint =
                        number.as_i64().ok_or(BundleError::Shape("spiffe_refresh_hint"))?;
                }
                ("spiffe_sequence" | "spiffe_refresh_hint", Value::Null) => {}
                ("spiffe_sequence", _) => return Err(BundleError::Shape("spiffe_sequence")),
                ("spiffe_refresh_hint", _) => {
                    return Err(BundleError::Shape("spiffe_refresh_hint"));
                }
                ("keys", Value::Null) => {}
                ("keys", _) => return Err(BundleError::Shape("keys is not a list")),
                _ => {}
            }
        }
        if !has_keys {
            return Err(BundleError::Shape("it has no keys"));
        }
        if document.keys.len() > MAX_KEYS {
            return Err(BundleError::TooMany);
        }
        Ok(document)
    }

    fn keys(&self) -> impl Iterator<Item = Result<Entry<'_>, String>> {
        self.keys.iter().enumerate().map(|(index, key)| match key {
            Value::Object(members) => Ok(Entry { index, members: Members(members) }),
            _ => Err("is not an object".to_owned()),
        })
    }
}

/// One key of a document that is read.
struct Entry<'a> {
    index: usize,
    members: Members<'a>,
}

impl Entry<'_> {
    fn error(&self, reason: impl Into<String>) -> BundleError {
        BundleError::Entry { index: self.index, reason: reason.into() }
    }

    fn usage(&self) -> Result<&str, BundleError> {
        let usage = self.members.text("use").map_err(|reason| self.error(reason))?;
        Ok(usage.unwrap_or_default())
    }

    /// The certificate of an X.509 authority: the first of its list, as the standard says (SPIFFE
    /// Trust Domain and Bundle, section 4.2.2). The key beside it must be the same, where it is one
    /// that is understood.
    fn certificate(&self) -> Result<Vec<u8>, BundleError> {
        let texts = self.members.certificates().map_err(|reason| self.error(reason))?;
        let Some(text) = texts.first() else {
            return Err(self.error("there is no certificate in x5c"));
        };
        let der = STANDARD
            .decode(without_line_ends(text))
            .map_err(|_| self.error("x5c is not base64"))?;
        let certificate = Certificate::from_der(&der)
            .map_err(|source| BundleError::Cert { index: self.index, source })?;
        match self.members.public_key() {
            Ok(key) if key != certificate.spki() => {
                Err(self.error("the key is not that of the certificate in x5c"))
            }
            _ => Ok(der),
        }
    }

    /// A JWT or WIT authority; `None` for a key that is not understood.
    fn authority(&self) -> Result<Option<JwtAuthority>, BundleError> {
        let kid = self.members.text("kid").map_err(|reason| self.error(reason))?;
        let key = match self.members.public_key() {
            Ok(key) => key,
            Err(NoKey::Unknown(reason)) => {
                tracing::warn!(entry = self.index, reason, "A key of a trust bundle is skipped");
                return Ok(None);
            }
            Err(NoKey::Broken(reason)) => return Err(self.error(reason)),
            Err(NoKey::Refused(source)) => {
                return Err(BundleError::Key { index: self.index, source });
            }
        };
        let kid = kid.filter(|kid| !kid.is_empty()).ok_or_else(|| self.error("missing key ID"))?;
        if kid.len() > MAX_KEY_ID_LEN {
            return Err(self.error(format!("key ID is longer than {MAX_KEY_ID_LEN} bytes")));
        }
        Ok(Some(JwtAuthority {
            public_key: key.into(),
            key_id: kid.into(),
            expires_at: UnixTime::EPOCH,
            tainted: false,
        }))
    }
}

/// Adds an authority; one of the same ID gives way.
fn put(list: &mut Vec<JwtAuthority>, authority: Option<JwtAuthority>) {
    let Some(authority) = authority else { return };
    match list.iter_mut().find(|it| it.key_id == authority.key_id) {
        Some(known) => *known = authority,
        None => list.push(authority),
    }
}

/// The document of a bundle, with these WIT authorities.
fn document(bundle: &Bundle, wit: &[JwtAuthority]) -> Result<Written, BundleError> {
    let mut keys = Vec::new();
    for (index, authority) in bundle.x509_authorities.iter().enumerate() {
        let certificate = Certificate::from_der(&authority.der)
            .map_err(|source| BundleError::Cert { index, source })?;
        let Some(jwk) = Jwk::of(certificate.spki()) else { continue };
        keys.push(Jwk {
            usage: Some("x509-svid".to_owned()),
            x5c: Some(vec![STANDARD.encode(&authority.der)]),
            ..jwk
        });
    }
    for (usage, authorities) in [("jwt-svid", &*bundle.jwt_authorities), (WIT_USE, wit)] {
        let written = encode_keys(authorities);
        keys.extend(written.map(|jwk| Jwk { usage: Some(usage.to_owned()), ..jwk }));
    }
    Ok(Written {
        keys,
        spiffe_sequence: bundle.sequence_number,
        spiffe_refresh_hint: bundle.refresh_hint,
    })
}

/// A public key as a JWK that names the algorithm of its signatures: the `jwk` of a confirmation claim
/// (RFC 7800); `None` for a key of a kind that no JWK of ours can say.
pub(crate) fn confirmation(spki: &[u8], alg: &'static str) -> Option<Value> {
    serde_json::to_value(Jwk { alg: Some(alg), ..Jwk::of(spki)? }).ok()
}

/// The public key of a JWK, SubjectPublicKeyInfo DER; `None` for what is none.
pub(crate) fn public_key(jwk: &Map<String, Value>) -> Option<Vec<u8>> {
    Members(jwk).public_key().ok()
}

fn encode_keys(authorities: &[JwtAuthority]) -> impl Iterator<Item = Jwk> {
    authorities.iter().filter_map(|authority| {
        let jwk = Jwk::of(&authority.public_key)?;
        Some(Jwk { kid: Some(authority.key_id.to_string()), ..jwk })
    })
}

fn write(document: &Written) -> Result<String, BundleError> {
    let mut out = Vec::with_capacity(1024);
    let spaces = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, spaces);
    document.serialize(&mut serializer).map_err(BundleError::Json)?;
    String::from_utf8(out).map_err(|_| BundleError::NotText)
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
