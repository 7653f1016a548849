//! What the plugins that speak to Vault or OpenBao share, with SPIRE's settings and environment.

use signet_base::{SharedClock, chain};
use signet_config::Block;
use signet_vault::{Auth, Client, Settings};
use zeroize::Zeroizing;

use super::PluginError;

/// The variable of the environment, which counts more than what the file says, as in SPIRE.
pub(super) fn text_under(variable: &str, file: Option<String>) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty()).or(file)
}

/// Where a Vault server is and how to log in there.
pub(super) fn settings(block: &Block<'_>) -> Option<Settings> {
    let address = text_under("VAULT_ADDR", block.text("vault_addr"));
    let namespace = text_under("VAULT_NAMESPACE", block.text("namespace"));
    let ca = text_under("VAULT_CACERT", block.text("ca_cert_path"));
    let insecure_skip_verify = block.flag("insecure_skip_verify");
    if insecure_skip_verify {
        let message = "any certificate of the Vault server is taken: only for tests";
        block.warn("insecure_skip_verify", message);
    }
    if address.is_none() {
        block.error("vault_addr", "must be configured, here or as VAULT_ADDR in the environment");
    }
    let auth = auth(block);
    let mut settings = Settings::new(address?, auth?);
    settings.namespace = namespace;
    settings.ca_cert_path = ca.map(Into::into);
    settings.insecure_skip_verify = insecure_skip_verify;
    Some(settings)
}

/// Exactly one of the four blocks; an empty one takes all from the environment.
fn auth(block: &Block<'_>) -> Option<Auth> {
    let blocks = [
        ("cert_auth", certificate as fn(&Block<'_>) -> Option<Auth>),
        ("token_auth", token),
        ("approle_auth", approle),
        ("k8s_auth", kubernetes),
    ];
    let mut found = Vec::new();
    for (name, read) in blocks {
        if let Some(inner) = block.block(name) {
            found.push((name, read(&inner)));
            inner.finish();
        }
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (None, _) => {
            let message =
                "one of cert_auth, token_auth, approle_auth and k8s_auth must be configured";
            block.error("cert_auth", message);
            None
        }
        (Some((_, auth)), None) => auth,
        (Some((first, _)), Some((second, _))) => {
            block.error(second, format!("only one way to log in can be used, and {first} is one"));
            None
        }
    }
}

fn certificate(block: &Block<'_>) -> Option<Auth> {
    let mount = block.text("cert_auth_mount_point");
    let role = block.text("cert_auth_role_name");
    let cert = block.text("client_cert_path");
    let cert = from_either(block, "client_cert_path", "VAULT_CLIENT_CERT", cert);
    let key = block.text("client_key_path");
    let key = from_either(block, "client_key_path", "VAULT_CLIENT_KEY", key);
    Some(Auth::Certificate {
        mount: mount.unwrap_or_else(|| "cert".to_owned()),
        role,
        cert_path: cert?.into(),
        key_path: key?.into(),
    })
}

fn token(block: &Block<'_>) -> Option<Auth> {
    let token = from_either(block, "token", "VAULT_TOKEN", block.text("token"));
    Some(Auth::Token(Zeroizing::new(token?)))
}

fn approle(block: &Block<'_>) -> Option<Auth> {
    let mount = block.text("approle_auth_mount_point");
    let role = block.text("approle_id");
    let role = from_either(block, "approle_id", "VAULT_APPROLE_ID", role);
    let secret = text_under("VAULT_APPROLE_SECRET_ID", block.text("approle_secret_id"));
    Some(Auth::AppRole {
        mount: mount.unwrap_or_else(|| "approle".to_owned()),
        role_id: role?,
        secret_id: Zeroizing::new(secret.unwrap_or_default()),
    })
}

fn kubernetes(block: &Block<'_>) -> Option<Auth> {
    let mount = block.text("k8s_auth_mount_point");
    let role = block.required_text("k8s_auth_role_name");
    let token_path = block.required("token_path", block.path("token_path"));
    Some(Auth::Kubernetes {
        mount: mount.unwrap_or_else(|| "kubernetes".to_owned()),
        role: role?,
        token_path: token_path?,
    })
}

fn from_either(
    block: &Block<'_>,
    key: &'static str,
    variable: &str,
    file: Option<String>,
) -> Option<String> {
    let value = text_under(variable, file);
    if value.is_none() {
        block.error(key, format!("must be configured, here or as {variable} in the environment"));
    }
    value
}

/// Reads what the settings name; nothing is sent.
pub(super) fn open(
    kind: &'static str,
    name: &'static str,
    settings: &Settings,
    clock: &SharedClock,
) -> Result<Client, PluginError> {
    Client::open(settings, clock.clone())
        .map_err(|error| PluginError::new(kind, name, chain(&error)))
}
