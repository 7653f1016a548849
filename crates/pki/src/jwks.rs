//! Trust bundles as documents: the SPIFFE bundle format, the Workload API's JWKS, and PEM.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{Deserialize, Serialize};
use signet_identity::{Bundle, JwtAuthority, TrustDomain, X509Authority};

use crate::{
    KeyAlgorithm, KeyError, PublicKey, pem,
    x509::{CertError, Certificate},
};

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
    write(&document(bundle)?)
}

/// Writes a bundle as SPIRE's bundle publishers do, on one line and without WIT authorities: as
/// the SPIFFE bundle format, or else as a plain JWK set of X.509 and JWT authorities.
///
/// # Errors
/// [`BundleError`] when an authority is not readable.
pub fn encode_published(bundle: &Bundle, as_spiffe: bool) -> Result<String, BundleError> {
    let mut document = document(bundle)?;
    document.keys.retain(|key| key.usage.as_deref() != Some("wit-svid"));
    if !as_spiffe {
        document.spiffe_sequence = 0;
        document.spiffe_refresh_hint = 0;
        for key in &mut document.keys {
            key.usage = None;
        }
    }
    serde_json::to_string(&document).map_err(BundleError::Json)
}

/// Reads the SPIFFE bundle format. An unknown `use` is an error.
///
/// # Errors
/// [`BundleError`].
pub fn decode_spiffe(trust_domain: TrustDomain, text: &[u8]) -> Result<Bundle, BundleError> {
    let document = read(text)?;
    let mut bundle = Bundle::empty(trust_domain);
    bundle.refresh_hint = document.spiffe_refresh_hint.max(0);
    bundle.sequence_number = document.spiffe_sequence;
    for (index, jwk) in document.keys.iter().enumerate() {
        let entry = |reason: String| BundleError::Entry { index, reason };
        match jwk.usage.as_deref().unwrap_or_default() {
            "x509-svid" => {
                bundle
                    .x509_authorities
                    .push(X509Authority { der: jwk.certificate(index)?.into(), tainted: false });
            }
            "jwt-svid" => bundle.jwt_authorities.push(jwk.authority(index)?),
            "wit-svid" => bundle.wit_authorities.push(jwk.authority(index)?),
            "" => return Err(entry("missing use".to_owned())),
            other => {
                let other: String = other.chars().take(40).collect();
                return Err(entry(format!("unrecognized use {other:?}")));
            }
        }
    }
    Ok(bundle)
}

/// Writes JWT authorities as the Workload API's `JWTBundlesResponse` carries them: JWKS without
/// `use`, indented with four spaces.
///
/// # Errors
/// [`BundleError`] when an authority is not readable.
pub fn encode_jwt_jwks(authorities: &[JwtAuthority]) -> Result<String, BundleError> {
    let keys = encode_keys(authorities, 0).collect::<Result<_, _>>()?;
    write(&Document { keys, spiffe_sequence: 0, spiffe_refresh_hint: 0 })
}

/// Reads JWT authorities from a JWKS document: keys whose `use` is absent, `jwt-svid` or `sig`;
/// others are skipped.
///
/// # Errors
/// [`BundleError`].
pub fn decode_jwt_jwks(text: &[u8]) -> Result<Vec<JwtAuthority>, BundleError> {
    let document = read(text)?;
    let wanted = |jwk: &Jwk| matches!(jwk.usage.as_deref(), None | Some("" | "jwt-svid" | "sig"));
    let keys = document.keys.iter().enumerate().filter(|(_, jwk)| wanted(jwk));
    keys.map(|(index, jwk)| jwk.authority(index)).collect()
}

/// Writes the X.509 authorities as PEM.
pub fn encode_pem(bundle: &Bundle) -> String {
    pem::encode_certificates(bundle.x509_authorities.iter().map(|a| &*a.der))
}

/// Reads PEM certificates as a bundle without JWT authorities.
///
/// # Errors
/// [`BundleError`].
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

#[derive(Deserialize, Serialize)]
struct Document {
    keys: Vec<Jwk>,
    #[serde(default, skip_serializing_if = "is_zero")]
    spiffe_sequence: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    spiffe_refresh_hint: i64,
}

/// A JSON Web Key of a kind we use; private members are never read.
#[derive(Default, Deserialize, Serialize)]
struct Jwk {
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(default)]
    kty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<Vec<String>>,
}

impl Jwk {
    fn of(key: &PublicKey) -> Self {
        let encode = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
        let (first, second) = key.numbers().unwrap_or_default();
        let crv = match key.algorithm() {
            KeyAlgorithm::EcP256 => "P-256",
            KeyAlgorithm::EcP384 => "P-384",
            KeyAlgorithm::EcP521 => "P-521",
            KeyAlgorithm::Rsa { .. } => {
                let (n, e) = (encode(first), encode(second));
                return Self { kty: "RSA".to_owned(), n, e, ..Self::default() };
            }
        };
        let (x, y) = (encode(first), encode(second));
        Self { kty: "EC".to_owned(), crv: Some(crv.to_owned()), x, y, ..Self::default() }
    }

