//! The upstream authority `cert-manager` against a server that speaks the Kubernetes API, with an
//! issuer of the test in the place of cert-manager's.
//!
//! Fields, usages and conditions are those of the API `cert-manager.io/v1`, CertificateRequest.
#![cfg(feature = "k8s-bundle")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod fake;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use fake::{Fake, Fault};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use signet_base::{SystemClock, TestClock};
use signet_identity::SpiffeId;
use signet_k8s::{ApiServer, CertManager, CertManagerSettings};
use signet_pki::{
    KeyType, PrivateKey, UpstreamAuthority,
    x509::{Certificate, CsrParams, Name, create_csr_with, verify_ca},
};

const REQUESTS: &str = "/apis/cert-manager.io/v1/namespaces/sandbox/certificaterequests";
const LABEL: &str = "cert-manager.spiffe.io/trust-domain";

struct Setup {
    fake: Fake,
    _dir: tempfile::TempDir,
    upstream: Arc<CertManager>,
    clock: TestClock,
}

async fn setup() -> Setup {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let kubeconfig = fake.kubeconfig(dir.path(), "first");
    let api = ApiServer::from_file(&kubeconfig, Arc::new(SystemClock)).unwrap();
    let settings = CertManagerSettings {
        namespace: "sandbox".to_owned(),
        issuer_name: "spire-ca".to_owned(),
        issuer_kind: "ClusterIssuer".to_owned(),
        issuer_group: "issuers.example.org".to_owned(),
    };
    let clock = TestClock::new();
    let shared = Arc::new(clock.clone());
    let upstream = CertManager::new(api, settings, &"example.org".parse().unwrap(), shared);
    Setup { fake, _dir: dir, upstream: Arc::new(upstream), clock }
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

/// An issuer: its certificate, PEM, and what signs.
fn issuer() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "issuer");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

/// Waits for the request of the server, and gives its path.
async fn requested(fake: &Fake) -> String {
    let mut found = None;
    fake.until("a CertificateRequest", |fake| {
        let new = |path: &String| fake.get(path).is_some_and(|o| o["status"].is_null());
        found = fake.below(REQUESTS).into_iter().find(new);
        found.is_some()
    })
    .await;
    found.unwrap()
}

fn old(condition: Value) -> Value {
    json!({
        "metadata": {
            "labels": { LABEL: "example.org" },
            "creationTimestamp": "2025-12-31T00:00:00Z",
        },
        "status": { "conditions": [condition] },
    })
}

