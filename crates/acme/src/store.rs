//! Where keys and certificates are kept.

mod cache_dir;
mod managed;

use std::{fmt, io, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use signet_pki::{KeyError, KeyManagerError, ManagedKey, SignError, files::FileError};

pub use self::{cache_dir::CacheDir, managed::KeyManagerStore};

/// The name of the account's key, that of Go's `autocert`, by which SPIRE has it too.
const ACCOUNT: &str = "acme_account+key";

/// The longest file that is read, bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Keeps the account's key, and for each domain a key and the newest certificate.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The key of the account, made when there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn account_key(&self) -> Result<ManagedKey, StoreError>;

    /// The key of a domain's certificates, made when there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn certificate_key(&self, domain: &str) -> Result<ManagedKey, StoreError>;

    /// The newest certificate chain of a domain, DER, leaf first; empty when there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn chain(&self, domain: &str) -> Result<Vec<Arc<[u8]>>, StoreError>;

    /// Keeps a certificate chain in the place of the one before. It is on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; the one before is still there then.
    async fn keep(&self, domain: &str, chain: &[Arc<[u8]>]) -> Result<(), StoreError>;
}

/// Why keys or certificates cannot be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file holds something else.
    #[error("{}: {reason}; remove it, and it is made anew", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without key material.
        reason: String,
    },
    /// The directory cannot be made.
    #[error("making the directory {}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key manager failed.
    #[error(transparent)]
    KeyManager(#[from] KeyManagerError),
    /// The crypto library refused a key, or a new key does not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The program ends.
    #[error("the program is shutting down")]
    Stopped,
    /// The key manager does not answer.
    #[error("the key manager did not answer within {0} s")]
    TimedOut(u64),
}

/// Works with files on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Stopped)?
}

/// Makes a directory that is its owner's alone, and those above it.
fn make_directory(path: &std::path::Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StoreError::Directory { path: path.to_owned(), source })
}
