//! What the plugins that speak to Microsoft Azure share.

use signet_azure::{AUTHORITY, Azure, Credentials};
use signet_base::chain;
use signet_config::Block;
use zeroize::Zeroizing;

use super::PluginError;

/// `tenant_id`, `app_id` and `app_secret`, or none of them and what the environment says. `others`
/// are keys that count as one of them.
pub(super) fn credentials(
    block: &Block<'_>,
    authority: &str,
    others: &[&'static str],
) -> Option<Credentials> {
    let tenant_id = block.text("tenant_id");
    let client_id = block.text("app_id");
    let secret = block.text("app_secret").map(Zeroizing::new);
    let others: Vec<_> = others.iter().map(|key| (*key, block.text(key).is_some())).collect();
    let set = [
        ("tenant_id", tenant_id.is_some()),
        ("app_id", client_id.is_some()),
        ("app_secret", secret.is_some()),
    ];
    let set: Vec<_> = set.into_iter().chain(others).collect();
    if set.iter().all(|(_, is_set)| !is_set) {
        return Some(Credentials::from_env(authority));
    }
    for (key, _) in set.iter().filter(|(_, is_set)| !is_set) {
        block.error(
            key,
            "must be configured together with the other credentials of the application",
        );
    }
    Some(Credentials::Secret {
        authority: authority_or(authority),
        tenant_id: tenant_id?,
        client_id: client_id?,
        secret: secret?,
    })
}

fn authority_or(default: &str) -> String {
    let variable = std::env::var("AZURE_AUTHORITY_HOST").ok().filter(|host| !host.is_empty());
    variable.unwrap_or_else(|| default.to_owned())
}

/// Who gives tokens in the cloud that a host belongs to.
pub(super) fn authority_of(host: &str) -> &'static str {
    let host = host.trim_end_matches('/');
    if host.ends_with(".usgovcloudapi.net") {
        "https://login.microsoftonline.us"
    } else if host.ends_with(".azure.cn") || host.ends_with(".chinacloudapi.cn") {
        "https://login.chinacloudapi.cn"
    } else {
        AUTHORITY
    }
}

/// A client; nothing is read or sent yet.
pub(super) fn open(
    kind: &'static str,
    name: &'static str,
    credentials: &Credentials,
    resource: String,
) -> Result<Azure, PluginError> {
    Azure::new(credentials.clone(), resource)
        .map_err(|error| PluginError::new(kind, name, chain(&error)))
}

/// Reads what the credentials name.
pub(super) fn check(
    kind: &'static str,
    name: &'static str,
    credentials: &Credentials,
) -> Result<(), PluginError> {
    credentials.check().map_err(|why| PluginError::new(kind, name, why))
}
