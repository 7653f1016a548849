//! The upstream authority `aws_pca`: a private CA of AWS signs the server's X.509 CA.

use std::{
    collections::HashSet,
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use signet_base::chain;
use signet_identity::X509Authority;
use signet_pki::{
    UpstreamAuthority, pem,
    ports::{MintedCa, PortError, UpstreamBundle},
    random, text_file,
};
use tokio::sync::OnceCell;

use crate::{AwsError, Client, Credentials, Service};

/// The plugin's name.
const NAME: &str = "aws_pca";
/// A CA below which there is no other: SPIRE's default.
const DEFAULT_TEMPLATE: &str = "arn:aws:acm-pca:::template/SubordinateCACertificate_PathLen0/V1";
/// The life of a CA when the server has no wish.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// How long a certificate is waited for: the server gives up soon after that.
const ISSUANCE: Duration = Duration::from_secs(55);
/// How soon is asked for it the first time; the pauses double up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// How many certificates a chain may have.
const MAX_CHAIN: usize = 32;
/// How often the CA's own root is asked for.
const POLL: Duration = Duration::from_secs(5 * 60);

/// Which CA signs, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcaSettings {
    /// The CA's ARN.
    pub certificate_authority_arn: String,
    /// With what it signs, `SHA256WITHECDSA`; unset as the CA itself says.
    pub signing_algorithm: Option<String>,
    /// The template; unset for a CA below which there is no other.
    pub ca_signing_template_arn: Option<String>,
    /// PEM: certificates that belong into the bundle besides; read at each use.
    pub supplemental_bundle_path: Option<PathBuf>,
    /// The URL of the service where it is not AWS's own.
    pub endpoint: Option<String>,
}

/// A private CA.
pub struct Pca {
    client: Client,
    settings: PcaSettings,
    algorithm: OnceCell<String>,
    supplemental: Mutex<Vec<Arc<[u8]>>>,
    /// Whether asking for the CA's certificate was refused.
    is_closed: AtomicBool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Issued {
    certificate: String,
    #[serde(default)]
    certificate_chain: Option<String>,
}

impl Pca {
    /// Reads the supplemental bundle; nothing is sent.
    ///
    /// # Errors
    /// [`AwsError::File`] when that cannot be read, and as [`Client::new`].
    pub fn new(credentials: &Credentials, settings: PcaSettings) -> Result<Self, AwsError> {
        let client = Client::new(Service::ACM_PCA, settings.endpoint.as_deref(), credentials)?;
        let supplemental = Mutex::new(read(&settings).map_err(AwsError::File)?);
        let (algorithm, is_closed) = (OnceCell::new(), AtomicBool::new(false));
        Ok(Self { client, settings, algorithm, supplemental, is_closed })
    }

    /// The body of a call, with the CA in it.
    fn body(&self, mut fields: Value) -> Value {
        if let Some(fields) = fields.as_object_mut() {
            let arn = self.settings.certificate_authority_arn.as_str();
            fields.insert("CertificateAuthorityArn".to_owned(), arn.into());
        }
        fields
    }

