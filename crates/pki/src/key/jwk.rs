//! Private keys as JSON Web Keys (RFC 7517, 7518).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{KeyAlgorithm, KeyError, PrivateKey};
use crate::der::{DerError, Reader, Writer, oid, tag};

/// The longest key that is read: RSA of 8192 bits has some 6 KiB.
const MAX_JWK_LEN: usize = 16 * 1024;

/// The members of an RSA key in the order of RSAPrivateKey (RFC 8017), which is also that of JWK.
const RSA_MEMBERS: [&str; 8] = ["n", "e", "d", "p", "q", "dp", "dq", "qi"];

impl PrivateKey {
    /// The key as a JSON Web Key with its private members, on one line. A secret: give it to the
    /// key's owner only.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the key's own encoding is not what it should be.
    pub fn to_jwk(&self) -> Result<Zeroizing<String>, KeyError> {
        let members = match self.public.algorithm() {
            KeyAlgorithm::Rsa { .. } => rsa(&self.pkcs8),
            KeyAlgorithm::EcP256 => self.ec("P-256"),
            KeyAlgorithm::EcP384 => self.ec("P-384"),
            KeyAlgorithm::EcP521 => self.ec("P-521"),
        };
        members.map_err(|_| KeyError::Malformed("private key"))
    }

    /// Reads a JSON Web Key with private members, as [`PrivateKey::to_jwk`] writes it; an RSA key must
    /// have all of its numbers.
    ///
    /// # Errors
    /// [`KeyError`] when it is none, or is not accepted.
    pub fn from_jwk(text: &str) -> Result<Self, KeyError> {
        const MALFORMED: KeyError = KeyError::Malformed("JSON Web Key");
        if text.len() > MAX_JWK_LEN {
            return Err(KeyError::TooLong { what: "JSON Web Key", max: MAX_JWK_LEN });
        }
        let jwk: Private<'_> = serde_json::from_str(text).map_err(|_| MALFORMED)?;
        let number = |member: &Option<&str>| -> Result<_, KeyError> {
            let text = member.ok_or(MALFORMED)?;
            URL_SAFE_NO_PAD.decode(text).map(Zeroizing::new).map_err(|_| MALFORMED)
        };
        let mut writer = Writer::with_capacity(MAX_JWK_LEN);
        match (jwk.kty, jwk.crv) {
            ("RSA", _) => {
                let members = [&jwk.n, &jwk.e, &jwk.d, &jwk.p, &jwk.q, &jwk.dp, &jwk.dq, &jwk.qi];
                let numbers: Vec<_> = members.into_iter().map(number).collect::<Result<_, _>>()?;
                writer.sequence(|w| {
                    w.unsigned(&[0]);
                    numbers.iter().for_each(|number| w.unsigned(number));
                });
            }
            ("EC", Some(curve)) => {
                let curve = match curve {
                    "P-256" => oid::P256,
                    "P-384" => oid::P384,
                    "P-521" => oid::P521,
                    _ => return Err(KeyError::Unsupported),
                };
                let (x, y, secret) = (number(&jwk.x)?, number(&jwk.y)?, number(&jwk.d)?);
                let point = [&[4][..], &x, &y].concat();
                writer.sequence(|w| {
                    w.unsigned(&[1]);
                    w.primitive(tag::OCTET_STRING, &secret);
                    w.constructed(tag::context_constructed(0), |w| w.oid(curve));
                    w.constructed(tag::context_constructed(1), |w| w.bit_string(0, &point));
                });
            }
            _ => return Err(KeyError::Unsupported),
        }
        Self::from_der(&Zeroizing::new(writer.into_bytes()))
    }

    fn ec(&self, curve: &str) -> Result<Zeroizing<String>, DerError> {
        let mut key = inner(&self.pkcs8)?;
        key.small_unsigned()?;
        let secret = key.expect(tag::OCTET_STRING)?;
        let (x, y) = self.public.numbers().ok_or(DerError)?;
        let mut text = start("EC");
        push(&mut text, "crv", curve);
        for (name, number) in [("x", x), ("y", y), ("d", secret)] {
            push_number(&mut text, name, number);
        }
        text.push('}');
        Ok(text)
    }
}

