//! JWT-SVIDs, cross-checked with the jsonwebtoken crate, and the ways to attack their validation.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use signet_identity::{JwtAuthority, SpiffeId, TrustDomain};
use signet_pki::{
    KeyType, PrivateKey, PublicKey, SignatureAlgorithm, Signer,
    jwt::{
        JwtBundle, JwtClaims, JwtError, JwtIssuer, JwtSignError, MAX_JWT_LEN, ValidatedJwt,
        peek_claims, peek_subject, validate,
    },
};
use signet_time::UnixTime;

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

fn td() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn id() -> SpiffeId {
    "spiffe://example.org/a".parse().unwrap()
}

fn issuer(kind: KeyType) -> JwtIssuer {
    let signer = PrivateKey::generate(kind).unwrap().signer().unwrap();
    JwtIssuer::new("key1", NOW + 1000, signer).unwrap()
}

fn bundle_of(key: &PublicKey) -> JwtBundle {
    let authority = JwtAuthority {
        public_key: key.spki_der().into(),
        key_id: "key1".into(),
        expires_at: UnixTime::EPOCH,
        tainted: false,
    };
    JwtBundle::new(td(), &[authority])
}

fn sign(issuer: &JwtIssuer, audience: &[String]) -> String {
    let claims = JwtClaims {
        spiffe_id: &id(),
        audience,
        issued_at: NOW,
        expires_at: NOW + 300,
        issuer: None,
        jti: false,
    };
    issuer.sign(&claims).unwrap().token
}

fn aud(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn check(issuer: &JwtIssuer, token: &str, now: UnixTime) -> Result<ValidatedJwt, JwtError> {
    let bundle = bundle_of(issuer.signer().public_key());
    validate(token, &aud(&["x", "them"]), now, |domain| (*domain == td()).then_some(&bundle))
}

/// A token with any header and claims, rightly signed.
fn craft(issuer: &JwtIssuer, header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let sig = issuer.signer().sign(SignatureAlgorithm::RsaPkcs1Sha256, signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sig))
}

#[test]
fn tokens_have_the_header_and_claims_of_spire() {
    let issuer = issuer(KeyType::EcP256);
    let token = sign(&issuer, &aud(&["them"]));
    let parts: Vec<Vec<u8>> =
        token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
    assert_eq!(parts[0], br#"{"alg":"ES256","kid":"key1","typ":"JWT"}"#);
    let now = NOW.seconds();
    let payload = format!(
        r#"{{"aud":["them"],"exp":{},"iat":{now},"sub":"spiffe://example.org/a"}}"#,
        now + 300
    );
    assert_eq!(String::from_utf8_lossy(&parts[1]), payload);
    assert_eq!(parts[2].len(), 64);
}

#[test]
fn optional_claims_and_caps() {
    let issuer = issuer(KeyType::EcP256);
    let audience = aud(&["them"]);
    let (id, mut claims);
    id = self::id();
    claims = JwtClaims {
        spiffe_id: &id,
        audience: &audience,
        issued_at: NOW,
        expires_at: NOW + 5000,
        issuer: Some("https://issuer"),
        jti: true,
    };
    let signed = issuer.sign(&claims).unwrap();
    assert_eq!(signed.expires_at, NOW + 1000, "capped by the key");
    assert!(!format!("{signed:?}").contains(&signed.token));
    let valid = check(&issuer, &signed.token, NOW).unwrap();
    assert_eq!(valid.claims["iss"], "https://issuer");
    assert_eq!(URL_SAFE_NO_PAD.decode(valid.claims["jti"].as_str().unwrap()).unwrap().len(), 16);

    let mut map = issuer.claims(&claims).unwrap();
    map.insert("extra".to_owned(), json!({"a": 1}));
    let composed = issuer.sign_claims(&map).unwrap();
    assert_eq!((composed.issued_at, composed.expires_at), (NOW, NOW + 1000));
    assert_eq!(check(&issuer, &composed.token, NOW).unwrap().claims["extra"], json!({"a": 1}));

    claims.audience = &[];
    assert!(matches!(issuer.sign(&claims), Err(JwtSignError::NoAudience)));
}

#[test]
fn every_signing_kind_validates_here_and_elsewhere() {
    for (kind, alg) in [
        (KeyType::EcP256, jsonwebtoken::Algorithm::ES256),
        (KeyType::EcP384, jsonwebtoken::Algorithm::ES384),
        (KeyType::Rsa2048, jsonwebtoken::Algorithm::RS256),
    ] {
        let issuer = issuer(kind);
        let token = sign(&issuer, &aud(&["them", "others"]));
        let valid = check(&issuer, &token, NOW).unwrap();
        assert_eq!((valid.id, valid.expires_at), (id(), NOW + 300));
        assert_eq!(valid.audience, ["them", "others"]);

        let public = issuer.signer().public_key();
        let key = match kind {
            KeyType::Rsa2048 => jsonwebtoken::DecodingKey::from_rsa_der(public.key_bits()),
            _ => jsonwebtoken::DecodingKey::from_ec_der(public.key_bits()),
        };
        let mut rules = jsonwebtoken::Validation::new(alg);
        rules.validate_exp = false;
        rules.set_audience(&["them"]);
        jsonwebtoken::decode::<Value>(&token, &key, &rules).unwrap();
    }
}

#[test]
fn all_algorithms_of_the_standard_validate() {
    let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let signer = key.signer().unwrap();
    let bundle = bundle_of(key.public_key());
    for (alg, algorithm) in [
        ("RS256", SignatureAlgorithm::RsaPkcs1Sha256),
        ("RS384", SignatureAlgorithm::RsaPkcs1Sha384),
        ("RS512", SignatureAlgorithm::RsaPkcs1Sha512),
        ("PS256", SignatureAlgorithm::RsaPssSha256),
        ("PS384", SignatureAlgorithm::RsaPssSha384),
        ("PS512", SignatureAlgorithm::RsaPssSha512),
    ] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "kid": "key1"}).to_string());
        let claims = json!({"sub": id().to_string(), "aud": "them", "exp": NOW});
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let sig = signer.sign(algorithm, signed.as_bytes()).unwrap();
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sig));
        let valid = validate(&token, &aud(&["them"]), NOW, |_| Some(&bundle)).unwrap();
        assert_eq!(valid.claims["aud"], json!(["them"]), "aud is always a list");
    }
}

