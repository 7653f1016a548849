//! `KeyManager`: where the agent's private key is.

use std::{
    io,
    path::{Path, PathBuf},
};

use signet_config::{Block, Count, Kind};
use signet_pki::{DiskKeyManager, KeyManagerError, key_manager::Sealing};

use crate::{agent_identity::AgentKeys, data_dir};

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

/// Why the key manager cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Its directory cannot be made.
    #[error("directory {}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its file cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyManagerError),
}

/// Opens the key manager; `data_dir` is where the agent notes what it is about.
///
/// # Errors
/// [`OpenError`] when the directory cannot be made or the key file cannot be read.
pub(crate) fn open(settings: &KeyManager, data_dir: &Path) -> Result<AgentKeys, OpenError> {
    Ok(match settings {
        KeyManager::Disk { directory } => {
            data_dir::make(directory)
                .map_err(|source| OpenError::Directory { path: directory.clone(), source })?;
            let file = directory.join("keys.json");
            AgentKeys::on_disk(DiskKeyManager::open(&file, Sealing::Off)?, file, data_dir)
        }
        KeyManager::Memory => AgentKeys::in_memory(data_dir),
    })
}
