//! Signing with a private key that is in this process, and verifying signatures.
//!
//! A key that may be elsewhere is a [`ManagedKey`](crate::key_manager::ManagedKey).

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{
        self, EcdsaKeyPair, RsaKeyPair, RsaParameters, RsaPssSaltLength, UnparsedPublicKey,
        VerificationAlgorithm,
    },
};

use crate::{KeyAlgorithm, PrivateKey, PublicKey};

/// How a message is hashed and signed. Variants name what is needed by X.509, JWS, TLS and
/// proofs of possession.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256; the signature is DER (SEQUENCE of r and s).
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384; DER.
    EcdsaP384Sha384,
    /// ECDSA on P-384 with SHA-256 (x509pop); DER.
    EcdsaP384Sha256,
    /// ECDSA on P-521 with SHA-512; DER.
    EcdsaP521Sha512,
    /// ECDSA on P-521 with SHA-256 (x509pop); DER.
    EcdsaP521Sha256,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RsaPkcs1Sha256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSA PKCS#1 v1.5 with SHA-512.
    RsaPkcs1Sha512,
    /// RSA-PSS with SHA-256, salt as long as the digest.
    RsaPssSha256,
    /// RSA-PSS with SHA-384, salt as long as the digest.
    RsaPssSha384,
    /// RSA-PSS with SHA-512, salt as long as the digest.
    RsaPssSha512,
}

impl SignatureAlgorithm {
    /// What X.509 certificates and JWTs are signed with by a key of this kind, as SPIRE does:
    /// ECDSA with the digest of the curve's size, RSA PKCS#1 v1.5 with SHA-256.
    pub fn for_issuing(key: KeyAlgorithm) -> Self {
        match key {
            KeyAlgorithm::EcP256 => Self::EcdsaP256Sha256,
            KeyAlgorithm::EcP384 => Self::EcdsaP384Sha384,
            KeyAlgorithm::EcP521 => Self::EcdsaP521Sha512,
            KeyAlgorithm::Rsa { .. } => Self::RsaPkcs1Sha256,
        }
    }

    /// Whether a key of this kind signs that way.
    pub fn is_for(self, key: KeyAlgorithm) -> bool {
        match self {
            Self::EcdsaP256Sha256 => key == KeyAlgorithm::EcP256,
            Self::EcdsaP384Sha384 | Self::EcdsaP384Sha256 => key == KeyAlgorithm::EcP384,
            Self::EcdsaP521Sha512 | Self::EcdsaP521Sha256 => key == KeyAlgorithm::EcP521,
            Self::RsaPkcs1Sha256
            | Self::RsaPkcs1Sha384
            | Self::RsaPkcs1Sha512
            | Self::RsaPssSha256
            | Self::RsaPssSha384
            | Self::RsaPssSha512 => matches!(key, KeyAlgorithm::Rsa { .. }),
        }
    }

    /// Whether the signature is RSA-PSS.
    pub fn is_pss(self) -> bool {
        matches!(self, Self::RsaPssSha256 | Self::RsaPssSha384 | Self::RsaPssSha512)
    }

    /// The length of the digest that is signed, bits: 256, 384 or 512.
    pub fn digest_bits(self) -> u16 {
        match self {
            Self::EcdsaP256Sha256
            | Self::EcdsaP384Sha256
            | Self::EcdsaP521Sha256
            | Self::RsaPkcs1Sha256
            | Self::RsaPssSha256 => 256,
            Self::EcdsaP384Sha384 | Self::RsaPkcs1Sha384 | Self::RsaPssSha384 => 384,
            Self::EcdsaP521Sha512 | Self::RsaPkcs1Sha512 | Self::RsaPssSha512 => 512,
        }
    }

    /// The digest that is signed, for a back end that takes digests.
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        let algorithm = match self.digest_bits() {
            256 => &digest::SHA256,
            384 => &digest::SHA384,
            _ => &digest::SHA512,
        };
        digest::digest(algorithm, message).as_ref().to_vec()
    }
}

