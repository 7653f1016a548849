//! Federation: the own bundle endpoint, and the trust domains that are federated with.
//!
//! Each of them is a ClusterFederatedTrustDomain, so that a change needs no new pod of the server,
//! and a bundle to begin with can be given.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use signet_pki::digest::sha256_hex;

use super::{Part, Wanted, set};
use crate::{
    objects::text,
    operator::{
        CLASS,
        api::{FederatesWith, Federation, ServerSpec, is_true, or},
        kinds::{Kind, is_ours},
    },
    resources::FederationSpec,
};

const PART: &str = "FederationAvailable";

/// The trust domains that ClusterFederatedTrustDomains of somebody else are about: those are left
/// to them.
pub type Declared = BTreeSet<String>;

/// What ClusterFederatedTrustDomains of somebody else are about.
pub fn declared<'a>(resources: impl Iterator<Item = &'a Value>) -> Declared {
    resources
        .filter(|one| !is_ours(one) && text(one, "/spec/className") == CLASS)
        .map(|one| text(one, "/spec/trustDomain").to_owned())
        .collect()
}

/// What the controller is told of a trust domain.
pub fn relationship(other: &FederatesWith) -> FederationSpec {
    let mut spec = FederationSpec {
        trust_domain: other.trust_domain.clone(),
        bundle_endpoint_url: other.bundle_endpoint_url.clone(),
        trust_domain_bundle: other.trust_domain_bundle.clone(),
        class_name: CLASS.to_owned(),
        ..FederationSpec::default()
    };
    spec.bundle_endpoint_profile.r#type.clone_from(&other.bundle_endpoint_profile);
    if other.bundle_endpoint_profile == "https_spiffe" {
        spec.bundle_endpoint_profile.endpoint_spiffe_id.clone_from(&other.endpoint_spiffe_id);
    }
    spec
}

