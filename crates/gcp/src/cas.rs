//! The upstream authority `gcp_cas`: an authority of Certificate Authority Service signs the server's
//! X.509 CA. Authorities are found by a label, so that a new one can be trusted before the old one
//! goes.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;
use signet_base::chain;
use signet_http::rest::{Call, RestError};
use signet_identity::X509Authority;
use signet_pki::{
    UpstreamAuthority, pem,
    ports::{MintedCa, PortError, UpstreamBundle},
    random,
    x509::Csr,
};
use signet_time::UnixTime;

use crate::Gcp;

/// The plugin's name.
const NAME: &str = "gcp_cas";
/// How many certificates a chain may have.
const MAX_CHAIN: usize = 32;
/// How many items a page of a list has.
const PAGE: u32 = 100;
/// How long signing may take: keys of the enterprise tier are in hardware.
const SIGNING: Duration = Duration::from_secs(30);

/// Which authorities sign, SPIRE's `root_cert_spec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CasSettings {
    /// The service's URL, `https://privateca.googleapis.com`.
    pub endpoint: String,
    /// The project.
    pub project: String,
    /// The region.
    pub location: String,
    /// The pool; unset, the one pool of the region that has such authorities.
    pub ca_pool: Option<String>,
    /// The label that they have.
    pub label_key: String,
    /// Its value.
    pub label_value: String,
}

/// Authorities that sign the server's CA, asked as SPIRE asks them.
pub struct Cas {
    gcp: Gcp,
    settings: CasSettings,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    name: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    create_time: String,
    #[serde(default)]
    lifetime: String,
    #[serde(default)]
    pem_ca_certificates: Vec<String>,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Pool {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    #[serde(default)]
    pem_certificate: String,
    #[serde(default)]
    pem_certificate_chain: Vec<String>,
}

impl Authority {
    /// When it expires, seconds since 1970; never where that is not understood.
    fn end(&self) -> i64 {
        let begin = self.create_time.parse::<UnixTime>().map(UnixTime::seconds);
        let life = self.lifetime.trim_end_matches('s').split('.').next().unwrap_or_default();
        match (begin, life.parse::<i64>()) {
            (Ok(begin), Ok(life)) => begin.saturating_add(life),
            _ => i64::MAX,
        }
    }

    /// Its root: the last certificate of its chain.
    fn root(&self) -> Result<X509Authority, String> {
        let last = self.pem_ca_certificates.last();
        let last = last.ok_or_else(|| format!("{} has no certificate", self.name))?;
        Ok(trusted(one(last)?))
    }
}

impl Cas {
    /// Nothing is sent yet.
    pub fn new(gcp: Gcp, settings: CasSettings) -> Self {
        Self { gcp, settings }
    }

    fn url(&self, name: &str) -> String {
        format!("{}/v1/{name}", self.settings.endpoint.trim_end_matches('/'))
    }

    /// The enabled authorities with the label, the one that expires first at the beginning.
    async fn authorities(&self) -> Result<Vec<Authority>, String> {
        let CasSettings { project, location, ca_pool, label_key, label_value, .. } = &self.settings;
        let region = format!("projects/{project}/locations/{location}");
        let failed = |error: RestError| chain(&error);
        let pools = match ca_pool {
            Some(pool) => vec![format!("{region}/caPools/{pool}")],
            None => {
                let url = self.url(&format!("{region}/caPools"));
                let pools = self.gcp.pages::<Pool>(&url, "caPools", PAGE, None).await;
                let inside = format!("{region}/caPools/");
                let pools = pools.map_err(failed)?.into_iter().map(|pool| pool.name);
                pools.filter(|name| name.starts_with(&inside)).collect()
            }
        };
        let filter = format!("labels.{label_key}:{label_value}");
        let mut found: Vec<Authority> = Vec::new();
        for pool in &pools {
            let inside = format!("{pool}/certificateAuthorities/");
            let url = self.url(inside.trim_end_matches('/'));
            let all: Result<Vec<Authority>, _> =
                self.gcp.pages(&url, "certificateAuthorities", PAGE, Some(&filter)).await;
            let mut all = all.map_err(failed)?;
            all.retain(|ca| {
                ca.name.starts_with(&inside) && ca.labels.get(label_key) == Some(label_value)
            });
            if !all.is_empty() && !found.is_empty() {
                return Err("authorities with the label are in several pools: name one by ca_pool"
                    .to_owned());
            }
            found.extend(all);
        }
        let any = !found.is_empty();
        found.retain(|ca| ca.state == "ENABLED");
        found.sort_by_key(Authority::end);
        if found.is_empty() {
            let enabled = if any { " that is enabled" } else { "" };
            return Err(format!(
                "there is no authority{enabled} with the label {label_key}={label_value} in {}",
                pools.join(", ")
            ));
        }
        Ok(found)
    }

