//! Proofs of possession: the signatures of the `x509pop` challenge and their encodings.

use crate::{PublicKey, SignError, Signer};

/// A signature over a challenge does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match the public key and message")]
pub struct BadSignature;

/// Signs `digest` (32 bytes) with RSA-PSS over SHA-256, salt as long as the digest; Go verifies
/// any salt length.
///
/// The *message* that is hashed and signed is given, not its digest: aws-lc hashes itself.
///
/// # Errors
/// [`SignError`] when the key is not RSA or its holder fails.
pub fn sign_rsa_pss(signer: &dyn Signer, message: &[u8]) -> Result<Vec<u8>, SignError> {
    signer.sign(crate::SignatureAlgorithm::RsaPssSha256, message)
}

/// Verifies RSA-PSS over SHA-256 of `message`, for every salt length (Go signs with the longest).
///
/// # Errors
/// [`BadSignature`].
pub fn verify_rsa_pss(key: &PublicKey, message: &[u8], sig: &[u8]) -> Result<(), BadSignature> {
    let _ = (key, message, sig);
    todo!()
}

/// Signs SHA-256 of `message` with ECDSA (any curve) and returns `(r, s)`, each big endian and
/// without leading zeroes, as Go's `big.Int.Bytes`.
///
/// # Errors
/// [`SignError`] when the key is not an EC key or its holder fails.
pub fn sign_ecdsa_rs(signer: &dyn Signer, message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), SignError> {
    let _ = (signer, message);
    todo!()
}

/// Verifies ECDSA over SHA-256 of `message` from `r` and `s` (big endian, leading zeroes allowed).
///
/// # Errors
/// [`BadSignature`].
pub fn verify_ecdsa_rs(
    key: &PublicKey,
    message: &[u8],
    r: &[u8],
    s: &[u8],
) -> Result<(), BadSignature> {
    let _ = (key, message, r, s);
    todo!()
}
