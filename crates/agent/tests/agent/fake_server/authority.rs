//! What the fake server signs with.

use std::sync::Arc;

use signet_base::{Clock as _, SystemClock};
use signet_identity::SpiffeId;
use signet_pki::{
    KeyType, PrivateKey, PublicKey, Signer,
    x509::{CaIssuer, CaParams, Certificate, Name, SvidParams, self_sign_ca},
};
use signet_time::UnixTime;

use super::trust_domain;

pub fn now() -> UnixTime {
    SystemClock.unix()
}

pub fn new_ca() -> Arc<CaIssuer> {
    let signer: Arc<dyn Signer> = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let params = CaParams {
        trust_domain: trust_domain(),
        subject: Name::spiffe_ca(),
        extensions: Vec::new(),
        now: now(),
        not_after: now() + 86_400,
    };
    let issued = self_sign_ca(&*signer, &params).unwrap();
    let certificate = Certificate::from_der(&issued.der).unwrap();
    Arc::new(CaIssuer::new(certificate, Vec::new(), signer).unwrap())
}

/// A certificate, and when it expires in seconds since 1970.
pub fn issue(ca: &CaIssuer, id: &SpiffeId, key: &PublicKey, ttl: i64) -> (Vec<u8>, i64) {
    let issued = ca
        .issue_svid(&SvidParams {
            spiffe_id: id,
            public_key: key,
            dns_names: &[],
            subject: None,
            extensions: &[],
            now: now(),
            not_after: now() + ttl,
        })
        .unwrap();
    (issued.der, issued.not_after.seconds())
}
