//! The upstream authority `cert-manager`: an issuer of cert-manager signs the server's X.509 CA, asked
//! by a CertificateRequest.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;
use signet_base::{SharedClock, chain};
use signet_identity::{TrustDomain, X509Authority};
use signet_pki::{
    UpstreamAuthority, pem,
    ports::{MintedCa, PortError, UpstreamBundle},
};
use signet_time::UnixTime;
use tokio::time::Instant;

use super::{
    api::{ApiServer, Write, object_name},
    error::ApiError,
    objects::null_as_default,
    watch::query_value,
};

/// The plugin's name.
const NAME: &str = "cert-manager";
/// By what requests of a trust domain are known, as SPIRE labels them.
const LABEL: &str = "cert-manager.spiffe.io/trust-domain";
/// How often a request is looked at, and for how long; SPIRE's numbers.
const LOOK: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(75);
/// Requests of others that have ended are left that long: their server may not have read them yet.
const GRACE: i64 = 300;
/// How many requests a page of a list has, and how many pages are read.
const PAGE: u32 = 500;
const MAX_PAGES: usize = 20;
/// How many certificates a chain may have.
const MAX_CHAIN: usize = 32;

/// Which issuer signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertManagerSettings {
    /// The namespace of the requests.
    pub namespace: String,
    /// The issuer's name.
    pub issuer_name: String,
    /// Its kind, `Issuer`.
    pub issuer_kind: String,
    /// Its group, `cert-manager.io`.
    pub issuer_group: String,
}

/// An issuer of cert-manager that signs the server's CA.
pub struct CertManager {
    api: ApiServer,
    settings: CertManagerSettings,
    trust_domain: String,
    clock: SharedClock,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CertificateRequest {
    metadata: RequestMetadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestMetadata {
    name: String,
    #[serde(default)]
    creation_timestamp: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default, deserialize_with = "null_as_default")]
    conditions: Vec<Condition>,
    #[serde(default, deserialize_with = "null_as_default")]
    certificate: String,
    #[serde(default, deserialize_with = "null_as_default")]
    ca: String,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    items: Vec<CertificateRequest>,
}

#[derive(Default, Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

impl CertificateRequest {
    /// Why it will never be signed, if that is so.
    fn refusal(&self) -> Option<String> {
        let found = self.status.conditions.iter().find(|condition| {
            match (&*condition.kind, &*condition.status, &*condition.reason) {
                ("Denied" | "InvalidRequest", "True", _) => true,
                ("Ready", "False", reason) => reason == "Failed",
                _ => false,
            }
        })?;
        let what = match &*found.kind {
            "Denied" => "was denied",
            "InvalidRequest" => "is not valid",
            _ => "has failed",
        };
        let said = found.message.chars().filter(|c| !c.is_control()).take(300).collect::<String>();
        Some(format!("the CertificateRequest {} {what}: {said}", self.metadata.name))
    }

    fn has_ended(&self) -> bool {
        let ready = |c: &Condition| c.kind == "Ready" && c.status == "True";
        self.refusal().is_some() || self.status.conditions.iter().any(ready)
    }

    /// What was signed: the chain and the roots.
    fn minted(&self) -> Result<MintedCa, String> {
        let read = |what: &str, text: &str| -> Result<Vec<Vec<u8>>, String> {
            let wrong = |why: &str| format!("status.{what} of {}: {why}", self.metadata.name);
            let bytes = STANDARD.decode(text).map_err(|_| wrong("it is not base64"))?;
            let text = String::from_utf8(bytes).map_err(|_| wrong("it is not text"))?;
            let ders = pem::decode_certificates(&text).map_err(|error| wrong(&chain(&error)))?;
            if ders.len() > MAX_CHAIN {
                return Err(wrong(&format!("it has more than {MAX_CHAIN} certificates")));
            }
            Ok(ders)
        };
        if self.status.ca.is_empty() {
            return Err(format!(
                "the issuer of the CertificateRequest {} does not say what its root is (status.ca)",
                self.metadata.name
            ));
        }
        let roots = read("ca", &self.status.ca)?;
        let chain = read("certificate", &self.status.certificate)?;
        // Some issuers give the root with the chain.
        let chain: Vec<Arc<[u8]>> =
            chain.into_iter().filter(|der| !roots.contains(der)).map(Into::into).collect();
        if chain.is_empty() {
            return Err("the new certificate is its own root".to_owned());
        }
        let trusted = |der: Vec<u8>| X509Authority { der: der.into(), tainted: false };
        Ok(MintedCa { chain, upstream_roots: roots.into_iter().map(trusted).collect() })
    }
}

impl CertManager {
    /// Nothing is sent yet.
    pub fn new(
        api: ApiServer,
        settings: CertManagerSettings,
        trust_domain: &TrustDomain,
        clock: SharedClock,
    ) -> Self {
        Self { api, settings, trust_domain: trust_domain.as_str().to_owned(), clock }
    }

