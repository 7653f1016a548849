//! Reading the server's `plugins {}`.

use std::path::PathBuf;

use signet_attest::node::path_template;
use signet_daemon::config::{Block, ConfigError, Configured, Plugin, PluginSource};

use super::{
    database, kubernetes,
    plugins::{
        CredentialComposer, DiskKeyManager, DiskUpstream, HttpChallenge, KeyManager, NodeAttestor,
        Plugins, SealKey, UpstreamAuthority, X509Pop, X509PopMode,
    },
};

const LATER: &str = "is not in this release";
const NOT_AGAIN: &str = "DataStore \"sql\": its plugin_data_file is read at a start only, not on \
                         SIGUSR1";

/// Reads the section; none when it does not have what a server needs.
pub(super) fn plugins(root: &Block<'_>) -> Option<Plugins> {
    let mut data_stores = Vec::new();
    let mut key_managers = Vec::new();
    let mut node_attestors = Vec::new();
    let mut upstream_authorities = Vec::new();
    let mut credential_composers = Vec::new();
    let mut notifiers = Vec::new();
    let mut bundle_publishers = Vec::new();
    let (mut stores, mut managers, mut upstreams) = (0, 0, 0);
    for plugin in signet_daemon::config::plugins(root)? {
        let name = plugin.name.clone();
        match plugin.kind.as_str() {
            "DataStore" => {
                stores += 1;
                match name.as_str() {
                    "sql" => {
                        let pos = plugin.pos();
                        let store = plugin.configure(database::data_store);
                        if let Some(PluginSource::File(_)) = store.as_ref().map(|s| &s.source) {
                            root.context().warn(pos, NOT_AGAIN);
                        }
                        data_stores.extend(store);
                    }
                    _ => plugin.refuse("unknown data store; use sql"),
                }
            }
            "KeyManager" => {
                managers += 1;
                match key_manager(&name) {
                    Some(decode) => key_managers.extend(plugin.configure(decode)),
                    None => refuse_key_manager(&plugin),
                }
            }
            "NodeAttestor" => match node_attestor(&name) {
                Some(decode) => node_attestors.extend(plugin.configure(decode)),
                None => refuse_node_attestor(&plugin),
            },
            "UpstreamAuthority" => {
                upstreams += 1;
                match name.as_str() {
                    "disk" => upstream_authorities.extend(plugin.configure(disk_upstream)),
                    _ => refuse_upstream_authority(&plugin),
                }
            }
            "CredentialComposer" => match name.as_str() {
                "uniqueid" => credential_composers.extend(plugin.configure(uniqueid)),
                _ => plugin.refuse("unknown credential composer; this build has uniqueid"),
            },
            "Notifier" => match name.as_str() {
                "k8sbundle" => notifiers.extend(plugin.configure(kubernetes::k8s_bundle)),
                _ => refuse_notifier(&plugin),
            },
            "BundlePublisher" => match name.as_str() {
                "k8s_configmap" => {
                    bundle_publishers.extend(plugin.configure(kubernetes::k8s_config_map));
                }
                _ => refuse_bundle_publisher(&plugin),
            },
            _ => plugin.refuse(
                "unknown kind of plugin; expected DataStore, KeyManager, NodeAttestor, \
                 UpstreamAuthority, CredentialComposer, Notifier or BundlePublisher",
            ),
        }
    }
    exactly_one(root, "DataStore", stores);
    exactly_one(root, "KeyManager", managers);
    if upstreams > 1 {
        root.error("plugins", "at most one UpstreamAuthority is expected");
    }
    Some(Plugins {
        data_store: data_stores.pop()?.settings,
        key_manager: key_managers.pop()?,
        node_attestors,
        upstream_authority: upstream_authorities.pop(),
        credential_composers,
        notifiers,
        bundle_publishers,
    })
}

fn exactly_one(root: &Block<'_>, kind: &str, count: u32) {
    if count != 1 {
        root.error("plugins", format_args!("exactly one {kind} is expected, found {count}"));
    }
}

impl Plugins {
    /// Reads every `plugin_data_file` again and gives the plugins with the new settings.
    ///
    /// The data store is left as it is: it takes new settings at a start only.
    ///
    /// # Errors
    /// [`ConfigError`] when a file cannot be read or is wrong; nothing is changed then.
    pub fn reload(&self) -> Result<Self, ConfigError> {
        let mut new = self.clone();
        new.key_manager = reload(&self.key_manager, |now| match now {
            KeyManager::Disk(_) => disk_key_manager,
            KeyManager::Memory => memory,
        })?;
        for plugin in &mut new.node_attestors {
            *plugin = reload(plugin, |now| node_attestor(now.name()).unwrap_or(join_token))?;
        }
        if let Some(plugin) = &mut new.upstream_authority {
            *plugin = reload(plugin, |_| disk_upstream)?;
        }
        for plugin in &mut new.credential_composers {
            *plugin = reload(plugin, |_| uniqueid)?;
        }
        for plugin in &mut new.notifiers {
            *plugin = reload(plugin, |_| kubernetes::k8s_bundle)?;
        }
        for plugin in &mut new.bundle_publishers {
            *plugin = reload(plugin, |_| kubernetes::k8s_config_map)?;
        }
        Ok(new)
    }
}

