//! Proofs of possession: the signatures of the `x509pop` challenge and their encodings.
//!
//! The *message* is what both nonces concatenated give; SPIRE signs its SHA-256 digest, whatever
//! the curve, and so do these functions.

use crate::{
    KeyAlgorithm, PublicKey, SignError, SignatureAlgorithm, Signer,
    der::{ecdsa_numbers, ecdsa_signature},
    signer::{Hash, verify, verify_pss},
};

pub use crate::signer::BadSignature;

/// Signs SHA-256 of `message` with RSA-PSS, salt as long as the digest: Go verifies any length.
///
/// # Errors
/// [`SignError`] when the key is not RSA or its holder fails.
pub fn sign_rsa_pss(signer: &dyn Signer, message: &[u8]) -> Result<Vec<u8>, SignError> {
    signer.sign(SignatureAlgorithm::RsaPssSha256, message)
}

/// Verifies RSA-PSS over SHA-256 of `message`, with the longest salt (as Go signs) or one as long
/// as the digest.
///
/// # Errors
/// [`BadSignature`] when it is not this key's signature of `message`.
pub fn verify_rsa_pss(key: &PublicKey, message: &[u8], sig: &[u8]) -> Result<(), BadSignature> {
    verify_pss(key, Hash::Sha256, true, message, sig)
        .or_else(|BadSignature| verify_pss(key, Hash::Sha256, false, message, sig))
}

/// Signs SHA-256 of `message` with ECDSA (any curve) and returns `(r, s)`, each big endian and
/// without leading zeroes, as Go's `big.Int.Bytes`.
///
/// # Errors
/// [`SignError`] when the key is not an EC key or its holder fails.
pub fn sign_ecdsa_rs(signer: &dyn Signer, message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), SignError> {
    let algorithm = match signer.public_key().algorithm() {
        KeyAlgorithm::EcP384 => SignatureAlgorithm::EcdsaP384Sha256,
        KeyAlgorithm::EcP521 => SignatureAlgorithm::EcdsaP521Sha256,
        KeyAlgorithm::EcP256 | KeyAlgorithm::Rsa { .. } => SignatureAlgorithm::EcdsaP256Sha256,
    };
    let sig = signer.sign(algorithm, message)?;
    let (r, s) = ecdsa_numbers(&sig)
        .map_err(|_| SignError::Failed("the signer returned no DER signature".to_owned()))?;
    Ok((r.to_vec(), s.to_vec()))
}

/// Verifies ECDSA over SHA-256 of `message` from `r` and `s` (big endian, leading zeroes allowed).
///
/// # Errors
/// [`BadSignature`] when it is not this key's signature of `message`.
pub fn verify_ecdsa_rs(
    key: &PublicKey,
    message: &[u8],
    r: &[u8],
    s: &[u8],
) -> Result<(), BadSignature> {
    // Longer than any curve of ours, zeroes and all: not worth encoding.
    const MAX_NUMBER: usize = 128;
    let is_ec = !matches!(key.algorithm(), KeyAlgorithm::Rsa { .. });
    if !is_ec || r.len() > MAX_NUMBER || s.len() > MAX_NUMBER {
        return Err(BadSignature);
    }
    verify(key, Hash::Sha256, message, &ecdsa_signature(r, s))
}

/// Verifies ECDSA over SHA-256 of `message`, as [`Signer::sign`] makes it (DER).
///
/// # Errors
/// [`BadSignature`], also for a key that is none for ECDSA.
pub fn verify_ecdsa_der(key: &PublicKey, message: &[u8], sig: &[u8]) -> Result<(), BadSignature> {
    match key.algorithm() {
        KeyAlgorithm::Rsa { .. } => Err(BadSignature),
        _ => verify(key, Hash::Sha256, message, sig),
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        digest::SHA256,
        rand::SystemRandom,
        signature::{RSA_PSS_SHA256, RsaKeyPair},
    };

    use super::*;
    use crate::{KeyType, PrivateKey};

    #[test]
    fn both_halves_agree_for_every_kind_of_key() {
        for kind in [KeyType::EcP256, KeyType::EcP384] {
            let signer = PrivateKey::generate(kind).unwrap().signer().unwrap();
            let (r, s) = sign_ecdsa_rs(&*signer, b"nonces").unwrap();
            let padded = [&[0, 0][..], &r].concat();
            verify_ecdsa_rs(signer.public_key(), b"nonces", &padded, &s).unwrap();
            assert!(verify_ecdsa_rs(signer.public_key(), b"other", &r, &s).is_err());
            assert!(verify_ecdsa_rs(signer.public_key(), b"nonces", &s, &r).is_err());
            assert!(verify_ecdsa_rs(signer.public_key(), b"nonces", &[], &[]).is_err());
            assert!(verify_rsa_pss(signer.public_key(), b"nonces", &r).is_err());
            assert!(sign_rsa_pss(&*signer, b"nonces").is_err());
        }
        let signer = PrivateKey::generate(KeyType::Rsa2048).unwrap().signer().unwrap();
        let sig = sign_rsa_pss(&*signer, b"nonces").unwrap();
        verify_rsa_pss(signer.public_key(), b"nonces", &sig).unwrap();
        assert!(verify_rsa_pss(signer.public_key(), b"other", &sig).is_err());
        assert!(sign_ecdsa_rs(&*signer, b"nonces").is_err());
        assert!(verify_ecdsa_rs(signer.public_key(), b"nonces", &sig, &sig).is_err());
    }

    #[test]
    fn the_longest_salt_verifies_as_go_signs_it() {
        use aws_lc_rs::signature::RsaPssSaltLength;
        let _ = (&SHA256, RsaPssSaltLength::Max);
        let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        let pair = RsaKeyPair::from_pkcs8(key.pkcs8_der()).unwrap();
        let mut sig = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), b"nonces", &mut sig).unwrap();
        verify_rsa_pss(key.public_key(), b"nonces", &sig).unwrap();
    }
}
