//! Bundle documents.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signet_identity::{Bundle, JwtAuthority, TrustDomain, X509Authority};
use signet_pki::{
    KeyType, PrivateKey,
    jwks::{
        BundleError, MAX_BUNDLE_LEN, decode_jwt_jwks, decode_pem, decode_spiffe, encode_jwt_jwks,
        encode_pem, encode_spiffe,
    },
    x509::{CaParams, Name, self_sign_ca},
};
use signet_time::UnixTime;

fn td() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn sample() -> Bundle {
    let mut bundle = Bundle::empty(td());
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let key = PrivateKey::generate(kind).unwrap();
        let params = CaParams {
            trust_domain: td(),
            subject: Name::spiffe_ca(),
            extensions: vec![],
            now: UnixTime::EPOCH,
            not_after: UnixTime::from_seconds(1_900_000_000),
        };
        let ca = self_sign_ca(&*key.signer().unwrap(), &params).unwrap();
        bundle.x509_authorities.push(X509Authority { der: ca.der.into(), tainted: false });
        bundle.jwt_authorities.push(JwtAuthority {
            public_key: key.public_key().spki_der().into(),
            key_id: kind.as_str().into(),
            expires_at: UnixTime::EPOCH,
            tainted: false,
        });
    }
    bundle.wit_authorities.push(bundle.jwt_authorities[0].clone());
    bundle.refresh_hint = 300;
    bundle.sequence_number = 7;
    bundle
}

#[test]
fn a_bundle_reads_back_as_it_was_written() {
    let bundle = sample();
    let text = encode_spiffe(&bundle).unwrap();
    assert!(text.starts_with("{\n    \"keys\": [\n        {\n            \"use\": \"x509-svid\""));
    assert_eq!(decode_spiffe(td(), text.as_bytes()).unwrap(), bundle);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["spiffe_sequence"], 7);
    assert_eq!(document["spiffe_refresh_hint"], 300);
    assert!(document["keys"][0].get("kid").is_none());
    assert_eq!(document["keys"][3]["use"], "jwt-svid");
    assert_eq!(document["keys"][5]["e"], "AQAB");
}

#[test]
fn zero_sequence_and_hint_are_left_out() {
    let text = encode_spiffe(&Bundle::empty(td())).unwrap();
    assert_eq!(text, "{\n    \"keys\": []\n}");
}

#[test]
fn the_workload_api_form_has_no_use_and_no_spiffe_fields() {
    let bundle = sample();
    let text = encode_jwt_jwks(&bundle.jwt_authorities).unwrap();
    assert!(!text.contains("use") && !text.contains("spiffe_"));
    assert_eq!(decode_jwt_jwks(text.as_bytes()).unwrap(), bundle.jwt_authorities);
}

#[test]
fn pem_bundles_read_back() {
    let bundle = sample();
    let read = decode_pem(td(), encode_pem(&bundle).as_bytes()).unwrap();
    assert_eq!(read.x509_authorities, bundle.x509_authorities);
    assert!(read.jwt_authorities.is_empty());
    assert!(decode_pem(td(), b"").is_err() && decode_pem(td(), &[0xff]).is_err());
}

#[test]
fn broken_documents_are_refused_by_entry_and_reason() {
    let good: Value = serde_json::from_str(&encode_spiffe(&sample()).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut document = good.clone();
        change(&mut document);
        decode_spiffe(td(), document.to_string().as_bytes()).unwrap_err()
    };
    let reason = |change: &dyn Fn(&mut Value)| refused(change).to_string();
    assert!(reason(&|d| d["keys"][0]["x5c"] = json!([])).contains("no certificate in x5c"));
    // Of several the first counts.
    let mut two = good.clone();
    two["keys"][0]["x5c"] = json!([good["keys"][0]["x5c"][0], "junk"]);
    let read = decode_spiffe(td(), two.to_string().as_bytes()).unwrap();
    assert_eq!(read.x509_authorities.len(), 3);
    assert!(reason(&|d| d["keys"][3]["kid"] = json!("")).contains("entry 3: missing key ID"));
    assert!(reason(&|d| d["keys"][6]["kid"] = Value::Null).contains("missing key ID"));
    assert!(reason(&|d| d["keys"][3]["kty"] = Value::Null).contains("missing key type"));
    assert!(reason(&|d| d["keys"][3]["x"] = json!(7)).contains("x is not a string"));
    let other = |d: &mut Value| {
        for name in ["x", "y"] {
            d["keys"][0][name] = d["keys"][6][name].clone();
        }
        d["keys"][0]["x5c"] = json!([d["keys"][1]["x5c"][0]]);
    };
    assert!(reason(&other).contains("is not that of the cert"));
    let junk = STANDARD.encode(b"junk");
    let bad_cert = refused(&|d| d["keys"][0]["x5c"] = json!([junk]));
    assert!(matches!(bad_cert, BundleError::Cert { index: 0, .. }));
    let off_curve = refused(&|d| d["keys"][3]["x"] = d["keys"][3]["y"].clone());
    assert!(matches!(off_curve, BundleError::Key { index: 3, .. }));
    let small = refused(&|d| d["keys"][5]["n"] = json!("AQAB"));
    assert!(matches!(small, BundleError::Key { index: 5, .. }));
    for keys in [json!({}), json!(null), json!("x")] {
        assert!(matches!(refused(&|d| d["keys"] = keys.clone()), BundleError::Shape(_)));
    }
    for sequence in [json!(-1), json!(1.5), json!("7")] {
        let of_sequence = refused(&|d| d["spiffe_sequence"] = sequence.clone());
        assert!(matches!(of_sequence, BundleError::Shape(_)));
    }
    assert!(reason(&|d| d["keys"][0] = json!([])).contains("entry 0: is not an object"));
    let huge = vec![b' '; MAX_BUNDLE_LEN + 1];
    assert!(matches!(decode_spiffe(td(), &huge), Err(BundleError::TooLong)));
    let many = json!({"keys": vec![json!({"use": "x"}); 5000]}).to_string();
    assert!(matches!(decode_spiffe(td(), many.as_bytes()), Err(BundleError::TooMany)));
}