/// Why a signature could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A remote key manager has as many signatures to make as may wait: nothing was asked of it.
    #[error("key manager {holder}: too many signatures are waiting")]
    Busy {
        /// Which key manager.
        holder: &'static str,
    },
    /// The key manager or crypto library failed; the text says how, without secrets.
    #[error("signing failed: {0}")]
    Failed(String),
    /// What a remote key manager returned is not this key's signature of the message.
    #[error("key manager {holder}: it returned a signature that does not match its key")]
    Mismatch {
        /// Which key manager.
        holder: &'static str,
    },
    /// A remote key manager did not sign in time.
    #[error("key manager {holder}: it did not sign within {} s", after.as_secs())]
    TimedOut {
        /// Which key manager.
        holder: &'static str,
        /// How long it was given, waiting included.
        after: Duration,
    },
    /// The crypto library refused the key.
    #[error("the crypto library refused the private key")]
    KeyRejected,
    /// This key cannot sign that way.
    #[error("a {key:?} key cannot make a {algorithm:?} signature")]
    WrongAlgorithm {
        /// What the key is.
        key: KeyAlgorithm,
        /// What was asked for.
        algorithm: SignatureAlgorithm,
    },
}

/// A private key in this process: it signs without waiting for anything.
pub trait Signer: Send + Sync + fmt::Debug {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Hashes and signs `message`. ECDSA signatures are DER.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign this way or its holder fails.
    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError>;

    /// Signs as certificates and JWTs of this key are signed
    /// ([`SignatureAlgorithm::for_issuing`]).
    ///
    /// # Errors
    /// As [`Signer::sign`].
    fn sign_issued(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.sign(SignatureAlgorithm::for_issuing(self.public_key().algorithm()), message)
    }
}

/// A signer whose private key is in this process.
pub struct LocalSigner {
    public: PublicKey,
    key: LocalKey,
}

enum LocalKey {
    Ecdsa(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl PrivateKey {
    /// A signer that holds this key in memory.
    ///
    /// # Errors
    /// [`SignError`] when the crypto library refuses the key.
    pub fn signer(&self) -> Result<Arc<LocalSigner>, SignError> {
        LocalSigner::new(self).map(Arc::new)
    }
}

impl LocalSigner {
    /// Loads a private key.
    ///
    /// # Errors
    /// [`SignError::KeyRejected`] when the crypto library refuses it.
    pub fn new(key: &PrivateKey) -> Result<Self, SignError> {
        let der = key.pkcs8_der();
        let ec = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der).map(LocalKey::Ecdsa);
        let loaded = match key.public_key().algorithm() {
            KeyAlgorithm::EcP256 => ec(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyAlgorithm::EcP384 => ec(&signature::ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyAlgorithm::EcP521 => ec(&signature::ECDSA_P521_SHA512_ASN1_SIGNING),
            KeyAlgorithm::Rsa { .. } => {
                RsaKeyPair::from_pkcs8(der).map(|pair| LocalKey::Rsa(Box::new(pair)))
            }
        };
        let key_pair = loaded.map_err(|_| SignError::KeyRejected)?;
        Ok(Self { public: key.public_key().clone(), key: key_pair })
    }

    fn sign_ecdsa(
        &self,
        pair: &EcdsaKeyPair,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        use SignatureAlgorithm as A;
        let failed = |_| SignError::Failed("the crypto library refused to sign".to_owned());
        let key = self.public.algorithm();
        let signed = match (key, algorithm) {
            (KeyAlgorithm::EcP256, A::EcdsaP256Sha256)
            | (KeyAlgorithm::EcP384, A::EcdsaP384Sha384)
            | (KeyAlgorithm::EcP521, A::EcdsaP521Sha512) => {
                pair.sign(&SystemRandom::new(), message)
            }
            // aws-lc-rs has no signing with SHA-256 on these curves. ECDSA takes the digest as a
            // number, so the same 256 bits behind leading zeroes give the same signature.
            (KeyAlgorithm::EcP384, A::EcdsaP384Sha256) => {
                sign_padded(pair, &digest::SHA384, message)
            }
            (KeyAlgorithm::EcP521, A::EcdsaP521Sha256) => {
                sign_padded(pair, &digest::SHA512, message)
            }
            _ => return Err(SignError::WrongAlgorithm { key, algorithm }),
        };
        signed.map(|signature| signature.as_ref().to_vec()).map_err(failed)
    }

    fn sign_rsa(
        &self,
        pair: &RsaKeyPair,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        use SignatureAlgorithm as A;
        let padding: &'static dyn signature::RsaEncoding = match algorithm {
            A::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
            A::RsaPkcs1Sha384 => &signature::RSA_PKCS1_SHA384,
            A::RsaPkcs1Sha512 => &signature::RSA_PKCS1_SHA512,
            A::RsaPssSha256 => &signature::RSA_PSS_SHA256,
            A::RsaPssSha384 => &signature::RSA_PSS_SHA384,
            A::RsaPssSha512 => &signature::RSA_PSS_SHA512,
            _ => {
                return Err(SignError::WrongAlgorithm { key: self.public.algorithm(), algorithm });
            }
        };
        let mut out = vec![0; pair.public_modulus_len()];
        pair.sign(padding, &SystemRandom::new(), message, &mut out)
            .map_err(|_| SignError::Failed("the crypto library refused to sign".to_owned()))?;
        Ok(out)
    }
}

impl Signer for LocalSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.key {
            LocalKey::Ecdsa(pair) => self.sign_ecdsa(pair, algorithm, message),
            LocalKey::Rsa(pair) => self.sign_rsa(pair, algorithm, message),
        }
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalSigner({:?}, ..)", self.public.algorithm())
    }
}

