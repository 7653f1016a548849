//! Where private keys live: the `KeyManager` port, and its memory and disk implementations.

use std::{
    fmt,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{KeyError, KeyType, PrivateKey};

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod disk;
#[cfg(any(test, feature = "test-support"))]
pub mod fake;
mod identifier;
mod managed_key;
mod memory;
mod queue;
mod remote;
#[cfg(test)]
mod tests;

pub use disk::{DiskKeyManager, Sealing};
pub use identifier::{KeyIdentifier, is_uuid};
pub use managed_key::{ManagedKey, RemoteSigner, SigningObserver};
pub use memory::MemoryKeyManager;
pub use queue::{SigningFault, SigningLimits, SigningQueue};
pub use remote::{KeyStore, KeyStoreError, RemoteKeyManager, StoredKey, read_keys};

/// Holds private keys under names. A name is stable (`x509-CA-A`); generating under a name that
/// is in use replaces that key, and keys handed out earlier go on with the old one for as long as
/// the key manager has it.
///
/// Every call is given a deadline by the caller, and its future is dropped then: a remote key
/// manager keeps what it does bounded, and finds and removes what an interrupted call left behind.
#[async_trait]
pub trait KeyManager: Send + Sync + fmt::Debug {
    /// The plugin's name, `disk`.
    fn name(&self) -> &'static str;

    /// Whether keys outlive the process. When they do, a key that is gone was lost, and the server
    /// does not start as if it had never been.
    fn outlives_process(&self) -> bool {
        true
    }

    /// Makes a key and keeps it durably before it returns. The key that the name had is given up:
    /// a remote key manager deletes it, after the new one is in place.
    ///
    /// # Errors
    /// [`KeyManagerError`]; the earlier key of that name is then still in place.
    async fn generate_key(
        &self,
        id: &str,
        key_type: KeyType,
    ) -> Result<ManagedKey, KeyManagerError>;

    /// The key of that name, or `None`.
    ///
    /// # Errors
    /// [`KeyManagerError`] when the key's holder fails.
    async fn get_key(&self, id: &str) -> Result<Option<ManagedKey>, KeyManagerError>;

    /// All keys of this server, sorted by name.
    ///
    /// # Errors
    /// [`KeyManagerError`] when the key's holder fails.
    async fn list(&self) -> Result<Vec<(String, ManagedKey)>, KeyManagerError>;

    /// How signing fares: what its keys' [`SigningQueue`] saw. A key manager whose keys are in
    /// this process has nothing to say.
    fn fault(&self) -> Option<SigningFault> {
        None
    }

    /// What it does beside that for as long as it is in use: removing replaced keys, keeping logins
    /// and keys alive. Never ends; is dropped at any point.
    async fn run(&self) {
        std::future::pending().await
    }
}

/// Why a key manager failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyManagerError {
    /// A key name that is empty, longer than 255 bytes or holds control characters.
    #[error("invalid key id, expected 1 to 255 printable bytes")]
    BadId,
    /// The key file is not what it should be.
    #[error("key file {path} is corrupt: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without key material.
        reason: String,
    },
    /// The key file could not be read or written.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// The file of a server's key identifier holds something else.
    #[error(
        "{path} holds no UUID: restore it, or remove it and lose the way to the keys that were made \
         under it"
    )]
    Identifier {
        /// The file.
        path: PathBuf,
    },
    /// Making or loading a key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file that keys are to move to holds other keys.
    #[error("key file {path} exists and holds other keys; name another file or move it away")]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// A remote key manager failed.
    #[error("key manager {name}: {message}")]
    Remote {
        /// Which one.
        name: &'static str,
        /// What happened.
        message: String,
    },
    /// The key file is sealed, and no (or a wrong) passphrase or key file was given; or the
    /// other way round.
    #[error("key file {path}: {reason}")]
    Sealing {
        /// The file.
        path: PathBuf,
        /// What to do.
        reason: String,
    },
    /// The crypto library refused a key.
    #[error(transparent)]
    Sign(#[from] crate::SignError),
    /// A background thread was cancelled.
    #[error("the key manager is shutting down")]
    Stopped,
}

/// Makes a key on a blocking thread: RSA takes long.
async fn generate(key_type: KeyType) -> Result<(PrivateKey, ManagedKey), KeyManagerError> {
    blocking(move || {
        let key = PrivateKey::generate(key_type)?;
        let managed = key.signer()?.into();
        Ok((key, managed))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeyManagerError> + Send + 'static,
) -> Result<T, KeyManagerError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| KeyManagerError::Stopped)?
}

fn check_id(id: &str) -> Result<(), KeyManagerError> {
    let good = (1..=255).contains(&id.len()) && !id.chars().any(char::is_control);
    if good { Ok(()) } else { Err(KeyManagerError::BadId) }
}

/// A map of keys is whole whenever its lock is free, so a panic elsewhere does not matter.
fn lock<T>(keys: &Mutex<T>) -> MutexGuard<'_, T> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}
