//! Keys in a key manager, certificates in a directory, under SPIRE's names.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use signet_pki::{
    KeyManager, KeyType, ManagedKey,
    files::{read_bounded, write_atomic},
    pem,
};

use super::{ACCOUNT, MAX_FILE, Store, StoreError, blocking, make_directory};

/// What SPIRE puts before the name of a key.
const PREFIX: &str = "bundle-acme-";
/// How long the key manager may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Keeps keys in a key manager, which need not show them, as `bundle-acme-acme_account+key` and
/// `bundle-acme-DOMAIN`; certificates in a directory, one file (PEM, leaf first) for each domain. SPIRE
/// does the same, and each reads what the other wrote.
#[derive(Debug)]
pub struct KeyManagerStore {
    keys: Arc<dyn KeyManager>,
    dir: PathBuf,
}

impl KeyManagerStore {
    /// Reads and makes nothing yet.
    pub fn new(keys: Arc<dyn KeyManager>, dir: impl Into<PathBuf>) -> Self {
        Self { keys, dir: dir.into() }
    }

    async fn key(&self, name: &str) -> Result<ManagedKey, StoreError> {
        let id = format!("{PREFIX}{name}");
        let found = async {
            if let Some(key) = self.keys.get_key(&id).await? {
                return Ok(key);
            }
            let key = self.keys.generate_key(&id, KeyType::EcP256).await?;
            key.prove(KeyType::EcP256).await?;
            tracing::info!(id, "Generated new key");
            Ok(key)
        };
        let found = tokio::time::timeout(TIMEOUT, found).await;
        found.unwrap_or(Err(StoreError::TimedOut(TIMEOUT.as_secs())))
    }
}

#[async_trait]
impl Store for KeyManagerStore {
    async fn account_key(&self) -> Result<ManagedKey, StoreError> {
        self.key(ACCOUNT).await
    }

    async fn certificate_key(&self, domain: &str) -> Result<ManagedKey, StoreError> {
        self.key(domain).await
    }

    async fn chain(&self, domain: &str) -> Result<Vec<Arc<[u8]>>, StoreError> {
        let path = self.dir.join(domain);
        blocking(move || {
            let Some(bytes) = read_bounded(&path, MAX_FILE)? else { return Ok(Vec::new()) };
            let text = String::from_utf8_lossy(&bytes);
            let chain = pem::decode_certificates(&text).map_err(|error| StoreError::Corrupt {
                path: path.clone(),
                reason: error.to_string(),
            })?;
            Ok(chain.into_iter().map(Arc::from).collect())
        })
        .await
    }

    async fn keep(&self, domain: &str, chain: &[Arc<[u8]>]) -> Result<(), StoreError> {
        let (dir, path) = (self.dir.clone(), self.dir.join(domain));
        let text = pem::encode_certificates(chain.iter().map(|der| &**der));
        blocking(move || {
            make_directory(&dir)?;
            Ok(write_atomic(&path, text.as_bytes(), 0o600)?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use signet_pki::{
        MemoryKeyManager,
        key_manager::{SigningLimits, fake::FakeRemoteKeyManager},
    };

    use super::*;

    #[tokio::test]
    async fn keys_have_spire_s_names_and_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let remote = FakeRemoteKeyManager::new(SigningLimits::default());
        let managers: [Arc<dyn KeyManager>; 2] =
            [Arc::new(MemoryKeyManager::new()), Arc::new(remote)];
        for keys in managers {
            let store = KeyManagerStore::new(Arc::clone(&keys), dir.path());
            let account = store.account_key().await.unwrap();
            let key = store.certificate_key("web.test").await.unwrap();
            let names: Vec<_> = keys.list().await.unwrap().into_iter().map(|(id, _)| id).collect();
            assert_eq!(names, ["bundle-acme-acme_account+key", "bundle-acme-web.test"]);
            let again = KeyManagerStore::new(keys, dir.path());
            assert_eq!(again.account_key().await.unwrap().public_key(), account.public_key());
            let found = again.certificate_key("web.test").await.unwrap();
            assert_eq!(found.public_key(), key.public_key());
        }
    }

    #[tokio::test]
    async fn a_chain_comes_back_and_a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/bundle-acme");
        let store = KeyManagerStore::new(Arc::new(MemoryKeyManager::new()), &place);
        assert!(store.chain("web.test").await.unwrap().is_empty());
        let chain: [Arc<[u8]>; 2] = [[1, 2].into(), [3].into()];
        store.keep("web.test", &chain).await.unwrap();
        assert_eq!(store.chain("web.test").await.unwrap(), chain);
        std::fs::write(place.join("web.test"), "no PEM").unwrap();
        let error = store.chain("web.test").await.unwrap_err().to_string();
        assert!(error.contains("bundle-acme/web.test: "), "{error}");
    }
}
