//! Private keys on their way from one key file to another.

use std::path::Path;

use signet_pki::{
    DiskKeyManager, PrivateKey, Signer,
    key_manager::{KeyManagerError, Sealing},
};

use super::MigrateError;
use crate::plugins::key_manager::{self, DiskKeys};

/// Private keys by name.
pub(super) struct Keys(Vec<(String, PrivateKey)>);

impl Keys {
    /// The keys of a file in SPIRE's form; none when it does not exist.
    pub(super) fn of_spire(path: &Path) -> Result<Self, MigrateError> {
        Ok(Self(DiskKeyManager::open(path, Sealing::Off)?.export()))
    }

    /// The keys that the configuration names; an unsealed file is left as it is.
    pub(super) fn configured(settings: &DiskKeys) -> Result<Self, MigrateError> {
        // Opening with a seal would seal a file that SPIRE wrote: that is for the server to do.
        match Self::of_spire(&settings.keys_path) {
            Err(MigrateError::Keys(KeyManagerError::Sealing { .. })) => {
                Ok(Self(key_manager::open_disk(settings)?.export()))
            }
            read => read,
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these are the same keys under the same names.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((name, key), (other_name, other_key))| {
                name == other_name && key.pkcs8_der() == other_key.pkcs8_der()
            })
    }

    /// The subject key IDs of the keys, lower-case hex: what X.509 authorities are called.
    pub(super) fn subject_key_ids(&self) -> Result<Vec<String>, MigrateError> {
        let id = |(_, key): &(String, PrivateKey)| {
            let signer = key.signer().map_err(KeyManagerError::from)?;
            let id = signer.public_key().subject_key_id();
            Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
        };
        self.0.iter().map(id).collect()
    }

    /// Adds the keys to a key manager.
    pub(super) async fn add_to(&self, manager: &DiskKeyManager) -> Result<(), MigrateError> {
        for (name, key) in &self.0 {
            manager.import(name, key.clone()).await?;
        }
        Ok(())
    }
}
