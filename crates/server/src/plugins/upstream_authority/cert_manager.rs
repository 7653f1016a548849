//! `UpstreamAuthority "cert-manager"`: an issuer of cert-manager signs.

use std::{path::PathBuf, sync::Arc};

use signet_config::Block;
use signet_k8s::{CertManager, CertManagerSettings};
use signet_pki::UpstreamAuthority as UpstreamAuthorityPort;

use super::UpstreamAuthority;
use crate::plugins::{
    PluginError, Scope,
    kubernetes::{self, api_server, object_name},
};

const NAME: &str = "cert-manager";

/// `UpstreamAuthority "cert-manager"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertManagerUpstream {
    /// `namespace` and `issuer_name`, required; `issuer_kind`, default `Issuer`; `issuer_group`,
    /// default `cert-manager.io`.
    pub issuer: CertManagerSettings,
    /// `kube_config_file`: unset is the cluster the server runs in.
    pub kube_config_file: Option<PathBuf>,
}

pub(super) fn cert_manager(block: &Block<'_>) -> Option<UpstreamAuthority> {
    let namespace = block.required("namespace", object_name(block, "namespace"));
    let issuer_name = block.required("issuer_name", object_name(block, "issuer_name"));
    let issuer_kind = block.text("issuer_kind").unwrap_or_else(|| "Issuer".to_owned());
    let issuer_group = block.text("issuer_group").unwrap_or_else(|| "cert-manager.io".to_owned());
    let kube_config_file = block.path("kube_config_file");
    Some(UpstreamAuthority::CertManager(CertManagerUpstream {
        issuer: CertManagerSettings {
            namespace: namespace?,
            issuer_name: issuer_name?,
            issuer_kind,
            issuer_group,
        },
        kube_config_file,
    }))
}

pub(super) fn open(
    settings: &CertManagerUpstream,
    scope: &Scope<'_>,
) -> Result<Arc<dyn UpstreamAuthorityPort>, PluginError> {
    let api = api_server(settings.kube_config_file.as_deref(), scope.clock).map_err(failed)?;
    let (issuer, clock) = (settings.issuer.clone(), Arc::clone(scope.clock));
    Ok(Arc::new(CertManager::new(api, issuer, scope.trust_domain, clock)))
}

pub(super) fn check(settings: &CertManagerUpstream, scope: &Scope<'_>) -> Result<(), PluginError> {
    kubernetes::check(settings.kube_config_file.as_deref(), scope.clock).map_err(failed)
}

fn failed(why: String) -> PluginError {
    PluginError::new("UpstreamAuthority", NAME, why)
}
