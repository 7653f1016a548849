//! Private and public keys: kinds, generation, parsing, encoding.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING as P256, ECDSA_P384_SHA384_ASN1_SIGNING as P384,
        ECDSA_P521_SHA512_ASN1_SIGNING as P521, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
        RsaKeyPair,
    },
};
use zeroize::Zeroizing;

use crate::der::{DerError, Reader, oid, tag};

mod jwk;
mod public;

pub use public::PublicKey;
use public::{rsa_algorithm, rsa_bits};

/// The smallest RSA modulus that is accepted, bits.
pub const MIN_RSA_BITS: usize = 2048;
/// The largest RSA modulus that is accepted, bits.
pub const MAX_RSA_BITS: usize = 8192;
/// The longest private key encoding that is read, bytes (an 8192-bit RSA key takes 4.7 kB of DER).
pub const MAX_PRIVATE_KEY_LEN: usize = 16 * 1024;
/// The longest SubjectPublicKeyInfo that is read, bytes.
pub const MAX_SPKI_LEN: usize = 2 * 1024;

/// The kinds of key that can be generated, with SPIRE's configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyType {
    /// ECDSA on P-256, `ec-p256`.
    EcP256,
    /// ECDSA on P-384, `ec-p384`.
    EcP384,
    /// RSA with 2048 bits, `rsa-2048`.
    Rsa2048,
    /// RSA with 4096 bits, `rsa-4096`.
    Rsa4096,
}

/// What an existing key is: also kinds that are read but never generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256.
    EcP256,
    /// ECDSA on P-384.
    EcP384,
    /// ECDSA on P-521.
    EcP521,
    /// RSA.
    Rsa {
        /// Length of the modulus, 2048 to 8192 bits.
        bits: u16,
    },
}

/// Why a key was refused or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The crypto library failed to generate a key.
    #[error("generating a {0} key failed")]
    Generate(KeyType),
    /// The bytes are not a key in a known encoding.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// More bytes than any accepted key has.
    #[error("{what} is longer than {max} bytes")]
    TooLong {
        /// What was too long.
        what: &'static str,
        /// The limit in bytes.
        max: usize,
    },
    /// An RSA modulus outside the accepted sizes.
    #[error("RSA keys of {0} bits are not accepted, expected 2048 to 8192")]
    RsaSize(usize),
    /// Not RSA or ECDSA on P-256, P-384 or P-521.
    #[error("unsupported key kind, expected RSA or ECDSA on P-256, P-384 or P-521")]
    Unsupported,
    /// Not one of SPIRE's key type names.
    #[error("unknown key type {0:?}, expected rsa-2048, rsa-4096, ec-p256 or ec-p384")]
    UnknownType(String),
}

impl KeyType {
    /// All kinds, in SPIRE's order of names.
    pub const ALL: [Self; 4] = [Self::Rsa2048, Self::Rsa4096, Self::EcP256, Self::EcP384];

    /// The configuration name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    /// The algorithm of a key of this kind.
    pub fn algorithm(self) -> KeyAlgorithm {
        match self {
            Self::EcP256 => KeyAlgorithm::EcP256,
            Self::EcP384 => KeyAlgorithm::EcP384,
            Self::Rsa2048 => KeyAlgorithm::Rsa { bits: 2048 },
            Self::Rsa4096 => KeyAlgorithm::Rsa { bits: 4096 },
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyType {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| KeyError::UnknownType(text.chars().take(64).collect()))
    }
}

impl KeyAlgorithm {
    /// The generated kind this key equals, if any.
    pub fn key_type(self) -> Option<KeyType> {
        KeyType::ALL.into_iter().find(|kind| kind.algorithm() == self)
    }

