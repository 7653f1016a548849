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
