//! The bundle publishers `aws_s3` and `aws_rolesanywhere_trustanchor` against fakes that check
//! every signature.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where it fails")]

mod support;

use std::{collections::HashMap, sync::Arc, sync::Mutex};

use serde_json::{Value, json};
use signet_aws::{RolesAnywhere, S3, S3Settings};
use signet_identity::{Bundle, X509Authority};
use signet_pki::{BundlePublisher, jwks, published::BundleFormat};
use support::{Aws, Fault, failure, fields};

fn bundle(authorities: usize) -> Bundle {
    let mut bundle = Bundle::empty("example.org".parse().unwrap());
    for n in 0..authorities {
        let params = rcgen::CertificateParams::new(vec![format!("ca-{n}")]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let der: Arc<[u8]> = params.self_signed(&key).unwrap().der().to_vec().into();
        bundle.x509_authorities.push(X509Authority { der, tainted: false });
    }
    bundle.refresh_hint = 60;
    bundle
}

fn settings(aws: &Aws, format: BundleFormat) -> S3Settings {
    S3Settings {
        bucket: "bundles".to_owned(),
        object_key: "trust/example org".to_owned(),
        format,
        refresh_hint: Some(600),
        endpoint: Some(aws.url()),
    }
}

#[tokio::test]
async fn a_bundle_is_an_object_in_each_form() {
    let aws = Aws::start();
    let objects: Arc<Mutex<HashMap<String, String>>> = Arc::default();
    let kept = Arc::clone(&objects);
    aws.serve("s3", move |_, asked| {
        let body = String::from_utf8(asked.body.clone()).unwrap();
        kept.lock().unwrap().insert(asked.target.clone(), body);
        (200, String::new())
    });
    let bundle = bundle(2);
    for format in [BundleFormat::Spiffe, BundleFormat::Jwks, BundleFormat::Pem] {
        let s3 = S3::new(&aws.credentials(), settings(&aws, format)).unwrap();
        s3.publish(&bundle).await.unwrap();
        let text = objects.lock().unwrap()["/bundles/trust/example%20org"].clone();
        match format {
            BundleFormat::Pem => assert_eq!(text, jwks::encode_pem(&bundle)),
            BundleFormat::Jwks => assert!(!text.contains("spiffe_refresh_hint"), "{text}"),
            BundleFormat::Spiffe => assert!(text.contains("\"spiffe_refresh_hint\":600"), "{text}"),
        }
        let puts = aws.count("PutObject");
        s3.publish(&bundle).await.unwrap();
        assert_eq!(aws.count("PutObject"), puts, "the same bundle is published once");
    }
}

#[tokio::test]
async fn a_failure_names_the_object_and_is_tried_again() {
    let aws = Aws::start();
    aws.serve("s3", |_, _| (200, String::new()));
    let s3 = S3::new(&aws.credentials(), settings(&aws, BundleFormat::Spiffe)).unwrap();
    let denied =
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>No</Message></Error>";
    aws.judge(move |_| Some(Fault::Instead(403, denied.to_owned())));
    let error = s3.publish(&bundle(1)).await.unwrap_err().to_string();
    assert!(error.contains("object \"trust/example org\" of bucket \"bundles\""), "{error}");
    assert!(error.contains("PutObject: AccessDenied (status 403): No"), "{error}");
    aws.release();
    s3.publish(&bundle(1)).await.unwrap();
    // The service is slow for a moment.
    let mut left = 1;
    aws.judge(move |_| {
        left -= 1;
        (left >= 0).then(|| Fault::Instead(503, "<Error><Code>SlowDown</Code></Error>".to_owned()))
    });
    s3.publish(&bundle(2)).await.unwrap();
}

#[tokio::test]
async fn a_trust_anchor_has_the_x509_authorities() {
    let aws = Aws::start();
    let anchor: Arc<Mutex<Value>> = Arc::default();
    let kept = Arc::clone(&anchor);
    aws.serve("rolesanywhere", move |_, asked| {
        if asked.target != "/trustanchor/153d3e58-cab5-4a59-a0a1-3febad2937c4" {
            return (404, failure("ResourceNotFoundException", "no such anchor"));
        }
        let body = match fields(asked, &["name", "source"]) {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        *kept.lock().unwrap() = body["source"].clone();
        (200, json!({ "trustAnchor": { "trustAnchorId": "x", "name": "n" } }).to_string())
    });
    let id = "153d3e58-cab5-4a59-a0a1-3febad2937c4".to_owned();
    let publisher = RolesAnywhere::new(&aws.credentials(), id).unwrap();
    let two = bundle(2);
    publisher.publish(&two).await.unwrap();
    publisher.publish(&two).await.unwrap();
    assert_eq!(aws.count("UpdateTrustAnchor"), 1);
    let wanted = json!({
        "sourceType": "CERTIFICATE_BUNDLE",
        "sourceData": { "x509CertificateData": jwks::encode_pem(&two) },
    });
    assert_eq!(*anchor.lock().unwrap(), wanted);

    let error = publisher.publish(&bundle(20)).await.unwrap_err().to_string();
    assert!(error.contains("the bundle is too large: 20 X.509 authorities"), "{error}");
    let other = RolesAnywhere::new(&aws.credentials(), "a/../b".to_owned()).unwrap();
    let error = other.publish(&two).await.unwrap_err().to_string();
    assert!(error.contains("ResourceNotFoundException"), "{error}");
}