    fn path(&self) -> Result<String, ApiError> {
        let namespace = object_name(&self.settings.namespace)?;
        Ok(format!("/apis/cert-manager.io/v1/namespaces/{namespace}/certificaterequests"))
    }

    async fn create(&self, csr: &[u8], ttl: Duration) -> Result<String, ApiError> {
        let CertManagerSettings { namespace, issuer_name, issuer_kind, issuer_group } =
            &self.settings;
        let mut request = json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "CertificateRequest",
            "metadata": {
                "generateName": "spiffe-ca-",
                "namespace": namespace,
                "labels": { LABEL: self.trust_domain },
            },
            "spec": {
                "issuerRef": { "name": issuer_name, "kind": issuer_kind, "group": issuer_group },
                "request": STANDARD.encode(pem::encode("CERTIFICATE REQUEST", csr)),
                "isCA": true,
                "usages": ["cert sign", "crl sign"],
            },
        });
        let spec = request.get_mut("spec").and_then(serde_json::Value::as_object_mut);
        if let Some(spec) = spec.filter(|_| !ttl.is_zero()) {
            spec.insert("duration".to_owned(), format!("{}s", ttl.as_secs()).into());
        }
        let made: CertificateRequest =
            self.api.written(Write::Create, &self.path()?, &request).await?;
        object_name(&made.metadata.name)?;
        Ok(made.metadata.name)
    }

    /// Waits until a request is signed.
    async fn signed(&self, name: &str) -> Result<MintedCa, String> {
        let path = format!("{}/{name}", self.path().map_err(|error| chain(&error))?);
        let end = Instant::now() + PATIENCE;
        loop {
            tokio::time::sleep(LOOK).await;
            let problem = match self.api.get_object::<CertificateRequest>(&path).await {
                Ok(request) => {
                    if let Some(refusal) = request.refusal() {
                        return Err(refusal);
                    }
                    if !request.status.certificate.is_empty() {
                        return request.minted();
                    }
                    "its issuer has not signed it".to_owned()
                }
                // A failure of the API server may pass; a refusal will not.
                Err(error) if error.status().is_some_and(|status| status < 500) => {
                    return Err(chain(&error));
                }
                Err(error) => chain(&error),
            };
            if Instant::now() >= end {
                return Err(format!(
                    "the CertificateRequest {name} did not become ready within {} s: {problem}",
                    PATIENCE.as_secs()
                ));
            }
        }
    }

    /// Removes the request `own` and those of the trust domain that ended a while ago.
    async fn clean_up(&self, own: &str) -> Result<(), ApiError> {
        let path = self.path()?;
        let gone = |done: Result<(), ApiError>| match done {
            Err(error) if error.is_not_found() => Ok(()),
            done => done,
        };
        gone(self.api.delete(&format!("{path}/{own}")).await)?;
        let limit = self.clock.unix() - GRACE;
        let selector = query_value(&format!("{LABEL}={}", self.trust_domain));
        let mut page = format!("{path}?limit={PAGE}&labelSelector={selector}");
        for _ in 0..MAX_PAGES {
            let list = self.api.get(&page).await?;
            let list: List = serde_json::from_slice(&list)
                .map_err(|error| ApiError::Answer { url: path.clone(), why: error.to_string() })?;
            for request in list.items.iter().filter(|request| request.has_ended()) {
                let RequestMetadata { name, creation_timestamp } = &request.metadata;
                let is_old = creation_timestamp.parse::<UnixTime>().is_ok_and(|made| made < limit);
                if is_old && object_name(name).is_ok() {
                    tracing::debug!(name, "Removing an old CertificateRequest");
                    gone(self.api.delete(&format!("{path}/{name}")).await)?;
                }
            }
            match list.metadata.next.filter(|next| !next.is_empty()) {
                None => break,
                Some(next) => {
                    let next = query_value(&next);
                    page = format!("{path}?limit={PAGE}&labelSelector={selector}&continue={next}");
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl UpstreamAuthority for CertManager {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, PortError> {
        let failed = |message: String| PortError::Failed { name: NAME, message };
        let name = self.create(csr, ttl).await.map_err(|error| failed(chain(&error)))?;
        tracing::info!(
            name,
            namespace = self.settings.namespace,
            "Waiting for the CertificateRequest to be signed"
        );
        let minted = self.signed(&name).await;
        if let Err(error) = self.clean_up(&name).await {
            let error = chain(&error);
            tracing::warn!(error, "Old CertificateRequests could not be removed");
        }
        minted.map_err(failed)
    }

    /// What the issuer's root is, is said with each signed request only.
    async fn upstream_bundle(&self) -> Result<Option<UpstreamBundle>, PortError> {
        Ok(None)
    }
}

impl fmt::Debug for CertManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CertManagerSettings { namespace, issuer_name, .. } = &self.settings;
        write!(f, "CertManager({namespace}, {issuer_name})")
    }
}
