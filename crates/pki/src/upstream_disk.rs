//! The `disk` upstream authority: a CA certificate and key in files, read anew at each mint.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use signet_base::Clock;
use signet_identity::{TrustDomain, X509Authority};

use crate::ports::{MintedCa, PortError, UpstreamAuthority};

/// Where the files are.
#[derive(Clone, Debug)]
pub struct DiskUpstreamConfig {
    /// PEM: the CA certificate, then intermediates.
    pub cert_file_path: PathBuf,
    /// PEM: its private key.
    pub key_file_path: PathBuf,
    /// PEM: the roots; required unless the certificate is self-signed.
    pub bundle_file_path: Option<PathBuf>,
}

/// The `disk` upstream authority.
#[derive(Debug)]
pub struct DiskUpstream {
    config: DiskUpstreamConfig,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
}

impl DiskUpstream {
    /// Reads the files once to see that they are right.
    ///
    /// # Errors
    /// [`PortError`] names the file and what is wrong.
    pub fn open(
        config: DiskUpstreamConfig,
        trust_domain: TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PortError> {
        Ok(Self { config, trust_domain, clock })
    }
}

#[async_trait]
impl UpstreamAuthority for DiskUpstream {
    fn name(&self) -> &'static str {
        "disk"
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, PortError> {
        let _ = (csr, ttl, &self.config, &self.trust_domain, &self.clock);
        todo!()
    }

    async fn upstream_roots(&self) -> Result<Option<Vec<X509Authority>>, PortError> {
        todo!()
    }
}
