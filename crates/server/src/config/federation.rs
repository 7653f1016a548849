//! `federation {}`: relationships that the file fixes.

use signet_config::Block;
use signet_identity::{BundleEndpointProfile, FederationRelationship, SpiffeId, TrustDomain};

/// Reads `federation { federates_with "td" { … } }`.
pub(super) fn relationships(server: &Block<'_>) -> Vec<FederationRelationship> {
    let Some(federation) = server.block("federation") else {
        return Vec::new();
    };
    federation.refuse(
        "bundle_endpoint",
        "this release serves no bundle endpoint; give the other side the output of \
         `bundle show -format spiffe` for its `bundle set`",
    );
    let relationships: Vec<_> =
        federation.labelled("federates_with").into_iter().filter_map(relationship).collect();
    if !relationships.is_empty() {
        federation.warn(
            "federates_with",
            "the relationships are kept, but this release does not fetch bundles by itself; \
             renew the foreign bundles with `bundle set`",
        );
    }
    federation.finish();
    relationships
}

fn relationship((label, block): (String, Block<'_>)) -> Option<FederationRelationship> {
    let trust_domain = TrustDomain::from_name_or_id(&label)
        .map_err(|error| block.context().error(block.pos(), format!("{label:?}: {error}")))
        .ok();
    let url = block.required_text("bundle_endpoint_url");
    if let Some(url) = &url
        && !url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
    {
        block.error("bundle_endpoint_url", format_args!("found {url:?}, expected an https:// URL"));
    }
    let mut profiles = block.labelled("bundle_endpoint_profile");
    if profiles.len() > 1 {
        block.error("bundle_endpoint_profile", "only one profile is expected");
    }
    let profile = match profiles.pop() {
        None => {
            block.missing("bundle_endpoint_profile");
            None
        }
        Some((name, profile)) => self::profile(&name, profile),
    };
    block.finish();
    Some(FederationRelationship {
        trust_domain: trust_domain?,
        bundle_endpoint_url: url?,
        profile: profile?,
    })
}

fn profile(name: &str, block: Block<'_>) -> Option<BundleEndpointProfile> {
    match name {
        "https_web" => {
            block.finish();
            Some(BundleEndpointProfile::HttpsWeb)
        }
        "https_spiffe" => {
            let id = block.parsed::<SpiffeId>("endpoint_spiffe_id");
            let id = block.required("endpoint_spiffe_id", id);
            block.finish();
            id.map(|endpoint_spiffe_id| BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id })
        }
        _ => {
            let message = format!("found profile {name:?}, expected https_spiffe or https_web");
            block.context().error(block.pos(), message);
            None
        }
    }
}