pub(super) fn relationships(
    part: &Part<'_>,
    spec: &ServerSpec,
    declared: &Declared,
) -> Vec<Wanted> {
    let others = spec.federation.iter().flat_map(|federation| &federation.federates_with);
    others
        .filter(|other| !declared.contains(&other.trust_domain))
        .map(|other| {
            let FederationSpec {
                trust_domain,
                bundle_endpoint_url,
                bundle_endpoint_profile,
                trust_domain_bundle,
                class_name,
            } = relationship(other);
            let mut profile = json!({ "type": bundle_endpoint_profile.r#type });
            if !bundle_endpoint_profile.endpoint_spiffe_id.is_empty() {
                let id = json!(bundle_endpoint_profile.endpoint_spiffe_id);
                set(&mut profile, "endpointSPIFFEID", id);
            }
            let mut spec = json!({
                "trustDomain": trust_domain,
                "bundleEndpointURL": bundle_endpoint_url,
                "bundleEndpointProfile": profile,
                "className": class_name,
            });
            if !trust_domain_bundle.is_empty() {
                set(&mut spec, "trustDomainBundle", json!(trust_domain_bundle));
            }
            let name = name(&other.trust_domain);
            part.object(Kind::FederatedTrustDomain, PART, &name, json!({ "spec": spec }))
        })
        .collect()
}

/// The name of a trust domain's resource: trust domains may have what names of objects may not.
fn name(trust_domain: &str) -> String {
    let plain = trust_domain.split('.').all(|label| {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(good)
    });
    if plain && trust_domain.len() < 230 {
        return format!("federates-with-{trust_domain}");
    }
    let digest: String = sha256_hex(trust_domain.as_bytes()).chars().take(32).collect();
    format!("federates-with-{digest}")
}

/// The block `federation` of the server's configuration.
pub(super) fn endpoint(federation: &Federation, certificate: &str) -> Value {
    let given = &federation.bundle_endpoint;
    let acme = given.https_web.as_ref().and_then(|web| web.acme.as_ref());
    let profile = if let (true, Some(acme)) = (given.profile == "https_web", acme) {
        json!({ "https_web": { "acme": {
            "directory_url": acme.directory_url,
            "domain_name": acme.domain_name,
            "email": acme.email,
            "tos_accepted": acme.tos_accepted == "true",
        } } })
    } else if given.profile == "https_web" {
        let cert = given.https_web.as_ref().and_then(|web| web.serving_cert.clone());
        let interval = cert.unwrap_or_default().file_sync_interval;
        let interval = if interval == 0 { 3600 } else { interval };
        json!({ "https_web": { "serving_cert_file": {
            "cert_file_path": format!("{certificate}/tls.crt"),
            "key_file_path": format!("{certificate}/tls.key"),
            "file_sync_interval": format!("{interval}s"),
        } } })
    } else {
        json!({ "https_spiffe": {} })
    };
    let hint = if given.refresh_hint == 0 { 300 } else { given.refresh_hint };
    json!({ "bundle_endpoint": {
        "address": "0.0.0.0",
        "port": 8443,
        "refresh_hint": format!("{hint}s"),
        "profile": profile,
    } })
}

/// The Route of the bundle endpoint, on OpenShift, and what it needs.
pub(super) fn route(part: &Part<'_>, spec: &ServerSpec) -> Vec<Wanted> {
    let Some(federation) = &spec.federation else { return Vec::new() };
    if !part.platform().openshift || !is_true(&federation.managed_route, true) {
        return Vec::new();
    }
    let mut all = Vec::new();
    let endpoint = &federation.bundle_endpoint;
    let mut tls = json!({ "insecureEdgeTerminationPolicy": "Redirect" });
    let has_acme = endpoint.https_web.as_ref().is_some_and(|web| web.acme.is_some());
    // The authority looks at the endpoint's own TLS.
    if or(&endpoint.profile, "https_spiffe") == "https_spiffe" || has_acme {
        set(&mut tls, "termination", json!("passthrough"));
    } else {
        set(&mut tls, "termination", json!("reencrypt"));
        let cert = endpoint.https_web.as_ref().and_then(|web| web.serving_cert.as_ref());
        if let Some(secret) = cert.map(|cert| &cert.external_secret_ref).filter(|s| !s.is_empty()) {
            set(&mut tls, "externalCertificate", json!({ "name": secret }));
            all.extend(part.certificate_reader("spire-server-external-cert-reader", secret));
        }
    }
    all.push(part.object(
        Kind::Route,
        "RouteAvailable",
        "spire-server-federation",
        json!({ "spec": {
            "host": format!("federation.{}", part.manager.trust_domain),
            "to": { "kind": "Service", "name": "spire-server", "weight": 100 },
            "port": { "targetPort": "federation" },
            "tls": tls,
            "wildcardPolicy": "None",
        } }),
    ));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_by_acme_is_the_server_s_own_work() {
        let given: Federation = serde_json::from_value(json!({ "bundleEndpoint": {
            "profile": "https_web",
            "httpsWeb": { "acme": {
                "directoryUrl": "https://ca.example/dir",
                "domainName": "federation.a.example",
                "email": "admin@a.example",
                "tosAccepted": "true",
            } },
        } }))
        .unwrap();
        let profile = endpoint(&given, "/certificate")["bundle_endpoint"]["profile"].clone();
        assert_eq!(
            profile,
            json!({ "https_web": { "acme": {
                "directory_url": "https://ca.example/dir",
                "domain_name": "federation.a.example",
                "email": "admin@a.example",
                "tos_accepted": true,
            } } })
        );
    }

    #[test]
    fn every_trust_domain_has_a_resource_with_a_name_that_kubernetes_takes() {
        assert_eq!(name("b.example"), "federates-with-b.example");
        for odd in ["a_b.example", "-a", "a..b", &"x".repeat(250)] {
            let name = name(odd);
            assert_eq!(name.len(), "federates-with-".len() + 32, "{odd}");
        }
        assert_ne!(name("a_b"), name("a_c"));
    }
}
