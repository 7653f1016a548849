//! The bundles that workloads get, for those who verify a peer of their own.

use std::sync::Arc;

use signet_identity::TrustDomain;
use signet_pki::{tls::BundleSource, x509::TrustBundle};

use super::Served;

/// The bundles that workloads get, for verifying those who connect to the agent.
#[derive(Debug)]
pub(crate) struct CacheBundles(pub(crate) Served);

impl BundleSource for CacheBundles {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        let bundle = self.0.watch_bundles().borrow().get(trust_domain).cloned()?;
        TrustBundle::from_bundle(&bundle).ok().map(Arc::new)
    }
}
