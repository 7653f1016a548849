//! One JSON Web Key of a bundle document (RFC 7517, 7518, 8037).

use base64::{
    Engine, alphabet,
    engine::general_purpose::URL_SAFE_NO_PAD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    KeyAlgorithm, KeyError, PublicKey,
    der::{DerError, Reader, Writer, oid, tag},
};

/// With and without padding: some writers pad.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The members as they are written; private ones are never read.
#[derive(Debug, Default, Serialize)]
pub(super) struct Jwk {
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<String>,
    pub(super) kty: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) alg: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) x5c: Option<Vec<String>>,
}

impl Jwk {
    /// A public key (SubjectPublicKeyInfo DER) of any kind that a JWK of ours can say, those too
    /// with which nothing is verified here; `None` for others.
    pub(super) fn of(spki: &[u8]) -> Option<Self> {
        let read = || {
            let mut outer = Reader::new(spki).enter(tag::SEQUENCE)?;
            let mut algorithm = outer.enter(tag::SEQUENCE)?;
            let kind = algorithm.expect(tag::OID)?;
            let bits = outer.bits()?;
            match kind {
                oid::EC_PUBLIC_KEY => Self::ec(algorithm.expect(tag::OID)?, bits),
                oid::RSA => Self::rsa(bits),
                oid::ED25519 => {
                    let x = Some(URL_SAFE_NO_PAD.encode(bits));
                    Ok(Self { kty: "OKP", crv: Some("Ed25519"), x, ..Self::default() })
                }
                _ => Err(DerError),
            }
        };
        read().ok()
    }

    /// The algorithm that JWT-SVIDs are signed with by this key (JWT-SVID, section 2.1); `None` for
    /// a kind that signs none.
    pub(super) fn signature_algorithm(&self) -> Option<&'static str> {
        match (self.kty, self.crv) {
            ("RSA", _) => Some("RS256"),
            ("EC", Some("P-256")) => Some("ES256"),
            ("EC", Some("P-384")) => Some("ES384"),
            ("EC", Some("P-521")) => Some("ES512"),
            _ => None,
        }
    }

    fn ec(curve: &[u8], point: &[u8]) -> Result<Self, DerError> {
        let (crv, size) = match curve {
            oid::P256 => ("P-256", 32),
            oid::P384 => ("P-384", 48),
            oid::P521 => ("P-521", 66),
            _ => return Err(DerError),
        };
        let (x, y) = match point.split_first() {
            Some((4, numbers)) if numbers.len() == 2 * size => {
                numbers.split_at_checked(size).ok_or(DerError)?
            }
            _ => return Err(DerError),
        };
        let [x, y] = [x, y].map(|number| Some(URL_SAFE_NO_PAD.encode(number)));
        Ok(Self { kty: "EC", crv: Some(crv), x, y, ..Self::default() })
    }

    fn rsa(key: &[u8]) -> Result<Self, DerError> {
        let mut numbers = Reader::new(key).enter(tag::SEQUENCE)?;
        let (n, e) = (numbers.unsigned()?, numbers.unsigned()?);
        let [n, e] = [n, e].map(|number| Some(URL_SAFE_NO_PAD.encode(number)));
        Ok(Self { kty: "RSA", n, e, ..Self::default() })
    }
}

/// A key as it is read: a JSON object whose members are looked at one by one, so that what
/// nobody needs may be anything.
pub(super) struct Members<'a>(pub(super) &'a Map<String, Value>);

/// Why a key is no authority.
#[derive(Debug)]
pub(super) enum NoKey {
    /// It may be good for others: of a kind that is not understood here (RFC 7517, section 5).
    Unknown(String),
    /// It is none for anybody.
    Broken(String),
    /// The numbers are no key.
    Refused(KeyError),
}

impl Members<'_> {
    /// A member that is a text; `null` counts as absent, as in Go.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{name} is not a string")),
        }
    }

    /// The `x5c` member.
    pub(super) fn certificates(&self) -> Result<Vec<&str>, String> {
        match self.0.get("x5c") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|one| one.as_str().ok_or_else(|| "x5c is not a list of strings".to_owned()))
                .collect(),
            Some(_) => Err("x5c is not a list".to_owned()),
        }
    }

    /// The public key, SubjectPublicKeyInfo DER.
    pub(super) fn public_key(&self) -> Result<Vec<u8>, NoKey> {
        let text = |name: &str| self.text(name).map_err(NoKey::Broken);
        match text("kty")?.unwrap_or_default() {
            "EC" => {
                let algorithm = match text("crv")?.unwrap_or_default() {
                    "P-256" => KeyAlgorithm::EcP256,
                    "P-384" => KeyAlgorithm::EcP384,
                    "P-521" => KeyAlgorithm::EcP521,
                    _ => return Err(NoKey::Unknown("unsupported curve".to_owned())),
                };
                let (x, y) = (self.number("x")?, self.number("y")?);
                PublicKey::from_ec_point(algorithm, &x, &y)
                    .map(|key| key.spki_der().to_vec())
                    .map_err(NoKey::Refused)
            }
            "RSA" => {
                let (n, e) = (self.number("n")?, self.number("e")?);
                match PublicKey::from_rsa_numbers(&n, &e) {
                    Ok(key) => Ok(key.spki_der().to_vec()),
                    // Not used here, but good for others: they get it as it came.
                    Err(KeyError::RsaSize(bits)) if bits >= 512 => Ok(rsa_spki(&n, &e)),
                    Err(error) => Err(NoKey::Refused(error)),
                }
            }
            "OKP" if text("crv")? == Some("Ed25519") => match self.number("x")? {
                x if x.len() == 32 => Ok(ed25519_spki(&x)),
                _ => Err(NoKey::Refused(KeyError::Malformed("public key"))),
            },
            "" => Err(NoKey::Broken("missing key type".to_owned())),
            _ => Err(NoKey::Unknown("unsupported key type".to_owned())),
        }
    }

    fn number(&self, name: &str) -> Result<Vec<u8>, NoKey> {
        let text = self.text(name).map_err(NoKey::Broken)?;
        let text = text.ok_or_else(|| NoKey::Broken(format!("missing {name}")))?;
        BASE64URL
            .decode(without_line_ends(text))
            .map_err(|_| NoKey::Broken(format!("{name} is not base64url")))
    }
}

/// Go's base64 decoders skip line ends.
pub(super) fn without_line_ends(text: &str) -> String {
    text.replace(['\r', '\n'], "")
}

fn rsa_spki(n: &[u8], e: &[u8]) -> Vec<u8> {
    let mut key = Writer::default();
    key.sequence(|w| {
        w.unsigned(n);
        w.unsigned(e);
    });
    spki(&key.into_bytes(), |w| {
        w.oid(oid::RSA);
        w.primitive(tag::NULL, &[]);
    })
}

fn ed25519_spki(x: &[u8]) -> Vec<u8> {
    spki(x, |w| w.oid(oid::ED25519))
}

fn spki(bits: &[u8], algorithm: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::with_capacity(bits.len() + 32);
    writer.sequence(|w| {
        w.sequence(algorithm);
        w.bit_string(0, bits);
    });
    writer.into_bytes()
}
