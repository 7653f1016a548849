//! The sealed cache: what an agent that starts without its server may serve.
//!
//! One file in the data directory, sealed with the key of `svid_cache_key_file` (32 random bytes,
//! by default on a tmpfs, so that a stolen disk opens nothing) and bound to the format version,
//! the trust domain and the agent ID. Nothing in it is served to a workload that was not attested
//! anew.
//!
//! Each write has a new key, which takes the place of the one before once the file is there: a copy
//! of an earlier file, put back from a backup for instance, opens no more and brings back no
//! identity that was taken away meanwhile.

mod stored;

use std::{
    io,
    path::{Path, PathBuf},
};

use signet_base::chain;
use signet_identity::SpiffeId;
use signet_pki::{
    files::{self, FileError},
    seal::{SealError, SealKey},
};
use zeroize::Zeroizing;

use self::stored::Stored;
use crate::cache::Snapshot;

/// The file's name in the data directory.
pub const FILE_NAME: &str = "svid-cache.sealed";
/// The longest file read.
const MAX_LEN: u64 = 256 * 1024 * 1024;
/// Part of what the seal is bound to; a new format gets a new number.
const FORMAT: &str = "signet-agent svid cache, format 1";

/// Where the sealed cache is and what it is bound to.
#[derive(Clone, Debug)]
pub struct SealedCache {
    path: PathBuf,
    key_file: PathBuf,
    context: Vec<u8>,
}

/// What an earlier file is worth after a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing: its key is gone.
    NewKey,
    /// It opens still, as the key file could not be replaced; this says why.
    SameKey(String),
}

/// Why the sealed cache could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealedCacheError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content is not what it should be, although the seal is whole.
    #[error("sealed cache {path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The seal does not open: another key, trust domain or agent, or a changed file.
    #[error("sealed cache {path}")]
    Seal {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SealError,
    },
}

impl SealedCache {
    /// The sealed cache of agent `id` in `data_dir`, sealed with the key in `key_file`.
    pub fn new(data_dir: &Path, key_file: &Path, id: &SpiffeId) -> Self {
        Self {
            path: data_dir.join(FILE_NAME),
            key_file: key_file.to_owned(),
            context: format!("{FORMAT}\0{}\0{id}", id.trust_domain()).into_bytes(),
        }
    }

    /// Opens the cache; `None` when there is no file or no key to open it with (a key file under
    /// `/run` does not outlive a reboot). Blocks on the disk.
    ///
    /// # Errors
    /// [`SealedCacheError`] when the file cannot be opened; it should then be erased.
    pub fn load(&self) -> Result<Option<Snapshot>, SealedCacheError> {
        let Some(sealed) = files::read_bounded(&self.path, MAX_LEN)? else { return Ok(None) };
        let seal = |source| SealedCacheError::Seal { path: self.path.clone(), source };
        let plain = match self.open_with(&self.key_file, &sealed) {
            // The program ended after it had written the cache and before the key was in place.
            Err(SealError::KeyFileMissing { .. } | SealError::Open) if self.next_key().exists() => {
                let plain = self.open_with(&self.next_key(), &sealed).map_err(seal)?;
                self.settle_key()?;
                plain
            }
            Err(SealError::KeyFileMissing { .. }) => return Ok(None),
            opened => opened.map_err(seal)?,
        };
        let stored: Stored =
            serde_json::from_slice(&plain).map_err(|error| self.malformed(error.to_string()))?;
        stored.into_snapshot().map(Some).map_err(|reason| self.malformed(reason))
    }

    /// Replaces the cache by `snapshot`, under a new key. Where the key file cannot be replaced,
    /// the key that is there is used again. Blocks on the disk.
    ///
    /// # Errors
    /// [`SealedCacheError`]; the earlier file then stays.
    pub fn store(&self, snapshot: &Snapshot) -> Result<Freshness, SealedCacheError> {
        let seal = |source| SealedCacheError::Seal { path: self.path.clone(), source };
        if let Some(dir) = self.key_file.parent()
            && !dir.as_os_str().is_empty()
        {
            std::fs::create_dir_all(dir).map_err(|source| {
                SealedCacheError::File(FileError::Write { path: dir.to_owned(), source })
            })?;
        }
        let (key, freshness) = match self.make_next_key() {
            Ok(key) => (key, Freshness::NewKey),
            Err(error) => {
                let key = SealKey::from_file_or_create(&self.key_file).map_err(seal)?;
                (key, Freshness::SameKey(chain(&error)))
            }
        };
        let stored = Stored::from_snapshot(snapshot);
        // Room for all of it at once: a buffer that grows leaves copies behind.
        let mut plain = Zeroizing::new(Vec::with_capacity(stored.size_hint()));
        serde_json::to_writer(&mut *plain, &stored)
            .map_err(|error| self.malformed(error.to_string()))?;
        let sealed = key.seal(&self.context, &plain).map_err(seal)?;
        files::write_atomic(&self.path, &sealed, 0o600)?;
        if freshness == Freshness::NewKey {
            self.settle_key()?;
        }
        Ok(freshness)
    }

