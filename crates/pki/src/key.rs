//! Private and public keys: kinds, generation, parsing, encoding.

use std::{fmt, str::FromStr, sync::Arc};

use zeroize::Zeroizing;

use crate::{LocalSigner, SignError};

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
        let _ = key_type;
        todo!()
    }

    /// Reads PKCS#8, SEC1 (RFC 5915) or PKCS#1 DER.
    ///
    /// # Errors
    /// [`KeyError`] for anything else, and for key kinds and sizes that are not accepted.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let _ = der;
        todo!()
    }

    /// Reads the first `PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY` block of a PEM text;
    /// other blocks (certificates, EC parameters) are skipped.
    ///
    /// # Errors
    /// [`KeyError`] when there is none or it is not accepted.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let _ = text;
        todo!()
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

    /// A signer that holds this key in memory.
    ///
    /// # Errors
    /// [`SignError`] when the crypto library refuses the key.
    pub fn signer(&self) -> Result<Arc<LocalSigner>, SignError> {
        LocalSigner::new(self).map(Arc::new)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// A public key: SubjectPublicKeyInfo DER of an accepted kind and size. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    spki: Arc<[u8]>,
    algorithm: KeyAlgorithm,
    /// Where the bits of the BIT STRING start in `spki`.
    bits_at: usize,
}

impl PublicKey {
    /// Reads SubjectPublicKeyInfo DER; trailing bytes are refused.
    ///
    /// # Errors
    /// [`KeyError`] when it is malformed or of a kind or size that is not accepted.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let _ = der;
        todo!()
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
