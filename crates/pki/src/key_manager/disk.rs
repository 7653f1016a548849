//! Keys in one file, in SPIRE's format, optionally sealed.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{KeyManager, KeyManagerError, ManagedKey, blocking, check_id, generate, lock};
use crate::{
    KeyType, PrivateKey, files,
    seal::{self, SealError, SealKey},
};

/// The longest key file that is read, bytes.
const MAX_KEY_FILE: u64 = 16 * 1024 * 1024;

/// What a sealed key file is authenticated as.
const SEAL_CONTEXT: &[u8] = b"signet key file";

/// Whether the key file is sealed, and with what.
#[derive(Clone, Debug, Default)]
pub enum Sealing {
    /// SPIRE's own format, PKCS#8 in the clear, file mode 0600.
    #[default]
    Off,
    /// Each write seals the whole document; an unsealed file is sealed at first load.
    With(SealKey),
}

/// SPIRE's `disk` key manager: `{"keys":{"<id>":"<base64 PKCS#8>"}}`, mode 0600, replaced
/// atomically.
///
/// Clones share the keys.
#[derive(Clone)]
pub struct DiskKeyManager(Arc<Inner>);

struct Inner {
    keys: Mutex<Keys>,
    /// Where the keys are kept. Held from reading the map until its successor is on disk and in
    /// memory; only on blocking threads, so that a caller that goes away does not let go of it
    /// half way.
    place: Mutex<Place>,
}

struct Place {
    path: PathBuf,
    sealing: Sealing,
}

type Keys = BTreeMap<String, (PrivateKey, ManagedKey)>;

/// The file's content. Base64 of secrets: wiped after use.
#[derive(Default, Deserialize, Serialize)]
struct Document {
    keys: Option<BTreeMap<String, String>>,
}

impl Drop for Document {
    fn drop(&mut self) {
        self.keys.iter_mut().flat_map(BTreeMap::values_mut).for_each(Zeroize::zeroize);
    }
}

impl DiskKeyManager {
    /// Loads the file, or starts without keys when there is none (it is created by the first key).
    /// With a passphrase this takes some tenths of a second of CPU.
    ///
    /// # Errors
    /// [`KeyManagerError`]: unreadable, others may read it, corrupt, or sealed otherwise.
    pub fn open(path: impl Into<PathBuf>, sealing: Sealing) -> Result<Self, KeyManagerError> {
        let path = path.into();
        let (keys, to_be_sealed) = match files::read_secret(&path, MAX_KEY_FILE)? {
            Some(bytes) => load(&path, &bytes, &sealing)?,
            None => (Keys::new(), false),
        };
        if to_be_sealed {
            store(&path, &sealing, &keys)?;
        }
        let (keys, place) = (Mutex::new(keys), Mutex::new(Place { path, sealing }));
        Ok(Self(Arc::new(Inner { keys, place })))
    }

    /// Keeps the keys in another file, or sealed otherwise, from now on. They are written there
    /// before this returns and stay in use; a file they were in before is left as it is.
    ///
    /// # Errors
    /// [`KeyManagerError`] when they cannot be written there, or that file holds other keys:
    /// nothing has changed then.
    pub async fn move_to(
        &self,
        path: impl Into<PathBuf>,
        sealing: Sealing,
    ) -> Result<(), KeyManagerError> {
        let (inner, path) = (self.0.clone(), path.into());
        blocking(move || {
            let mut place = lock(&inner.place);
            let keys = lock(&inner.keys).clone();
            if place.path != path
                && let Some(bytes) = files::read_secret(&path, MAX_KEY_FILE)?
            {
                let (found, _) = load(&path, &bytes, &sealing)?;
                let same = |id: &String, key: &PrivateKey| {
                    keys.get(id).is_some_and(|(ours, _)| ours.public_key() == key.public_key())
                };
                if !found.iter().all(|(id, (key, _))| same(id, key)) {
                    return Err(KeyManagerError::Occupied { path });
                }
            }
            store(&path, &sealing, &keys)?;
            *place = Place { path, sealing };
            Ok(())
        })
        .await
    }

    /// Puts an existing key under a name (migration from another key manager).
    ///
    /// # Errors
    /// [`KeyManagerError`] when it cannot be stored.
    pub async fn import(&self, id: &str, key: PrivateKey) -> Result<(), KeyManagerError> {
        let managed = key.signer()?.into();
        self.insert(id, key, managed).await
    }

    /// All keys with their private halves, sorted by name (migration to another key manager).
    pub fn export(&self) -> Vec<(String, PrivateKey)> {
        lock(&self.0.keys).iter().map(|(id, (key, _))| (id.clone(), key.clone())).collect()
    }