    fn open_with(&self, key: &Path, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        SealKey::from_file(key)?.open(&self.context, sealed)
    }

    /// Where the key of the next file is until that file is written.
    fn next_key(&self) -> PathBuf {
        next_to(&self.key_file)
    }

    fn make_next_key(&self) -> Result<SealKey, SealError> {
        let next = self.next_key();
        files::remove_durably(&next)?;
        SealKey::from_file_or_create(&next)
    }

    /// Puts the next key in the place of the one before.
    fn settle_key(&self) -> Result<(), FileError> {
        match std::fs::rename(self.next_key(), &self.key_file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FileError::Write { path: self.key_file.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// Removes the cache and its key. Blocks on the disk.
    ///
    /// # Errors
    /// [`FileError`] when one of them could not be removed.
    pub fn erase(&self) -> Result<(), FileError> {
        erase(&self.path, &self.key_file)
    }

    /// Removes the cache in `data_dir` and its key. Blocks on the disk.
    ///
    /// # Errors
    /// [`FileError`] when one of them could not be removed.
    pub fn erase_at(data_dir: &Path, key_file: &Path) -> Result<(), FileError> {
        erase(&data_dir.join(FILE_NAME), key_file)
    }

    /// Where the cache is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn malformed(&self, reason: String) -> SealedCacheError {
        SealedCacheError::Malformed { path: self.path.clone(), reason }
    }
}

fn erase(path: &Path, key_file: &Path) -> Result<(), FileError> {
    // Without the keys the rest is noise, so they go first.
    let keys = [key_file.to_owned(), next_to(key_file)].map(|key| files::remove_durably(&key));
    files::remove_durably(path)?;
    keys.into_iter().collect()
}

fn next_to(key_file: &Path) -> PathBuf {
    let mut name = key_file.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _, sync::Arc};

    use signet_identity::{Bundle, EntryId, JwtAuthority, X509Authority};
    use signet_time::UnixTime;

    use super::*;
    use crate::{
        cache::BundleMap,
        entry::{AgentEntry, EntryMap, tests::entry},
        jwt_cache::{JwtKey, JwtSvid},
        svid::X509Svid,
        wit_cache::tests::svid as wit,
    };

    fn agent() -> SpiffeId {
        "spiffe://td/spire/agent/x".parse().unwrap()
    }

    fn snapshot() -> Snapshot {
        let entry = AgentEntry {
            federates_with: vec!["other".parse().unwrap()],
            hint: "h".into(),
            ..entry("a", &["unix:uid:1"])
        };
        let mut bundle = Bundle::empty("td".parse().unwrap());
        bundle.x509_authorities.push(X509Authority { der: vec![1, 2].into(), tainted: false });
        bundle.jwt_authorities.push(JwtAuthority {
            public_key: vec![3].into(),
            key_id: "k".into(),
            expires_at: UnixTime::from_seconds(5),
            tainted: true,
        });
        let svid = X509Svid::new(
            entry.spiffe_id.clone(),
            vec![vec![1].into()],
            Zeroizing::new(b"private key".to_vec()),
            (UnixTime::from_seconds(10), UnixTime::from_seconds(20)),
        );
        let jwt = JwtSvid {
            token: "a bearer token".into(),
            spiffe_id: entry.spiffe_id.clone(),
            issued_at: UnixTime::from_seconds(10),
            expires_at: UnixTime::from_seconds(20),
            key_id: "k".into(),
        };
        let audience = ["x".to_owned(), "y".to_owned()];
        Snapshot {
            jwt_svids: vec![(JwtKey::new(&entry.spiffe_id, &audience), jwt)],
            wit_svids: vec![(entry.id.clone(), Arc::new(wit("a proven token", 20)))],
            svids: BTreeMap::from([(entry.id.clone(), svid)]),
            entries: EntryMap::from([(entry.id.clone(), Arc::new(entry))]),
            bundles: BundleMap::from([(bundle.trust_domain.clone(), Arc::new(bundle))]),
        }
    }

    #[test]
    fn what_was_stored_comes_back_for_the_same_agent_only() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("run/key");
        let cache = SealedCache::new(dir.path(), &key, &agent());
        assert!(cache.load().unwrap().is_none());
        cache.store(&snapshot()).unwrap();
        let back = cache.load().unwrap().unwrap();
        assert_eq!(back.entries, snapshot().entries);
        assert_eq!(back.bundles, snapshot().bundles);
        let id: EntryId = "a".parse().unwrap();
        assert_eq!(*back.svids[&id].key, b"private key");
        assert_eq!(back.jwt_svids, snapshot().jwt_svids);
        assert_eq!(back.wit_svids, snapshot().wit_svids);
        assert_eq!(
            (back.svids[&id].not_before.seconds(), back.svids[&id].not_after.seconds()),
            (10, 20)
        );

        for other in ["spiffe://td/spire/agent/y", "spiffe://td2/spire/agent/x"] {
            let other = SealedCache::new(dir.path(), &key, &other.parse().unwrap());
            assert!(matches!(other.load(), Err(SealedCacheError::Seal { .. })));
        }
        let raw = std::fs::read(cache.path()).unwrap();
        assert!(!raw.windows(7).any(|w| w == b"private" || w == b"bearer " || w == b"proven "));
        for path in [cache.path(), &key] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_copy_of_an_earlier_file_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let cache = SealedCache::new(dir.path(), &key, &agent());
        assert_eq!(cache.store(&snapshot()).unwrap(), Freshness::NewKey);
        let before = std::fs::read(cache.path()).unwrap();
        cache.store(&Snapshot::default()).unwrap();
        assert!(cache.load().unwrap().unwrap().entries.is_empty());
        std::fs::write(cache.path(), &before).unwrap();
        assert!(matches!(cache.load(), Err(SealedCacheError::Seal { .. })));
    }