#[test]
fn tokens_of_another_library_validate() {
    for (kind, alg) in [
        (KeyType::EcP256, jsonwebtoken::Algorithm::ES256),
        (KeyType::EcP384, jsonwebtoken::Algorithm::ES384),
    ] {
        let key = PrivateKey::generate(kind).unwrap();
        let mut header = jsonwebtoken::Header::new(alg);
        header.kid = Some("key1".to_owned());
        let claims = json!({"sub": id().to_string(), "aud": ["them"], "exp": NOW});
        let theirs = jsonwebtoken::EncodingKey::from_ec_der(key.pkcs8_der());
        let token = jsonwebtoken::encode(&header, &claims, &theirs).unwrap();
        let bundle = bundle_of(key.public_key());
        let valid = validate(&token, &aud(&["them"]), NOW, |_| Some(&bundle)).unwrap();
        assert_eq!(valid.id, id());
    }
}

#[test]
fn es512_validates() {
    // No signer of ours makes these: straight from the crypto library.
    use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(66);
    let jwks = json!({"keys": [{
        "kty": "EC", "crv": "P-521", "kid": "key1",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    }]});
    let keys = signet_pki::jwks::decode_jwt_jwks(jwks.to_string().as_bytes()).unwrap();
    let bundle = JwtBundle::new(td(), &keys);
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"ES512","kid":"key1"}"#);
    let claims = json!({"sub": id().to_string(), "aud": ["them"], "exp": NOW});
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let sig = pair.sign(&aws_lc_rs::rand::SystemRandom::new(), signed.as_bytes()).unwrap();
    let check = |sig: &[u8]| {
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sig));
        validate(&token, &aud(&["them"]), NOW, |_| Some(&bundle))
    };
    check(sig.as_ref()).unwrap();
    assert_eq!(check(&[1; 132]).unwrap_err(), JwtError::BadSignature);
    assert_eq!(check(&sig.as_ref()[..131]).unwrap_err(), JwtError::BadSignature);
}

#[test]
fn times_have_a_leeway_of_one_minute() {
    let issuer = issuer(KeyType::EcP256);
    let token = sign(&issuer, &aud(&["them"]));
    check(&issuer, &token, NOW + 360).unwrap();
    assert_eq!(check(&issuer, &token, NOW + 361).unwrap_err(), JwtError::Expired);
    check(&issuer, &token, NOW - 60).unwrap();
    assert_eq!(check(&issuer, &token, NOW - 61).unwrap_err(), JwtError::NotYetValid);
}

