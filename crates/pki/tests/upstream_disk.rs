//! The `disk` upstream authority.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

use std::{fs, path::Path, sync::Arc, time::Duration};

use signet_base::{Clock, SystemClock};
use signet_identity::TrustDomain;
use signet_pki::{
    KeyType, PrivateKey, PublicKey, Signer, UpstreamAuthority, pem,
    upstream_disk::{DiskUpstream, DiskUpstreamConfig},
    x509::{CaIssuer, CaParams, Certificate, CsrParams, Name, create_csr, self_sign_ca, verify_ca},
};

fn td() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn params(name: &str, life: i64) -> CaParams {
    let now = SystemClock.unix();
    CaParams {
        trust_domain: td(),
        subject: Name { common_name: name.to_owned(), ..Name::default() },
        extensions: vec![],
        now,
        not_after: now + life,
    }
}

struct Ca {
    key: PrivateKey,
    issuer: CaIssuer,
}

fn root(name: &str) -> Ca {
    let key = PrivateKey::generate(KeyType::EcP384).unwrap();
    let signer = key.signer().unwrap();
    let der = self_sign_ca(&*signer, &params(name, 86_400)).unwrap().der;
    let issuer = CaIssuer::new(Certificate::from_der(&der).unwrap(), vec![], signer).unwrap();
    Ca { key, issuer }
}

fn intermediate(root: &Ca) -> Ca {
    let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let signer = key.signer().unwrap();
    let public: &PublicKey = key.public_key();
    let der = root.issuer.issue_ca(public, &params("intermediate", 40_000)).unwrap().der;
    let issuer = CaIssuer::new(Certificate::from_der(&der).unwrap(), vec![], signer).unwrap();
    Ca { key, issuer }
}

fn write(dir: &Path, ca: &Ca, bundle: Option<&Ca>) -> DiskUpstreamConfig {
    let pem_of = |ca: &Ca| pem::encode_certificates([&**ca.issuer.certificate().der()]);
    let config = DiskUpstreamConfig {
        cert_file_path: dir.join("ca.crt"),
        key_file_path: dir.join("ca.key"),
        bundle_file_path: bundle.map(|_| dir.join("bundle.crt")),
    };
    fs::write(&config.cert_file_path, pem_of(ca)).unwrap();
    fs::write(&config.key_file_path, &*ca.key.to_pem()).unwrap();
    if let (Some(path), Some(root)) = (&config.bundle_file_path, bundle) {
        fs::write(path, pem_of(root)).unwrap();
    }
    config
}

fn open(config: DiskUpstreamConfig) -> Result<DiskUpstream, String> {
    DiskUpstream::open(config, td(), SystemClock::shared()).map_err(|error| error.to_string())
}

fn csr(uri: &str) -> (Arc<dyn Signer>, Vec<u8>) {
    let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let mut request = CsrParams::workload(uri.parse().unwrap());
    request.subject = Name { serial_number: "42".to_owned(), ..Name::spiffe_ca() };
    let der = create_csr(&request, &*signer).unwrap();
    (signer, der)
}

#[tokio::test]
async fn mints_what_the_csr_asks_for_under_its_root() {
    let dir = tempfile::tempdir().unwrap();
    let root = root("root");
    let upstream = open(write(dir.path(), &root, None)).unwrap();
    let (signer, csr) = csr("spiffe://example.org");
    let minted = upstream.mint_x509_ca(&csr, Duration::from_secs(100)).await.unwrap();
    assert_eq!(minted.chain.len(), 1, "the root is not sent");
    let ca = Certificate::from_der(&minted.chain[0]).unwrap();
    assert_eq!(ca.public_key().unwrap(), signer.public_key());
    assert_eq!(ca.subject().to_string(), "SERIALNUMBER=42,O=SPIFFE,C=US");
    assert_eq!(ca.uris(), ["spiffe://example.org"]);
    assert!(ca.is_ca() && ca.not_after() - ca.not_before() == 110);
    assert_eq!(ca.authority_key_id(), root.issuer.certificate().subject_key_id());
    assert_eq!(*minted.upstream_roots[0].der, **root.issuer.certificate().der());
    let long = upstream.mint_x509_ca(&csr, Duration::MAX).await.unwrap();
    let end = Certificate::from_der(&long.chain[0]).unwrap().not_after();
    assert_eq!(end, root.issuer.certificate().not_after(), "capped");
}

#[tokio::test]
async fn an_intermediate_needs_a_bundle_and_is_sent_along() {
    let dir = tempfile::tempdir().unwrap();
    let root = root("root");
    let middle = intermediate(&root);
    let config = write(dir.path(), &middle, None);
    let both = [&middle, &root].map(|ca| &**ca.issuer.certificate().der());
    fs::write(&config.cert_file_path, pem::encode_certificates(both)).unwrap();
    let error = open(config).unwrap_err();
    assert!(error.contains("ca.crt") && error.contains("bundle_file_path"), "{error}");
    let upstream = open(write(dir.path(), &middle, Some(&root))).unwrap();
    let minted =
        upstream.mint_x509_ca(&csr("spiffe://example.org").1, Duration::ZERO).await.unwrap();
    assert_eq!(minted.chain.len(), 2);
    let roots = [minted.upstream_roots[0].der.clone()];
    verify_ca(&minted.chain, &roots, SystemClock.unix()).unwrap();
    assert!(verify_ca(&minted.chain[..1], &roots, SystemClock.unix()).is_err());
}

#[tokio::test]
async fn new_files_are_taken_up_and_broken_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (root("old"), root("new"));
    let config = write(dir.path(), &old, None);
    let upstream = open(config.clone()).unwrap();
    let key_of = |ca: &Ca| ca.issuer.certificate().der().clone();
    let roots = async || upstream.upstream_bundle().await.unwrap().unwrap().roots[0].der.clone();
    assert_eq!(roots().await, key_of(&old));
    write(dir.path(), &new, None);
    assert_eq!(roots().await, key_of(&new));
    fs::write(&config.key_file_path, "half a key").unwrap();
    assert_eq!(roots().await, key_of(&new), "the last good files stay in use");
}

#[tokio::test]
async fn bad_files_and_bad_requests_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (root("one"), root("two"));
    let config = write(dir.path(), &one, None);
    let upstream = open(config.clone()).unwrap();
    for uri in ["spiffe://other.org", "spiffe://example.org/a"] {
        let refused = upstream.mint_x509_ca(&csr(uri).1, Duration::ZERO).await.unwrap_err();
        assert!(refused.to_string().contains("spiffe://example.org"), "{refused}");
    }
    assert!(upstream.mint_x509_ca(b"junk", Duration::ZERO).await.is_err());

    fs::write(&config.key_file_path, &*two.key.to_pem()).unwrap();
    assert!(open(config.clone()).unwrap_err().contains("does not match"));
    fs::remove_file(&config.key_file_path).unwrap();
    assert!(open(config.clone()).unwrap_err().contains("ca.key: no such file"));
    let mut elsewhere = write(dir.path(), &one, Some(&two));
    assert!(open(elsewhere.clone()).unwrap_err().contains("does not lead to a root"));
    elsewhere.bundle_file_path = Some(dir.path().to_owned());
    assert!(open(elsewhere).is_err());
}
