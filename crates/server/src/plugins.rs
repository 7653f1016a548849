//! Making the back ends that the configuration names.

mod bundles;

use std::{path::Path, sync::Arc};

use signet_attest::node::{
    NodeAttestorServer,
    http_challenge::server::{HttpChallengeServer, HttpChallengeServerConfig, NetworkFetcher},
    k8s_psat::server::{Cluster, K8sPsatServer},
    path_template,
    x509pop::server::{Mode, X509PopServer, X509PopServerConfig},
};
use signet_base::SharedClock;
use signet_http::Proxies;
use signet_identity::TrustDomain;
use signet_pki::{
    CredentialComposer, DiskKeyManager, KeyManager, MemoryKeyManager, UpstreamAuthority, files,
    key_manager::Sealing,
    seal::SealKey,
    text_file,
    upstream_disk::{DiskUpstream, DiskUpstreamConfig},
};
use zeroize::Zeroizing;

pub use self::bundles::{notifier, publisher};

use crate::{cache::Cache, config};

/// Why a plugin cannot be used; names the plugin and what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{kind} \"{name}\": {why}")]
pub struct PluginError {
    kind: &'static str,
    name: String,
    why: String,
}

impl PluginError {
    fn new(kind: &'static str, name: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self { kind, name: name.into(), why: why.to_string() }
    }
}

/// A key manager that can be configured anew.
#[derive(Clone, Debug)]
pub enum OpenKeyManager {
    /// `disk`.
    Disk(DiskKeyManager),
    /// `memory`.
    Memory(Arc<MemoryKeyManager>),
}

impl OpenKeyManager {
    /// Opens the key manager. With a passphrase this takes some tenths of a second of CPU.
    ///
    /// # Errors
    /// [`PluginError`] when the key file or what it is sealed with cannot be read.
    pub fn open(settings: &config::KeyManager) -> Result<Self, PluginError> {
        Ok(match settings {
            config::KeyManager::Memory => Self::Memory(Arc::new(MemoryKeyManager::new())),
            config::KeyManager::Disk(disk) => Self::Disk(disk_key_manager(disk)?),
        })
    }

    /// As the authority uses it.
    pub fn port(&self) -> Arc<dyn KeyManager> {
        match self {
            Self::Disk(disk) => Arc::new(disk.clone()),
            Self::Memory(memory) => Arc::clone(memory) as _,
        }
    }

    /// Takes new settings: keys stay in use, and are kept where the settings say.
    ///
    /// # Errors
    /// [`PluginError`] when the keys cannot be kept there; they stay where they are then.
    pub async fn reconfigure(&self, settings: &config::KeyManager) -> Result<(), PluginError> {
        // The kind of a plugin is fixed by the main file, and memory has no settings.
        let (Self::Disk(keys), config::KeyManager::Disk(disk)) = (self, settings) else {
            return Ok(());
        };
        let failed = |why: String| PluginError::new("KeyManager", "disk", why);
        let wanted = disk.clone();
        let sealing = tokio::task::spawn_blocking(move || sealing(&wanted));
        let sealing = sealing.await.map_err(|error| failed(error.to_string()))??;
        let moved = keys.move_to(&disk.keys_path, sealing).await;
        moved.map_err(|error| failed(signet_base::chain(&error)))
    }
}

/// Opens the key manager `disk`, as [`OpenKeyManager::open`] does.
///
/// # Errors
/// As [`OpenKeyManager::open`].
pub(crate) fn disk_key_manager(
    disk: &config::DiskKeyManager,
) -> Result<DiskKeyManager, PluginError> {
    DiskKeyManager::open(&disk.keys_path, sealing(disk)?).map_err(|error| disk_failed(&error))
}

/// What the key file is sealed with.
fn sealing(disk: &config::DiskKeyManager) -> Result<Sealing, PluginError> {
    Ok(match &disk.seal {
        None => Sealing::Off,
        Some(config::SealKey::KeyFile(path)) => {
            Sealing::With(SealKey::from_file(path).map_err(|error| disk_failed(&error))?)
        }
        Some(config::SealKey::PassphraseFile(path)) => {
            let passphrase =
                passphrase(path).map_err(|why| PluginError::new("KeyManager", "disk", why))?;
            let key = SealKey::from_passphrase(passphrase).map_err(|error| disk_failed(&error))?;
            Sealing::With(key)
        }
    })
}

fn disk_failed(error: &dyn std::error::Error) -> PluginError {
    PluginError::new("KeyManager", "disk", signet_base::chain(error))
}

