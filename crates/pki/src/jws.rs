//! What a protocol of signed requests needs of its key, wherever the key is: ACME signs every
//! request so (RFC 8555, section 6.2).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{KeyAlgorithm, ManagedKey, PublicKey, SignError, digest, jwt::sign::write_signature};

/// The algorithm (RFC 7518, section 3.1) that a key signs with: `ES256`, `ES384`, `ES512` or `RS256`.
pub fn algorithm(key: &PublicKey) -> &'static str {
    match key.algorithm() {
        KeyAlgorithm::EcP256 => "ES256",
        KeyAlgorithm::EcP384 => "ES384",
        KeyAlgorithm::EcP521 => "ES512",
        KeyAlgorithm::Rsa { .. } => "RS256",
    }
}

/// A public key as a JSON Web Key (RFC 7517) with the members that its thumbprint is made of, and no
/// others.
pub fn jwk(key: &PublicKey) -> Value {
    let [first, second] = numbers(key);
    match curve(key) {
        Some(curve) => json!({"crv": curve, "kty": "EC", "x": first, "y": second}),
        None => json!({"e": second, "kty": "RSA", "n": first}),
    }
}

/// The thumbprint of a public key: base64url of the SHA-256 of its members in their order (RFC 7638).
pub fn thumbprint(key: &PublicKey) -> String {
    let [first, second] = numbers(key);
    let members = match curve(key) {
        Some(curve) => {
            format!(r#"{{"crv":"{curve}","kty":"EC","x":"{first}","y":"{second}"}}"#)
        }
        None => format!(r#"{{"e":"{second}","kty":"RSA","n":"{first}"}}"#),
    };
    URL_SAFE_NO_PAD.encode(digest::sha256(members.as_bytes()))
}

/// The signature, base64url, of `protected` and `payload`, which are base64url too (RFC 7515,
/// section 5.1).
///
/// # Errors
/// [`SignError`] when the key's holder fails or does not answer in time.
pub async fn sign(key: &ManagedKey, protected: &str, payload: &str) -> Result<String, SignError> {
    let signature = key.sign_issued(format!("{protected}.{payload}").as_bytes()).await?;
    let mut text = String::new();
    write_signature(&mut text, key.public_key().algorithm(), &signature)?;
    Ok(text)
}

fn curve(key: &PublicKey) -> Option<&'static str> {
    match key.algorithm() {
        KeyAlgorithm::EcP256 => Some("P-256"),
        KeyAlgorithm::EcP384 => Some("P-384"),
        KeyAlgorithm::EcP521 => Some("P-521"),
        KeyAlgorithm::Rsa { .. } => None,
    }
}

/// The coordinates of the point, or modulus and exponent. A key that was read has them.
fn numbers(key: &PublicKey) -> [String; 2] {
    let (first, second) = key.numbers().unwrap_or_default();
    [first, second].map(|number| URL_SAFE_NO_PAD.encode(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyType, PrivateKey};

    #[test]
    fn the_thumbprint_of_the_standard_s_example_is_the_standard_s() {
        // RFC 7638, section 3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tS\
                 oc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65\
                 YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyr\
                 dkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK\
                 nqDKgw";
        let n = URL_SAFE_NO_PAD.decode(n.as_bytes()).unwrap();
        let key = PublicKey::from_rsa_numbers(&n, &[1, 0, 1]).unwrap();
        assert_eq!(thumbprint(&key), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(jwk(&key)["e"], "AQAB");
    }

    #[tokio::test]
    async fn what_is_signed_is_as_long_as_the_curve_says() {
        for (kind, name, length) in [(KeyType::EcP256, "ES256", 64), (KeyType::EcP384, "ES384", 96)]
        {
            let key: ManagedKey = PrivateKey::generate(kind).unwrap().signer().unwrap().into();
            assert_eq!(algorithm(key.public_key()), name);
            let signature = sign(&key, "e30", "").await.unwrap();
            assert_eq!(URL_SAFE_NO_PAD.decode(signature).unwrap().len(), length);
        }
    }
}
