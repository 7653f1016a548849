//! The bundle publisher `gcp_cloudstorage` and the upstream authority `gcp_cas` against a fake.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where it fails")]

use std::time::{Duration, SystemTime};

use signet_base::SystemClock;
use signet_gcp::{Cas, CasSettings, CloudStorage, Credentials, Gcp, StorageSettings};
use signet_identity::{Bundle, SpiffeId, X509Authority};
use signet_pki::{
    BundlePublisher, KeyType, PrivateKey, UpstreamAuthority, jwks,
    published::BundleFormat,
    x509::{Certificate, CsrParams, Name, create_csr_with, verify_ca},
};
use signet_testkit::clouds::{FakeGcp, Fault};

fn client(fake: &FakeGcp) -> Gcp {
    let host = format!("127.0.0.1:{}", fake.port);
    Gcp::new(Credentials::Instance { host }, SystemClock::shared()).unwrap()
}

fn bundle(sequence: u64) -> Bundle {
    let fake = FakeGcp::start();
    let der = fake.put_authority("p", "a", ("a", "b"), "ENABLED", 1, false);
    let mut bundle = Bundle::empty("example.org".parse().unwrap());
    bundle.x509_authorities.push(X509Authority { der: der.into(), tainted: false });
    bundle.sequence_number = sequence;
    bundle.refresh_hint = 60;
    bundle
}

#[tokio::test]
async fn the_bundle_becomes_an_object_in_each_form() {
    let fake = FakeGcp::start();
    let first = bundle(1);
    for format in [BundleFormat::Spiffe, BundleFormat::Jwks, BundleFormat::Pem] {
        let settings = StorageSettings {
            endpoint: fake.url(),
            bucket_name: "bucket-1".to_owned(),
            object_name: "bundles/example org?".to_owned(),
            format,
            refresh_hint: Some(300),
        };
        let publisher = CloudStorage::new(client(&fake), settings);
        publisher.publish(&first).await.unwrap();
        let (media, text) = fake.object("bucket-1/bundles/example org?").unwrap();
        assert_eq!(media, format.media_type());
        match format {
            BundleFormat::Pem => assert_eq!(text, jwks::encode_pem(&first)),
            BundleFormat::Jwks => assert!(!text.contains("spiffe_refresh_hint"), "{text}"),
            BundleFormat::Spiffe => {
                let read = jwks::decode_spiffe(first.trust_domain.clone(), text.as_bytes());
                assert_eq!(read.unwrap().refresh_hint, 300);
            }
        }
        let before = fake.asked().len();
        publisher.publish(&first).await.unwrap();
        assert_eq!(fake.asked().len(), before, "the same again writes nothing");
        fake.fault("/upload/", 0, 1, Fault::Status(503));
        publisher.publish(&bundle(2)).await.unwrap();
    }
    let settings = StorageSettings {
        endpoint: fake.url(),
        bucket_name: "nobodys".to_owned(),
        object_name: "b".to_owned(),
        format: BundleFormat::Pem,
        refresh_hint: None,
    };
    let publisher = CloudStorage::new(client(&fake), settings);
    let error = publisher.publish(&first).await.unwrap_err().to_string();
    assert!(error.starts_with("gcp_cloudstorage: POST 127.0.0.1"), "{error}");
    assert!(error.contains("404: notFound"), "{error}");
}

const LABEL: (&str, &str) = ("proj-signet", "ca");

fn cas(fake: &FakeGcp, pool: Option<&str>) -> Cas {
    let settings = CasSettings {
        endpoint: fake.url(),
        project: "p-1".to_owned(),
        location: "europe-west1".to_owned(),
        ca_pool: pool.map(str::to_owned),
        label_key: LABEL.0.to_owned(),
        label_value: LABEL.1.to_owned(),
    };
    Cas::new(client(fake), settings)
}

async fn csr() -> Vec<u8> {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let params = CsrParams {
        subject: Name::spiffe_ca(),
        uri: Some(SpiffeId::of_trust_domain("example.org".parse().unwrap())),
        dns_names: Vec::new(),
        extensions: Vec::new(),
    };
    create_csr_with(&params, &key.into()).await.unwrap()
}

#[tokio::test]
async fn the_authority_that_expires_first_signs_and_all_roots_are_trusted() {
    let fake = FakeGcp::start();
    let new = fake.put_authority("one", "new", LABEL, "ENABLED", 10, false);
    let old = fake.put_authority("one", "old", LABEL, "ENABLED", 2, true);
    fake.put_authority("one", "gone", LABEL, "DISABLED", 1, false);
    fake.put_authority("one", "like", (LABEL.0, "cached"), "ENABLED", 1, false);
    fake.put_authority("two", "other", ("a", "b"), "ENABLED", 1, false);
    let cas = cas(&fake, None);

    // A lost answer does not sign twice.
    fake.fault("/certificates?", 0, 1, Fault::Lost);
    let minted = cas.mint_x509_ca(&csr().await, Duration::from_secs(3600)).await.unwrap();
    assert_eq!(minted.chain.len(), 2, "the new CA and what is between it and the root");
    let ca = Certificate::from_der(&minted.chain[0]).unwrap();
    assert!(ca.is_ca());
    assert_eq!(ca.spiffe_id().unwrap().to_string(), "spiffe://example.org");
    let roots: Vec<_> = minted.upstream_roots.iter().map(|root| root.der.to_vec()).collect();
    assert_eq!(roots, [old.clone(), new.clone()]);
    let root = minted.upstream_roots[0].der.clone();
    verify_ca(&minted.chain, &[root], SystemTime::now().into()).unwrap();
    let bundle = cas.upstream_bundle().await.unwrap().unwrap();
    let roots: Vec<_> = bundle.roots.iter().map(|root| root.der.to_vec()).collect();
    assert_eq!(roots, [old, new]);
}

#[tokio::test]
async fn what_cannot_sign_is_told() {
    let fake = FakeGcp::start();
    let mint = async |cas: Cas| {
        let minted = cas.mint_x509_ca(&csr().await, Duration::from_secs(60)).await;
        minted.unwrap_err().to_string()
    };
    let none = mint(cas(&fake, Some("one"))).await;
    assert!(none.contains("there is no authority with the label proj-signet=ca"), "{none}");
    fake.put_authority("one", "a", LABEL, "DISABLED", 1, false);
    let disabled = mint(cas(&fake, Some("one"))).await;
    assert!(disabled.contains("no authority that is enabled with the label"), "{disabled}");
    fake.put_authority("two", "b", LABEL, "ENABLED", 1, false);
    let several = mint(cas(&fake, None)).await;
    assert!(several.contains("name one by ca_pool"), "{several}");
    fake.fault("/certificates?", 0, 9, Fault::Garbage);
    let garbage = mint(cas(&fake, Some("two"))).await;
    assert!(garbage.starts_with("gcp_cas: ") && garbage.contains("no JSON"), "{garbage}");
}
