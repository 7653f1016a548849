//! Keys in one file, in SPIRE's format, optionally sealed.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;

use super::{KeyManager, KeyManagerError};
use crate::{KeyType, PrivateKey, Signer, seal::SealKey};

/// Whether the key file is sealed, and with what.
#[derive(Debug, Default)]
pub enum Sealing {
    /// SPIRE's own format, PKCS#8 in the clear, file mode 0600.
    #[default]
    Off,
    /// Each write seals the whole document; an unsealed file is sealed at first load.
    With(SealKey),
}

/// SPIRE's `disk` key manager: `{"keys":{"<id>":"<base64 PKCS#8>"}}`, mode 0600, replaced
/// atomically.
#[derive(Debug)]
pub struct DiskKeyManager {
    path: PathBuf,
}

impl DiskKeyManager {
    /// Loads the file, or starts without keys when there is none (it is created by the first key).
    ///
    /// # Errors
    /// [`KeyManagerError`]: unreadable, others may read it, corrupt, or sealed otherwise.
    pub fn open(path: impl Into<PathBuf>, sealing: Sealing) -> Result<Self, KeyManagerError> {
        let _ = sealing;
        Ok(Self { path: path.into() })
    }

    /// Puts an existing key under a name (migration from another key manager).
    ///
    /// # Errors
    /// [`KeyManagerError`] when it cannot be stored.
    pub async fn import(&self, id: &str, key: PrivateKey) -> Result<(), KeyManagerError> {
        let _ = (id, key, &self.path);
        todo!()
    }
}

#[async_trait]
impl KeyManager for DiskKeyManager {
    async fn generate_key(
        &self,
        id: &str,
        key_type: KeyType,
    ) -> Result<Arc<dyn Signer>, KeyManagerError> {
        let _ = (id, key_type);
        todo!()
    }

    async fn get_key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, KeyManagerError> {
        let _ = id;
        todo!()
    }

    async fn list(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, KeyManagerError> {
        todo!()
    }
}
