//! What the tests of this crate share.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::{sync::Arc, time::Duration};

use signet_base::{SharedClock, SystemClock};
use signet_testkit::Bao;
use signet_vault::{Auth, Client, Settings, VaultError};
use zeroize::Zeroizing;

pub fn clock() -> SharedClock {
    Arc::new(SystemClock)
}

pub fn settings(bao: &Bao, auth: Auth) -> Settings {
    let mut settings = Settings::new(bao.address(), auth);
    if bao.ca().is_file() {
        settings.ca_cert_path = Some(bao.ca());
    }
    settings
}

pub fn client(bao: &Bao, auth: Auth) -> Client {
    Client::open(&settings(bao, auth), clock()).unwrap()
}

pub fn root() -> Auth {
    Auth::Token(Zeroizing::new(Bao::ROOT.to_owned()))
}

pub fn admin(bao: &Bao) -> Client {
    client(bao, root())
}

/// Asks until it goes well.
pub async fn eventually<T, F: Future<Output = Result<T, VaultError>>>(ask: impl Fn() -> F) -> T {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(tokio::time::Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A CA for client certificates.
pub struct Ca {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "clients");
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A client certificate and its key, PEM.
    pub fn client(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// The public key (PEM) of a new JWT issuer, and a JWT of it.
pub fn jwt(subject: &str, audience: &str) -> (String, String) {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
    let key = signet_pki::PrivateKey::generate(signet_pki::KeyType::Rsa2048).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({
        "sub": subject, "aud": [audience], "iat": now, "exp": now + 120,
    });
    let head = B64.encode(r#"{"alg":"RS256","typ":"JWT"}"#);
    let unsigned = format!("{head}.{}", B64.encode(claims.to_string()));
    let signature = key.signer().unwrap();
    let signature = signet_pki::Signer::sign_issued(&*signature, unsigned.as_bytes()).unwrap();
    let public = signet_pki::pem::encode("PUBLIC KEY", key.public_key().spki_der());
    (public, format!("{unsigned}.{}", B64.encode(signature)))
}