/// A signature does not match the public key and message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match the public key and message")]
pub struct BadSignature;

/// The digest of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// Verifies ECDSA (DER signature) or RSA PKCS#1 v1.5, whichever the key is for.
pub(crate) fn verify(
    key: &PublicKey,
    hash: Hash,
    message: &[u8],
    sig: &[u8],
) -> Result<(), BadSignature> {
    let algorithm: &'static dyn VerificationAlgorithm = match (key.algorithm(), hash) {
        (KeyAlgorithm::EcP256, Hash::Sha256) => &signature::ECDSA_P256_SHA256_ASN1,
        (KeyAlgorithm::EcP256, Hash::Sha384) => &signature::ECDSA_P256_SHA384_ASN1,
        (KeyAlgorithm::EcP256, Hash::Sha512) => &signature::ECDSA_P256_SHA512_ASN1,
        (KeyAlgorithm::EcP384, Hash::Sha256) => &signature::ECDSA_P384_SHA256_ASN1,
        (KeyAlgorithm::EcP384, Hash::Sha384) => &signature::ECDSA_P384_SHA384_ASN1,
        (KeyAlgorithm::EcP384, Hash::Sha512) => &signature::ECDSA_P384_SHA512_ASN1,
        (KeyAlgorithm::EcP521, Hash::Sha256) => &signature::ECDSA_P521_SHA256_ASN1,
        (KeyAlgorithm::EcP521, Hash::Sha384) => &signature::ECDSA_P521_SHA384_ASN1,
        (KeyAlgorithm::EcP521, Hash::Sha512) => &signature::ECDSA_P521_SHA512_ASN1,
        (KeyAlgorithm::Rsa { .. }, Hash::Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (KeyAlgorithm::Rsa { .. }, Hash::Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (KeyAlgorithm::Rsa { .. }, Hash::Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
    };
    check(algorithm, key, message, sig)
}

/// Verifies a signature as [`Signer::sign`] makes it.
pub(crate) fn verify_made(
    key: &PublicKey,
    algorithm: SignatureAlgorithm,
    message: &[u8],
    sig: &[u8],
) -> Result<(), BadSignature> {
    use SignatureAlgorithm as A;
    let (hash, is_pss) = match algorithm {
        A::EcdsaP256Sha256 | A::EcdsaP384Sha256 | A::EcdsaP521Sha256 | A::RsaPkcs1Sha256 => {
            (Hash::Sha256, false)
        }
        A::EcdsaP384Sha384 | A::RsaPkcs1Sha384 => (Hash::Sha384, false),
        A::EcdsaP521Sha512 | A::RsaPkcs1Sha512 => (Hash::Sha512, false),
        A::RsaPssSha256 => (Hash::Sha256, true),
        A::RsaPssSha384 => (Hash::Sha384, true),
        A::RsaPssSha512 => (Hash::Sha512, true),
    };
    if is_pss {
        verify_pss(key, hash, false, message, sig)
    } else {
        verify(key, hash, message, sig)
    }
}

/// Verifies RSA-PSS; `max_salt` for the longest salt, else one as long as the digest.
pub(crate) fn verify_pss(
    key: &PublicKey,
    hash: Hash,
    max_salt: bool,
    message: &[u8],
    sig: &[u8],
) -> Result<(), BadSignature> {
    const MAX_SALT_SHA256: RsaParameters =
        signature::RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);
    if !matches!(key.algorithm(), KeyAlgorithm::Rsa { .. }) {
        return Err(BadSignature);
    }
    let algorithm: &'static dyn VerificationAlgorithm = match (hash, max_salt) {
        (Hash::Sha256, true) => &MAX_SALT_SHA256,
        (Hash::Sha256, false) => &signature::RSA_PSS_2048_8192_SHA256,
        (Hash::Sha384, false) => &signature::RSA_PSS_2048_8192_SHA384,
        (Hash::Sha512, false) => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return Err(BadSignature),
    };
    check(algorithm, key, message, sig)
}

