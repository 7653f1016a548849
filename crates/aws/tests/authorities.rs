//! The upstream authorities `aws_pca` and `awssecret` against fakes that check every signature and
//! the fields of the published models.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where it fails"
)]

mod support;

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signet_aws::{Pca, PcaSettings, SecretAuthority, SecretSettings};
use signet_identity::{SpiffeId, TrustDomain};
use signet_pki::{
    KeyType, PrivateKey, UpstreamAuthority, pem,
    upstream_ca::UpstreamCa,
    x509::{Certificate, CsrParams, Name, create_csr_with, verify_ca},
};
use signet_time::UnixTime;
use support::{Aws, Fault, failure, fields};

const CA: &str = "arn:aws:acm-pca:eu-test-1:123456789012:certificate-authority/1";

/// A CA with its key, under another or under itself.
struct Ca {
    pem: String,
    key: rcgen::KeyPair,
    params: rcgen::CertificateParams,
}

impl Ca {
    fn new(name: &str, above: Option<&Ca>, now: i64) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = time::OffsetDateTime::from_unix_timestamp(now - 3600).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(now + 864_000).unwrap();
        let certificate = match above {
            Some(above) => {
                let issuer = rcgen::Issuer::from_params(&above.params, &above.key);
                params.signed_by(&key, &issuer).unwrap()
            }
            None => params.self_signed(&key).unwrap(),
        };
        Self { pem: certificate.pem(), key, params }
    }

    fn certificate(&self) -> Certificate {
        Certificate::from_der(&pem::decode_certificates(&self.pem).unwrap()[0]).unwrap()
    }

    fn der(&self) -> Arc<[u8]> {
        self.certificate().der().clone()
    }
}

fn trust_domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

async fn csr() -> Vec<u8> {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let params = CsrParams {
        subject: Name::spiffe_ca(),
        uri: Some(SpiffeId::of_trust_domain(trust_domain())),
        dns_names: Vec::new(),
        extensions: Vec::new(),
    };
    create_csr_with(&params, &key.into()).await.unwrap()
}

/// A private CA of AWS: `between`, under `root`.
struct Private {
    aws: Aws,
    root: Ca,
    issued: Arc<Mutex<HashMap<String, String>>>,
    asked: Arc<Mutex<Value>>,
}