    /// With what the CA signs; asked for once, and on the occasion whether it can.
    async fn algorithm(&self) -> Result<&str, AwsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Described {
            certificate_authority: Authority,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Authority {
            #[serde(default)]
            status: String,
            certificate_authority_configuration: Configuration,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Configuration {
            signing_algorithm: String,
        }
        let describe = async || {
            let action = "DescribeCertificateAuthority";
            let found: Described = self.client.call(action, &self.body(json!({}))).await?;
            let authority = found.certificate_authority;
            if authority.status != "ACTIVE" {
                tracing::warn!(
                    certificate_authority_arn = self.settings.certificate_authority_arn,
                    status = authority.status,
                    "The private CA is not active"
                );
            }
            let own = authority.certificate_authority_configuration.signing_algorithm;
            Ok(self.settings.signing_algorithm.clone().unwrap_or(own))
        };
        self.algorithm.get_or_try_init(describe).await.map(String::as_str)
    }

    async fn issue(&self, csr: &[u8], ttl: Duration) -> Result<Issued, AwsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Begun {
            certificate_arn: String,
        }
        let ttl = if ttl.is_zero() { DEFAULT_TTL } else { ttl };
        let life = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let template = self.settings.ca_signing_template_arn.as_deref();
        // With a token of its own a call that is made again makes no second certificate.
        let token = random::uuid_v4().map_err(|error| AwsError::Setting(error.to_string()))?;
        let body = self.body(json!({
            "Csr": STANDARD.encode(pem::encode("CERTIFICATE REQUEST", csr)),
            "SigningAlgorithm": self.algorithm().await?,
            "TemplateArn": template.unwrap_or(DEFAULT_TEMPLATE),
            "Validity": { "Type": "ABSOLUTE", "Value": self.client.unix().saturating_add(life) },
            "IdempotencyToken": token,
        }));
        let begun: Begun = self.client.call("IssueCertificate", &body).await?;
        let body = self.body(json!({ "CertificateArn": begun.certificate_arn }));
        let mut pause = FIRST_PAUSE;
        loop {
            match self.client.call("GetCertificate", &body).await {
                Err(error) if error.code() == "RequestInProgressException" => {}
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// Roots from upstream, and the supplemental ones, each once.
    async fn roots(&self, upstream: Vec<u8>) -> Vec<X509Authority> {
        let settings = self.settings.clone();
        let found = match tokio::task::spawn_blocking(move || read(&settings)).await {
            Ok(found) => found,
            Err(error) => Err(error.to_string()),
        };
        let mut supplemental = self.supplemental.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(found) => *supplemental = found,
            Err(error) => tracing::warn!(
                error,
                "The supplemental bundle cannot be used, staying with the last good one"
            ),
        }
        let mut seen = HashSet::new();
        let all = std::iter::once(Arc::from(upstream)).chain(supplemental.iter().cloned());
        let all = all.filter(|der: &Arc<[u8]>| seen.insert(Arc::clone(der)));
        all.map(|der| X509Authority { der, tainted: false }).collect()
    }
}

#[async_trait]
impl UpstreamAuthority for Pca {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, PortError> {
        let issued = tokio::time::timeout(ISSUANCE, self.issue(csr, ttl)).await;
        let issued = issued
            .map_err(|_| failed(format!("no certificate came within {} s", ISSUANCE.as_secs())))?
            .map_err(|error| failed(chain(&error)))?;
        let (chain, root) = chain_of(&issued).map_err(failed)?;
        let Some(root) = root else {
            return Err(failed("the answer has no chain to a root".to_owned()));
        };
        let roots = self.roots(root).await;
        Ok(MintedCa { chain, upstream_roots: roots })
    }

    /// The root above the CA: a CA whose own certificate was replaced is followed. Needs a right
    /// that SPIRE does not ask for; without it nothing is said.
    async fn upstream_bundle(&self) -> Result<Option<UpstreamBundle>, PortError> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let action = "GetCertificateAuthorityCertificate";
        let found: Issued = match self.client.call(action, &self.body(json!({}))).await {
            Ok(found) => found,
            Err(error) if error.is_denied() => {
                tracing::debug!(error = chain(&error), "The root above is not followed");
                self.is_closed.store(true, Ordering::Relaxed);
                return Ok(None);
            }
            Err(error) => return Err(failed(chain(&error))),
        };
        let (own, root) = chain_of(&found).map_err(failed)?;
        // A root CA has no chain.
        let root = root.or_else(|| own.first().map(|der| der.to_vec()));
        match root {
            Some(root) => Ok(Some(UpstreamBundle::of_roots(self.roots(root).await))),
            None => Ok(None),
        }
    }

    fn poll_interval(&self) -> Duration {
        POLL
    }
}

/// A certificate with what is between it and the root, and the root.
type Chain = (Vec<Arc<[u8]>>, Option<Vec<u8>>);

/// Reads an answer: the root is the last of its chain.
fn chain_of(issued: &Issued) -> Result<Chain, String> {
    let read = |text: &str| pem::decode_certificates(text).map_err(|error| chain(&error));
    let own = read(&issued.certificate)?;
    let above = issued.certificate_chain.as_deref().map(str::trim).filter(|text| !text.is_empty());
    let mut above = above.map(read).transpose()?.unwrap_or_default();
    if above.len() > MAX_CHAIN {
        return Err(format!("the chain has more than {MAX_CHAIN} certificates"));
    }
    let root = above.pop();
    Ok((own.into_iter().take(1).chain(above).map(Into::into).collect(), root))
}

fn read(settings: &PcaSettings) -> Result<Vec<Arc<[u8]>>, String> {
    let Some(path) = &settings.supplemental_bundle_path else { return Ok(Vec::new()) };
    let found = text_file::certificates(path).map_err(|error| chain(&error))?;
    Ok(found.into_iter().map(Into::into).collect())
}

fn failed(message: String) -> PortError {
    PortError::Failed { name: NAME, message }
}

impl fmt::Debug for Pca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pca({})", self.settings.certificate_authority_arn)
    }
}
