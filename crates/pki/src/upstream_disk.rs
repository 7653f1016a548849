//! The `disk` upstream authority: a CA certificate and key in files, read anew at each mint.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use signet_base::{Clock, chain};
use signet_identity::TrustDomain;
use signet_time::UnixTime;

use crate::{
    ports::{MintedCa, PortError, UpstreamAuthority, UpstreamBundle},
    text_file,
    upstream_ca::{UpstreamCa, UpstreamCaError},
    x509::Certificate,
};

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
    /// What was good last; used while the files are not.
    loaded: Mutex<Arc<UpstreamCa>>,
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
        let loaded = Mutex::new(Arc::new(load(&config, clock.unix())?));
        Ok(Self { config, trust_domain, clock, loaded })
    }

    /// Reads the files again. While they are broken (someone is replacing them) the last good
    /// content stays in use, and a warning is logged.
    async fn reload(&self) -> Result<Arc<UpstreamCa>, PortError> {
        let (config, now) = (self.config.clone(), self.clock.unix());
        let read = tokio::task::spawn_blocking(move || load(&config, now))
            .await
            .map_err(|_| failed("shutting down"))?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(new) => *loaded = Arc::new(new),
            Err(error) => {
                tracing::warn!(%error, "upstream CA files cannot be used, staying with the last good ones");
            }
        }
        Ok(loaded.clone())
    }
}

#[async_trait]
impl UpstreamAuthority for DiskUpstream {
    fn name(&self) -> &'static str {
        "disk"
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, PortError> {
        let loaded = self.reload().await?;
        loaded.mint(csr, ttl, &self.trust_domain, self.clock.unix()).map_err(|e| failed(chain(&e)))
    }

    async fn upstream_bundle(&self) -> Result<Option<UpstreamBundle>, PortError> {
        Ok(Some(UpstreamBundle::of_roots(self.reload().await?.roots().to_vec())))
    }
}

fn load(config: &DiskUpstreamConfig, now: UnixTime) -> Result<UpstreamCa, PortError> {
    let key_path = &config.key_file_path;
    let key = text_file::private_key(key_path).map_err(failed)?;
    let chain = certificates(&config.cert_file_path)?;
    let roots = config.bundle_file_path.as_deref().map(certificates).transpose()?;
    UpstreamCa::new(&key, &chain, roots.as_deref(), now).map_err(|error| match error {
        UpstreamCaError::Key(error) => in_file(key_path, &error),
        UpstreamCaError::NoRoots => in_file(
            &config.cert_file_path,
            &"holds several certificates: set bundle_file_path to the roots",
        ),
        error => in_file(&config.cert_file_path, &self::chain(&error)),
    })
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, PortError> {
    let ders = text_file::certificates(path).map_err(failed)?;
    ders.iter().map(|der| Certificate::from_der(der).map_err(|e| in_file(path, &e))).collect()
}

fn in_file(path: &Path, what: &dyn std::fmt::Display) -> PortError {
    failed(format!("{}: {what}", path.display()))
}

fn failed(message: impl std::fmt::Display) -> PortError {
    PortError::Failed { name: "disk", message: message.to_string() }
}
