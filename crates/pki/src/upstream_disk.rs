//! The `disk` upstream authority: a CA certificate and key in files, read anew at each mint.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use signet_base::Clock;
use signet_identity::{TrustDomain, X509Authority};
use signet_time::UnixTime;

use crate::{
    Signer,
    ports::{MintedCa, PortError, UpstreamAuthority, UpstreamBundle},
    text_file,
    x509::{CaIssuer, CaParams, Certificate, Csr, Name, verify_ca},
};

/// The life of a minted CA when the caller has no wish, seconds: as SPIRE.
const DEFAULT_TTL: Duration = Duration::from_secs(60 * 60);

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
    loaded: Mutex<Arc<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    issuer: CaIssuer,
    roots: Vec<X509Authority>,
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
    async fn reload(&self) -> Result<Arc<Loaded>, PortError> {
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
        let csr = Csr::from_der(csr).map_err(failed)?;
        let wanted = self.trust_domain.id_string();
        if csr.uris() != [wanted.as_str()] {
            return Err(failed(format!("the CSR must have exactly one URI SAN, {wanted}")));
        }
        let loaded = self.reload().await?;
        let now = self.clock.unix();
        let ttl = if ttl.is_zero() { DEFAULT_TTL } else { ttl };
        let params = CaParams {
            trust_domain: self.trust_domain.clone(),
            subject: Name::default(),
            extensions: Vec::new(),
            now,
            not_after: now + ttl,
        };
        let issued = loaded.issuer.issue_ca_from_csr(&csr, &params).map_err(failed)?;
        let mut chain: Vec<Arc<[u8]>> = vec![issued.der.into()];
        chain.extend(loaded.issuer.upstream_chain().iter().cloned());
        Ok(MintedCa { chain, upstream_roots: loaded.roots.clone() })
    }

    async fn upstream_bundle(&self) -> Result<Option<UpstreamBundle>, PortError> {
        Ok(Some(UpstreamBundle::of_roots(self.reload().await?.roots.clone())))
    }
}

fn load(config: &DiskUpstreamConfig, now: UnixTime) -> Result<Loaded, PortError> {
    let key_path = &config.key_file_path;
    let key = text_file::private_key(key_path).map_err(failed)?;
    let signer: Arc<dyn Signer> = key.signer().map_err(|e| in_file(key_path, &e))?;
    let chain = certificates(&config.cert_file_path)?;
    let (ca, _) = chain.split_first().ok_or_else(|| failed("no certificate"))?;
    let (roots, upstream_chain) = match &config.bundle_file_path {
        Some(path) => (certificates(path)?, chain.clone()),
        None if chain.len() == 1 => (chain.clone(), Vec::new()),
        None => {
            return Err(in_file(
                &config.cert_file_path,
                &"holds several certificates: set bundle_file_path to the roots",
            ));
        }
    };
    let ders = |certificates: &[Certificate]| -> Vec<Arc<[u8]>> {
        certificates.iter().map(|c| c.der().clone()).collect()
    };
    verify_ca(&ders(&chain), &ders(&roots), now)
        .map_err(|e| in_file(&config.cert_file_path, &e))?;
    let issuer = CaIssuer::new(ca.clone(), ders(&upstream_chain), signer)
        .map_err(|e| in_file(&config.cert_file_path, &e))?;
    let roots = ders(&roots).into_iter().map(|der| X509Authority { der, tainted: false }).collect();
    Ok(Loaded { issuer, roots })
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
