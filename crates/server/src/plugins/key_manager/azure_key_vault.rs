//! `KeyManager "azure_key_vault"`: keys in Azure Key Vault.

use std::sync::Arc;

use signet_azure::{Credentials, KeyVault, VaultSettings};
use signet_base::{SharedClock, chain};
use signet_config::Block;
use signet_http::is_confidential;
use signet_identity::TrustDomain;
use signet_pki::key_manager::{KeyIdentifier, KeyStore};

use super::{KeyManager, key_identifier};
use crate::plugins::{PluginError, azure};

const NAME: &str = "azure_key_vault";
/// The longest value of a tag.
const MAX_IDENTIFIER: usize = 256;

/// `KeyManager "azure_key_vault"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureKeys {
    /// `key_vault_uri`, required: `https://name.vault.azure.net`.
    pub key_vault_uri: String,
    /// Which keys are this server's.
    pub key_identifier: KeyIdentifier,
    /// `tenant_id`, `app_id` and `app_secret`, or what the environment says.
    pub credentials: Credentials,
}

pub(super) fn azure_key_vault(block: &Block<'_>) -> Option<KeyManager> {
    let uri = block.required_text("key_vault_uri");
    if let Some(uri) = uri.as_deref().filter(|uri| !is_uri(uri)) {
        let message = format!("{uri:?}: expected a URL such as https://name.vault.azure.net");
        block.error("key_vault_uri", message);
    }
    let key_identifier = key_identifier(block);
    if let Some(KeyIdentifier::Value(value)) = &key_identifier
        && value.chars().count() > MAX_IDENTIFIER
    {
        let message = format!("expected at most {MAX_IDENTIFIER} characters");
        block.error("key_identifier_value", message);
    }
    let authority = azure::authority_of(uri.as_deref().unwrap_or_default());
    let credentials = azure::credentials(block, authority, &["subscription_id"]);
    Some(KeyManager::Azure(AzureKeys {
        key_vault_uri: uri?,
        key_identifier: key_identifier?,
        credentials: credentials?,
    }))
}

fn is_uri(uri: &str) -> bool {
    let host = uri.trim_end_matches('/').split_once("://").map_or("", |(_, host)| host);
    is_confidential(uri) && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
}

/// The keys of this server; a missing key identifier file is made.
pub(super) fn store(
    settings: &AzureKeys,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<Arc<dyn KeyStore>, PluginError> {
    let vault = settings.key_vault_uri.clone();
    let resource = KeyVault::resource(&vault);
    let azure = azure::open("KeyManager", NAME, &settings.credentials, resource)?;
    let server_id = settings.key_identifier.resolve().map_err(|error| failed(&error))?;
    let vault = VaultSettings { vault, server_id };
    Ok(Arc::new(KeyVault::new(azure, vault, trust_domain, Arc::clone(clock))))
}

pub(super) fn check(settings: &AzureKeys) -> Result<(), PluginError> {
    azure::check("KeyManager", NAME, &settings.credentials)?;
    settings.key_identifier.check().map_err(|error| failed(&error))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> PluginError {
    PluginError::new("KeyManager", NAME, chain(error))
}
