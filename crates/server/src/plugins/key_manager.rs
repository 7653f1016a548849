//! `KeyManager`: where the server's private keys are.

mod aws_kms;
mod azure_key_vault;
mod disk;
mod gcp_kms;
mod hashicorp_vault;
mod pkcs11;

use std::sync::Arc;

use signet_base::{SharedClock, chain};
use signet_config::{Block, Count, Kind};
use signet_identity::TrustDomain;
use signet_pki::{
    DiskKeyManager, KeyManager as KeyManagerPort, MemoryKeyManager,
    key_manager::{KeyIdentifier, KeyManagerError, KeyStore, RemoteKeyManager, SigningLimits},
};

pub(crate) use self::disk::open_disk;
pub use self::{
    aws_kms::AwsKmsKeys,
    azure_key_vault::AzureKeys,
    disk::{DiskKeys, SealKey},
    gcp_kms::GcpKeys,
    hashicorp_vault::VaultKeys,
    pkcs11::Pkcs11Keys,
};
use super::PluginError;

/// `KeyManager`.
pub(super) const KIND: Kind<KeyManager> = Kind {
    name: "KeyManager",
    noun: "key manager",
    count: Count::One,
    plugins: &[
        ("aws_kms", aws_kms::aws_kms),
        ("azure_key_vault", azure_key_vault::azure_key_vault),
        ("disk", disk::disk),
        ("gcp_kms", gcp_kms::gcp_kms),
        ("hashicorp_vault", hashicorp_vault::hashicorp_vault),
        ("memory", memory),
        ("pkcs11", pkcs11::pkcs11),
    ],
    absent: &[],
};

/// Where the server's private keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyManager {
    /// In the Key Management Service of AWS.
    AwsKms(AwsKmsKeys),
    /// In Azure Key Vault.
    Azure(AzureKeys),
    /// In a file.
    Disk(DiskKeys),
    /// In Google Cloud KMS.
    Gcp(GcpKeys),
    /// In memory: new authorities at each start.
    Memory,
    /// In a hardware security module or TPM.
    Pkcs11(Pkcs11Keys),
    /// In the transit secrets engine of a Vault server.
    Vault(VaultKeys),
}

impl KeyManager {
    /// The plugin's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AwsKms(_) => "aws_kms",
            Self::Azure(_) => "azure_key_vault",
            Self::Disk(_) => "disk",
            Self::Gcp(_) => "gcp_kms",
            Self::Memory => "memory",
            Self::Pkcs11(_) => "pkcs11",
            Self::Vault(_) => "hashicorp_vault",
        }
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> PluginError {
        PluginError::new(KIND.name, self.name(), chain(error))
    }
}

fn memory(_: &Block<'_>) -> Option<KeyManager> {
    Some(KeyManager::Memory)
}

/// `key_identifier_file` or `key_identifier_value`, exactly one of them.
fn key_identifier(block: &Block<'_>) -> Option<KeyIdentifier> {
    match (block.path("key_identifier_file"), block.text("key_identifier_value")) {
        (Some(file), None) => Some(KeyIdentifier::File(file)),
        (None, Some(value)) => Some(KeyIdentifier::Value(value)),
        (None, None) => {
            let message = "one of key_identifier_file and key_identifier_value must be configured";
            block.error("key_identifier_file", message);
            None
        }
        (Some(_), Some(_)) => {
            let message = "only one of key_identifier_file and key_identifier_value can be used";
            block.error("key_identifier_value", message);
            None
        }
    }
}

/// A key manager that can be configured anew.
#[derive(Clone, Debug)]
pub enum OpenKeyManager {
    /// `disk`.
    Disk(DiskKeyManager),
    /// `memory`.
    Memory(Arc<MemoryKeyManager>),
    /// Keys elsewhere.
    Remote(RemoteKeyManager),
}

impl OpenKeyManager {
    /// Opens the key manager; a back end elsewhere is not asked yet. With a passphrase this takes
    /// some tenths of a second of CPU.
    ///
    /// # Errors
    /// [`PluginError`] when the key file or what it is sealed with cannot be read, or what the
    /// settings of another back end name.
    pub fn open(
        settings: &KeyManager,
        trust_domain: &TrustDomain,
        clock: &SharedClock,
    ) -> Result<Self, PluginError> {
        Ok(match settings {
            KeyManager::Memory => Self::Memory(Arc::new(MemoryKeyManager::new())),
            KeyManager::Disk(disk) => Self::Disk(open_disk(disk)?),
            remote => {
                let store = key_store(remote, trust_domain, clock)?;
                let limits = match remote {
                    KeyManager::Pkcs11(pkcs11) => pkcs11.limits(),
                    _ => SigningLimits::default(),
                };
                Self::Remote(RemoteKeyManager::new(store, limits))
            }
        })
    }

