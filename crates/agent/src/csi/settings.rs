//! What the CSI driver is told, by the agent's `csi {}` block or by flags, and what of it is wrong.

use std::path::{Path, PathBuf};

use signet_config::absolute_path;
use signet_daemon::listen::MAX_SOCKET_PATH;

/// `socket_path` unless told; as spiffe-csi-driver.
pub const DEFAULT_SOCKET: &str = "/spiffe-csi/csi.sock";
/// `plugin_name` unless told.
pub const DEFAULT_PLUGIN_NAME: &str = "csi.spiffe.io";
/// The environment variable that holds the node's ID unless told.
pub const DEFAULT_NODE_ID_ENV: &str = "MY_NODE_NAME";

/// The longest node ID, bytes (CSI 1.13, NodeGetInfo).
const MAX_NODE_ID: usize = 256;
/// The longest name of a driver, bytes (CSI 1.13, GetPluginInfo).
const MAX_PLUGIN_NAME: usize = 63;

/// Settings of the CSI driver, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsiSettings {
    socket_path: PathBuf,
    node_id: String,
    plugin_name: String,
    workload_api_socket_dir: PathBuf,
    kubelet_dir: Option<PathBuf>,
}

/// Settings of the CSI driver as they were given.
#[derive(Clone, Debug, Default)]
pub struct GivenSettings {
    /// The socket that the kubelet and its sidecars call; none is [`DEFAULT_SOCKET`].
    pub socket_path: Option<PathBuf>,
    /// The node's ID.
    pub node_id: Option<String>,
    /// The driver's name; none is [`DEFAULT_PLUGIN_NAME`].
    pub plugin_name: Option<String>,
    /// The directory that pods are given.
    pub workload_api_socket_dir: Option<PathBuf>,
    /// The directory that every target must lie below.
    pub kubelet_dir: Option<PathBuf>,
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `kubelet_dir`, `-kubelet-dir`.
    KubeletDir,
    /// `node_id`, `-node-id`.
    NodeId,
    /// `plugin_name`, `-plugin-name`.
    PluginName,
    /// `socket_path`, `-csi-socket-path`.
    SocketPath,
    /// `workload_api_socket_dir`, `-workload-api-socket-dir`.
    WorkloadApiSocketDir,
}

impl Setting {
    /// Its key in `csi {}`.
    pub fn key(self) -> &'static str {
        match self {
            Self::KubeletDir => "kubelet_dir",
            Self::NodeId => "node_id",
            Self::PluginName => "plugin_name",
            Self::SocketPath => "socket_path",
            Self::WorkloadApiSocketDir => "workload_api_socket_dir",
        }
    }

    /// Its flag of `signet-agent csi`.
    pub fn flag(self) -> &'static str {
        match self {
            Self::KubeletDir => "-kubelet-dir",
            Self::NodeId => "-node-id",
            Self::PluginName => "-plugin-name",
            Self::SocketPath => "-csi-socket-path",
            Self::WorkloadApiSocketDir => "-workload-api-socket-dir",
        }
    }
}

/// What is wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting.
    pub setting: Setting,
    /// What was found and what is expected.
    pub sentence: String,
}

impl CsiSettings {
    /// The socket that the kubelet and its sidecars call; absolute.
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// The node's ID, by which Kubernetes knows it.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// The driver's name in `CSIDriver` objects and in pods.
    pub fn plugin_name(&self) -> &str {
        &self.plugin_name
    }

    /// The directory with the Workload API's socket, which pods are given; absolute.
    pub fn workload_api_socket_dir(&self) -> &Path {
        &self.workload_api_socket_dir
    }

    /// The directory that every target must lie below; none is any.
    pub fn kubelet_dir(&self) -> Option<&Path> {
        self.kubelet_dir.as_deref()
    }
}

impl GivenSettings {
    /// Checks everything, without looking at the disk.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(self) -> Result<CsiSettings, Vec<Problem>> {
        let mut problems = Vec::new();
        let socket = self.socket_path.unwrap_or_else(|| DEFAULT_SOCKET.into());
        let socket_path = absolute(Setting::SocketPath, &socket, &mut problems);
        if let Some(path) = &socket_path
            && path.as_os_str().len() > MAX_SOCKET_PATH
        {
            let sentence = format!(
                "{} is longer than a socket's path may be, {MAX_SOCKET_PATH} bytes",
                path.display()
            );
            problems.push(Problem { setting: Setting::SocketPath, sentence });
        }
        let node_id = self.node_id.unwrap_or_default();
        if let Some(sentence) = wrong_node_id(&node_id) {
            problems.push(Problem { setting: Setting::NodeId, sentence });
        }
        let plugin_name = self.plugin_name.unwrap_or_else(|| DEFAULT_PLUGIN_NAME.to_owned());
        if let Some(sentence) = wrong_plugin_name(&plugin_name) {
            problems.push(Problem { setting: Setting::PluginName, sentence });
        }
        let kubelet_dir =
            self.kubelet_dir.and_then(|dir| directory(Setting::KubeletDir, &dir, &mut problems));
        let source = match self.workload_api_socket_dir {
            Some(dir) => directory(Setting::WorkloadApiSocketDir, &dir, &mut problems),
            None => {
                let sentence = "it must be set: the directory with the Workload API's socket, \
                                which pods are given"
                    .to_owned();
                problems.push(Problem { setting: Setting::WorkloadApiSocketDir, sentence });
                None
            }
        };
        if let Some(source) = &source {
            if let Some(socket) = &socket_path
                && socket.starts_with(source)
            {
                let sentence = format!(
                    "{} lies in or below {}, which pods are given",
                    socket.display(),
                    source.display()
                );
                problems.push(Problem { setting: Setting::SocketPath, sentence });
            }
            if let Some(kubelet) = &kubelet_dir
                && (kubelet.starts_with(source) || source.starts_with(kubelet))
            {
                let sentence = format!(
                    "{} and {} lie in one another; pods must not be given the kubelet's files",
                    source.display(),
                    kubelet.display()
                );
                problems.push(Problem { setting: Setting::WorkloadApiSocketDir, sentence });
            }
        }
        match (socket_path, source) {
            (Some(socket_path), Some(workload_api_socket_dir)) if problems.is_empty() => {
                Ok(CsiSettings {
                    socket_path,
                    node_id,
                    plugin_name,
                    workload_api_socket_dir,
                    kubelet_dir,
                })
            }
            _ => Err(problems),
        }
    }
}