/// The members that are read, where they are: nothing is copied.
#[derive(Deserialize)]
struct Private<'a> {
    kty: &'a str,
    crv: Option<&'a str>,
    x: Option<&'a str>,
    y: Option<&'a str>,
    n: Option<&'a str>,
    e: Option<&'a str>,
    d: Option<&'a str>,
    p: Option<&'a str>,
    q: Option<&'a str>,
    dp: Option<&'a str>,
    dq: Option<&'a str>,
    qi: Option<&'a str>,
}

fn rsa(pkcs8: &[u8]) -> Result<Zeroizing<String>, DerError> {
    let mut key = inner(pkcs8)?;
    key.small_unsigned()?;
    let mut text = start("RSA");
    for name in RSA_MEMBERS {
        push_number(&mut text, name, key.unsigned()?);
    }
    text.push('}');
    Ok(text)
}

/// The RSAPrivateKey or ECPrivateKey in a PKCS#8 document.
fn inner(pkcs8: &[u8]) -> Result<Reader<'_>, DerError> {
    let mut outer = Reader::new(pkcs8).enter(tag::SEQUENCE)?;
    outer.small_unsigned()?;
    outer.expect(tag::SEQUENCE)?;
    Reader::new(outer.expect(tag::OCTET_STRING)?).enter(tag::SEQUENCE)
}

/// Room for all of it at once: a text that grows leaves copies behind.
fn start(kind: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(8 * 1024));
    text.push_str("{\"kty\":\"");
    text.push_str(kind);
    text.push('"');
    text
}

fn push(text: &mut String, name: &str, value: &str) {
    for part in [",\"", name, "\":\"", value, "\""] {
        text.push_str(part);
    }
}

fn push_number(text: &mut String, name: &str, number: &[u8]) {
    let value = Zeroizing::new(URL_SAFE_NO_PAD.encode(number));
    push(text, name, &value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyType, PublicKey, jwks::decode_jwt_jwks};

    #[test]
    fn a_jwk_holds_the_key_and_reads_back_as_its_public_half() {
        for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let key = PrivateKey::generate(kind).unwrap();
            let jwk: serde_json::Value = serde_json::from_str(&key.to_jwk().unwrap()).unwrap();
            let mut public = jwk.clone();
            public["kid"] = "k".into();
            let document = serde_json::json!({"keys": [public]}).to_string();
            let read = decode_jwt_jwks(document.as_bytes()).unwrap();
            let read = PublicKey::from_spki(&read[0].public_key).unwrap();
            assert_eq!(read, *key.public_key(), "{kind}");
            let members: Vec<&str> = jwk.as_object().unwrap().keys().map(String::as_str).collect();
            let expected: &[&str] = match kind {
                KeyType::Rsa2048 => &["d", "dp", "dq", "e", "kty", "n", "p", "q", "qi"],
                _ => &["crv", "d", "kty", "x", "y"],
            };
            assert_eq!(members, expected);
            let again = PrivateKey::from_jwk(&jwk.to_string()).unwrap();
            assert_eq!(again.pkcs8_der(), key.pkcs8_der());
            assert_eq!(again.public_key(), key.public_key());
            for member in expected.iter().filter(|name| !["kty", "crv"].contains(name)) {
                let mut broken = jwk.clone();
                broken[member] = "AAAA".into();
                PrivateKey::from_jwk(&broken.to_string()).unwrap_err();
                broken.as_object_mut().unwrap().remove(*member);
                PrivateKey::from_jwk(&broken.to_string()).unwrap_err();
            }
        }
    }

    #[test]
    fn the_secret_number_of_an_ec_key_has_the_length_of_its_curve() {
        for (kind, length) in [(KeyType::EcP256, 32), (KeyType::EcP384, 48)] {
            let key = PrivateKey::generate(kind).unwrap();
            let jwk: serde_json::Value = serde_json::from_str(&key.to_jwk().unwrap()).unwrap();
            let d = URL_SAFE_NO_PAD.decode(jwk["d"].as_str().unwrap()).unwrap();
            assert_eq!(d.len(), length);
        }
    }
}
