//! ClusterFederatedTrustDomain: a relationship with a foreign trust domain.

use serde::Deserialize;
use signet_identity::{
    Bundle, BundleEndpointProfile, FederationRelationship, SpiffeId, TrustDomain,
};
use signet_pki::jwks;

/// The specification as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FederationSpec {
    /// The foreign trust domain.
    pub trust_domain: String,
    /// Where its bundle is.
    #[serde(rename = "bundleEndpointURL")]
    pub bundle_endpoint_url: String,
    /// How the endpoint is authenticated.
    pub bundle_endpoint_profile: Profile,
    /// A bundle to start with, a SPIFFE bundle document.
    pub trust_domain_bundle: String,
    /// Which controller acts on it.
    pub class_name: String,
}

/// How the endpoint is authenticated, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// `https_web` or `https_spiffe`.
    pub r#type: String,
    /// For `https_spiffe`.
    #[serde(rename = "endpointSPIFFEID")]
    pub endpoint_spiffe_id: String,
}

/// The relationship that a specification stands for, and the bundle that comes with it.
///
/// # Errors
/// The first thing that is wrong, in spire-controller-manager's words.
pub fn parse_federation(
    spec: &FederationSpec,
) -> Result<(FederationRelationship, Option<Bundle>), String> {
    let trust_domain = TrustDomain::from_name_or_id(&spec.trust_domain)
        .map_err(|error| format!("invalid trustDomain value: {error}"))?;
    check_url(&spec.bundle_endpoint_url)
        .map_err(|error| format!("invalid bundleEndpointURL value: {error}"))?;
    let Profile { r#type, endpoint_spiffe_id } = &spec.bundle_endpoint_profile;
    const ENDPOINT: &str = "invalid bundle endpoint profile endpointSPIFFEID value";
    let profile = match r#type.as_str() {
        "https_web" if endpoint_spiffe_id.is_empty() => BundleEndpointProfile::HttpsWeb,
        "https_web" => {
            return Err(format!("{ENDPOINT}: not applicable to the \"https_web\" profile"));
        }
        "https_spiffe" => BundleEndpointProfile::HttpsSpiffe {
            endpoint_spiffe_id: endpoint_spiffe_id
                .parse::<SpiffeId>()
                .map_err(|error| format!("{ENDPOINT}: {error}"))?,
        },
        other => return Err(format!("invalid bundle endpoint profile type value {other:?}")),
    };
    let bundle = match spec.trust_domain_bundle.as_str() {
        "" => None,
        text => Some(
            jwks::decode_spiffe(trust_domain.clone(), text.as_bytes())
                .map_err(|error| format!("invalid trustDomainBundle value: {error}"))?,
        ),
    };
    let bundle_endpoint_url = spec.bundle_endpoint_url.clone();
    Ok((FederationRelationship { trust_domain, bundle_endpoint_url, profile }, bundle))
}

fn check_url(url: &str) -> Result<(), String> {
    if url.is_empty() {
        return Err("bundle endpoint URL is missing".to_owned());
    }
    let uri: http::Uri = url.parse().map_err(|error| format!("{url:?}: {error}"))?;
    if uri.scheme_str() != Some("https") {
        return Err("scheme must be https".to_owned());
    }
    match uri.authority() {
        None => Err("host must be specified".to_owned()),
        Some(authority) if authority.host().is_empty() => Err("host must be specified".to_owned()),
        Some(authority) if authority.as_str().contains('@') => {
            Err("cannot contain userinfo".to_owned())
        }
        Some(_) => Ok(()),
    }
}