    /// As the authority uses it.
    pub fn port(&self) -> Arc<dyn KeyManagerPort> {
        match self {
            Self::Disk(disk) => Arc::new(disk.clone()),
            Self::Memory(memory) => Arc::clone(memory) as _,
            Self::Remote(remote) => Arc::new(remote.clone()),
        }
    }

    /// Takes new settings: keys stay in use, and are kept where the settings say. A back end
    /// elsewhere must have them.
    ///
    /// # Errors
    /// [`PluginError`] when the keys cannot be kept there; they stay where they are then.
    pub async fn reconfigure(
        &self,
        settings: &KeyManager,
        trust_domain: &TrustDomain,
        clock: &SharedClock,
    ) -> Result<(), PluginError> {
        // The kind of a plugin is fixed by the main file, and memory has no settings.
        match (self, settings) {
            (Self::Disk(keys), KeyManager::Disk(disk)) => {
                let wanted = disk.clone();
                let sealing = tokio::task::spawn_blocking(move || disk::sealing(&wanted));
                let sealing = sealing.await.map_err(|error| settings.failed(&error))??;
                let moved = keys.move_to(&disk.keys_path, sealing).await;
                moved.map_err(|error| settings.failed(&error))
            }
            (Self::Remote(keys), remote) => {
                let store = key_store(remote, trust_domain, clock)?;
                let replaced = keys.replace_store(store).await;
                replaced.map_err(|error| settings.failed(&error))
            }
            _ => Ok(()),
        }
    }
}

/// The keys that this server has elsewhere: their names, and the subject key IDs of authorities
/// with them, lower-case hex. `None` for a key manager of this machine. Nothing is made or deleted.
///
/// # Errors
/// [`PluginError`] when the settings cannot be used or the back end fails.
pub(crate) async fn remote_keys(
    settings: &KeyManager,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<Option<Vec<(String, String)>>, PluginError> {
    let identifier = match settings {
        KeyManager::Disk(_) | KeyManager::Memory => return Ok(None),
        KeyManager::AwsKms(aws) => &aws.key_identifier,
        KeyManager::Azure(azure) => &azure.key_identifier,
        KeyManager::Gcp(gcp) => &gcp.key_identifier,
        KeyManager::Pkcs11(pkcs11) => &pkcs11.key_identifier,
        KeyManager::Vault(vault) => &vault.key_identifier,
    };
    if matches!(identifier, KeyIdentifier::File(path) if !path.exists()) {
        return Ok(Some(Vec::new()));
    }
    let store = key_store(settings, trust_domain, clock)?;
    let keys = RemoteKeyManager::new(store, SigningLimits::default());
    let keys = keys.list().await.map_err(|error| settings.failed(&error))?;
    let hex = |bytes: [u8; 20]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let id = |(name, key): (String, signet_pki::ManagedKey)| {
        (name, hex(key.public_key().subject_key_id()))
    };
    Ok(Some(keys.into_iter().map(id).collect()))
}

/// Where a remote key manager's keys are.
fn key_store(
    settings: &KeyManager,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<Arc<dyn KeyStore>, PluginError> {
    match settings {
        KeyManager::AwsKms(aws) => aws_kms::store(aws, trust_domain, clock),
        KeyManager::Azure(azure) => azure_key_vault::store(azure, trust_domain, clock),
        KeyManager::Gcp(gcp) => gcp_kms::store(gcp, trust_domain, clock),
        KeyManager::Pkcs11(pkcs11) => pkcs11::store(pkcs11, clock),
        KeyManager::Vault(vault) => hashicorp_vault::store(vault, clock),
        KeyManager::Disk(_) | KeyManager::Memory => Err(settings.failed(&KeyManagerError::Stopped)),
    }
}

/// Finds out whether [`OpenKeyManager::open`] could read what the settings name, without writing
/// or asking anything.
///
/// # Errors
/// [`PluginError`] when a file that the settings name cannot be read.
pub(super) fn check(
    settings: &KeyManager,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<(), PluginError> {
    match settings {
        KeyManager::AwsKms(aws) => aws_kms::check(aws, trust_domain, clock),
        KeyManager::Azure(azure) => azure_key_vault::check(azure),
        KeyManager::Disk(disk) => disk::sealing(disk).map(drop),
        KeyManager::Gcp(gcp) => gcp_kms::check(gcp),
        KeyManager::Memory => Ok(()),
        KeyManager::Pkcs11(pkcs11) => pkcs11::check(pkcs11),
        KeyManager::Vault(vault) => hashicorp_vault::check(vault, clock),
    }
}