fn check(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &PublicKey,
    message: &[u8],
    sig: &[u8],
) -> Result<(), BadSignature> {
    UnparsedPublicKey::new(algorithm, key.key_bits()).verify(message, sig).map_err(|_| BadSignature)
}

fn sign_padded(
    pair: &EcdsaKeyPair,
    algorithm: &'static digest::Algorithm,
    message: &[u8],
) -> Result<signature::Signature, aws_lc_rs::error::Unspecified> {
    let sum = crate::digest::sha256(message);
    let mut padded = vec![0; algorithm.output_len().saturating_sub(sum.len())];
    padded.extend_from_slice(&sum);
    pair.sign_digest(&digest::Digest::import_less_safe(&padded, algorithm)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyType;

    #[test]
    fn every_kind_of_key_signs_what_verifies() {
        for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let signer = PrivateKey::generate(kind).unwrap().signer().unwrap();
            let hash = if kind == KeyType::EcP384 { Hash::Sha384 } else { Hash::Sha256 };
            let sig = signer.sign_issued(b"message").unwrap();
            verify(signer.public_key(), hash, b"message", &sig).unwrap();
            assert!(verify(signer.public_key(), hash, b"messagE", &sig).is_err());
            assert!(verify(signer.public_key(), Hash::Sha512, b"message", &sig).is_err());
        }
    }

    #[test]
    fn a_p384_key_signs_sha256_digests() {
        let signer = PrivateKey::generate(KeyType::EcP384).unwrap().signer().unwrap();
        let sig = signer.sign(SignatureAlgorithm::EcdsaP384Sha256, b"message").unwrap();
        verify(signer.public_key(), Hash::Sha256, b"message", &sig).unwrap();
    }

    #[test]
    fn a_key_refuses_the_algorithms_of_others() {
        let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
        for wrong in [SignatureAlgorithm::EcdsaP384Sha384, SignatureAlgorithm::RsaPssSha256] {
            let refused = signer.sign(wrong, b"m").unwrap_err();
            assert!(matches!(refused, SignError::WrongAlgorithm { .. }));
        }
    }
}
