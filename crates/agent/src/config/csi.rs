//! `csi {}` in `agent {}`, and its flags: the CSI driver inside the agent.

use std::path::{Path, PathBuf};

use signet_config::{Block, absolute_path};

use super::{SvidCache, flags::CsiFlags};
use crate::csi::settings::{CsiSettings, DEFAULT_NODE_ID_ENV, GivenSettings, Setting};
use crate::plugins::key_manager::KeyManager;

/// `kubelet_dir` unless told.
const DEFAULT_KUBELET_DIR: &str = "/var/lib/kubelet";

/// What of the agent must not lie in the directory that pods are given.
pub(super) struct Private<'a> {
    pub(super) socket_path: Option<&'a Path>,
    pub(super) admin_socket_path: Option<&'a Path>,
    pub(super) data_dir: &'a Path,
    pub(super) key_manager: Option<&'a KeyManager>,
    pub(super) svid_cache: &'a SvidCache,
}

/// Reads the block; none unless it is there or a flag asks for the driver.
pub(super) fn csi(
    agent: &Block<'_>,
    flags: &CsiFlags,
    env: &dyn Fn(&str) -> Option<String>,
    private: &Private<'_>,
) -> Option<CsiSettings> {
    let block = agent.block("csi");
    if block.is_none() && !flags.any() {
        return None;
    }
    let block = block.unwrap_or_else(|| Block::empty(agent.context(), "csi {}", agent.pos()));
    let node_id_env = block.text("node_id_env").unwrap_or_else(|| DEFAULT_NODE_ID_ENV.to_owned());
    let node_id = flags.csi_node_id.clone().or(block.text("node_id")).or_else(|| env(&node_id_env));
    let socket_dir = private.socket_path.and_then(Path::parent).map(Path::to_owned);
    let source = block.path("workload_api_socket_dir");
    let kubelet_dir = block.path("kubelet_dir");
    let given = GivenSettings {
        socket_path: flags.csi_socket_path.clone().or(block.path("socket_path")),
        node_id,
        plugin_name: flags.csi_plugin_name.clone().or(block.text("plugin_name")),
        workload_api_socket_dir: flags
            .csi_workload_api_socket_dir
            .clone()
            .or(source)
            .or(socket_dir),
        kubelet_dir: Some(
            flags
                .csi_kubelet_dir
                .clone()
                .or(kubelet_dir)
                .unwrap_or_else(|| DEFAULT_KUBELET_DIR.into()),
        ),
    };
    let settings = match given.check() {
        Ok(settings) => Some(settings),
        Err(problems) => {
            for problem in problems {
                block.error(problem.setting.key(), problem.sentence);
            }
            None
        }
    };
    if let Some(settings) = &settings {
        keep_private(&block, settings, private);
    }
    block.finish();
    settings
}

/// Root in a pod may read files of mode 0600 in the directory that it is given.
fn keep_private(block: &Block<'_>, settings: &CsiSettings, private: &Private<'_>) {
    let mut paths: Vec<(&str, PathBuf)> = vec![("data_dir", private.data_dir.to_owned())];
    if let Some(path) = private.admin_socket_path {
        paths.push(("admin_socket_path", path.to_owned()));
    }
    if let Some(KeyManager::Disk { directory }) = private.key_manager {
        paths.push(("the directory of KeyManager \"disk\"", directory.clone()));
    }
    if let SvidCache::Sealed { key_file } = private.svid_cache {
        paths.push(("svid_cache_key_file", key_file.clone()));
    }
    let dir = settings.workload_api_socket_dir();
    for (name, path) in paths {
        let path = absolute_path(&path).unwrap_or(path);
        if path.starts_with(dir) {
            let message = format!(
                "{name} ({}) cannot lie in or below {}, which pods are given as a whole",
                path.display(),
                dir.display()
            );
            block.error(Setting::WorkloadApiSocketDir.key(), message);
        }
    }
}
