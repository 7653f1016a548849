//! What the Workload API says, as values.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use signet_api::pb::workload as pb;
use signet_identity::{Bundle, SpiffeId, TrustDomain, X509Authority};
use signet_pki::x509::split_der_chain;
use signet_time::UnixTime;
use zeroize::Zeroizing;

use crate::config::Select;

/// An X.509-SVID.
pub struct Svid {
    /// Whose it is.
    pub id: SpiffeId,
    /// Its hint; empty for none.
    pub hint: String,
    /// Certificates, DER, leaf first; at least one.
    pub chain: Vec<Vec<u8>>,
    /// The key, PKCS#8 DER.
    pub key: Zeroizing<Vec<u8>>,
    /// The bundle of its trust domain.
    pub bundle: Bundle,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Svid({}, ..)", self.id)
    }
}

/// All X.509-SVIDs and bundles of the helper.
#[derive(Debug)]
pub struct X509Context {
    /// In the order of the Workload API: the first is the default.
    pub svids: Vec<Svid>,
    /// Bundles of other trust domains.
    pub federated: BTreeMap<TrustDomain, Bundle>,
}

impl X509Context {
    /// Reads a message.
    ///
    /// # Errors
    /// A sentence, when it is not what the Workload API says.
    pub fn from_message(message: pb::X509svidResponse) -> Result<Self, String> {
        let mut svids = Vec::new();
        for svid in message.svids {
            let id: SpiffeId = svid
                .spiffe_id
                .parse()
                .map_err(|error| format!("SPIFFE ID {:?}: {error}", svid.spiffe_id))?;
            let chain = certificates(&svid.x509_svid)?;
            if chain.is_empty() {
                return Err(format!("{id} has no certificate"));
            }
            let bundle = bundle(id.trust_domain().clone(), &svid.bundle)?;
            let key = Zeroizing::new(svid.x509_svid_key.to_vec());
            svids.push(Svid { id, hint: svid.hint, chain, key, bundle });
        }
        let mut federated = BTreeMap::new();
        for (id, ders) in message.federated_bundles {
            let name = TrustDomain::from_name_or_id(&id)
                .map_err(|error| format!("trust domain {id:?}: {error}"))?;
            federated.insert(name.clone(), bundle(name, &ders)?);
        }
        Ok(Self { svids, federated })
    }

    /// The one that is meant.
    ///
    /// # Errors
    /// A sentence, when there is none.
    pub fn find(&self, select: &Select) -> Result<&Svid, String> {
        let found = match select {
            Select::Default => self.svids.first(),
            Select::Hint(hint) => self.svids.iter().find(|svid| svid.hint == *hint),
            Select::Id(id) => self.svids.iter().find(|svid| svid.id == *id),
        };
        found.ok_or_else(|| absent("X.509-SVID", select))
    }
}

/// The token that is meant, and when it expires.
///
/// # Errors
/// A sentence, when there is none, or it cannot be read.
pub fn token(message: &pb::JwtsvidResponse, select: &Select) -> Result<(String, UnixTime), String> {
    let found = match select {
        Select::Default => message.svids.first(),
        Select::Hint(hint) => message.svids.iter().find(|svid| svid.hint == *hint),
        Select::Id(id) => message.svids.iter().find(|svid| svid.spiffe_id == id.to_string()),
    };
    let svid = found.ok_or_else(|| absent("JWT-SVID", select))?;
    let claims = svid.svid.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims = claims.and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
    let expires = claims.and_then(|claims| claims.get("exp")?.as_f64());
    let expires = expires.ok_or("the JWT-SVID says no time of expiry")?;
    Ok((svid.svid.clone(), UnixTime::from_seconds(expires as i64)))
}

fn absent(what: &str, select: &Select) -> String {
    match select {
        Select::Default => format!("there is no {what}"),
        Select::Hint(hint) => format!("there is no {what} with the hint {hint:?}"),
        Select::Id(id) => format!("there is no {what} of {id}"),
    }
}

fn certificates(ders: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let split = split_der_chain(ders).map_err(|error| format!("certificates: {error}"))?;
    Ok(split.into_iter().map(<[u8]>::to_vec).collect())
}

fn bundle(trust_domain: TrustDomain, ders: &[u8]) -> Result<Bundle, String> {
    let mut bundle = Bundle::empty(trust_domain);
    let authority = |der: Vec<u8>| X509Authority { der: der.into(), tainted: false };
    bundle.x509_authorities = certificates(ders)?.into_iter().map(authority).collect();
    Ok(bundle)
}
