//! Reading the agent's `plugins {}`.

use signet_daemon::config::{Block, ConfigError, Configured, Plugin};

use super::docker::docker;
use super::kubernetes::{k8s, k8s_psat};
use super::plugins::{
    HttpChallenge, KeyManager, NodeAttestor, Plugins, UnixAttestor, WorkloadAttestor, X509Pop,
    X509PopSource,
};

/// Reads the section; none when it does not have what an agent needs.
///
/// With a join token the node attestor may be left out.
pub(super) fn plugins(root: &Block<'_>, has_join_token: bool) -> Option<Plugins> {
    let mut key_managers = Vec::new();
    let mut node_attestors = Vec::new();
    let mut workload_attestors = Vec::new();
    let (mut managers, mut nodes, mut workloads) = (0, 0, 0);
    for plugin in signet_daemon::config::plugins(root)? {
        match plugin.kind.as_str() {
            "KeyManager" => {
                managers += 1;
                match plugin.name.as_str() {
                    "disk" => key_managers.extend(plugin.configure(disk_key_manager)),
                    "memory" => key_managers.extend(plugin.configure(memory)),
                    _ => plugin.refuse("unknown key manager; this build has disk and memory"),
                }
            }
            "NodeAttestor" => {
                nodes += 1;
                match node_attestor(&plugin.name) {
                    Some(decode) => node_attestors.extend(plugin.configure(decode)),
                    None => refuse_node_attestor(&plugin),
                }
            }
            "WorkloadAttestor" => {
                workloads += 1;
                match workload_attestor(&plugin.name) {
                    Some(decode) => workload_attestors.extend(plugin.configure(decode)),
                    None => refuse_workload_attestor(&plugin),
                }
            }
            "SVIDStore" => plugin.refuse(
                "SVID stores arrive in a later release; until then let the workload fetch its \
                 SVIDs from the Workload API",
            ),
            _ => plugin.refuse(
                "unknown kind of plugin; expected KeyManager, NodeAttestor, WorkloadAttestor or \
                 SVIDStore",
            ),
        }
    }
    if managers != 1 {
        root.error("plugins", format_args!("exactly one KeyManager is expected, found {managers}"));
    }
    if nodes > 1 || (nodes == 0 && !has_join_token) {
        root.error("plugins", format_args!("exactly one NodeAttestor is expected, found {nodes}"));
    }
    if workloads == 0 {
        root.error("plugins", "at least one WorkloadAttestor is expected");
    }
    Some(Plugins {
        key_manager: key_managers.pop()?,
        node_attestor: node_attestors.pop(),
        workload_attestors,
    })
}

impl Plugins {
    /// Reads every `plugin_data_file` again and gives the plugins with the new settings.
    ///
    /// # Errors
    /// [`ConfigError`] when a file cannot be read or is wrong; nothing is changed then.
    pub fn reload(&self) -> Result<Self, ConfigError> {
        let mut new = self.clone();
        new.key_manager = reload(&self.key_manager, |now| match now {
            KeyManager::Disk { .. } => disk_key_manager,
            KeyManager::Memory => memory,
        })?;
        if let Some(plugin) = &mut new.node_attestor {
            *plugin = reload(plugin, |now| node_attestor(now.name()).unwrap_or(join_token))?;
        }
        for plugin in &mut new.workload_attestors {
            *plugin = reload(plugin, |now| workload_attestor(now.name()).unwrap_or(unix))?;
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

fn disk_key_manager(block: &Block<'_>) -> Option<KeyManager> {
    let directory = block.required("directory", block.path("directory"));
    directory.map(|directory| KeyManager::Disk { directory })
}

fn memory(_: &Block<'_>) -> Option<KeyManager> {
    Some(KeyManager::Memory)
}

fn node_attestor(name: &str) -> Option<Decode<NodeAttestor>> {
    match name {
        "http_challenge" => Some(http_challenge),
        "join_token" => Some(join_token),
        "k8s_psat" => Some(k8s_psat),
        "x509pop" => Some(x509pop),
        _ => None,
    }
}

fn join_token(_: &Block<'_>) -> Option<NodeAttestor> {
    Some(NodeAttestor::JoinToken)
}

fn http_challenge(block: &Block<'_>) -> Option<NodeAttestor> {
    Some(NodeAttestor::HttpChallenge(HttpChallenge {
        hostname: block.text("hostname"),
        agentname: block.text("agentname").unwrap_or_else(|| "default".to_owned()),
        port: block.integer("port").unwrap_or(0),
        advertised_port: block.port("advertised_port"),
    }))
}

fn x509pop(block: &Block<'_>) -> Option<NodeAttestor> {
    let endpoint = block.text("spiffe_endpoint_socket");
    let private_key_path = block.path("private_key_path");
    let certificate_path = block.path("certificate_path");
    let intermediates_path = block.path("intermediates_path");
    if let Some(endpoint) = endpoint {
        if private_key_path.is_some() || certificate_path.is_some() || intermediates_path.is_some()
        {
            let message = "it takes the place of private_key_path, certificate_path and \
                           intermediates_path; use one or the other";
            block.error("spiffe_endpoint_socket", message);
        }
        if !(endpoint.starts_with("unix:") || endpoint.starts_with("tcp:")) {
            let message = format!("found {endpoint:?}, expected unix:///path or tcp://ip:port");
            block.error("spiffe_endpoint_socket", message);
        }
        return Some(NodeAttestor::X509Pop(X509Pop {
            source: X509PopSource::WorkloadApi { endpoint },
        }));
    }
    let private_key_path = block.required("private_key_path", private_key_path);
    let certificate_path = block.required("certificate_path", certificate_path);
    Some(NodeAttestor::X509Pop(X509Pop {
        source: X509PopSource::Files {
            private_key_path: private_key_path?,
            certificate_path: certificate_path?,
            intermediates_path,
        },
    }))
}

fn refuse_node_attestor(plugin: &Plugin<'_>) {
    match plugin.name.as_str() {
        "aws_iid" | "azure_imds" | "azure_msi" | "gcp_iit" | "sshpop" | "tpm_devid" => plugin
            .refuse(
                "this node attestor is not in this release; use k8s_psat, x509pop, \
                 http_challenge or join_token",
            ),
        _ => plugin.refuse(
            "unknown node attestor; this build has http_challenge, join_token, k8s_psat and \
             x509pop",
        ),
    }
}

fn workload_attestor(name: &str) -> Option<Decode<WorkloadAttestor>> {
    match name {
        "docker" => Some(docker),
        "k8s" => Some(k8s),
        "systemd" => Some(systemd),
        "unix" => Some(unix),
        _ => None,
    }
}

fn systemd(_: &Block<'_>) -> Option<WorkloadAttestor> {
    Some(WorkloadAttestor::Systemd)
}

fn unix(block: &Block<'_>) -> Option<WorkloadAttestor> {
    Some(WorkloadAttestor::Unix(UnixAttestor {
        discover_workload_path: block.flag("discover_workload_path"),
        workload_size_limit: block.integer("workload_size_limit"),
    }))
}

fn refuse_workload_attestor(plugin: &Plugin<'_>) {
    match plugin.name.as_str() {
        "slurm" => plugin.refuse(
            "this workload attestor is not in this release; use unix, and run each job as a user \
             of its own",
        ),
        "windows" => {
            plugin.refuse("this workload attestor belongs to Windows; use unix or systemd");
        }
        _ => {
            plugin.refuse("unknown workload attestor; this build has docker, k8s, systemd and unix")
        }
    }
}
