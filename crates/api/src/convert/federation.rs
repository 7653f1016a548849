//! Federation relationships.

use signet_identity::{
    Bundle, BundleEndpointProfile, FederationRelationship, SpiffeId, TrustDomain,
};

use super::{ConvertError, bundle_from_pb, bundle_to_pb, trust_domain_from_pb};
use crate::pb::spire::api::types::{
    self, FederationRelationshipMask, federation_relationship::BundleEndpointProfile as Profile,
};

/// A relationship as a message, with the fields of `mask` (`None` for all); the trust domain is
/// always there. `bundle` is the foreign bundle held now, if any.
pub fn federation_to_pb(
    relationship: &FederationRelationship,
    bundle: Option<&Bundle>,
    mask: Option<&FederationRelationshipMask>,
) -> types::FederationRelationship {
    let mask = mask.copied().unwrap_or_else(federation_mask_all);
    let mut out = types::FederationRelationship {
        trust_domain: relationship.trust_domain.as_str().to_owned(),
        ..Default::default()
    };
    if mask.bundle_endpoint_url {
        out.bundle_endpoint_url.clone_from(&relationship.bundle_endpoint_url);
    }
    if mask.bundle_endpoint_profile {
        out.bundle_endpoint_profile = Some(match &relationship.profile {
            BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => {
                Profile::HttpsSpiffe(types::HttpsspiffeProfile {
                    endpoint_spiffe_id: endpoint_spiffe_id.to_string(),
                })
            }
            BundleEndpointProfile::HttpsWeb => Profile::HttpsWeb(types::HttpsWebProfile {}),
        });
    }
    if mask.trust_domain_bundle {
        out.trust_domain_bundle = bundle.map(|bundle| bundle_to_pb(bundle, None));
    }
    out
}

/// Reads a relationship to create, and the bundle that came with it.
///
/// # Errors
/// [`ConvertError`] with the first rule that it breaks.
pub fn federation_from_pb(
    relationship: &types::FederationRelationship,
) -> Result<(FederationRelationship, Option<Bundle>), ConvertError> {
    let change = FederationChange::from_pb(relationship, None)?;
    let (Some(bundle_endpoint_url), Some(profile)) = (change.bundle_endpoint_url, change.profile)
    else {
        return Err(ConvertError::Missing("missing federation relationship"));
    };
    let trust_domain = change.trust_domain;
    Ok((FederationRelationship { trust_domain, bundle_endpoint_url, profile }, change.bundle))
}

/// What an update changes: the fields of its input mask, each checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederationChange {
    /// Whose relationship.
    pub trust_domain: TrustDomain,
    /// The new URL.
    pub bundle_endpoint_url: Option<String>,
    /// The new profile.
    pub profile: Option<BundleEndpointProfile>,
    /// The bundle to set.
    pub bundle: Option<Bundle>,
}

impl FederationChange {
    /// Reads the fields of `mask` (`None` for all).
    ///
    /// # Errors
    /// [`ConvertError`] with the first rule that a field breaks.
    pub fn from_pb(
        relationship: &types::FederationRelationship,
        mask: Option<&FederationRelationshipMask>,
    ) -> Result<Self, ConvertError> {
        let mask = mask.copied().unwrap_or_else(federation_mask_all);
        let trust_domain = trust_domain_from_pb(&relationship.trust_domain)
            .map_err(|error| error.within("failed to parse trust domain"))?;
        let mut bundle_endpoint_url = None;
        if mask.bundle_endpoint_url {
            check_url(&relationship.bundle_endpoint_url)?;
            bundle_endpoint_url = Some(relationship.bundle_endpoint_url.clone());
        }
        let mut profile = None;
        if mask.bundle_endpoint_profile {
            profile = Some(profile_from_pb(relationship.bundle_endpoint_profile.as_ref())?);
        }
        let mut bundle = None;
        if let Some(pb) = &relationship.trust_domain_bundle
            && mask.trust_domain_bundle
        {
            let read = bundle_from_pb(pb).map_err(|e| e.within("failed to parse bundle"))?;
            if read.trust_domain != trust_domain {
                return Err(ConvertError::UnknownValue(format!(
                    "trust domain bundle (\"{}\") must match the trust domain of the federation \
                     relationship (\"{trust_domain}\")",
                    pb.trust_domain
                )));
            }
            bundle = Some(read);
        }
        Ok(Self { trust_domain, bundle_endpoint_url, profile, bundle })
    }

