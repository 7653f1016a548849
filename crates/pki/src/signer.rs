//! Signing with a private key that may live in this process or behind a key manager.

use std::{fmt, sync::Arc};

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
}

/// Why a signature could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key manager or crypto library failed; the text says how, without secrets.
    #[error("signing failed: {0}")]
    Failed(String),
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

/// A private key that can sign. Synchronous: remote keys block, so their callers use a blocking
/// thread.
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

    /// Whether signing may block for long (a remote key): then call it on a blocking thread.
    fn may_block(&self) -> bool {
        false
    }
}

/// A signer whose private key is in this process.
pub struct LocalSigner {
    public: PublicKey,
    key: LocalKey,
}

enum LocalKey {
    Ecdsa(aws_lc_rs::signature::EcdsaKeyPair),
    Rsa(aws_lc_rs::signature::RsaKeyPair),
}

impl LocalSigner {
    /// Loads a private key.
    ///
    /// # Errors
    /// [`SignError::KeyRejected`] when the crypto library refuses it.
    pub fn new(key: &PrivateKey) -> Result<Self, SignError> {
        let _ = key;
        todo!()
    }

    /// As a shared trait object.
    pub fn into_dyn(self) -> Arc<dyn Signer> {
        Arc::new(self)
    }
}

impl Signer for LocalSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let _ = (algorithm, message, &self.key);
        todo!()
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalSigner({:?}, ..)", self.public.algorithm())
    }
}
