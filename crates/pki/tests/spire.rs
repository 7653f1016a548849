//! Against what a real SPIRE 1.15.3 server wrote (`data/spire-1.15.3`).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use signet_identity::TrustDomain;
use signet_pki::{
    DiskKeyManager, KeyManager,
    der::{Reader, tag},
    jwks::{decode_spiffe, encode_pem, encode_spiffe},
    jwt::{JwtBundle, validate},
    key_manager::Sealing,
    pem,
    x509::{Ca, CaParams, Certificate, Name, SvidParams, TrustBundle, self_signed_ca, verify_svid},
};
use signet_time::UnixTime;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/spire-1.15.3").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

fn certificate(name: &str) -> Certificate {
    Certificate::from_der(&pem::decode_certificates(&text(name)).unwrap()[0]).unwrap()
}

fn td() -> TrustDomain {
    "example.org".parse().unwrap()
}

/// The keys, from a copy with the right mode: version control does not keep it.
async fn keys(dir: &tempfile::TempDir) -> DiskKeyManager {
    let copy = dir.path().join("keys.json");
    fs::copy(path("keys.json"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
    DiskKeyManager::open(copy, Sealing::Off).unwrap()
}

/// What is signed, without the serial number and all before it.
fn after_serial(der: &[u8]) -> &[u8] {
    let mut tbs = Reader::new(der).enter(tag::SEQUENCE).unwrap().enter(tag::SEQUENCE).unwrap();
    tbs.expect(tag::context_constructed(0)).unwrap();
    tbs.unsigned().unwrap();
    tbs.rest()
}

#[tokio::test]
async fn we_issue_byte_for_byte_what_spire_issues() {
    let dir = tempfile::tempdir().unwrap();
    let ca_key = keys(&dir).await.get_key("x509-CA-A").await.unwrap().unwrap();
    let (ca, svid) = (certificate("bundle.pem"), certificate("svid.pem"));
    let issuer = Ca::new(ca.clone(), vec![], ca_key.public_key()).unwrap();
    let issued = issuer
        .svid(&SvidParams {
            spiffe_id: &svid.spiffe_id().unwrap(),
            public_key: svid.public_key().unwrap(),
            dns_names: svid.dns_names(),
            subject: None,
            extensions: &[],
            now: svid.not_before() + 10,
            not_after: svid.not_after(),
        })
        .unwrap()
        .sign_with(&ca_key)
        .await
        .unwrap();
    assert_eq!(hex::encode(after_serial(&issued.der)), hex::encode(after_serial(svid.der())));

    let params = CaParams {
        trust_domain: td(),
        subject: Name { serial_number: ca.subject().serial_number.clone(), ..Name::spiffe_ca() },
        extensions: vec![],
        now: ca.not_before() + 10,
        not_after: ca.not_after(),
    };
    let again = self_signed_ca(ca_key.public_key(), &params).unwrap();
    let again = again.sign_with(&ca_key).await.unwrap();
    assert_eq!(hex::encode(after_serial(&again.der)), hex::encode(after_serial(ca.der())));
}

#[test]
fn its_certificates_verify() {
    let svid = certificate("svid.pem");
    let trust = TrustBundle::new(td(), &[certificate("bundle.pem").der().clone()]).unwrap();
    let found = verify_svid(&[svid.der().clone()], &trust, svid.not_before()).unwrap();
    assert_eq!(found.id.to_string(), "spiffe://example.org/db");
    assert_eq!(svid.serial().to_string(), "69410130847141746637474012782786620666");
    assert_eq!(svid.subject().to_string(), "CN=db.example,O=SPIRE,C=US");
    assert_eq!(svid.authority_key_id_hex(), certificate("bundle.pem").subject_key_id_hex());
}

#[test]
fn its_bundle_is_read_and_written_byte_for_byte() {
    let document = text("bundle.json");
    let bundle = decode_spiffe(td(), document.as_bytes()).unwrap();
    assert_eq!(encode_spiffe(&bundle).unwrap(), document.trim_end());
    assert_eq!(encode_pem(&bundle), text("bundle.pem"));
    assert_eq!((bundle.sequence_number, bundle.refresh_hint), (1, 0));
}

#[tokio::test]
async fn its_token_validates_and_its_keys_are_those_of_the_bundle() {
    let bundle = decode_spiffe(td(), text("bundle.json").as_bytes()).unwrap();
    let keys_of_bundle = JwtBundle::from_bundle(&bundle);
    let token = text("token.jwt");
    let audience = ["aud1".to_owned()];
    let valid = validate(token.trim(), &audience, UnixTime::from_seconds(1_795_246_381), |_| {
        Some(&keys_of_bundle)
    })
    .unwrap();
    assert_eq!(valid.id.to_string(), "spiffe://example.org/db");
    let dir = tempfile::tempdir().unwrap();
    let stored = keys(&dir).await.get_key("JWT-Signer-A").await.unwrap().unwrap();
    assert_eq!(stored.public_key().spki_der(), &*bundle.jwt_authorities[0].public_key);
}