    async fn insert(
        &self,
        id: &str,
        key: PrivateKey,
        signer: ManagedKey,
    ) -> Result<(), KeyManagerError> {
        check_id(id)?;
        let (inner, id) = (self.0.clone(), id.to_owned());
        blocking(move || {
            let place = lock(&inner.place);
            let mut next = lock(&inner.keys).clone();
            next.insert(id, (key, signer));
            store(&place.path, &place.sealing, &next)?;
            *lock(&inner.keys) = next;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl KeyManager for DiskKeyManager {
    fn name(&self) -> &'static str {
        "disk"
    }

    async fn generate_key(
        &self,
        id: &str,
        key_type: KeyType,
    ) -> Result<ManagedKey, KeyManagerError> {
        check_id(id)?;
        let (key, signer) = generate(key_type).await?;
        self.insert(id, key, signer.clone()).await?;
        Ok(signer)
    }

    async fn get_key(&self, id: &str) -> Result<Option<ManagedKey>, KeyManagerError> {
        Ok(lock(&self.0.keys).get(id).map(|(_, signer)| signer.clone()))
    }

    async fn list(&self) -> Result<Vec<(String, ManagedKey)>, KeyManagerError> {
        Ok(lock(&self.0.keys).iter().map(|(id, (_, key))| (id.clone(), key.clone())).collect())
    }
}

impl fmt::Debug for DiskKeyManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The place may be busy for as long as the disk is: it is not waited for.
        match self.0.place.try_lock() {
            Ok(place) => write!(f, "DiskKeyManager({})", place.path.display()),
            Err(_) => f.write_str("DiskKeyManager(..)"),
        }
    }
}

/// The keys, and whether the file is in the clear and should not be.
fn load(path: &Path, bytes: &[u8], sealing: &Sealing) -> Result<(Keys, bool), KeyManagerError> {
    match (sealing, seal::is_sealed(bytes)) {
        (Sealing::Off, false) => Ok((parse(path, bytes)?, false)),
        (Sealing::With(_), false) => Ok((parse(path, bytes)?, true)),
        (Sealing::With(key), true) => {
            let plain =
                key.open(SEAL_CONTEXT, bytes).map_err(|error| sealing_error(path, &error))?;
            Ok((parse(path, &plain)?, false))
        }
        (Sealing::Off, true) => Err(KeyManagerError::Sealing {
            path: path.to_owned(),
            reason: "the file is sealed: configure the passphrase or key file it was sealed with"
                .to_owned(),
        }),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Keys, KeyManagerError> {
    let corrupt = |reason| KeyManagerError::Corrupt { path: path.to_owned(), reason };
    // The parser's own text may repeat content: only its place is passed on.
    let document: Document = serde_json::from_slice(bytes).map_err(|error| {
        corrupt(format!(
            "line {}, column {}: expected JSON {{\"keys\": {{\"<id>\": \"<base64 PKCS#8>\"}}}}",
            error.line(),
            error.column()
        ))
    })?;
    let mut keys = Keys::new();
    for (id, text) in document.keys.iter().flatten() {
        let bad = |what: &dyn fmt::Display| corrupt(format!("key {id:?}: {what}"));
        let der = STANDARD.decode(text).map(Zeroizing::new).map_err(|_| bad(&"not base64"))?;
        let key = PrivateKey::from_der(&der).map_err(|error| bad(&error))?;
        let managed = key.signer().map_err(|error| bad(&error))?.into();
        keys.insert(id.clone(), (key, managed));
    }
    Ok(keys)
}

fn store(path: &Path, sealing: &Sealing, keys: &Keys) -> Result<(), KeyManagerError> {
    let encoded = keys.iter().map(|(id, (key, _))| (id.clone(), STANDARD.encode(key.pkcs8_der())));
    let document = Document { keys: Some(encoded.collect()) };
    let mut json = Zeroizing::new(Vec::with_capacity(64 * 1024));
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut *json, tabs);
    document.serialize(&mut serializer).map_err(|_| KeyManagerError::Corrupt {
        path: path.to_owned(),
        reason: "the keys cannot be written as JSON".to_owned(),
    })?;
    match sealing {
        Sealing::Off => files::write_atomic(path, &json, 0o600)?,
        Sealing::With(key) => {
            let sealed =
                key.seal(SEAL_CONTEXT, &json).map_err(|error| sealing_error(path, &error))?;
            files::write_atomic(path, &sealed, 0o600)?;
        }
    }
    Ok(())
}

fn sealing_error(path: &Path, error: &SealError) -> KeyManagerError {
    KeyManagerError::Sealing { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn seal_key(byte: u8) -> SealKey {
        SealKey::from_bytes(Zeroizing::new([byte; 32]))
    }

    #[tokio::test]
    async fn keeps_the_promises_of_a_key_manager() {
        let dir = tempfile::tempdir().unwrap();
        let plain = DiskKeyManager::open(dir.path().join("a"), Sealing::Off).unwrap();
        super::super::conformance::check(&plain).await;
        let sealed =
            DiskKeyManager::open(dir.path().join("b"), Sealing::With(seal_key(1))).unwrap();
        super::super::conformance::check(&sealed).await;
    }

    #[tokio::test]
    async fn keys_outlive_the_process_in_the_format_of_spire() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let keys = DiskKeyManager::open(&path, Sealing::Off).unwrap();
        let made = keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let document: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let text = document["keys"]["x509-CA-A"].as_str().unwrap();
        let key = PrivateKey::from_der(&STANDARD.decode(text).unwrap()).unwrap();
        assert_eq!(key.public_key(), made.public_key());

        let again = DiskKeyManager::open(&path, Sealing::Off).unwrap();
        let found = again.get_key("x509-CA-A").await.unwrap().unwrap();
        assert_eq!(found.public_key(), made.public_key());
        assert_eq!(again.export().len(), 1);
        again.import("other", key).await.unwrap();
        assert_eq!(DiskKeyManager::open(&path, Sealing::Off).unwrap().export().len(), 2);
    }

    #[tokio::test]
    async fn a_plain_file_is_sealed_when_asked_and_opens_only_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let plain = DiskKeyManager::open(&path, Sealing::Off).unwrap();
        let made = plain.generate_key("a", KeyType::EcP256).await.unwrap();
        drop(DiskKeyManager::open(&path, Sealing::With(seal_key(1))).unwrap());
        assert!(seal::is_sealed(&fs::read(&path).unwrap()));
        let sealed = DiskKeyManager::open(&path, Sealing::With(seal_key(1))).unwrap();
        let found = sealed.get_key("a").await.unwrap().unwrap();
        assert_eq!(found.public_key(), made.public_key());
        for wrong in [Sealing::Off, Sealing::With(seal_key(2))] {
            let error = DiskKeyManager::open(&path, wrong).unwrap_err();
            assert!(matches!(error, KeyManagerError::Sealing { .. }));
            assert!(error.to_string().contains("keys.json"), "{error}");
        }
    }

    #[tokio::test]
    async fn keys_move_to_another_file_and_stay_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old.json"), dir.path().join("new.json"));
        let keys = DiskKeyManager::open(&old, Sealing::Off).unwrap();
        let first = keys.generate_key("a", KeyType::EcP256).await.unwrap();
        keys.move_to(&new, Sealing::With(seal_key(1))).await.unwrap();
        let before = fs::read(&old).unwrap();
        keys.generate_key("b", KeyType::EcP256).await.unwrap();
        assert_eq!(fs::read(&old).unwrap(), before, "left as it was");
        let again = DiskKeyManager::open(&new, Sealing::With(seal_key(1))).unwrap();
        assert_eq!(again.export().len(), 2);
        let found = again.get_key("a").await.unwrap().unwrap();
        assert_eq!(found.public_key(), first.public_key());

        // Sealed otherwise in the same file, and back to where older keys of its own are.
        keys.move_to(&new, Sealing::With(seal_key(2))).await.unwrap();
        DiskKeyManager::open(&new, Sealing::With(seal_key(2))).unwrap();
        keys.move_to(&old, Sealing::Off).await.unwrap();
        assert_eq!(DiskKeyManager::open(&old, Sealing::Off).unwrap().export().len(), 2);
    }