/// Opens the upstream authority, if there is one.
///
/// # Errors
/// [`PluginError`] when its files are not right.
pub fn upstream(
    settings: Option<&config::UpstreamAuthority>,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<Option<Arc<dyn UpstreamAuthority>>, PluginError> {
    let Some(config::UpstreamAuthority::Disk(disk)) = settings else { return Ok(None) };
    let files = DiskUpstreamConfig {
        cert_file_path: disk.cert_file_path.clone(),
        key_file_path: disk.key_file_path.clone(),
        bundle_file_path: disk.bundle_file_path.clone(),
    };
    let opened = DiskUpstream::open(files, trust_domain.clone(), Arc::clone(clock));
    let opened = opened.map_err(|error| {
        PluginError::new("UpstreamAuthority", "disk", signet_base::chain(&error))
    })?;
    Ok(Some(Arc::new(opened)))
}

/// The credential composers, in their order.
pub fn composers(
    settings: impl IntoIterator<Item = config::CredentialComposer>,
) -> Vec<Arc<dyn CredentialComposer>> {
    settings
        .into_iter()
        .map(|composer| match composer {
            config::CredentialComposer::UniqueId => {
                Arc::new(signet_pki::composer::UniqueId) as Arc<dyn CredentialComposer>
            }
        })
        .collect()
}

/// The node attestors but `join_token`, which is part of the agent service.
///
/// # Errors
/// [`PluginError`] when a CA bundle cannot be read or settings contradict each other.
pub fn node_attestors<'a>(
    settings: impl IntoIterator<Item = &'a config::NodeAttestor>,
    trust_domain: &TrustDomain,
    cache: &Arc<Cache>,
    clock: &SharedClock,
) -> Result<Vec<Arc<dyn NodeAttestorServer>>, PluginError> {
    let mut all: Vec<Arc<dyn NodeAttestorServer>> = Vec::new();
    for attestor in settings {
        let failed =
            |why: &dyn std::fmt::Display| PluginError::new("NodeAttestor", attestor.name(), why);
        match attestor {
            config::NodeAttestor::JoinToken => {}
            config::NodeAttestor::K8sPsat(psat) => {
                let clusters = psat.clusters.iter().map(|cluster| {
                    let api = k8s_cluster(cluster, clock);
                    api.map(|api| (cluster.name.clone(), api))
                        .map_err(|why| failed(&format!("cluster \"{}\": {why}", cluster.name)))
                });
                let clusters = clusters.collect::<Result<_, _>>()?;
                all.push(Arc::new(K8sPsatServer::new(trust_domain.clone(), clusters)));
            }
            config::NodeAttestor::X509Pop(x509pop) => {
                let template = x509pop.agent_path_template.as_deref().map(path_template::parse);
                let config = X509PopServerConfig {
                    mode: x509pop_mode(&x509pop.mode, cache).map_err(|why| failed(&why))?,
                    agent_path_template: template.transpose().map_err(|e| failed(&e))?,
                    max_intermediates: usize::try_from(x509pop.max_intermediates)
                        .unwrap_or(usize::MAX),
                    max_rsa_key_size: x509pop.max_rsa_key_size,
                    verify_client_ip: x509pop.verify_client_ip,
                };
                let server = X509PopServer::new(trust_domain.clone(), config, Arc::clone(clock));
                all.push(Arc::new(server));
            }
            config::NodeAttestor::HttpChallenge(http) => {
                let patterns = http.allowed_dns_patterns.iter().map(|pattern| {
                    pattern.parse().map_err(|error| {
                        failed(&format!("allowed_dns_patterns \"{pattern}\": {error}"))
                    })
                });
                let config = HttpChallengeServerConfig {
                    allowed_dns_patterns: patterns.collect::<Result<_, _>>()?,
                    required_port: http.required_port,
                    allow_non_root_ports: Some(http.allow_non_root_ports),
                    tofu: Some(http.tofu),
                };
                let proxies = Proxies::from_env().map_err(|why| failed(&why))?;
                let fetcher = NetworkFetcher::new(proxies).map_err(|why| failed(&why))?;
                let server =
                    HttpChallengeServer::new(trust_domain.clone(), config, Box::new(fetcher))
                        .map_err(|error| failed(&error))?;
                all.push(Arc::new(server));
            }
        }
    }
    Ok(all)
}

fn k8s_cluster(settings: &config::K8sCluster, clock: &SharedClock) -> Result<Cluster, String> {
    let api = bundles::api_server(settings.kube_config_file.as_deref(), clock)?;
    let set = |all: &[String]| all.iter().cloned().collect();
    Ok(Cluster {
        service_account_allow_list: set(&settings.service_account_allow_list),
        audience: settings.audience.clone(),
        allowed_node_label_keys: set(&settings.allowed_node_label_keys),
        allowed_pod_label_keys: set(&settings.allowed_pod_label_keys),
        use_pod_uid_for_agent_id: settings.use_pod_uid_for_agent_id,
        api: Box::new(api),
    })
}

fn x509pop_mode(mode: &config::X509PopMode, cache: &Arc<Cache>) -> Result<Mode, String> {
    match mode {
        config::X509PopMode::ExternalPki { ca_bundle_paths } => {
            let mut roots = Vec::new();
            for path in ca_bundle_paths {
                roots.extend(text_file::certificates(path).map_err(|error| error.to_string())?);
            }
            Ok(Mode::ExternalPki(roots))
        }
        config::X509PopMode::Spiffe { svid_prefix } => {
            let cache = Arc::clone(cache);
            let authorities = move || {
                let bundle = cache.own_bundle();
                let authorities = bundle.iter().flat_map(|own| &own.bundle.x509_authorities);
                authorities.map(|authority| authority.der.to_vec()).collect()
            };
            Ok(Mode::Spiffe {
                svid_prefix: svid_prefix.clone(),
                authorities: Arc::new(authorities),
            })
        }
    }
}

/// The longest passphrase file that is read, bytes.
const MAX_PASSPHRASE_FILE: u64 = 4096;

/// The first line of a passphrase file, which only its owner may read.
fn passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let bytes = files::read_secret(path, MAX_PASSPHRASE_FILE)
        .map_err(|error| signet_base::chain(&error))?
        .ok_or_else(|| format!("passphrase file {} does not exist", path.display()))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(format!("{}: the first line is empty, expected a passphrase", path.display()));
    }
    Ok(Zeroizing::new(line.to_vec()))
}