impl Private {
    fn start() -> Self {
        let aws = Aws::start();
        let now = aws.unix();
        let root = Ca::new("root", None, now);
        let between = Ca::new("between", Some(&root), now);
        let (issued, asked): (Arc<Mutex<HashMap<_, _>>>, Arc<Mutex<Value>>) = Default::default();
        let chain = format!("{}{}", between.pem, root.pem);
        let root_pem = root.pem.clone();
        let key = PrivateKey::from_pem(&between.key.serialize_pem()).unwrap();
        let ca = UpstreamCa::new(
            &key,
            &[between.certificate()],
            Some(&[root.certificate()]),
            UnixTime::from_seconds(now),
        );
        let (ca, kept, noted) = (ca.unwrap(), Arc::clone(&issued), Arc::clone(&asked));
        let mut tokens: HashMap<String, String> = HashMap::new();
        let mut serve = move |action: &str, asked: &signet_testkit::Asked| {
            let known: &[&str] = match action {
                "IssueCertificate" => &[
                    "CertificateAuthorityArn",
                    "Csr",
                    "SigningAlgorithm",
                    "TemplateArn",
                    "Validity",
                    "IdempotencyToken",
                ],
                "GetCertificate" => &["CertificateAuthorityArn", "CertificateArn"],
                _ => &["CertificateAuthorityArn"],
            };
            let body = fields(asked, known)?;
            if body["CertificateAuthorityArn"] != CA {
                return Err((400, failure("ResourceNotFoundException", "no such CA")));
            }
            let answer = match action {
                "DescribeCertificateAuthority" => json!({ "CertificateAuthority": {
                    "Arn": CA,
                    "Status": "ACTIVE",
                    "CertificateAuthorityConfiguration": {
                        "KeyAlgorithm": "EC_prime256v1",
                        "SigningAlgorithm": "SHA256WITHECDSA",
                        "Subject": {},
                    },
                }}),
                "IssueCertificate" => {
                    let token = body["IdempotencyToken"].as_str().unwrap().to_owned();
                    assert!((1..=36).contains(&token.len()));
                    let number = tokens.len() + 1;
                    let arn = tokens.entry(token).or_insert(format!("{CA}/certificate/{number}"));
                    let text = STANDARD.decode(body["Csr"].as_str().unwrap()).unwrap();
                    let csr = &pem::decode(std::str::from_utf8(&text).unwrap()).unwrap()[0];
                    assert_eq!(csr.label, "CERTIFICATE REQUEST");
                    assert_eq!(body["Validity"]["Type"], "ABSOLUTE");
                    let end = body["Validity"]["Value"].as_i64().unwrap();
                    let life = Duration::from_secs(u64::try_from(end - now).unwrap());
                    let at = UnixTime::from_seconds(now);
                    let minted = ca.mint(&csr.der, life, &trust_domain(), at).unwrap();
                    let certificate = pem::encode("CERTIFICATE", &minted.chain[0]);
                    kept.lock().unwrap().insert(arn.clone(), certificate);
                    *noted.lock().unwrap() = body.clone();
                    json!({ "CertificateArn": arn })
                }
                "GetCertificate" => {
                    let arn = body["CertificateArn"].as_str().unwrap();
                    let certificate = kept.lock().unwrap()[arn].clone();
                    json!({ "Certificate": certificate, "CertificateChain": chain })
                }
                "GetCertificateAuthorityCertificate" => {
                    json!({ "Certificate": between.pem, "CertificateChain": root_pem })
                }
                other => return Err((400, failure("UnknownOperationException", other))),
            };
            Ok((200, answer.to_string()))
        };
        aws.serve("acm-pca", move |action, asked| {
            serve(action, asked).unwrap_or_else(|refused: (u16, String)| refused)
        });
        Self { aws, root, issued, asked }
    }

    fn settings(&self) -> PcaSettings {
        PcaSettings {
            certificate_authority_arn: CA.to_owned(),
            signing_algorithm: None,
            ca_signing_template_arn: None,
            supplemental_bundle_path: None,
            endpoint: Some(self.aws.url()),
        }
    }

    fn pca(&self, settings: PcaSettings) -> Pca {
        Pca::new(&self.aws.credentials(), settings).unwrap()
    }
}

#[tokio::test]
async fn a_private_ca_signs_and_its_root_is_followed() {
    let private = Private::start();
    let pca = private.pca(private.settings());
    // The certificate is not there at once.
    let mut left = 2;
    private.aws.judge(move |action| {
        if action != "GetCertificate" {
            return None;
        }
        left -= 1;
        let body = failure("RequestInProgressException", "not yet");
        (left >= 0).then_some(Fault::Instead(400, body))
    });
    let minted = pca.mint_x509_ca(&csr().await, Duration::from_secs(3600)).await.unwrap();
    assert_eq!(minted.chain.len(), 2, "the new CA and what is between it and the root");
    let now = UnixTime::from_seconds(private.aws.unix());
    verify_ca(&minted.chain, &[private.root.der()], now).unwrap();
    assert_eq!(minted.upstream_roots.len(), 1);
    assert_eq!(minted.upstream_roots[0].der, private.root.der());
    let asked = private.asked.lock().unwrap().clone();
    assert_eq!(asked["SigningAlgorithm"], "SHA256WITHECDSA", "as the CA says");
    let template = "arn:aws:acm-pca:::template/SubordinateCACertificate_PathLen0/V1";
    assert_eq!(asked["TemplateArn"], template);
    assert_eq!(asked["Validity"]["Value"], private.aws.unix() + 3600);
    let bundle = pca.upstream_bundle().await.unwrap().unwrap();
    assert_eq!(bundle.roots[0].der, private.root.der());

    // An answer that was lost makes no second certificate.
    let mut is_lost = false;
    private.aws.judge(move |action| {
        let now = action == "IssueCertificate" && !std::mem::replace(&mut is_lost, true);
        now.then(|| Fault::Despite(500, String::new()))
    });
    pca.mint_x509_ca(&csr().await, Duration::ZERO).await.unwrap();
    assert_eq!(private.issued.lock().unwrap().len(), 2);
    assert_eq!(private.aws.count("DescribeCertificateAuthority"), 1, "asked for once");
}

