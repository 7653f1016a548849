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
            now: 0,
            not_after: 1_900_000_000,
        };
        let ca = self_sign_ca(&*key.signer().unwrap(), &params).unwrap();
        bundle.x509_authorities.push(X509Authority { der: ca.der.into(), tainted: false });
        bundle.jwt_authorities.push(JwtAuthority {
            public_key: key.public_key().spki_der().into(),
            key_id: kind.as_str().into(),
            expires_at: 0,
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
    assert!(reason(&|d| d["keys"][0]["use"] = json!("tls")).contains("unrecognized use \"tls\""));
    assert!(reason(&|d| d["keys"][1]["use"] = Value::Null).contains("entry 1: missing use"));
    assert!(reason(&|d| d["keys"][0]["x5c"] = json!([])).contains("single certificate"));
    let two = |d: &mut Value| {
        let cert = d["keys"][0]["x5c"][0].clone();
        d["keys"][0]["x5c"] = json!([cert, cert]);
    };
    assert!(reason(&two).contains("found 2"));
    assert!(reason(&|d| d["keys"][3]["kid"] = json!("")).contains("entry 3: missing key ID"));
    assert!(reason(&|d| d["keys"][6]["kid"] = Value::Null).contains("missing key ID"));
    assert!(reason(&|d| d["keys"][3]["crv"] = json!("P-224")).contains("unsupported curve"));
    assert!(reason(&|d| d["keys"][3]["kty"] = json!("oct")).contains("unsupported key type"));
    let junk = STANDARD.encode(b"junk");
    let bad_cert = refused(&|d| d["keys"][0]["x5c"] = json!([junk]));
    assert!(matches!(bad_cert, BundleError::Cert { index: 0, .. }));
    let off_curve = refused(&|d| d["keys"][3]["x"] = d["keys"][3]["y"].clone());
    assert!(matches!(off_curve, BundleError::Key { index: 3, .. }));
    let small = refused(&|d| d["keys"][5]["n"] = json!("AQAB"));
    assert!(matches!(small, BundleError::Key { index: 5, .. }));
    assert!(matches!(refused(&|d| d["keys"] = json!({})), BundleError::Json(_)));
    let huge = vec![b' '; MAX_BUNDLE_LEN + 1];
    assert!(matches!(decode_spiffe(td(), &huge), Err(BundleError::TooLong)));
    let many = json!({"keys": vec![json!({"use": "x"}); 5000]}).to_string();
    assert!(matches!(decode_spiffe(td(), many.as_bytes()), Err(BundleError::TooMany)));
}
