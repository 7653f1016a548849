//! What signs: authorities with their keys.

use std::sync::Arc;

use signet_pki::{
    ManagedKey,
    jwt::JwtAuthorityHeader,
    x509::{Ca, Certificate},
};
use signet_time::UnixTime;

/// An X.509 authority that can sign.
#[derive(Debug)]
pub(crate) struct X509Ca {
    pub ca: Ca,
    pub key: ManagedKey,
    pub issued_at: UnixTime,
}

impl X509Ca {
    /// Whether one of `roots` (DER) signed a certificate of this CA's chain, or is one of them.
    pub(crate) fn is_under(&self, roots: &[Arc<[u8]>]) -> bool {
        let keys: Vec<_> = roots
            .iter()
            .filter_map(|der| Certificate::from_der(der).ok())
            .filter_map(|root| root.public_key().ok().cloned())
            .collect();
        let own = std::iter::once(self.ca.certificate().der());
        own.chain(self.ca.upstream_chain()).any(|der| {
            let signed =
                |certificate: Certificate| keys.iter().any(|key| certificate.is_signed_by(key));
            roots.contains(der) || Certificate::from_der(der).is_ok_and(signed)
        })
    }
}

/// A JWT or WIT authority that can sign.
#[derive(Debug)]
pub(crate) struct JwtKey {
    pub header: JwtAuthorityHeader,
    pub key: ManagedKey,
    pub issued_at: UnixTime,
}