#[tokio::test]
async fn the_settings_of_a_private_ca_are_followed() {
    let private = Private::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("more.pem");
    let more = Ca::new("more", None, private.aws.unix());
    fs::write(&path, format!("{}{}", more.pem, private.root.pem)).unwrap();
    let pca = private.pca(PcaSettings {
        signing_algorithm: Some("SHA384WITHECDSA".to_owned()),
        ca_signing_template_arn: Some("arn:mine".to_owned()),
        supplemental_bundle_path: Some(path.clone()),
        ..private.settings()
    });
    let roots = |minted: signet_pki::ports::MintedCa| -> Vec<Arc<[u8]>> {
        minted.upstream_roots.into_iter().map(|root| root.der).collect()
    };
    let minted = pca.mint_x509_ca(&csr().await, Duration::from_secs(60)).await.unwrap();
    assert_eq!(roots(minted), [private.root.der(), more.der()], "each root once");
    let asked = private.asked.lock().unwrap().clone();
    assert_eq!(asked["SigningAlgorithm"], "SHA384WITHECDSA");
    assert_eq!(asked["TemplateArn"], "arn:mine");
    // A file that is being replaced changes nothing yet.
    fs::write(&path, "half").unwrap();
    let minted = pca.mint_x509_ca(&csr().await, Duration::from_secs(60)).await.unwrap();
    assert_eq!(roots(minted).len(), 2);
    let missing = PcaSettings {
        supplemental_bundle_path: Some(dir.path().join("none")),
        ..private.settings()
    };
    let error = Pca::new(&private.aws.credentials(), missing).unwrap_err().to_string();
    assert!(error.contains("none"), "{error}");
}

#[tokio::test]
async fn what_goes_wrong_with_a_private_ca_is_told() {
    let private = Private::start();
    let pca = private.pca(private.settings());
    private.aws.judge(|action| {
        let denied = failure("AccessDeniedException", "not you");
        (action == "GetCertificateAuthorityCertificate").then_some(Fault::Instead(400, denied))
    });
    assert!(pca.upstream_bundle().await.unwrap().is_none(), "SPIRE asks for no such right");
    assert!(pca.upstream_bundle().await.unwrap().is_none());
    assert_eq!(private.aws.count("GetCertificateAuthorityCertificate"), 1);
    for (action, status, body, why) in [
        ("IssueCertificate", 400, failure("MalformedCSRException", "bad"), "MalformedCSRException"),
        ("GetCertificate", 400, failure("RequestFailedException", "no"), "RequestFailedException"),
        ("GetCertificate", 200, "{\"Certificate\":\"x\"}".to_owned(), "aws_pca"),
        ("DescribeCertificateAuthority", 200, "{}".to_owned(), "its fields are others"),
    ] {
        let pca = private.pca(private.settings());
        let name = action;
        private
            .aws
            .judge(move |called| (called == name).then(|| Fault::Instead(status, body.clone())));
        let error = pca.mint_x509_ca(&csr().await, Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains(why), "{action}: {error}");
    }
}

type Secrets = Arc<Mutex<HashMap<&'static str, Value>>>;

fn secrets(aws: &Aws) -> Secrets {
    let secrets: Secrets = Arc::default();
    let kept = Arc::clone(&secrets);
    aws.serve("secretsmanager", move |action, asked| {
        let body = match fields(asked, &["SecretId", "VersionId", "VersionStage"]) {
            Ok(body) if action == "GetSecretValue" => body,
            Ok(_) => return (400, failure("UnknownOperationException", action)),
            Err(refused) => return refused,
        };
        match kept.lock().unwrap().get(body["SecretId"].as_str().unwrap()) {
            Some(value) => (200, value.to_string()),
            None => (400, failure("ResourceNotFoundException", "no such secret")),
        }
    });
    secrets
}

