//! What every key manager promises; each implementation runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, which may panic")]

use super::{KeyManager, KeyManagerError};
use crate::{KeyType, SignatureAlgorithm, signer};

/// Runs against a key manager without keys, and leaves five behind.
///
/// # Panics
/// When a promise is not kept.
pub async fn check(keys: &dyn KeyManager) {
    assert!(keys.list().await.unwrap().is_empty());
    assert!(keys.get_key("x509-CA-A").await.unwrap().is_none());

    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let made = keys.generate_key(kind.as_str(), kind).await.unwrap();
        made.prove(kind).await.unwrap();
        assert_eq!(made.public_key().algorithm(), kind.algorithm());
        let found = keys.get_key(kind.as_str()).await.unwrap().unwrap();
        assert_eq!(found.public_key(), made.public_key());
    }
    let names: Vec<_> = keys.list().await.unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(names, ["ec-p256", "ec-p384", "rsa-2048"], "sorted by name");

    let old = keys.get_key("ec-p256").await.unwrap().unwrap();
    let new = keys.generate_key("ec-p256", KeyType::EcP256).await.unwrap();
    assert_ne!(old.public_key(), new.public_key(), "generating again replaces the key");
    assert_eq!(keys.list().await.unwrap().len(), 3);
    for (name, key) in [("replaced", old), ("new", new)] {
        let sig = key.sign_issued(b"message").await.unwrap();
        let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
        signer::verify_made(key.public_key(), algorithm, b"message", &sig).expect(name);
    }

    for bad in ["", "a\nb", &"x".repeat(256)] {
        let refused = keys.generate_key(bad, KeyType::EcP256).await.unwrap_err();
        assert!(matches!(refused, KeyManagerError::BadId), "{bad:?}");
    }
    let both = tokio::join!(
        keys.generate_key("one", KeyType::EcP256),
        keys.generate_key("two", KeyType::EcP256)
    );
    assert!(both.0.is_ok() && both.1.is_ok());
    let all = keys.list().await.unwrap();
    assert_eq!(all.len(), 5, "keys made at once are all kept");
    for (id, listed) in all {
        let found = keys.get_key(&id).await.unwrap().unwrap();
        assert_eq!(found.public_key(), listed.public_key(), "listed is what is found");
    }
    assert_eq!(keys.fault(), None, "all went well");
}