    async fn mint(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, String> {
        let read = Csr::from_der(csr).map_err(|error| chain(&error))?;
        let authorities = self.authorities().await?;
        let Some((issuer, others)) = authorities.split_first() else {
            return Err("there is no authority".to_owned());
        };
        let (pool, id) = issuer
            .name
            .split_once("/certificateAuthorities/")
            .ok_or_else(|| format!("{} is no authority's name", issuer.name))?;
        let subject = read.subject();
        let first = |texts: &[String]| texts.first().cloned();
        let key = pem::encode("PUBLIC KEY", read.public_key().spki_der());
        let mut body = json!({
            "config": {
                "publicKey": { "format": "PEM", "key": STANDARD.encode(key) },
                "subjectConfig": {
                    "subject": {
                        "commonName": subject.common_name,
                        "organization": first(&subject.organization),
                    },
                    "subjectAltName": { "uris": read.uris() },
                },
                "x509Config": {
                    "caOptions": { "isCa": true, "maxIssuerPathLength": 0 },
                    "keyUsage": { "baseKeyUsage": { "certSign": true, "crlSign": true } },
                },
            },
        });
        if let Some(body) = body.as_object_mut().filter(|_| !ttl.is_zero()) {
            body.insert("lifetime".to_owned(), format!("{}s", ttl.as_secs()).into());
        }
        // The same request with the same ID is done once: its answer can be lost and asked for again.
        let uuid = random::uuid_v4().map_err(|error| error.to_string())?;
        let call = Call::post(self.url(&format!(
            "{pool}/certificates?certificateId={uuid}&requestId={uuid}&issuingCertificateAuthorityId={id}"
        )));
        let call = call.json(&body).repeatable().within(SIGNING);
        let made = match self.gcp.json(call.clone()).await {
            Err(error) if error.status() == Some(409) => {
                let made = self.url(&format!("{pool}/certificates/{uuid}"));
                self.gcp.json(Call::get(made)).await
            }
            made => made,
        };
        let made = made.map_err(|error| chain(&error))?;
        let made: Certificate = serde_json::from_value(made)
            .map_err(|_| chain(&RestError::nonsense(&call, "it is no certificate")))?;
        let mut roots = Vec::new();
        let minted = chain_of(&made, &mut roots)?;
        for other in others {
            let root = other.root()?;
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        Ok(MintedCa { chain: minted, upstream_roots: roots })
    }
}

/// The new certificate and what is between it and its root, which goes into `roots`.
fn chain_of(made: &Certificate, roots: &mut Vec<X509Authority>) -> Result<Vec<Arc<[u8]>>, String> {
    if made.pem_certificate_chain.len() > MAX_CHAIN {
        return Err(format!("the chain has more than {MAX_CHAIN} certificates"));
    }
    let new = one(&made.pem_certificate)?;
    let above: Vec<_> =
        made.pem_certificate_chain.iter().map(|text| one(text)).collect::<Result<_, _>>()?;
    let Some((root, between)) = above.split_last() else {
        return Err("the chain of the new certificate is empty".to_owned());
    };
    roots.push(trusted(root.clone()));
    let mut seen = HashSet::from([root.clone()]);
    let all = std::iter::once(&new).chain(between).filter(|der| seen.insert((*der).clone()));
    Ok(all.map(|der| der.as_slice().into()).collect())
}

fn one(text: &str) -> Result<Vec<u8>, String> {
    let ders = pem::decode_certificates(text).map_err(|error| chain(&error))?;
    ders.into_iter().next().ok_or_else(|| "a certificate is missing".to_owned())
}

fn trusted(der: Vec<u8>) -> X509Authority {
    X509Authority { der: der.into(), tainted: false }
}

#[async_trait]
impl UpstreamAuthority for Cas {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, PortError> {
        let minted = self.mint(csr, ttl).await;
        minted.map_err(|message| PortError::Failed { name: NAME, message })
    }

    /// The roots of all enabled authorities with the label: a new one reaches the bundle before the
    /// first certificate that needs it.
    async fn upstream_bundle(&self) -> Result<Option<UpstreamBundle>, PortError> {
        let failed = |message: String| PortError::Failed { name: NAME, message };
        let mut roots = Vec::new();
        for authority in self.authorities().await.map_err(failed)? {
            let root = authority.root().map_err(failed)?;
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        Ok(Some(UpstreamBundle::of_roots(roots)))
    }
}

impl fmt::Debug for Cas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CasSettings { project, location, label_key, label_value, .. } = &self.settings;
        write!(f, "Cas({project}, {location}, {label_key}={label_value})")
    }
}
