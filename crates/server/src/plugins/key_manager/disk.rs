//! `KeyManager "disk"`: keys in a file.

use std::path::{Path, PathBuf};

use signet_base::chain;
use signet_config::Block;
use signet_pki::{DiskKeyManager, files, key_manager::Sealing, seal::SealKey as SealingKey};
use zeroize::Zeroizing;

use super::KeyManager;
use crate::plugins::PluginError;

/// The longest passphrase file that is read, bytes.
const MAX_PASSPHRASE_FILE: u64 = 4096;

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

pub(super) fn disk(block: &Block<'_>) -> Option<KeyManager> {
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

/// Opens the key manager `disk`, as [`OpenKeyManager::open`] does.
///
/// # Errors
/// As [`OpenKeyManager::open`].
pub(crate) fn open_disk(disk: &DiskKeys) -> Result<DiskKeyManager, PluginError> {
    DiskKeyManager::open(&disk.keys_path, sealing(disk)?).map_err(|error| disk_failed(&error))
}

/// What the key file is sealed with.
pub(super) fn sealing(disk: &DiskKeys) -> Result<Sealing, PluginError> {
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