type Decode<T> = fn(&Block<'_>) -> Option<T>;

fn reload<T: Clone>(
    plugin: &Configured<T>,
    decode: impl FnOnce(&T) -> Decode<T>,
) -> Result<Configured<T>, ConfigError> {
    let settings = plugin.reload(decode(&plugin.settings))?;
    Ok(Configured {
        settings: settings.unwrap_or_else(|| plugin.settings.clone()),
        source: plugin.source.clone(),
    })
}

fn key_manager(name: &str) -> Option<Decode<KeyManager>> {
    match name {
        "disk" => Some(disk_key_manager),
        "memory" => Some(memory),
        _ => None,
    }
}

fn disk_key_manager(block: &Block<'_>) -> Option<KeyManager> {
    let keys_path = block.required("keys_path", block.path("keys_path"));
    let seal = match (block.path("seal_key_file"), block.path("seal_passphrase_file")) {
        (None, None) => None,
        (Some(file), None) => Some(SealKey::KeyFile(file)),
        (None, Some(file)) => Some(SealKey::PassphraseFile(file)),
        (Some(_), Some(_)) => {
            let message = "only one of seal_key_file and seal_passphrase_file can be used";
            block.error("seal_passphrase_file", message);
            None
        }
    };
    Some(KeyManager::Disk(DiskKeyManager { keys_path: keys_path?, seal }))
}

fn memory(_: &Block<'_>) -> Option<KeyManager> {
    Some(KeyManager::Memory)
}

fn refuse_key_manager(plugin: &Plugin<'_>) {
    match plugin.name.as_str() {
        "aws_kms" | "azure_key_vault" | "gcp_kms" | "hashicorp_vault" => plugin.refuse(&format!(
            "this key manager {LATER}; use KeyManager \"disk\", sealed by seal_key_file or \
             seal_passphrase_file"
        )),
        _ => plugin.refuse("unknown key manager; this build has disk and memory"),
    }
}

fn node_attestor(name: &str) -> Option<Decode<NodeAttestor>> {
    match name {
        "http_challenge" => Some(http_challenge),
        "join_token" => Some(join_token),
        "k8s_psat" => Some(kubernetes::k8s_psat),
        "x509pop" => Some(x509pop),
        _ => None,
    }
}

fn join_token(_: &Block<'_>) -> Option<NodeAttestor> {
    Some(NodeAttestor::JoinToken)
}

fn http_challenge(block: &Block<'_>) -> Option<NodeAttestor> {
    let required_port = block.integer::<u16>("required_port");
    let allow_non_root_ports = block.boolean("allow_non_root_ports");
    let tofu = block.boolean("tofu").unwrap_or(true);
    let ports_of_anyone = match required_port {
        Some(port) => port >= 1024,
        None => allow_non_root_ports.unwrap_or(true),
    };
    if !tofu && ports_of_anyone {
        block.error(
            "tofu",
            "it cannot be turned off while ports of 1024 and above are asked, which any user of \
             the host can open; set required_port below 1024 or allow_non_root_ports = false",
        );
    }
    Some(NodeAttestor::HttpChallenge(HttpChallenge {
        allowed_dns_patterns: block.texts("allowed_dns_patterns"),
        required_port,
        allow_non_root_ports: allow_non_root_ports.unwrap_or(true),
        tofu,
    }))
}

fn x509pop(block: &Block<'_>) -> Option<NodeAttestor> {
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

fn refuse_node_attestor(plugin: &Plugin<'_>) {
    match plugin.name.as_str() {
        "aws_iid" | "azure_imds" | "azure_msi" | "gcp_iit" | "sshpop" | "tpm_devid" => {
            plugin.refuse(&format!(
                "this node attestor {LATER}; use k8s_psat, x509pop, http_challenge or join_token"
            ));
        }
        _ => plugin.refuse(
            "unknown node attestor; this build has http_challenge, join_token, k8s_psat and \
             x509pop",
        ),
    }
}

fn disk_upstream(block: &Block<'_>) -> Option<UpstreamAuthority> {
    let cert_file_path = block.required("cert_file_path", block.path("cert_file_path"));
    let key_file_path = block.required("key_file_path", block.path("key_file_path"));
    let bundle_file_path = block.path("bundle_file_path");
    Some(UpstreamAuthority::Disk(DiskUpstream {
        cert_file_path: cert_file_path?,
        key_file_path: key_file_path?,
        bundle_file_path,
    }))
}

fn refuse_upstream_authority(plugin: &Plugin<'_>) {
    match plugin.name.as_str() {
        "aws_pca" | "awssecret" | "cert-manager" | "ejbca" | "gcp_cas" | "spire" | "vault" => {
            plugin.refuse(&format!(
                "this upstream authority {LATER}; use UpstreamAuthority \"disk\" with a key and a \
                 certificate from it"
            ));
        }
        _ => plugin.refuse("unknown upstream authority; this build has disk"),
    }
}

fn uniqueid(_: &Block<'_>) -> Option<CredentialComposer> {
    Some(CredentialComposer::UniqueId)
}

fn refuse_notifier(plugin: &Plugin<'_>) {
    match plugin.name.as_str() {
        "gcs_bundle" => plugin.refuse(&format!(
            "this notifier {LATER}; use Notifier \"k8sbundle\", or upload what `bundle show` prints"
        )),
        _ => plugin.refuse("unknown notifier; this build has k8sbundle"),
    }
}

fn refuse_bundle_publisher(plugin: &Plugin<'_>) {
    match plugin.name.as_str() {
        "aws_s3" | "aws_rolesanywhere_trustanchor" | "gcp_cloudstorage" => {
            plugin.refuse(&format!(
                "this bundle publisher {LATER}; use BundlePublisher \"k8s_configmap\", or upload \
                 what `bundle show -format spiffe` prints"
            ));
        }
        _ => plugin.refuse("unknown bundle publisher; this build has k8s_configmap"),
    }
}
