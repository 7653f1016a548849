//! Which of the servers of a trust domain this one is.
//!
//! A random name, made at the first start and kept in the data directory. The store keeps one CA
//! journal for each server under it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use signet_pki::random::{self, RandomError};
use signet_store::{Store, StoreError};
use signet_time::UnixTime;

/// The file in the data directory.
const FILE: &str = "server_id";
/// The longest name, bytes.
const LONGEST: usize = 64;

/// Why a server does not know who it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerIdError {
    /// The file cannot be read or written.
    #[error("keeping this server's ID in {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{path} holds no server ID: remove it, and the server makes a new one")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The random generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The store cannot be read or written.
    #[error("taking over the CA journal")]
    Store(#[from] StoreError),
}

/// The ID of the server with this data directory, and its CA journal stored under it: a server
/// that has its store to itself takes over the only journal there is, whatever it is called. That
/// is one of version 0.1 or of a migration, or its own from before its data directory was lost.
///
/// # Errors
/// [`ServerIdError`] when the file with the ID cannot be read or written or holds none, or the
/// store fails.
pub async fn claim(store: &Store, data_dir: &Path, now: UnixTime) -> Result<String, ServerIdError> {
    let id = own(data_dir)?;
    if !store.is_shared()
        && let [(name, _)] = &store.journals().await?[..]
        && *name != id
    {
        store.rename_journal(name, &id, now).await?;
        tracing::info!(server_id = id, was = name, "Took over the CA journal");
    }
    Ok(id)
}

/// The ID of the server with this data directory, made now if there is none.
///
/// # Errors
/// [`ServerIdError`] when the file with the ID cannot be read or written or holds none, or the
/// store fails.
pub fn own(data_dir: &Path) -> Result<String, ServerIdError> {
    match kept(data_dir)? {
        Some(id) => Ok(id),
        None => keep(data_dir, random::uuid_v4()?),
    }
}

/// The CA journal of the server with this data directory, or else the only one there is.
///
/// # Errors
/// [`ServerIdError`] when the file with the ID cannot be read or written or holds none, or the
/// store fails.
pub async fn own_journal(store: &Store, data_dir: &Path) -> Result<Option<Vec<u8>>, ServerIdError> {
    if let Some(id) = kept(data_dir)?
        && let Some(journal) = store.journal(&id).await?
    {
        return Ok(Some(journal));
    }
    let mut all = store.journals().await?;
    Ok(if all.len() == 1 { all.pop().map(|(_, journal)| journal) } else { None })
}

/// What the data directory says.
fn kept(data_dir: &Path) -> Result<Option<String>, ServerIdError> {
    let path = data_dir.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ServerIdError::Io { path, source }),
    };
    let id = text.trim_end();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if id.is_empty() || id.len() > LONGEST || !id.bytes().all(is_name) {
        return Err(ServerIdError::Malformed { path });
    }
    Ok(Some(id.to_owned()))
}

/// Writes the ID so that it is there whole or not at all.
fn keep(data_dir: &Path, id: String) -> Result<String, ServerIdError> {
    let path = data_dir.join(FILE);
    let unfinished = data_dir.join(format!("{FILE}.unfinished"));
    let write = || {
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(format!("{id}\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        std::fs::File::open(data_dir)?.sync_all()
    };
    match write() {
        Ok(()) => Ok(id),
        Err(source) => Err(ServerIdError::Io { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use signet_store::StoreOptions;

    use super::*;

    async fn store(dir: &Path) -> Store {
        let mut options = StoreOptions::file(dir.join("s.db"));
        options.exclusive = true;
        Store::open(options).await.unwrap()
    }

    #[tokio::test]
    async fn the_only_journal_becomes_the_servers_own_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        store.put_journal("server", b"old", UnixTime::from_seconds(1)).await.unwrap();
        let id = claim(&store, dir.path(), UnixTime::from_seconds(2)).await.unwrap();
        assert_eq!(store.journals().await.unwrap(), [(id.clone(), b"old".to_vec())]);
        assert_eq!(claim(&store, dir.path(), UnixTime::from_seconds(3)).await.unwrap(), id);

        // The data directory is lost: the journal is not.
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        assert_eq!(own_journal(&store, dir.path()).await.unwrap().as_deref(), Some(&b"old"[..]));
        let anew = claim(&store, dir.path(), UnixTime::from_seconds(4)).await.unwrap();
        assert_ne!(anew, id);
        assert_eq!(store.journals().await.unwrap(), [(anew, b"old".to_vec())]);
    }

    #[tokio::test]
    async fn among_several_journals_none_but_the_own_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        let id = claim(&store, dir.path(), UnixTime::from_seconds(1)).await.unwrap();
        for name in ["a", "b"] {
            store.put_journal(name, name.as_bytes(), UnixTime::from_seconds(1)).await.unwrap();
        }
        assert_eq!(own_journal(&store, dir.path()).await.unwrap(), None);
        assert_eq!(claim(&store, dir.path(), UnixTime::from_seconds(1)).await.unwrap(), id);
        assert_eq!(store.journals().await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_file_that_holds_no_id_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        std::fs::write(dir.path().join(FILE), "a b\n").unwrap();
        let error = claim(&store, dir.path(), UnixTime::from_seconds(1)).await.unwrap_err();
        assert!(matches!(error, ServerIdError::Malformed { .. }), "{error}");
    }
}