    #[tokio::test]
    async fn keys_do_not_move_onto_those_of_others_nor_where_nothing_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own.json"), dir.path().join("other.json"));
        let keys = DiskKeyManager::open(&own, Sealing::Off).unwrap();
        keys.generate_key("a", KeyType::EcP256).await.unwrap();
        let foreign = DiskKeyManager::open(&other, Sealing::Off).unwrap();
        foreign.generate_key("a", KeyType::EcP256).await.unwrap();
        let before = fs::read(&other).unwrap();
        let error = keys.move_to(&other, Sealing::Off).await.unwrap_err();
        assert!(matches!(error, KeyManagerError::Occupied { .. }), "{error}");
        assert!(error.to_string().contains("other.json"), "{error}");
        assert_eq!(fs::read(&other).unwrap(), before);
        assert!(keys.move_to(dir.path().join("no/dir"), Sealing::Off).await.is_err());
        keys.generate_key("b", KeyType::EcP256).await.unwrap();
        assert_eq!(DiskKeyManager::open(&own, Sealing::Off).unwrap().export().len(), 2);
    }

    #[tokio::test]
    async fn a_corrupt_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let secret = "c2VjcmV0IHNlY3JldA==";
        for content in [
            String::new(),
            "{".to_owned(),
            "[]".to_owned(),
            format!(r#"{{"keys": "{secret}"}}"#),
            format!(r#"{{"keys": {{"a": "{secret}"}}}}"#),
            r#"{"keys": {"a": "*"}}"#.to_owned(),
        ] {
            files::write_atomic(&path, content.as_bytes(), 0o600).unwrap();
            let error = DiskKeyManager::open(&path, Sealing::Off).unwrap_err().to_string();
            assert!(error.contains("keys.json") && error.contains("corrupt"), "{error}");
            assert!(!error.contains(secret), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        files::write_atomic(&path, b"{\"keys\":null}", 0o600).unwrap();
        DiskKeyManager::open(&path, Sealing::Off).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = DiskKeyManager::open(&path, Sealing::Off).unwrap_err().to_string();
        assert!(error.contains("0644"), "{error}");
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_stored_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone/keys.json");
        let keys = DiskKeyManager::open(&path, Sealing::Off).unwrap();
        assert!(keys.generate_key("a", KeyType::EcP256).await.is_err());
        assert!(keys.get_key("a").await.unwrap().is_none());
    }
}
