//! The bundle publisher `azure_blob` against a fake of Azure.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where it fails")]

use signet_azure::{Blob, BlobAccess, BlobSettings, Credentials};
use signet_base::SystemClock;
use signet_identity::Bundle;
use signet_pki::{BundlePublisher, jwks, published::BundleFormat};
use signet_testkit::clouds::{FakeAzure, Fault};

fn bundle(sequence: u64) -> Bundle {
    let mut bundle = Bundle::empty("example.org".parse().unwrap());
    bundle.sequence_number = sequence;
    bundle
}

fn publisher(fake: &FakeAzure, access: BlobAccess, format: BundleFormat, container: &str) -> Blob {
    let settings = BlobSettings {
        account: "account1".to_owned(),
        account_url: fake.url(),
        container_name: container.to_owned(),
        blob_name: "bundles/example org".to_owned(),
        format,
        refresh_hint: Some(300),
    };
    Blob::new(access, settings, SystemClock::shared()).unwrap()
}

#[tokio::test]
async fn the_bundle_becomes_a_blob_by_token_and_by_key() {
    let fake = FakeAzure::start();
    let machine = Credentials::Instance { url: fake.url(), client_id: None };
    let accesses = [BlobAccess::Credentials(machine), BlobAccess::Key(fake.storage_key().into())];
    for (number, access) in accesses.into_iter().enumerate() {
        access.check().unwrap();
        assert!(!format!("{access:?}").contains(&fake.storage_key()));
        for format in [BundleFormat::Spiffe, BundleFormat::Jwks, BundleFormat::Pem] {
            let first = bundle(number as u64 + 1);
            let publisher = publisher(&fake, access.clone(), format, "container1");
            fake.fault("PUT", 0, 1, Fault::Status(503));
            publisher.publish(&first).await.unwrap();
            let (media, text) = fake.blob("container1/bundles/example org").unwrap();
            assert_eq!(media, format.media_type());
            if format == BundleFormat::Spiffe {
                let read = jwks::decode_spiffe(first.trust_domain.clone(), text.as_bytes());
                let read = read.unwrap();
                assert_eq!((read.refresh_hint, read.sequence_number), (300, first.sequence_number));
            }
            let before = fake.asked().len();
            publisher.publish(&first).await.unwrap();
            assert_eq!(fake.asked().len(), before, "the same again writes nothing");
        }
    }
}

#[tokio::test]
async fn what_is_refused_is_told_and_tried_again_with_the_next_call() {
    let fake = FakeAzure::start();
    let key = BlobAccess::Key(fake.storage_key().into());
    let elsewhere = publisher(&fake, key, BundleFormat::Pem, "container2");
    for _ in 0..2 {
        let error = elsewhere.publish(&bundle(1)).await.unwrap_err().to_string();
        assert!(error.starts_with("azure_blob: PUT 127.0.0.1"), "{error}");
        assert!(error.contains("ContainerNotFound"), "{error}");
    }
    let wrong = BlobAccess::Key("bm90IHRoZSBrZXk=".to_owned().into());
    let wrong = publisher(&fake, wrong, BundleFormat::Pem, "container1");
    let error = wrong.publish(&bundle(1)).await.unwrap_err().to_string();
    assert!(error.contains("AuthenticationFailed"), "{error}");
    assert!(BlobAccess::Key("*".to_owned().into()).check().unwrap_err().contains("base64"));
}