    /// Bytes of one coordinate of an EC point; `None` for RSA.
    pub(crate) fn coordinate_len(self) -> Option<usize> {
        match self {
            Self::EcP256 => Some(32),
            Self::EcP384 => Some(48),
            Self::EcP521 => Some(66),
            Self::Rsa { .. } => None,
        }
    }
}

/// A private key: PKCS#8 DER, wiped from memory when dropped.
#[derive(Clone)]
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl PrivateKey {
    /// Makes a new key. RSA takes up to some seconds of CPU: run it on a blocking thread.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the crypto library fails.
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Generate(key_type);
        let ec = |algorithm| EcdsaKeyPair::generate(algorithm).map_err(failed);
        let rsa = |size| RsaKeyPair::generate(size).map_err(failed);
        match key_type {
            KeyType::EcP256 => Self::from_ec(KeyAlgorithm::EcP256, &ec(&P256)?),
            KeyType::EcP384 => Self::from_ec(KeyAlgorithm::EcP384, &ec(&P384)?),
            KeyType::Rsa2048 => Self::from_rsa(&rsa(KeySize::Rsa2048)?),
            KeyType::Rsa4096 => Self::from_rsa(&rsa(KeySize::Rsa4096)?),
        }
    }

    /// Reads PKCS#8, SEC1 (RFC 5915) or PKCS#1 DER.
    ///
    /// # Errors
    /// [`KeyError`] for anything else, and for key kinds and sizes that are not accepted.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        const MALFORMED: KeyError = KeyError::Malformed("private key");
        if der.len() > MAX_PRIVATE_KEY_LEN {
            return Err(KeyError::TooLong { what: "private key", max: MAX_PRIVATE_KEY_LEN });
        }
        let ec = |curve| {
            let (algorithm, signing) = ec_curve(curve).ok_or(KeyError::Unsupported)?;
            let pair = EcdsaKeyPair::from_private_key_der(signing, der).map_err(|_| MALFORMED)?;
            Self::from_ec(algorithm, &pair)
        };
        match private_key_form(der).map_err(|_| MALFORMED)? {
            PrivateForm::Pkcs1 => {
                Self::from_rsa(&RsaKeyPair::from_der(der).map_err(|_| MALFORMED)?)
            }
            PrivateForm::Pkcs8 { algorithm: oid::RSA, .. } => {
                Self::from_rsa(&RsaKeyPair::from_pkcs8(der).map_err(|_| MALFORMED)?)
            }
            PrivateForm::Pkcs8 { algorithm: oid::EC_PUBLIC_KEY, curve: Some(curve) }
            | PrivateForm::Sec1 { curve } => ec(curve),
            PrivateForm::Pkcs8 { .. } => Err(KeyError::Unsupported),
        }
    }

    /// Reads the first `PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY` block of a PEM text;
    /// other blocks (certificates, EC parameters) are skipped.
    ///
    /// # Errors
    /// [`KeyError`] when there is none or it is not accepted.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let blocks = crate::pem::decode(text).map_err(|_| KeyError::Malformed("PEM"))?;
        blocks
            .iter()
            .find(|b| matches!(&*b.label, "PRIVATE KEY" | "EC PRIVATE KEY" | "RSA PRIVATE KEY"))
            .ok_or(KeyError::Malformed("PEM: it holds no private key"))
            .and_then(|block| Self::from_der(&block.der))
    }

    /// PKCS#8 DER. A secret: give it to the key's owner only.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// PKCS#8 as PEM. A secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::pem::encode("PRIVATE KEY", &self.pkcs8))
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn from_ec(algorithm: KeyAlgorithm, pair: &EcdsaKeyPair) -> Result<Self, KeyError> {
        const MALFORMED: KeyError = KeyError::Malformed("private key");
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| MALFORMED)?.as_ref().to_vec();
        let public = PublicKey::from_bits(algorithm, pair.public_key().as_ref())?;
        Ok(Self { pkcs8: Zeroizing::new(pkcs8), public })
    }

    fn from_rsa(pair: &RsaKeyPair) -> Result<Self, KeyError> {
        const MALFORMED: KeyError = KeyError::Malformed("private key");
        let bits = rsa_bits(pair.public_key().as_ref()).map_err(|_| MALFORMED)?;
        let algorithm = rsa_algorithm(bits)?;
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| MALFORMED)?;
        let public = PublicKey::from_bits(algorithm, pair.public_key().as_ref())?;
        Ok(Self { pkcs8: Zeroizing::new(pkcs8.as_ref().to_vec()), public })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

enum PrivateForm<'a> {
    Pkcs1,
    Pkcs8 { algorithm: &'a [u8], curve: Option<&'a [u8]> },
    Sec1 { curve: &'a [u8] },
}