fn text(text: &str) -> Value {
    json!({ "ARN": "a", "Name": "n", "SecretString": text })
}

fn authority(aws: &Aws, bundle: Option<&str>) -> SecretAuthority {
    let settings = SecretSettings {
        cert_file_arn: "cert".to_owned(),
        key_file_arn: "key".to_owned(),
        bundle_file_arn: bundle.map(str::to_owned),
    };
    SecretAuthority::new(&aws.credentials(), settings, trust_domain()).unwrap()
}

#[tokio::test]
async fn a_ca_in_secrets_manager_signs_and_is_followed_when_it_is_replaced() {
    let aws = Aws::start();
    let now = aws.unix();
    let (first, second) = (Ca::new("one", None, now), Ca::new("two", None, now));
    let secrets = secrets(&aws);
    let put = |name, value| drop(secrets.lock().unwrap().insert(name, value));
    let authority = authority(&aws, None);
    let error = authority.mint_x509_ca(&csr().await, Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("secret cert: GetSecretValue: ResourceNotFoundException"), "{error}");

    put("cert", text(&first.pem));
    put("key", text(&first.key.serialize_pem()));
    let minted = authority.mint_x509_ca(&csr().await, Duration::from_secs(600)).await.unwrap();
    assert_eq!(minted.upstream_roots[0].der, first.der());
    assert_eq!(minted.chain.len(), 1);
    verify_ca(&minted.chain, &[first.der()], UnixTime::from_seconds(now)).unwrap();

    // Half of a replacement: the last good one signs, and no root is published that signs nothing.
    put("cert", text(&second.pem));
    let minted = authority.mint_x509_ca(&csr().await, Duration::from_secs(600)).await.unwrap();
    assert_eq!(minted.upstream_roots[0].der, first.der());
    put("key", json!({ "SecretBinary": STANDARD.encode(second.key.serialize_pem()) }));
    let minted = authority.mint_x509_ca(&csr().await, Duration::from_secs(600)).await.unwrap();
    assert_eq!(minted.upstream_roots[0].der, second.der());
    let bundle = authority.upstream_bundle().await.unwrap().unwrap();
    assert_eq!(bundle.roots[0].der, second.der());
}

#[tokio::test]
async fn an_intermediate_in_secrets_manager_needs_its_roots() {
    let aws = Aws::start();
    let now = aws.unix();
    let root = Ca::new("root", None, now);
    let between = Ca::new("between", Some(&root), now);
    let secrets = secrets(&aws);
    for (name, value) in [
        ("cert", text(&format!("{}{}", between.pem, root.pem))),
        ("key", text(&between.key.serialize_pem())),
        ("bundle", text(&root.pem)),
        ("other", text(&Ca::new("other", None, now).pem)),
        ("nonsense", text("hello")),
    ] {
        secrets.lock().unwrap().insert(name, value);
    }
    for (bundle, why) in [
        (None, "set bundle_file_arn to the roots"),
        (Some("other"), "secret cert"),
        (Some("nonsense"), "secret nonsense"),
    ] {
        let authority = authority(&aws, bundle);
        let minted = authority.mint_x509_ca(&csr().await, Duration::ZERO).await;
        let error = minted.unwrap_err().to_string();
        assert!(error.contains(why), "{bundle:?}: {error}");
        authority.upstream_bundle().await.unwrap_err();
    }
    secrets.lock().unwrap().insert("cert", text(&between.pem));
    let authority = authority(&aws, Some("bundle"));
    let minted = authority.mint_x509_ca(&csr().await, Duration::from_secs(60)).await.unwrap();
    assert_eq!(minted.chain.len(), 2);
    verify_ca(&minted.chain, &[root.der()], UnixTime::from_seconds(now)).unwrap();
    let wrong = authority.mint_x509_ca(b"nonsense", Duration::ZERO).await.unwrap_err();
    assert!(wrong.to_string().starts_with("awssecret: "), "{wrong}");
}