    /// The one certificate of an X.509 authority.
    fn certificate(&self, index: usize) -> Result<Vec<u8>, BundleError> {
        let entry = |reason: String| BundleError::Entry { index, reason };
        let [text] = self.x5c.as_deref().unwrap_or_default() else {
            let count = self.x5c.as_ref().map_or(0, Vec::len);
            return Err(entry(format!("expected a single certificate in x5c, found {count}")));
        };
        let der = STANDARD.decode(text).map_err(|_| entry("x5c is not base64".to_owned()))?;
        Certificate::from_der(&der).map_err(|source| BundleError::Cert { index, source })?;
        Ok(der)
    }

    fn authority(&self, index: usize) -> Result<JwtAuthority, BundleError> {
        let entry = |reason: &str| BundleError::Entry { index, reason: reason.to_owned() };
        let kid = self.kid.as_deref().filter(|kid| !kid.is_empty());
        let key_id = kid.ok_or_else(|| entry("missing key ID"))?.into();
        let number = |text: &Option<String>, what: &str| {
            let text = text.as_deref().ok_or_else(|| entry(&format!("missing {what}")))?;
            // Some writers pad.
            let text = text.trim_end_matches('=');
            URL_SAFE_NO_PAD.decode(text).map_err(|_| entry(&format!("{what} is not base64url")))
        };
        let key = match (&*self.kty, self.crv.as_deref()) {
            ("EC", Some(crv)) => {
                let algorithm = match crv {
                    "P-256" => KeyAlgorithm::EcP256,
                    "P-384" => KeyAlgorithm::EcP384,
                    "P-521" => KeyAlgorithm::EcP521,
                    _ => return Err(entry("unsupported curve")),
                };
                PublicKey::from_ec_point(algorithm, &number(&self.x, "x")?, &number(&self.y, "y")?)
            }
            ("RSA", _) => {
                PublicKey::from_rsa_numbers(&number(&self.n, "n")?, &number(&self.e, "e")?)
            }
            _ => return Err(entry("unsupported key type, expected EC or RSA")),
        };
        let key = key.map_err(|source| BundleError::Key { index, source })?;
        Ok(JwtAuthority {
            public_key: key.spki_der().into(),
            key_id,
            expires_at: 0,
            tainted: false,
        })
    }
}

fn document(bundle: &Bundle) -> Result<Document, BundleError> {
    let mut keys = Vec::new();
    for (index, authority) in bundle.x509_authorities.iter().enumerate() {
        let certificate = Certificate::from_der(&authority.der)
            .map_err(|source| BundleError::Cert { index, source })?;
        let key = certificate.public_key().map_err(|source| BundleError::Key { index, source })?;
        keys.push(Jwk {
            usage: Some("x509-svid".to_owned()),
            x5c: Some(vec![STANDARD.encode(&authority.der)]),
            ..Jwk::of(key)
        });
    }
    for (usage, authorities) in
        [("jwt-svid", &bundle.jwt_authorities), ("wit-svid", &bundle.wit_authorities)]
    {
        for jwk in encode_keys(authorities, keys.len()) {
            keys.push(Jwk { usage: Some(usage.to_owned()), ..jwk? });
        }
    }
    Ok(Document {
        keys,
        spiffe_sequence: bundle.sequence_number,
        spiffe_refresh_hint: bundle.refresh_hint,
    })
}

fn encode_keys(
    authorities: &[JwtAuthority],
    before: usize,
) -> impl Iterator<Item = Result<Jwk, BundleError>> {
    authorities.iter().enumerate().map(move |(at, authority)| {
        let key = PublicKey::from_spki(&authority.public_key)
            .map_err(|source| BundleError::Key { index: before + at, source })?;
        Ok(Jwk { kid: Some(authority.key_id.to_string()), ..Jwk::of(&key) })
    })
}

fn read(text: &[u8]) -> Result<Document, BundleError> {
    if text.len() > MAX_BUNDLE_LEN {
        return Err(BundleError::TooLong);
    }
    let document: Document = serde_json::from_slice(text).map_err(BundleError::Json)?;
    if document.keys.len() > MAX_KEYS {
        return Err(BundleError::TooMany);
    }
    Ok(document)
}

fn write(document: &Document) -> Result<String, BundleError> {
    let mut out = Vec::with_capacity(1024);
    let spaces = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, spaces);
    document.serialize(&mut serializer).map_err(BundleError::Json)?;
    String::from_utf8(out).map_err(|_| BundleError::NotText)
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
