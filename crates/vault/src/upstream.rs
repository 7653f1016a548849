//! The upstream authority `vault`: the PKI secrets engine signs the server's X.509 CA.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;
use signet_base::chain;
use signet_identity::X509Authority;
use signet_pki::{
    UpstreamAuthority, pem,
    ports::{MintedCa, PortError, UpstreamBundle},
    x509::Csr,
};

use crate::{Client, Request, VaultError, path};

/// The plugin's name.
const NAME: &str = "vault";
/// How many certificates a chain may have.
const MAX_CHAIN: usize = 32;

/// A PKI secrets engine that signs the server's CA, asked as SPIRE asks it.
#[derive(Clone)]
pub struct Pki {
    client: Client,
    mount: String,
}

#[derive(Deserialize)]
struct Signed {
    certificate: String,
    issuing_ca: String,
    #[serde(default)]
    ca_chain: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Chain {
    #[serde(default)]
    certificate: String,
}

impl Pki {
    /// The engine at `mount`.
    pub fn new(client: Client, mount: impl Into<String>) -> Self {
        Self { client, mount: mount.into() }
    }
}

#[async_trait]
impl UpstreamAuthority for Pki {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, PortError> {
        let read = Csr::from_der(csr).map_err(|error| failed(&error))?;
        let subject = read.subject();
        let mut body = json!({
            "common_name": subject.common_name,
            "organization": subject.organization.join(","),
            "country": subject.country.join(","),
            "uri_sans": read.uris().join(","),
            "csr": pem::encode("CERTIFICATE REQUEST", csr),
        });
        if let Some(fields) = body.as_object_mut().filter(|_| !ttl.is_zero()) {
            fields.insert("ttl".to_owned(), ttl.as_secs().to_string().into());
        }
        let request = Request::post(path(&[&self.mount, "root", "sign-intermediate"])).json(&body);
        let answer = self.client.send(request.within(Duration::from_secs(30))).await;
        let signed: Signed =
            answer.and_then(crate::Answer::data).map_err(|error| failed(&error))?;
        minted(&signed).map_err(|why| PortError::Failed { name: NAME, message: why })
    }

    /// The root that the engine's default issuer is under: a new one reaches the bundle before the
    /// first certificate that needs it. Needs no rights.
    async fn upstream_bundle(&self) -> Result<Option<UpstreamBundle>, PortError> {
        // On the occasion: a token that was got lives on between two certificates.
        self.client.keep_fresh().await;
        let request = Request::get(path(&[&self.mount, "cert", "ca_chain"])).without_token();
        let answer = match self.client.send(request).await {
            Ok(answer) => answer,
            // A proxy that lets nothing through without a token, or a server that has no such path.
            Err(
                VaultError::Denied { .. }
                | VaultError::NotFound { .. }
                | VaultError::Refused { .. },
            ) => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let found: Chain = answer.data().map_err(|error| failed(&error))?;
        if found.certificate.trim().is_empty() {
            return Ok(None);
        }
        let ders = pem::decode_certificates(&found.certificate).map_err(|error| failed(&error))?;
        Ok(ders.into_iter().next_back().map(|der| UpstreamBundle::of_roots(vec![root(der)])))
    }
}

/// The chain and its root, of what SPIRE takes for them: the root is the last of the chain, or
/// else who issued.
fn minted(signed: &Signed) -> Result<MintedCa, String> {
    let one = |text: &str| -> Result<Vec<u8>, String> {
        let ders = pem::decode_certificates(text).map_err(|error| chain(&error))?;
        ders.into_iter().next().ok_or_else(|| "a certificate is missing".to_owned())
    };
    let new = one(&signed.certificate)?;
    let above = signed.ca_chain.as_deref().unwrap_or_default();
    if above.len() > MAX_CHAIN {
        return Err(format!("the chain has more than {MAX_CHAIN} certificates"));
    }
    let above: Vec<_> = above.iter().map(|text| one(text)).collect::<Result<_, _>>()?;
    let top = match above.last() {
        Some(last) => last.clone(),
        None => one(&signed.issuing_ca)?,
    };
    let mut seen = HashSet::from([top.clone()]);
    // Vault 1.11 and later repeat the new certificate in the chain.
    let chain = std::iter::once(new).chain(above).filter(|der| seen.insert(der.clone()));
    let chain: Vec<Arc<[u8]>> = chain.map(Into::into).collect();
    if chain.is_empty() {
        return Err("the new certificate is its own root".to_owned());
    }
    Ok(MintedCa { chain, upstream_roots: vec![root(top)] })
}

fn root(der: Vec<u8>) -> X509Authority {
    X509Authority { der: der.into(), tainted: false }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> PortError {
    PortError::Failed { name: NAME, message: chain(error) }
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pki({})", self.mount)
    }
}
