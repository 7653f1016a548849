//! `KeyManager`: where the server's private keys are.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use signet_base::chain;
use signet_config::{Block, Count, Kind};
use signet_pki::{
    DiskKeyManager, KeyManager as KeyManagerPort, MemoryKeyManager, files, key_manager::Sealing,
    seal::SealKey as SealingKey,
};
use zeroize::Zeroizing;

use super::PluginError;

/// The longest passphrase file that is read, bytes.
const MAX_PASSPHRASE_FILE: u64 = 4096;

/// `KeyManager`.
pub(super) const KIND: Kind<KeyManager> = Kind {
    name: "KeyManager",
    noun: "key manager",
    count: Count::One,
    plugins: &[("disk", disk), ("memory", memory)],
    absent: &[(
        &["aws_kms", "azure_key_vault", "gcp_kms", "hashicorp_vault"],
        "use KeyManager \"disk\", sealed by seal_key_file or seal_passphrase_file",
    )],
};

/// Where the server's private keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyManager {
    /// In a file.
    Disk(DiskKeys),
    /// In memory: new authorities at each start.
    Memory,
}

/// `KeyManager "disk"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskKeys {
    /// `keys_path`, required.
    pub keys_path: PathBuf,
    /// What the file is sealed with (our own keys); none leaves it readable, as SPIRE writes it.
    pub seal: Option<SealKey>,
}

/// What a key file is sealed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealKey {
    /// `seal_key_file`: a file of 32 random bytes.
    KeyFile(PathBuf),
    /// `seal_passphrase_file`: a file whose first line is a passphrase.
    PassphraseFile(PathBuf),
}

fn disk(block: &Block<'_>) -> Option<KeyManager> {
    let keys_path = block.required("keys_path", block.path("keys_path"));
    let seal = match (block.path("seal_key_file"), block.path("seal_passphrase_file")) {
        (None, None) => None,
        (Some(file), None) => Some(SealKey::KeyFile(file)),
        (None, Some(file)) => Some(SealKey::PassphraseFile(file)),
        (Some(_), Some(_)) => {
            let message = "only one of seal_key_file and seal_passphrase_file can be used";
            block.error("seal_passphrase_file", message);
            None
        }
    };
    Some(KeyManager::Disk(DiskKeys { keys_path: keys_path?, seal }))
}

fn memory(_: &Block<'_>) -> Option<KeyManager> {
    Some(KeyManager::Memory)
}

/// A key manager that can be configured anew.
#[derive(Clone, Debug)]
pub enum OpenKeyManager {
    /// `disk`.
    Disk(DiskKeyManager),
    /// `memory`.
    Memory(Arc<MemoryKeyManager>),
}

impl OpenKeyManager {
    /// Opens the key manager. With a passphrase this takes some tenths of a second of CPU.
    ///
    /// # Errors
    /// [`PluginError`] when the key file or what it is sealed with cannot be read.
    pub fn open(settings: &KeyManager) -> Result<Self, PluginError> {
        Ok(match settings {
            KeyManager::Memory => Self::Memory(Arc::new(MemoryKeyManager::new())),
            KeyManager::Disk(disk) => Self::Disk(open_disk(disk)?),
        })
    }

    /// As the authority uses it.
    pub fn port(&self) -> Arc<dyn KeyManagerPort> {
        match self {
            Self::Disk(disk) => Arc::new(disk.clone()),
            Self::Memory(memory) => Arc::clone(memory) as _,
        }
    }

    /// Takes new settings: keys stay in use, and are kept where the settings say.
    ///
    /// # Errors
    /// [`PluginError`] when the keys cannot be kept there; they stay where they are then.
    pub async fn reconfigure(&self, settings: &KeyManager) -> Result<(), PluginError> {
        // The kind of a plugin is fixed by the main file, and memory has no settings.
        let (Self::Disk(keys), KeyManager::Disk(disk)) = (self, settings) else {
            return Ok(());
        };
        let failed = |why: String| PluginError::new("KeyManager", "disk", why);
        let wanted = disk.clone();
        let sealing = tokio::task::spawn_blocking(move || sealing(&wanted));
        let sealing = sealing.await.map_err(|error| failed(error.to_string()))??;
        let moved = keys.move_to(&disk.keys_path, sealing).await;
        moved.map_err(|error| failed(chain(&error)))
    }
}

/// Finds out whether [`OpenKeyManager::open`] could read what the settings name, without writing
/// anything.
///
/// # Errors
/// [`PluginError`] when what the key file is sealed with cannot be read.
pub(super) fn check(settings: &KeyManager) -> Result<(), PluginError> {
    match settings {
        KeyManager::Disk(disk) => sealing(disk).map(drop),
        KeyManager::Memory => Ok(()),
    }
}

/// Opens the key manager `disk`, as [`OpenKeyManager::open`] does.
///
/// # Errors
/// As [`OpenKeyManager::open`].
pub(crate) fn open_disk(disk: &DiskKeys) -> Result<DiskKeyManager, PluginError> {
    DiskKeyManager::open(&disk.keys_path, sealing(disk)?).map_err(|error| disk_failed(&error))
}

/// What the key file is sealed with.
fn sealing(disk: &DiskKeys) -> Result<Sealing, PluginError> {
    Ok(match &disk.seal {
        None => Sealing::Off,
        Some(SealKey::KeyFile(path)) => {
            Sealing::With(SealingKey::from_file(path).map_err(|error| disk_failed(&error))?)
        }
        Some(SealKey::PassphraseFile(path)) => {
            let passphrase =
                passphrase(path).map_err(|why| PluginError::new("KeyManager", "disk", why))?;
            let key =
                SealingKey::from_passphrase(passphrase).map_err(|error| disk_failed(&error))?;
            Sealing::With(key)
        }
    })
}

fn disk_failed(error: &dyn std::error::Error) -> PluginError {
    PluginError::new("KeyManager", "disk", chain(error))
}

/// The first line of a passphrase file, which only its owner may read.
fn passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let bytes = files::read_secret(path, MAX_PASSPHRASE_FILE)
        .map_err(|error| chain(&error))?
        .ok_or_else(|| format!("passphrase file {} does not exist", path.display()))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(format!("{}: the first line is empty, expected a passphrase", path.display()));
    }
    Ok(Zeroizing::new(line.to_vec()))
}