#[test]
fn bad_tokens_are_refused_each_with_its_reason() {
    let issuer = issuer(KeyType::Rsa2048);
    let header = json!({"alg": "RS256", "kid": "key1", "typ": "JWT"});
    let claims = json!({"sub": id().to_string(), "aud": ["them"], "exp": NOW + 10});
    let with = |base: &Value, name: &str, value: Value| {
        let mut changed = base.clone();
        changed[name] = value;
        changed
    };
    let refused = |header: &Value, claims: &Value| {
        check(&issuer, &craft(&issuer, header, claims), NOW).unwrap_err()
    };
    check(&issuer, &craft(&issuer, &header, &claims), NOW).unwrap();
    check(&issuer, &craft(&issuer, &with(&header, "typ", json!("JOSE")), &claims), NOW).unwrap();
    check(
        &issuer,
        &craft(&issuer, &header, &with(&claims, "exp", json!(NOW.seconds() as f64 + 0.5))),
        NOW,
    )
    .unwrap();

    for alg in ["none", "HS256", "ES256", "EdDSA", ""] {
        assert_eq!(refused(&with(&header, "alg", json!(alg)), &claims), JwtError::Algorithm);
    }
    assert_eq!(refused(&with(&header, "kid", json!("")), &claims), JwtError::Missing("kid"));
    assert_eq!(refused(&with(&header, "kid", Value::Null), &claims), JwtError::Missing("kid"));
    let unknown = refused(&with(&header, "kid", json!("key2")), &claims);
    assert!(matches!(unknown, JwtError::UnknownKey { kid, .. } if kid == "key2"));
    assert_eq!(refused(&with(&header, "typ", json!("wit+jwt")), &claims), JwtError::Type);
    for nested in ["cty", "enc", "zip"] {
        assert_eq!(refused(&with(&header, nested, json!("JWT")), &claims), JwtError::Nested);
    }
    let critical = refused(&with(&header, "crit", json!(["exp"])), &claims);
    assert!(matches!(critical, JwtError::Malformed(_)));

    for name in ["sub", "exp", "aud"] {
        assert_eq!(refused(&header, &with(&claims, name, Value::Null)), JwtError::Missing(name));
        let wrong = with(&claims, name, json!({"a": 1}));
        assert_eq!(refused(&header, &wrong), JwtError::Missing(name));
    }
    let subject = refused(&header, &with(&claims, "sub", json!("alice")));
    assert!(matches!(subject, JwtError::Subject(_)));
    let foreign = refused(&header, &with(&claims, "sub", json!("spiffe://other.org/a")));
    assert!(matches!(foreign, JwtError::NoBundle(_)));
    for wrong in [json!(["others"]), json!([]), json!("THEM")] {
        assert_eq!(refused(&header, &with(&claims, "aud", wrong)), JwtError::Audience);
    }
    assert_eq!(refused(&header, &with(&claims, "nbf", json!(NOW + 61))), JwtError::NotYetValid);
    assert_eq!(refused(&header, &with(&claims, "exp", json!(1e300))), JwtError::Missing("exp"));
}

#[test]
fn texts_that_are_no_tokens_are_refused() {
    let issuer = issuer(KeyType::EcP256);
    let token = sign(&issuer, &aud(&["them"]));
    for bad in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "\u{e4}.b.c"] {
        assert!(check(&issuer, bad, NOW).is_err(), "{bad}");
        assert!(peek_claims(bad).is_err() && peek_subject(bad).is_err(), "{bad}");
    }
    assert_eq!(check(&issuer, "a.b.c.d.e", NOW).unwrap_err(), JwtError::Nested);
    let long = format!("{token}{}", "A".repeat(MAX_JWT_LEN));
    assert_eq!(check(&issuer, &long, NOW).unwrap_err(), JwtError::TooLong);
    for at in 0..token.len() {
        let mut bad = token.clone().into_bytes();
        bad[at] = if bad[at] == b'A' { b'Q' } else { b'A' };
        let bad = String::from_utf8(bad).unwrap();
        assert!(check(&issuer, &bad, NOW).is_err(), "{at}");
        assert!(check(&issuer, &token[..at], NOW).is_err(), "{at}");
    }
}

#[test]
fn a_token_of_another_key_under_the_same_name_is_refused() {
    let token = sign(&issuer(KeyType::EcP256), &aud(&["them"]));
    assert_eq!(check(&issuer(KeyType::EcP256), &token, NOW).unwrap_err(), JwtError::BadSignature);
    assert_eq!(check(&issuer(KeyType::EcP384), &token, NOW).unwrap_err(), JwtError::Algorithm);
}

#[test]
fn claims_can_be_peeked_at() {
    let token = sign(&issuer(KeyType::EcP256), &aud(&["them"]));
    let peeked = peek_claims(&token).unwrap();
    assert_eq!((peeked.issued_at, peeked.expires_at), (NOW, NOW + 300));
    assert_eq!(peek_subject(&token).unwrap(), id());
}
