//! `NodeAttestor "x509pop"`.

use std::{path::PathBuf, sync::Arc};

use signet_attest::node::{
    NodeAttestorServer, path_template,
    x509pop::server::{Mode, X509PopServer, X509PopServerConfig},
};
use signet_config::Block;
use signet_pki::{text_file, x509::parse_chain};

use super::NodeAttestor;
use crate::plugins::Scope;

/// `NodeAttestor "x509pop"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Pop {
    /// `mode` and what belongs to it.
    pub mode: X509PopMode,
    /// `agent_path_template`: none is the mode's own form of agent IDs.
    pub agent_path_template: Option<String>,
    /// `max_intermediates`, default 4.
    pub max_intermediates: u32,
    /// `max_rsa_key_size` in bits, default 8192.
    pub max_rsa_key_size: u32,
    /// `verify_client_ip`, default false: whether the certificate must name the caller's address.
    pub verify_client_ip: bool,
}

/// Whose certificates x509pop accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum X509PopMode {
    /// `external_pki`, the default: those of another PKI.
    ExternalPki {
        /// `ca_bundle_path` or `ca_bundle_paths`: PEM files of its authorities, at least one.
        ca_bundle_paths: Vec<PathBuf>,
    },
    /// `spiffe`: X.509-SVIDs of the server's own trust domain.
    Spiffe {
        /// `spiffe_prefix` (or `svid_prefix`), default `/spire-exchange/`: what an SVID's path
        /// starts with; ends with a slash.
        svid_prefix: String,
    },
}

pub(super) fn decode(block: &Block<'_>) -> Option<NodeAttestor> {
    let path = block.path("ca_bundle_path");
    let mut paths: Vec<PathBuf> =
        block.texts("ca_bundle_paths").into_iter().map(PathBuf::from).collect();
    // SPIRE documents one name and reads the other.
    let prefix = block.text("svid_prefix");
    let prefix = block.text("spiffe_prefix").or(prefix);
    let mode = match block.text("mode").as_deref() {
        None | Some("external_pki") => {
            if path.is_some() && !paths.is_empty() {
                let message = "only one of ca_bundle_path and ca_bundle_paths can be used";
                block.error("ca_bundle_paths", message);
            }
            paths.extend(path);
            if paths.is_empty() {
                block.missing("ca_bundle_path or ca_bundle_paths");
            }
            Some(X509PopMode::ExternalPki { ca_bundle_paths: paths })
        }
        Some("spiffe") => {
            if path.is_some() || !paths.is_empty() {
                let message = "ca_bundle_path and ca_bundle_paths belong to mode external_pki";
                block.error("mode", message);
            }
            let mut svid_prefix = prefix.unwrap_or_else(|| "/spire-exchange/".to_owned());
            if !svid_prefix.ends_with('/') {
                svid_prefix.push('/');
            }
            Some(X509PopMode::Spiffe { svid_prefix })
        }
        Some(other) => {
            let message = format!("found {other:?}, expected external_pki or spiffe");
            block.error("mode", message);
            None
        }
    };
    let agent_path_template = block.text("agent_path_template");
    if let Some(Err(error)) = agent_path_template.as_deref().map(path_template::parse) {
        block.error("agent_path_template", error.to_string());
    }
    Some(NodeAttestor::X509Pop(X509Pop {
        agent_path_template,
        max_intermediates: above_zero(block, "max_intermediates").unwrap_or(4),
        max_rsa_key_size: above_zero(block, "max_rsa_key_size").unwrap_or(8192),
        verify_client_ip: block.flag("verify_client_ip"),
        mode: mode?,
    }))
}

fn above_zero(block: &Block<'_>, key: &'static str) -> Option<u32> {
    let number = block.integer::<u32>(key)?;
    if number == 0 {
        block.error(key, "it must be greater than 0");
    }
    Some(number)
}

pub(super) fn open(
    settings: &X509Pop,
    scope: &Scope<'_>,
) -> Result<Arc<dyn NodeAttestorServer>, String> {
    let template = settings.agent_path_template.as_deref().map(path_template::parse);
    let config = X509PopServerConfig {
        mode: mode(&settings.mode, scope)?,
        agent_path_template: template.transpose().map_err(|error| error.to_string())?,
        max_intermediates: usize::try_from(settings.max_intermediates).unwrap_or(usize::MAX),
        max_rsa_key_size: settings.max_rsa_key_size,
        verify_client_ip: settings.verify_client_ip,
    };
    let clock = Arc::clone(scope.clock);
    Ok(Arc::new(X509PopServer::new(scope.trust_domain.clone(), config, clock)))
}

fn mode(mode: &X509PopMode, scope: &Scope<'_>) -> Result<Mode, String> {
    match mode {
        X509PopMode::ExternalPki { ca_bundle_paths } => {
            let mut roots = Vec::new();
            for path in ca_bundle_paths {
                let ders = text_file::certificates(path).map_err(|error| error.to_string())?;
                let certificates =
                    parse_chain(&ders).map_err(|error| format!("{}: {error}", path.display()))?;
                roots.extend(certificates);
            }
            Ok(Mode::ExternalPki(roots))
        }
        X509PopMode::Spiffe { svid_prefix } => Ok(Mode::Spiffe {
            svid_prefix: svid_prefix.clone(),
            authorities: Arc::clone(scope.authorities),
        }),
    }
}
