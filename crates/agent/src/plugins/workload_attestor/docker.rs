//! `WorkloadAttestor "docker"`, for Docker and Podman.

use std::str::FromStr;

use signet_attest::workload::docker::{DockerConfig, RootlessAddress};
use signet_config::Block;

use super::{SIGSTORE, WorkloadAttestor, k8s::refuse_legacy_locator};

pub(super) fn decode(block: &Block<'_>) -> Option<WorkloadAttestor> {
    refuse_what_is_not_there(block);
    // What the container locator sees is in the debug log anyway.
    block.flag("verbose_container_locator_logs");
    let defaults = DockerConfig::default();
    let version = block.text("docker_version").filter(|version| !version.is_empty());
    let version = version.map(|version| {
        let number = version.strip_prefix('v').unwrap_or(&version).to_owned();
        if !is_version(&number) {
            let message = format!("found {version:?}, expected a version such as \"1.44\"");
            block.error("docker_version", message);
        }
        number
    });
    Some(WorkloadAttestor::Docker(DockerConfig {
        docker: address(block, "docker_socket_path").unwrap_or(defaults.docker),
        version,
        podman: address(block, "podman_socket_path").unwrap_or(defaults.podman),
        rootless_podman: address::<RootlessAddress>(block, "podman_socket_path_template"),
        deadline: defaults.deadline,
        backoff: defaults.backoff,
    }))
}

/// The address that `key` holds; an empty text is none, as for SPIRE.
fn address<T: FromStr<Err: std::fmt::Display>>(block: &Block<'_>, key: &'static str) -> Option<T> {
    let text = block.text(key).filter(|text| !text.is_empty())?;
    text.parse().map_err(|error| block.error(key, error)).ok()
}

fn is_version(text: &str) -> bool {
    let is_number =
        |part: &str| !part.is_empty() && part.len() < 8 && part.bytes().all(|b| b.is_ascii_digit());
    text.split_once('.').is_some_and(|(major, minor)| is_number(major) && is_number(minor))
}

fn refuse_what_is_not_there(block: &Block<'_>) {
    refuse_legacy_locator(block);
    if !block.texts("container_id_cgroup_matchers").is_empty() {
        block.error(
            "container_id_cgroup_matchers",
            "patterns belong to the legacy container locator, which is not in Signet; remove the \
             key: both versions of cgroups and all runtimes are covered",
        );
    }
    block.refuse("docker_host", "named pipes belong to Windows; use docker_socket_path");
    block.refuse("sigstore", SIGSTORE);
}
