//! A certificate authority of the web's kind, for endpoints that are verified by host name.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::dir::TestDir;

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct WebCertificate {
    /// The authority.
    pub ca: PathBuf,
    /// A certificate for `localhost` and `127.0.0.1`.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl WebCertificate {
    /// Makes an authority and a certificate below `dir`.
    ///
    /// # Panics
    ///
    /// When the files cannot be written.
    pub fn make(dir: &TestDir, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "web");
        let ca = params.self_signed(&key).expect("an authority");
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("names");
        let cert = params.signed_by(&key, &issuer).expect("a certificate");
        Self {
            ca: dir.write(format!("{name}-ca.pem"), ca.pem()),
            cert: dir.write(format!("{name}.pem"), cert.pem()),
            key: dir.write(format!("{name}.key"), key.serialize_pem()),
        }
    }
}
