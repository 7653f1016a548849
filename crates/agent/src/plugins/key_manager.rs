//! `KeyManager`: where the agent's private key is.

use std::{path::PathBuf, sync::Arc};

use signet_config::{Block, Count, Kind};
use signet_pki::{
    DiskKeyManager, KeyManager as KeyManagerPort, MemoryKeyManager, key_manager::Sealing,
};

use crate::app::{BuildError, create_dir};

/// `KeyManager`.
pub(super) const KIND: Kind<KeyManager> = Kind {
    name: "KeyManager",
    noun: "key manager",
    count: Count::One,
    plugins: &[("disk", disk), ("memory", memory)],
    absent: &[],
};

/// Where the agent's private key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyManager {
    /// In the file `keys.json` of a directory.
    Disk {
        /// `directory`, required.
        directory: PathBuf,
    },
    /// In memory: the agent attests anew at each start.
    Memory,
}

fn disk(block: &Block<'_>) -> Option<KeyManager> {
    let directory = block.required("directory", block.path("directory"));
    directory.map(|directory| KeyManager::Disk { directory })
}

fn memory(_: &Block<'_>) -> Option<KeyManager> {
    Some(KeyManager::Memory)
}

/// Opens the key manager.
///
/// # Errors
/// [`BuildError`] when the directory cannot be made or the key file cannot be read.
pub(crate) fn open(settings: &KeyManager) -> Result<Arc<dyn KeyManagerPort>, BuildError> {
    Ok(match settings {
        KeyManager::Disk { directory } => {
            create_dir(directory)?;
            Arc::new(DiskKeyManager::open(directory.join("keys.json"), Sealing::Off)?)
        }
        KeyManager::Memory => Arc::new(MemoryKeyManager::new()),
    })
}