fn absolute(setting: Setting, path: &Path, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    absolute_path(path).map_err(|sentence| problems.push(Problem { setting, sentence })).ok()
}

/// An absolute path that is not the root.
fn directory(setting: Setting, path: &Path, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    let path = absolute(setting, path, problems)?;
    if path.parent().is_none() {
        let sentence = "found \"/\", expected a directory of its own".to_owned();
        problems.push(Problem { setting, sentence });
        return None;
    }
    Some(path)
}

fn wrong_node_id(id: &str) -> Option<String> {
    if id.is_empty() {
        return Some(
            "it must be set: the node's name, for instance from the environment variable \
             MY_NODE_NAME"
                .to_owned(),
        );
    }
    if id.len() > MAX_NODE_ID || id.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Some(format!("found {id:?}, expected at most {MAX_NODE_ID} bytes without spaces"));
    }
    None
}

fn wrong_plugin_name(name: &str) -> Option<String> {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let good = name.len() <= MAX_PLUGIN_NAME
        && ends(name.chars().next())
        && ends(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    (!good).then(|| {
        format!(
            "found {name:?}, expected a domain name such as {DEFAULT_PLUGIN_NAME}: at most \
             {MAX_PLUGIN_NAME} letters, digits, dashes and dots"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> GivenSettings {
        GivenSettings {
            node_id: Some("n1".to_owned()),
            workload_api_socket_dir: Some("/run/spire/sockets".into()),
            kubelet_dir: Some("/var/lib/kubelet".into()),
            ..GivenSettings::default()
        }
    }

    fn wrong(given: GivenSettings) -> String {
        let problems = given.check().unwrap_err();
        let lines: Vec<_> =
            problems.iter().map(|p| format!("{}: {}", p.setting.flag(), p.sentence)).collect();
        lines.join("\n")
    }

    #[test]
    fn the_defaults_are_those_of_spiffe_csi_driver() {
        let settings = given().check().unwrap();
        assert_eq!(settings.socket_path(), Path::new("/spiffe-csi/csi.sock"));
        assert_eq!(settings.plugin_name(), "csi.spiffe.io");
        assert_eq!(settings.node_id(), "n1");
        let unbounded = GivenSettings { kubelet_dir: None, ..given() }.check().unwrap();
        assert_eq!(unbounded.kubelet_dir(), None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let none = wrong(GivenSettings::default());
        assert!(none.contains("-node-id: it must be set"), "{none}");
        assert!(none.contains("-workload-api-socket-dir: it must be set"), "{none}");
        for (given, wanted) in [
            (
                GivenSettings { node_id: Some("a b".to_owned()), ..given() },
                "-node-id: found \"a b\", expected at most 256 bytes without spaces",
            ),
            (
                GivenSettings { node_id: Some("x".repeat(257)), ..given() },
                "expected at most 256 bytes",
            ),
            (
                GivenSettings { plugin_name: Some("-x".to_owned()), ..given() },
                "-plugin-name: found \"-x\", expected a domain name",
            ),
            (GivenSettings { plugin_name: Some("x".repeat(64)), ..given() }, "at most 63 letters"),
            (
                GivenSettings {
                    socket_path: Some("/run/spire/sockets/csi.sock".into()),
                    ..given()
                },
                "-csi-socket-path: /run/spire/sockets/csi.sock lies in or below \
                 /run/spire/sockets, which pods are given",
            ),
            (
                GivenSettings {
                    socket_path: Some(format!("/{}", "x".repeat(107)).into()),
                    ..given()
                },
                "longer than a socket's path may be, 107 bytes",
            ),
            (
                GivenSettings { workload_api_socket_dir: Some("/".into()), ..given() },
                "-workload-api-socket-dir: found \"/\", expected a directory of its own",
            ),
            (
                GivenSettings {
                    workload_api_socket_dir: Some("/var/lib/kubelet/pods".into()),
                    ..given()
                },
                "pods must not be given the kubelet's files",
            ),
            (
                GivenSettings { workload_api_socket_dir: Some("/var/lib".into()), ..given() },
                "pods must not be given the kubelet's files",
            ),
            (
                GivenSettings { kubelet_dir: Some("/x/..".into()), ..given() },
                "-kubelet-dir: found \"/\"",
            ),
        ] {
            let found = wrong(given);
            assert!(found.contains(wanted), "{found}\nwanted {wanted}");
        }
    }
}
