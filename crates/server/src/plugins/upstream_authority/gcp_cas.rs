//! `UpstreamAuthority "gcp_cas"`: Google's Certificate Authority Service signs.

use std::sync::Arc;

use signet_config::Block;
use signet_gcp::{Cas, CasSettings, Credentials};
use signet_pki::UpstreamAuthority as UpstreamAuthorityPort;

use super::UpstreamAuthority;
use crate::plugins::{PluginError, Scope, gcp};

const NAME: &str = "gcp_cas";

/// `UpstreamAuthority "gcp_cas"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcpCas {
    /// `root_cert_spec`, required, and `endpoint` (our own).
    pub authorities: CasSettings,
    /// What the environment says.
    pub credentials: Credentials,
}

pub(super) fn gcp_cas(block: &Block<'_>) -> Option<UpstreamAuthority> {
    let endpoint = gcp::endpoint(block, "https://privateca.googleapis.com");
    let Some(spec) = block.block("root_cert_spec") else {
        block.error("root_cert_spec", "must be configured");
        return None;
    };
    let required = |key: &'static str| spec.required(key, gcp::name(&spec, key));
    let project = required("project_name");
    let location = required("region_name");
    let ca_pool = gcp::name(&spec, "ca_pool");
    if ca_pool.is_none() {
        let message = "unset, every pool of the region is looked through at each signing";
        spec.warn("ca_pool", message);
    }
    let label_key = required("label_key");
    let label_value = required("label_value");
    spec.finish();
    Some(UpstreamAuthority::GcpCas(GcpCas {
        authorities: CasSettings {
            endpoint,
            project: project?,
            location: location?,
            ca_pool,
            label_key: label_key?,
            label_value: label_value?,
        },
        credentials: Credentials::choose(None),
    }))
}

pub(super) fn open(
    settings: &GcpCas,
    scope: &Scope<'_>,
) -> Result<Arc<dyn UpstreamAuthorityPort>, PluginError> {
    let gcp = gcp::open("UpstreamAuthority", NAME, &settings.credentials, scope.clock)?;
    Ok(Arc::new(Cas::new(gcp, settings.authorities.clone())))
}

pub(super) fn check(settings: &GcpCas) -> Result<(), PluginError> {
    gcp::check("UpstreamAuthority", NAME, &settings.credentials)
}
