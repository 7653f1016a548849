//! What the plugins that speak to Kubernetes share.

use std::{path::Path, sync::Arc};

use signet_base::{SharedClock, chain};
use signet_config::Block;
use signet_k8s::{ApiServer, KubeSource};

/// Reads a kubeconfig file as [`api_server`] does; the cluster that the server will run in cannot be
/// looked at from elsewhere, and is left out.
pub(super) fn check(file: Option<&Path>, clock: &SharedClock) -> Result<(), String> {
    file.map_or(Ok(()), |file| api_server(Some(file), clock).map(drop))
}

/// The API server of a kubeconfig file, or of the cluster this server runs in.
pub(super) fn api_server(file: Option<&Path>, clock: &SharedClock) -> Result<ApiServer, String> {
    ApiServer::new(source(file), Arc::clone(clock)).map_err(|error| chain(&error))
}

/// Where a cluster's API server is named: in a kubeconfig file, or in what the pod is given that
/// this server runs in.
pub(super) fn source(file: Option<&Path>) -> KubeSource {
    match file {
        Some(path) => KubeSource::Files(vec![path.to_owned()]),
        None => KubeSource::InCluster,
    }
}

pub(super) fn object_name(block: &Block<'_>, key: &'static str) -> Option<String> {
    let name = block.text(key)?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    if name.len() > 253 || name.starts_with('.') || !name.bytes().all(allowed) {
        let message = format!("{name:?} is not the name of a Kubernetes object");
        block.error(key, message);
    }
    Some(name)
}

/// A key of a ConfigMap.
pub(super) fn data_key(block: &Block<'_>, key: &'static str) -> Option<String> {
    let name = block.text(key)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.len() > 253 || !name.bytes().all(allowed) {
        block.error(key, format!("{name:?} is not a key that a ConfigMap can have"));
    }
    Some(name)
}

/// `name` or `prefix/name`.
pub(super) fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.rsplit_once('/').map_or((None, text), |(p, n)| (Some(p), n));
    let word = |text: &str, max: usize| {
        !text.is_empty()
            && text.len() <= max
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    word(name, 63) && prefix.is_none_or(|prefix| word(prefix, 253))
}