    /// Applies URL and profile to `relationship`.
    pub fn apply(self, relationship: &mut FederationRelationship) {
        if let Some(url) = self.bundle_endpoint_url {
            relationship.bundle_endpoint_url = url;
        }
        if let Some(profile) = self.profile {
            relationship.profile = profile;
        }
    }
}

/// The mask that selects every field.
pub fn federation_mask_all() -> FederationRelationshipMask {
    FederationRelationshipMask {
        bundle_endpoint_url: true,
        bundle_endpoint_profile: true,
        trust_domain_bundle: true,
    }
}

fn profile_from_pb(profile: Option<&Profile>) -> Result<BundleEndpointProfile, ConvertError> {
    match profile {
        Some(Profile::HttpsSpiffe(spiffe)) => {
            let id: Result<SpiffeId, _> = spiffe.endpoint_spiffe_id.parse();
            let endpoint_spiffe_id = id.map_err(|error| {
                ConvertError::from(error).within("failed to parse endpoint SPIFFE ID")
            })?;
            Ok(BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id })
        }
        Some(Profile::HttpsWeb(_)) => Ok(BundleEndpointProfile::HttpsWeb),
        None => Err(ConvertError::Missing("unsupported bundle endpoint profile type: <nil>")),
    }
}

fn check_url(url: &str) -> Result<(), ConvertError> {
    let fail = |why: &str| Err(ConvertError::BundleEndpointUrl(why.to_owned()));
    if url.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return fail("failed to parse bundle endpoint URL: invalid character in URL");
    }
    let rest = match url.split_once(':') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
        _ => return fail("bundle endpoint URL must use the https scheme"),
    };
    let authority = rest.strip_prefix("//").unwrap_or_default();
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return fail("bundle endpoint URL must not contain user info");
    }
    if authority.is_empty() {
        return fail("bundle endpoint URL must specify the host");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pb() -> types::FederationRelationship {
        types::FederationRelationship {
            trust_domain: "other".into(),
            bundle_endpoint_url: "https://other/bundle".into(),
            bundle_endpoint_profile: Some(Profile::HttpsSpiffe(types::HttpsspiffeProfile {
                endpoint_spiffe_id: "spiffe://other/endpoint".into(),
            })),
            trust_domain_bundle: Some(types::Bundle {
                trust_domain: "other".into(),
                ..Default::default()
            }),
        }
    }

    #[test]
    fn relationships_round_trip() {
        let (relationship, bundle) = federation_from_pb(&pb()).unwrap();
        assert_eq!(federation_to_pb(&relationship, bundle.as_ref(), None), pb());
    }

    #[test]
    fn broken_relationships_are_refused_with_the_text_of_spire() {
        let refuse = |change: fn(&mut types::FederationRelationship)| {
            let mut relationship = pb();
            change(&mut relationship);
            federation_from_pb(&relationship).unwrap_err().to_string()
        };
        let url = |text: &str| {
            let relationship =
                types::FederationRelationship { bundle_endpoint_url: text.into(), ..pb() };
            federation_from_pb(&relationship).unwrap_err().to_string()
        };
        assert_eq!(url("http://x"), "bundle endpoint URL must use the https scheme");
        assert_eq!(url("x"), "bundle endpoint URL must use the https scheme");
        assert_eq!(url("https:///x"), "bundle endpoint URL must specify the host");
        assert_eq!(url("https://u@x"), "bundle endpoint URL must not contain user info");
        assert!(url("https://a b").starts_with("failed to parse bundle endpoint URL"));
        assert_eq!(
            refuse(|r| r.trust_domain.clear()),
            "failed to parse trust domain: trust domain is missing"
        );
        assert_eq!(
            refuse(|r| r.trust_domain_bundle.as_mut().unwrap().trust_domain = "x".into()),
            "trust domain bundle (\"x\") must match the trust domain of the federation \
             relationship (\"other\")"
        );
        assert!(refuse(|r| r.bundle_endpoint_profile = None).contains("unsupported"));
    }
}