/// Tells the encodings apart by what follows the version.
fn private_key_form(der: &[u8]) -> Result<PrivateForm<'_>, DerError> {
    let mut outer = Reader::new(der);
    let mut key = outer.enter(tag::SEQUENCE)?;
    outer.finish()?;
    let version = key.small_unsigned()?;
    let next = key.next()?;
    match (version, next.tag) {
        (0, tag::SEQUENCE) => {
            let mut inner = Reader::new(next.content);
            let algorithm = inner.expect(tag::OID)?;
            Ok(PrivateForm::Pkcs8 { algorithm, curve: inner.optional(tag::OID)? })
        }
        (0, tag::INTEGER) => Ok(PrivateForm::Pkcs1),
        (1, tag::OCTET_STRING) => {
            let curve = key.enter(tag::context_constructed(0))?.expect(tag::OID)?;
            Ok(PrivateForm::Sec1 { curve })
        }
        _ => Err(DerError),
    }
}

fn ec_curve(curve: &[u8]) -> Option<(KeyAlgorithm, &'static EcdsaSigningAlgorithm)> {
    match curve {
        oid::P256 => Some((KeyAlgorithm::EcP256, &P256)),
        oid::P384 => Some((KeyAlgorithm::EcP384, &P384)),
        oid::P521 => Some((KeyAlgorithm::EcP521, &P521)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_key_types_are_those_of_spire() {
        for kind in KeyType::ALL {
            assert_eq!(kind.to_string().parse::<KeyType>().unwrap(), kind);
            assert_eq!(kind.algorithm().key_type(), Some(kind));
        }
        assert!("ec-p521".parse::<KeyType>().is_err() && "".parse::<KeyType>().is_err());
    }

    #[test]
    fn keys_read_back_from_every_encoding() {
        for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let key = PrivateKey::generate(kind).unwrap();
            assert_eq!(key.public_key().algorithm(), kind.algorithm());
            let again = PrivateKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(again.pkcs8_der(), key.pkcs8_der());
            assert_eq!(
                PublicKey::from_spki(key.public_key().spki_der()).unwrap(),
                *key.public_key()
            );
            assert_eq!(format!("{key:?}"), "PrivateKey(..)");
        }
    }

    #[test]
    fn cut_or_extended_keys_are_refused() {
        for kind in [KeyType::EcP256, KeyType::Rsa2048] {
            let key = PrivateKey::generate(kind).unwrap();
            let (private, public) = (key.pkcs8_der(), key.public_key().spki_der());
            for end in 0..private.len() {
                assert!(PrivateKey::from_der(&private[..end]).is_err(), "{kind} {end}");
            }
            for end in 0..public.len() {
                assert!(PublicKey::from_spki(&public[..end]).is_err(), "{kind} {end}");
            }
            assert!(PrivateKey::from_der(&[private, &[0]].concat()).is_err());
            assert!(PublicKey::from_spki(&[public, &[0]].concat()).is_err());
        }
    }

    #[test]
    fn changed_bytes_never_panic_and_points_stay_on_their_curve() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let spki = key.public_key().spki_der().to_vec();
        for at in 0..spki.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bad = spki.clone();
                bad[at] ^= flip;
                assert!(PublicKey::from_spki(&bad).is_err(), "{at}");
            }
        }
        let pkcs8 = key.pkcs8_der().to_vec();
        for at in 0..pkcs8.len() {
            let mut bad = pkcs8.clone();
            bad[at] ^= 0x55;
            drop(PrivateKey::from_der(&bad));
        }
    }

    #[test]
    fn small_and_huge_rsa_keys_are_refused_by_size() {
        let number = |bits: usize| {
            let mut n = vec![0xff; bits / 8];
            n[0] = 0x80;
            n
        };
        for bits in [1024, 2040, 8200, 16_384] {
            let refused = PublicKey::from_rsa_numbers(&number(bits), &[1, 0, 1]).unwrap_err();
            assert!(
                matches!(refused, KeyError::RsaSize(n) if n == bits)
                    || matches!(refused, KeyError::TooLong { .. }),
                "{refused}"
            );
        }
        assert!(PublicKey::from_rsa_numbers(&number(2048), &[2]).is_err());
        assert!(PublicKey::from_rsa_numbers(&number(2048), &[1, 0, 0, 0, 1]).is_err());
    }
}