    #[test]
    fn wherever_a_write_is_cut_off_the_cache_opens() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let cache = SealedCache::new(dir.path(), &key, &agent());
        cache.store(&snapshot()).unwrap();
        // Before the file was written.
        cache.make_next_key().unwrap();
        assert_eq!(cache.load().unwrap().unwrap().entries.len(), 1);
        // Before the key was in its place.
        let (old_key, old) = (std::fs::read(&key).unwrap(), std::fs::read(cache.path()).unwrap());
        cache.store(&Snapshot::default()).unwrap();
        std::fs::rename(&key, cache.next_key()).unwrap();
        SealKey::from_file_or_create(&key).unwrap();
        std::fs::write(&key, old_key).unwrap();
        assert!(cache.load().unwrap().unwrap().entries.is_empty());
        assert!(!cache.next_key().exists());
        std::fs::write(cache.path(), old).unwrap();
        assert!(cache.load().is_err(), "the key is the new one from then on");
    }

    #[test]
    fn a_key_that_cannot_be_replaced_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let cache = SealedCache::new(dir.path(), &key, &agent());
        // In the way of the next key.
        std::fs::create_dir_all(cache.next_key().join("x")).unwrap();
        let Freshness::SameKey(why) = cache.store(&snapshot()).unwrap() else { panic!() };
        assert!(why.contains("key.next"), "{why}");
        assert!(matches!(cache.store(&snapshot()).unwrap(), Freshness::SameKey(_)));
        assert_eq!(cache.load().unwrap().unwrap().entries.len(), 1);
    }

    #[test]
    fn a_file_of_an_earlier_build_opens() {
        let mut json = serde_json::to_value(Stored::from_snapshot(&snapshot())).unwrap();
        for added in ["jwt_svids", "wit_svids"] {
            json.as_object_mut().unwrap().remove(added).unwrap();
        }
        let stored: Stored = serde_json::from_value(json).unwrap();
        let back = stored.into_snapshot().unwrap();
        assert!(back.jwt_svids.is_empty() && back.wit_svids.is_empty() && back.svids.len() == 1);
    }

    #[test]
    fn changed_cut_or_keyless_files_open_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let cache = SealedCache::new(dir.path(), &key, &agent());
        cache.store(&snapshot()).unwrap();
        let whole = std::fs::read(cache.path()).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(cache.path(), &changed).unwrap();
            assert!(cache.load().is_err());
            std::fs::write(cache.path(), &whole[..at]).unwrap();
            assert!(cache.load().is_err());
        }
        std::fs::write(cache.path(), &whole).unwrap();
        std::fs::remove_file(&key).unwrap();
        assert!(cache.load().unwrap().is_none(), "the key did not outlive a reboot");
    }

    #[test]
    fn erasing_leaves_neither_cache_nor_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let cache = SealedCache::new(dir.path(), &key, &agent());
        cache.store(&snapshot()).unwrap();
        SealedCache::erase_at(dir.path(), &key).unwrap();
        assert!(!key.exists() && !cache.path().exists());
        SealedCache::erase_at(dir.path(), &key).unwrap();
    }
}
