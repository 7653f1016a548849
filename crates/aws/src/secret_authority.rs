//! The upstream authority `awssecret`: a CA whose certificate and key are in Secrets Manager.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use signet_base::{SharedClock, chain};
use signet_identity::{TrustDomain, X509Authority};
use signet_pki::{
    PrivateKey, UpstreamAuthority, pem,
    ports::{MintedCa, PortError, UpstreamBundle},
    upstream_ca::{UpstreamCa, UpstreamCaError},
    x509::{Certificate, verify_ca},
};

use crate::{AwsError, Client, Credentials, Service, secrets};

/// The plugin's name.
const NAME: &str = "awssecret";
/// How often the roots are asked for: each question has its price.
const POLL: Duration = Duration::from_secs(10 * 60);

/// Which secrets make the CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSettings {
    /// Its certificate, then intermediates, PEM.
    pub cert_file_arn: String,
    /// Its key, PEM.
    pub key_file_arn: String,
    /// The roots, PEM; none where the certificate is its own root.
    pub bundle_file_arn: Option<String>,
}

/// A CA in Secrets Manager, read anew at each mint.
pub struct SecretAuthority {
    client: Client,
    settings: SecretSettings,
    trust_domain: TrustDomain,
    clock: SharedClock,
    /// What was good last; used while the secrets are not, or cannot be had.
    last: Mutex<Option<Arc<UpstreamCa>>>,
}

impl SecretAuthority {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn new(
        credentials: &Credentials,
        settings: SecretSettings,
        trust_domain: TrustDomain,
    ) -> Result<Self, AwsError> {
        let client = Client::new(Service::SECRETS_MANAGER, None, credentials)?;
        let clock = Arc::clone(&credentials.place().clock);
        Ok(Self { client, settings, trust_domain, clock, last: Mutex::default() })
    }

    /// The CA as it is in the secrets now.
    async fn load(&self) -> Result<UpstreamCa, String> {
        let SecretSettings { cert_file_arn, key_file_arn, .. } = &self.settings;
        let in_secret = |arn: &str, why: &dyn fmt::Display| format!("secret {arn}: {why}");
        let (chain, roots) = self.certificates().await?;
        let key = secrets::text(&self.client, key_file_arn).await;
        let key = key.map_err(|error| in_secret(key_file_arn, &self::chain(&error)))?;
        let key = PrivateKey::from_pem(&key)
            .map_err(|error| in_secret(key_file_arn, &self::chain(&error)))?;
        let ca = UpstreamCa::new(&key, &chain, roots.as_deref(), self.clock.unix());
        ca.map_err(|error| match error {
            UpstreamCaError::Key(error) => in_secret(key_file_arn, &self::chain(&error)),
            UpstreamCaError::NoRoots => in_secret(
                cert_file_arn,
                &"it holds several certificates: set bundle_file_arn to the roots",
            ),
            error => in_secret(cert_file_arn, &self::chain(&error)),
        })
    }

    /// The chain, and the roots where they are a secret of their own.
    async fn certificates(&self) -> Result<(Vec<Certificate>, Option<Vec<Certificate>>), String> {
        let read = async |arn: &str| -> Result<Vec<Certificate>, String> {
            let text = secrets::text(&self.client, arn).await;
            let read = text.map_err(|error| chain(&error)).and_then(|text| {
                let ders = pem::decode_certificates(&text).map_err(|error| chain(&error))?;
                let all = ders.iter().map(|der| Certificate::from_der(der));
                all.collect::<Result<_, _>>().map_err(|error| chain(&error))
            });
            read.map_err(|why| format!("secret {arn}: {why}"))
        };
        let chain = read(&self.settings.cert_file_arn).await?;
        match &self.settings.bundle_file_arn {
            Some(arn) => Ok((chain, Some(read(arn).await?))),
            None => Ok((chain, None)),
        }
    }

    /// What is there now, or was good last.
    async fn current(&self) -> Result<Arc<UpstreamCa>, PortError> {
        let loaded = self.load().await;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match (loaded, &*last) {
            (Ok(ca), _) => Ok(Arc::clone(last.insert(Arc::new(ca)))),
            (Err(error), Some(last)) => {
                tracing::warn!(
                    error,
                    "The upstream CA in Secrets Manager cannot be used, staying with the last good one"
                );
                Ok(Arc::clone(last))
            }
            (Err(message), None) => Err(PortError::Failed { name: NAME, message }),
        }
    }
}

#[async_trait]
impl UpstreamAuthority for SecretAuthority {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, PortError> {
        let ca = self.current().await?;
        let minted = ca.mint(csr, ttl, &self.trust_domain, self.clock.unix());
        minted.map_err(|error| PortError::Failed { name: NAME, message: chain(&error) })
    }

    async fn upstream_bundle(&self) -> Result<Option<UpstreamBundle>, PortError> {
        let found = self.certificates().await;
        let (chain, roots) = found.map_err(|message| PortError::Failed { name: NAME, message })?;
        let failed = |message: String| PortError::Failed { name: NAME, message };
        let roots = match roots {
            Some(roots) => roots,
            None if chain.len() == 1 => chain.clone(),
            None => return Err(failed("the roots of several certificates are not known".into())),
        };
        let ders = |all: &[Certificate]| -> Vec<Arc<[u8]>> {
            all.iter().map(|certificate| certificate.der().clone()).collect()
        };
        let (chain, roots) = (ders(&chain), ders(&roots));
        verify_ca(&chain, &roots, self.clock.unix()).map_err(|e| failed(self::chain(&e)))?;
        let roots = roots.into_iter().map(|der| X509Authority { der, tainted: false });
        Ok(Some(UpstreamBundle::of_roots(roots.collect())))
    }

    fn poll_interval(&self) -> Duration {
        POLL
    }
}

impl fmt::Debug for SecretAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretAuthority({})", self.settings.cert_file_arn)
    }
}
