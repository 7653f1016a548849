//! Public keys.

use std::{fmt, sync::Arc};

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};

use super::{KeyAlgorithm, KeyError, MAX_RSA_BITS, MAX_SPKI_LEN, MIN_RSA_BITS, ec_curve};
use crate::der::{DerError, Reader, Writer, oid, tag};

/// A public key: SubjectPublicKeyInfo DER of an accepted kind and size. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    spki: Arc<[u8]>,
    algorithm: KeyAlgorithm,
    /// Where the bits of the BIT STRING start in `spki`.
    bits_at: usize,
}

impl PublicKey {
    /// Reads SubjectPublicKeyInfo DER; trailing bytes are refused, and so is a point that is not
    /// on its curve.
    ///
    /// # Errors
    /// [`KeyError`] when it is malformed or of a kind or size that is not accepted.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let key = Self::from_spki_unchecked(der)?;
        if !is_valid(&key) {
            return Err(KeyError::Malformed("public key"));
        }
        Ok(key)
    }

    /// Whether the bytes are SubjectPublicKeyInfo of any kind, those too that nothing is verified
    /// with here: what a bundle may hold for others.
    ///
    /// # Errors
    /// [`KeyError`] when they are not, or a key of a kind that is accepted is broken.
    pub fn check_spki(der: &[u8]) -> Result<(), KeyError> {
        match Self::from_spki(der) {
            Ok(_) | Err(KeyError::Unsupported | KeyError::RsaSize(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// As [`PublicKey::from_spki`], for keys that verify a signature next, which checks the point.
    pub(crate) fn from_spki_unchecked(der: &[u8]) -> Result<Self, KeyError> {
        const MALFORMED: KeyError = KeyError::Malformed("public key");
        if der.len() > MAX_SPKI_LEN {
            return Err(KeyError::TooLong { what: "public key", max: MAX_SPKI_LEN });
        }
        let mut outer = Reader::new(der);
        let mut spki = outer.enter(tag::SEQUENCE).map_err(|_| MALFORMED)?;
        let mut algorithm = spki.enter(tag::SEQUENCE).map_err(|_| MALFORMED)?;
        let kind = algorithm.expect(tag::OID).map_err(|_| MALFORMED)?;
        let parameters = algorithm.rest();
        let bits = spki.bits().map_err(|_| MALFORMED)?;
        spki.finish().and(outer.finish()).map_err(|_| MALFORMED)?;
        let algorithm = match kind {
            oid::EC_PUBLIC_KEY => {
                let mut parameters = Reader::new(parameters);
                let curve = parameters.expect(tag::OID).map_err(|_| KeyError::Unsupported)?;
                parameters.finish().map_err(|_| MALFORMED)?;
                ec_curve(curve).ok_or(KeyError::Unsupported)?.0
            }
            oid::RSA if parameters == [tag::NULL, 0] => {
                rsa_algorithm(rsa_bits(bits).map_err(|_| MALFORMED)?)?
            }
            oid::RSA => return Err(MALFORMED),
            _ => return Err(KeyError::Unsupported),
        };
        let point_len = match algorithm {
            KeyAlgorithm::EcP256 => 65,
            KeyAlgorithm::EcP384 => 97,
            KeyAlgorithm::EcP521 => 133,
            KeyAlgorithm::Rsa { .. } => bits.len(),
        };
        let is_ec = !matches!(algorithm, KeyAlgorithm::Rsa { .. });
        if bits.len() != point_len || (is_ec && bits.first() != Some(&4)) {
            return Err(MALFORMED);
        }
        Ok(Self { spki: der.into(), algorithm, bits_at: der.len() - bits.len() })
    }

    pub(super) fn from_bits(algorithm: KeyAlgorithm, bits: &[u8]) -> Result<Self, KeyError> {
        let mut writer = Writer::with_capacity(bits.len() + 32);
        writer.sequence(|w| {
            w.sequence(|w| match algorithm {
                KeyAlgorithm::Rsa { .. } => {
                    w.oid(oid::RSA);
                    w.primitive(tag::NULL, &[]);
                }
                KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::EcP521 => {
                    w.oid(oid::EC_PUBLIC_KEY);
                    w.oid(match algorithm {
                        KeyAlgorithm::EcP256 => oid::P256,
                        KeyAlgorithm::EcP384 => oid::P384,
                        _ => oid::P521,
                    });
                }
            });
            w.bit_string(0, bits);
        });
        Self::from_spki_unchecked(&writer.into_bytes())
    }

    /// From an EC point: coordinates, big endian, each of the curve's size or shorter.
    ///
    /// # Errors
    /// [`KeyError`] when it is not a point of the curve.
    pub fn from_ec_point(algorithm: KeyAlgorithm, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        let size = algorithm.coordinate_len().ok_or(KeyError::Unsupported)?;
        let mut point = vec![4];
        for coordinate in [x, y] {
            let pad =
                size.checked_sub(coordinate.len()).ok_or(KeyError::Malformed("public key"))?;
            point.resize(point.len() + pad, 0);
            point.extend_from_slice(coordinate);
        }
        let key = Self::from_bits(algorithm, &point)?;
        Self::from_spki(&key.spki)
    }

    /// From an RSA modulus and exponent, big endian.
    ///
    /// # Errors
    /// [`KeyError`] when it is no key of an accepted size.
    pub fn from_rsa_numbers(n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        let mut writer = Writer::with_capacity(n.len() + e.len() + 16);
        writer.sequence(|w| {
            w.unsigned(n);
            w.unsigned(e);
        });
        let bits = writer.into_bytes();
        let count = rsa_bits(&bits).map_err(|_| KeyError::Malformed("public key"))?;
        let key = Self::from_bits(rsa_algorithm(count)?, &bits)?;
        Self::from_spki(&key.spki)
    }

    /// The two numbers of the key: coordinates (padded) of an EC point, or modulus and exponent.
    pub(crate) fn numbers(&self) -> Option<(&[u8], &[u8])> {
        match self.algorithm.coordinate_len() {
            Some(size) => self.key_bits().get(1..)?.split_at_checked(size),
            None => {
                let mut numbers = Reader::new(self.key_bits()).enter(tag::SEQUENCE).ok()?;
                Some((numbers.unsigned().ok()?, numbers.unsigned().ok()?))
            }
        }
    }

    /// SubjectPublicKeyInfo (PKIX) DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// The content of the BIT STRING: an uncompressed EC point, or PKCS#1 RSAPublicKey DER.
    pub fn key_bits(&self) -> &[u8] {
        self.spki.get(self.bits_at..).unwrap_or_default()
    }

    /// What kind of key it is.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The subject key identifier of RFC 5280 4.2.1.2 (1): SHA-1 over [`Self::key_bits`].
    pub fn subject_key_id(&self) -> [u8; 20] {
        crate::digest::sha1(self.key_bits())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?})", self.algorithm)
    }
}

/// Length of the modulus of a PKCS#1 RSAPublicKey; the exponent must be odd, above 1 and below
/// 2^32.
pub(super) fn rsa_bits(der: &[u8]) -> Result<usize, DerError> {
    let mut outer = Reader::new(der);
    let mut numbers = outer.enter(tag::SEQUENCE)?;
    outer.finish()?;
    let modulus = numbers.unsigned()?;
    let exponent = numbers.small_unsigned()?;
    numbers.finish()?;
    if exponent < 3 || exponent % 2 == 0 {
        return Err(DerError);
    }
    let first = modulus.first().ok_or(DerError)?;
    Ok(modulus.len() * 8 - first.leading_zeros() as usize)
}

pub(super) fn rsa_algorithm(bits: usize) -> Result<KeyAlgorithm, KeyError> {
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(KeyError::RsaSize(bits));
    }
    u16::try_from(bits).map(|bits| KeyAlgorithm::Rsa { bits }).map_err(|_| KeyError::RsaSize(bits))
}

/// Whether the crypto library takes the key: its point is on the curve.
fn is_valid(key: &PublicKey) -> bool {
    let algorithm: &'static dyn VerificationAlgorithm = match key.algorithm() {
        KeyAlgorithm::EcP256 => &signature::ECDSA_P256_SHA256_ASN1,
        KeyAlgorithm::EcP384 => &signature::ECDSA_P384_SHA384_ASN1,
        KeyAlgorithm::EcP521 => &signature::ECDSA_P521_SHA512_ASN1,
        KeyAlgorithm::Rsa { .. } => &signature::RSA_PKCS1_2048_8192_SHA256,
    };
    ParsedPublicKey::new(algorithm, key.key_bits()).is_ok()
}
