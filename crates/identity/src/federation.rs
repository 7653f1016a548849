//! Federation relationships.

use crate::{SpiffeId, TrustDomain};

/// How a bundle endpoint is authenticated (SPIFFE Federation standard, section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleEndpointProfile {
    /// `https_spiffe`: the endpoint presents the X.509-SVID of this ID.
    HttpsSpiffe {
        /// The endpoint's SPIFFE ID.
        endpoint_spiffe_id: SpiffeId,
    },
    /// `https_web`: the endpoint presents a certificate of the public web.
    HttpsWeb,
}

impl BundleEndpointProfile {
    /// Its name in the standard and in SPIRE's settings, commands and database.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HttpsSpiffe { .. } => "https_spiffe",
            Self::HttpsWeb => "https_web",
        }
    }

    /// Whose SVID the endpoint presents; none when it presents no SVID.
    pub fn endpoint_spiffe_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::HttpsSpiffe { endpoint_spiffe_id } => Some(endpoint_spiffe_id),
            Self::HttpsWeb => None,
        }
    }
}

/// The inverse of [`BundleEndpointProfile::endpoint_spiffe_id`].
impl From<Option<SpiffeId>> for BundleEndpointProfile {
    fn from(endpoint: Option<SpiffeId>) -> Self {
        endpoint
            .map_or(Self::HttpsWeb, |endpoint_spiffe_id| Self::HttpsSpiffe { endpoint_spiffe_id })
    }
}

/// A relationship with a foreign trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederationRelationship {
    /// The foreign trust domain.
    pub trust_domain: TrustDomain,
    /// Where its bundle is fetched: an `https://` URL without user information.
    pub bundle_endpoint_url: String,
    /// How the endpoint is authenticated.
    pub profile: BundleEndpointProfile,
}
