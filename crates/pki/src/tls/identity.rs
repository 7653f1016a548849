//! The certificate we present, exchanged while connections are open.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::sign::CertifiedKey;

use super::TlsError;
use crate::{Signer, x509::Certificate};

/// A certificate chain with its signer.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    leaf: Certificate,
    key: Arc<CertifiedKey>,
}

impl TlsIdentity {
    /// `chain` is DER, leaf first.
    ///
    /// # Errors
    /// [`TlsError`] when the leaf is not for the signer's key.
    pub fn new(chain: &[Arc<[u8]>], signer: Arc<dyn Signer>) -> Result<Self, TlsError> {
        let _ = (chain, signer);
        todo!()
    }

    /// The leaf.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// For rustls.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

/// An identity that new connections present from the moment it is set; open connections keep the
/// one they started with.
#[derive(Debug, Default)]
pub struct SwappableIdentity(ArcSwapOption<TlsIdentity>);

impl SwappableIdentity {
    /// Without an identity yet: a server refuses handshakes, a client presents none.
    pub fn empty() -> Self {
        Self::default()
    }

    /// With an identity.
    pub fn new(identity: TlsIdentity) -> Self {
        Self(ArcSwapOption::from_pointee(identity))
    }

    /// Replaces the identity.
    pub fn set(&self, identity: TlsIdentity) {
        self.0.store(Some(Arc::new(identity)));
    }

    /// Presents nothing from now on.
    pub fn clear(&self) {
        self.0.store(None);
    }

    /// The identity now.
    pub fn get(&self) -> Option<Arc<TlsIdentity>> {
        self.0.load_full()
    }
}