#[tokio::test]
async fn an_issuer_signs_and_requests_that_have_ended_are_removed() {
    let Setup { fake, upstream, clock, _dir } = setup().await;
    for (name, condition) in [
        ("denied", json!({ "type": "Denied", "status": "True" })),
        ("ready", json!({ "type": "Ready", "status": "True" })),
        ("failed", json!({ "type": "Ready", "status": "False", "reason": "Failed" })),
        ("pending", json!({ "type": "Ready", "status": "False", "reason": "Pending" })),
    ] {
        fake.put(&format!("{REQUESTS}/{name}"), old(condition.clone()));
        let mut others = old(condition);
        others["metadata"]["labels"][LABEL] = "another".into();
        fake.put(&format!("{REQUESTS}/others-{name}"), others);
    }
    // Another server's, which may not have been read yet.
    let mut young = old(json!({ "type": "Ready", "status": "True" }));
    young["metadata"]["creationTimestamp"] = "2025-12-31T23:59:00Z".into();
    fake.put(&format!("{REQUESTS}/young"), young);

    let request = csr().await;
    let minting = {
        let (upstream, request) = (Arc::clone(&upstream), request.clone());
        tokio::spawn(
            async move { upstream.mint_x509_ca(&request, Duration::from_secs(7200)).await },
        )
    };
    let path = requested(&fake).await;
    let asked = fake.get(&path).unwrap();
    assert_eq!(asked["apiVersion"], "cert-manager.io/v1");
    assert_eq!(asked["kind"], "CertificateRequest");
    assert_eq!(asked["metadata"]["labels"][LABEL], "example.org");
    assert!(asked["metadata"]["name"].as_str().unwrap().starts_with("spiffe-ca-"));
    let spec = &asked["spec"];
    assert_eq!(
        (&spec["isCA"], &spec["usages"], &spec["duration"]),
        (&json!(true), &json!(["cert sign", "crl sign"]), &json!("7200s"))
    );
    let reference = json!({
        "name": "spire-ca", "kind": "ClusterIssuer", "group": "issuers.example.org"
    });
    assert_eq!(spec["issuerRef"], reference);

    let (root, issuer) = issuer();
    let pem = STANDARD.decode(spec["request"].as_str().unwrap()).unwrap();
    let pem = String::from_utf8(pem).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
    let mut params = CertificateSigningRequestParams::from_pem(&pem).unwrap();
    params.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let signed = params.signed_by(&issuer).unwrap().pem();
    // The API server fails for a moment meanwhile.
    fake.fault("GET", path.as_str(), Fault::Refuse(500, "etcd is away"));
    fake.change(&path, |object| {
        object["status"] = json!({
            "conditions": [{ "type": "Ready", "status": "True", "reason": "Issued" }],
            "certificate": STANDARD.encode(format!("{signed}{root}")),
            "ca": STANDARD.encode(&root),
        });
    });
    let minted = minting.await.unwrap().unwrap();
    assert_eq!((minted.chain.len(), minted.upstream_roots.len()), (1, 1));
    let ca = Certificate::from_der(&minted.chain[0]).unwrap();
    assert_eq!(ca.spiffe_id().unwrap().to_string(), "spiffe://example.org");
    let root = minted.upstream_roots[0].der.clone();
    verify_ca(&minted.chain, &[root], std::time::SystemTime::now().into()).unwrap();
    let left = fake.below(REQUESTS);
    let left: Vec<_> = left.iter().map(|path| &path[REQUESTS.len() + 1..]).collect();
    let others = ["others-denied", "others-failed", "others-pending", "others-ready"];
    assert_eq!(left, [&others[..], &["pending", "young"]].concat());
    drop(clock);
    assert!(upstream.upstream_bundle().await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_not_signed_is_told_and_not_left_behind() {
    let Setup { fake, upstream, _dir, clock: _ } = setup().await;
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    let (certificate, _) = issuer();
    let certificate = STANDARD.encode(certificate);
    for (status, wanted) in [
        (
            json!({ "conditions": [{ "type": "Denied", "status": "True", "message": "not\nyou" }] }),
            "was denied: notyou",
        ),
        (
            json!({ "conditions": [{ "type": "InvalidRequest", "status": "True", "message": "x" }] }),
            "is not valid: x",
        ),
        (
            json!({ "conditions": [
                { "type": "Ready", "status": "False", "reason": "Failed", "message": "no issuer" }
            ] }),
            "has failed: no issuer",
        ),
        (
            json!({ "conditions": ready, "certificate": certificate }),
            "does not say what its root is (status.ca)",
        ),
        (
            json!({ "conditions": ready, "certificate": certificate, "ca": certificate }),
            "the new certificate is its own root",
        ),
        (
            json!({ "conditions": ready, "certificate": "*", "ca": certificate }),
            "status.certificate of",
        ),
    ] {
        let minting = {
            let (upstream, request) = (Arc::clone(&upstream), csr().await);
            tokio::spawn(async move { upstream.mint_x509_ca(&request, Duration::ZERO).await })
        };
        let path = requested(&fake).await;
        assert!(fake.get(&path).unwrap()["spec"]["duration"].is_null());
        fake.change(&path, |object| object["status"] = status);
        let error = minting.await.unwrap().unwrap_err().to_string();
        assert!(error.starts_with("cert-manager: ") && error.contains(wanted), "{error}");
        assert!(fake.below(REQUESTS).is_empty(), "{wanted}: {:?}", fake.below(REQUESTS));
    }
    fake.fault("POST", REQUESTS, Fault::Refuse(403, "forbidden"));
    let error = upstream.mint_x509_ca(&csr().await, Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("the permission to create certificaterequests"), "{error}");
}
