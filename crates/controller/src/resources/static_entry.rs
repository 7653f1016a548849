//! ClusterStaticEntry: an entry written out.

use serde::Deserialize;
use signet_identity::{EntrySpec, Selector, SelectorSet, SpiffeId, TrustDomain};

use super::{tenant, ttl};

/// The specification as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StaticEntrySpec {
    /// The SPIFFE ID.
    #[serde(rename = "spiffeID")]
    pub spiffe_id: String,
    /// Its parent.
    #[serde(rename = "parentID")]
    pub parent_id: String,
    /// Selectors, `type:value`.
    pub selectors: Vec<String>,
    /// Foreign trust domains.
    #[serde(rename = "federatesWith")]
    pub federates_with: Vec<String>,
    /// Life of X.509-SVIDs.
    #[serde(rename = "x509SVIDTTL")]
    pub x509_svid_ttl: Option<String>,
    /// Life of JWT-SVIDs.
    #[serde(rename = "jwtSVIDTTL")]
    pub jwt_svid_ttl: Option<String>,
    /// DNS names.
    #[serde(rename = "dnsNames")]
    pub dns_names: Vec<String>,
    /// Hint.
    pub hint: String,
    /// Admin.
    pub admin: bool,
    /// Downstream.
    pub downstream: bool,
    /// Stored by agents.
    #[serde(rename = "storeSVID")]
    pub store_svid: bool,
    /// Whose the entry is.
    pub tenant: String,
    /// JWT-SVIDs say whose it is.
    #[serde(rename = "jwtSVIDTenantClaim")]
    pub jwt_svid_tenant_claim: bool,
    /// Which controller acts on it.
    #[serde(rename = "className")]
    pub class_name: String,
}

/// The entry that a specification stands for.
///
/// # Errors
/// The first thing that is wrong, in spire-controller-manager's words.
pub fn parse_static_entry(spec: &StaticEntrySpec) -> Result<EntrySpec, String> {
    let id = |what: &str, text: &str| {
        text.parse::<SpiffeId>().map_err(|error| format!("failed to parse {what}: {error}"))
    };
    let spiffe_id = id("SPIFFEID", &spec.spiffe_id)?;
    let parent_id = id("ParentID", &spec.parent_id)?;
    let mut selectors = Vec::with_capacity(spec.selectors.len());
    for text in &spec.selectors {
        let selector = text.parse::<Selector>();
        selectors.push(selector.map_err(|error| format!("failed to parse Selectors: {error}"))?);
    }
    let mut federates_with = Vec::with_capacity(spec.federates_with.len());
    for name in &spec.federates_with {
        let name = TrustDomain::from_name_or_id(name);
        federates_with.push(name.map_err(|error| format!("invalid federatesWith value: {error}"))?);
    }
    let selectors: SelectorSet = selectors.into_iter().collect();
    let tenant = tenant("tenant", &spec.tenant)?;
    if spec.jwt_svid_tenant_claim && tenant.is_none() {
        return Err("jwtSVIDTenantClaim needs a tenant".to_owned());
    }
    Ok(EntrySpec {
        tenant,
        jwt_svid_tenant_claim: spec.jwt_svid_tenant_claim,
        x509_svid_ttl: ttl("x509SVIDTTL", spec.x509_svid_ttl.as_deref())?,
        jwt_svid_ttl: ttl("jwtSVIDTTL", spec.jwt_svid_ttl.as_deref())?,
        federates_with,
        admin: spec.admin,
        downstream: spec.downstream,
        dns_names: spec.dns_names.clone(),
        store_svid: spec.store_svid,
        hint: spec.hint.clone(),
        ..EntrySpec::new(spiffe_id, parent_id, selectors)
    })
}
