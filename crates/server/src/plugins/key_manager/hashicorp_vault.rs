//! `KeyManager "hashicorp_vault"`: keys in the transit secrets engine of Vault or OpenBao.

use std::sync::Arc;

use signet_base::SharedClock;
use signet_config::Block;
use signet_pki::key_manager::{KeyIdentifier, KeyStore};
use signet_vault::{Settings, Transit};

use super::{KeyManager, key_identifier};
use crate::plugins::{PluginError, vault};

/// `KeyManager "hashicorp_vault"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultKeys {
    /// Where the server is and how to log in.
    pub server: Settings,
    /// `transit_engine_path`, default `transit`.
    pub transit_engine_path: String,
    /// Which keys are this server's.
    pub key_identifier: KeyIdentifier,
}

pub(super) fn hashicorp_vault(block: &Block<'_>) -> Option<KeyManager> {
    let server = vault::settings(block);
    let mount = vault::text_under("VAULT_TRANSIT_ENGINE_PATH", block.text("transit_engine_path"));
    let key_identifier = key_identifier(block);
    if let Some(KeyIdentifier::Value(value)) = &key_identifier {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        let begins = value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if !begins || !value.bytes().all(inside) || value.len() > 128 {
            let message = format!(
                "{value:?} cannot begin the name of a transit key: expected at most 128 letters, \
                 digits, \"_\", \"-\" and \".\""
            );
            block.error("key_identifier_value", message);
        }
    }
    Some(KeyManager::Vault(VaultKeys {
        server: server?,
        transit_engine_path: mount.unwrap_or_else(|| "transit".to_owned()),
        key_identifier: key_identifier?,
    }))
}

/// The keys of this server; a missing key identifier file is made.
pub(super) fn store(
    settings: &VaultKeys,
    clock: &SharedClock,
) -> Result<Arc<dyn KeyStore>, PluginError> {
    let client = vault::open("KeyManager", "hashicorp_vault", &settings.server, clock)?;
    let id = settings.key_identifier.resolve().map_err(|error| failed(&error))?;
    Ok(Arc::new(Transit::new(client, &*settings.transit_engine_path, id)))
}

pub(super) fn check(settings: &VaultKeys, clock: &SharedClock) -> Result<(), PluginError> {
    vault::open("KeyManager", "hashicorp_vault", &settings.server, clock)?;
    settings.key_identifier.check().map_err(|error| failed(&error))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> PluginError {
    PluginError::new("KeyManager", "hashicorp_vault", signet_base::chain(error))
}