/// Documents with something unusual in them, and how many X.509 and JWT authorities SPIRE's own
/// server reads from each.
#[test]
fn one_strange_key_does_not_take_the_others_with_it() {
    for (name, x509, jwt) in [
        ("unknown-use", 1, 1),
        ("no-use", 1, 0),
        ("sig-use", 1, 0),
        ("twice-the-certificate", 1, 0),
        ("twice-the-key-id", 1, 1),
        ("line-ends", 1, 0),
        ("null", 1, 1),
        ("letter-case", 1, 0),
        ("rsa-1024", 1, 1),
        ("ed25519", 2, 1),
    ] {
        let path = format!("{}/tests/data/bundles/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read(path).unwrap();
        let bundle = decode_spiffe(td(), &text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
        assert_eq!(found, (x509, jwt), "{name}");
        // What was read can be passed on whole.
        let written = encode_spiffe(&bundle).unwrap();
        let again = decode_spiffe(td(), written.as_bytes()).unwrap();
        assert_eq!(again.x509_authorities, bundle.x509_authorities, "{name}");
        assert_eq!(again.jwt_authorities, bundle.jwt_authorities, "{name}");
    }
}

#[test]
fn keys_that_are_not_understood_are_skipped_or_passed_on() {
    let good: Value = serde_json::from_str(&encode_spiffe(&sample()).unwrap()).unwrap();
    let read = |change: &dyn Fn(&mut Value)| {
        let mut document = good.clone();
        change(&mut document);
        decode_spiffe(td(), document.to_string().as_bytes()).unwrap().jwt_authorities
    };
    assert_eq!(read(&|d| d["keys"][3]["crv"] = json!("P-224")).len(), 2);
    assert_eq!(read(&|d| d["keys"][3]["kty"] = json!("oct")).len(), 2);
    assert_eq!(read(&|d| d["keys"][3]["use"] = json!("tls")).len(), 2);
    // The last of two with one ID counts, as in go-spiffe.
    let renamed = read(&|d| d["keys"][4]["kid"] = d["keys"][3]["kid"].clone());
    assert_eq!(renamed.len(), 2);
    assert_eq!(renamed[0].public_key, sample_key(&good, 4));

    // Keys that verify nothing here are still handed to those who may know better.
    let modulus = format!("w{}Q", "w".repeat(169));
    let weak = |d: &mut Value| {
        d["keys"][5]["n"] = json!(modulus);
        d["keys"][3]["kty"] = json!("OKP");
        d["keys"][3]["crv"] = json!("Ed25519");
    };
    let keys = read(&weak);
    assert_eq!(keys.len(), 3);
    let jwks: Value = serde_json::from_str(&encode_jwt_jwks(&keys).unwrap()).unwrap();
    assert_eq!(jwks["keys"][0]["crv"], "Ed25519");
    assert_eq!(jwks["keys"][2]["n"], modulus);
    let bundle = signet_pki::jwt::JwtBundle::new(td(), &keys);
    assert!(bundle.key(&keys[0].key_id).is_none() && bundle.key(&keys[1].key_id).is_some());
    // A kind that no JWK of ours can say is left out.
    let mut odd = keys.clone();
    odd[0].public_key = std::sync::Arc::from([0x30, 0]);
    let jwks: Value = serde_json::from_str(&encode_jwt_jwks(&odd).unwrap()).unwrap();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);
}

/// The public key of an entry, read on its own.
fn sample_key(document: &Value, at: usize) -> std::sync::Arc<[u8]> {
    let alone = json!({"keys": [document["keys"][at]]}).to_string();
    decode_spiffe(td(), alone.as_bytes()).unwrap().jwt_authorities[0].public_key.clone()
}
