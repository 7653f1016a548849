use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use super::*;
use crate::{PrivateKey, Signer, key_manager::conformance};

type Held = (StoredKey, Arc<dyn Signer>);

/// A store in memory.
#[derive(Debug, Default)]
struct Memory {
    keys: Mutex<BTreeMap<String, Held>>,
    clock: AtomicI64,
    hangs: AtomicBool,
    does_not_delete: AtomicBool,
}

#[async_trait]
impl KeyStore for Memory {
    fn name(&self) -> &'static str {
        "memory_store"
    }

    fn new_handle(&self, id: &str) -> Result<String, KeyStoreError> {
        Ok(format!("{id}@{}", self.clock.fetch_add(1, Ordering::Relaxed)))
    }

    async fn create(
        &self,
        handle: &str,
        id: &str,
        key_type: KeyType,
    ) -> Result<PublicKey, KeyStoreError> {
        let key = PrivateKey::generate(key_type).unwrap();
        let public_key = key.public_key().clone();
        let made = i128::from(self.clock.fetch_add(1, Ordering::Relaxed));
        let stored = StoredKey { handle: handle.into(), id: id.into(), public_key, made };
        lock(&self.keys).insert(handle.to_owned(), (stored, key.signer().unwrap()));
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending().await
        }
        Ok(key.public_key().clone())
    }

    async fn list(&self) -> Result<Vec<StoredKey>, KeyStoreError> {
        Ok(lock(&self.keys).values().map(|(key, _)| key.clone()).collect())
    }

    async fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let signer = lock(&self.keys).get(&key.handle).map(|(_, signer)| Arc::clone(signer));
        signer.ok_or_else(|| SignError::Failed("no such key".to_owned()))?.sign(algorithm, message)
    }

    async fn delete(&self, handle: &str) -> Result<(), KeyStoreError> {
        if self.does_not_delete.load(Ordering::Relaxed) {
            return Err(KeyStoreError::undone("no"));
        }
        lock(&self.keys).remove(handle);
        Ok(())
    }
}

fn manager(store: &Arc<Memory>) -> RemoteKeyManager {
    RemoteKeyManager::new(Arc::clone(store) as _, SigningLimits::default())
}

fn count(store: &Memory) -> usize {
    lock(&store.keys).len()
}

#[tokio::test]
async fn conforms_and_leaves_nothing_behind() {
    let store = Arc::new(Memory::default());
    let keys = manager(&store);
    conformance::check(&keys).await;
    assert_eq!(count(&store), 6, "five, and the one that was replaced");
    assert_eq!(keys.clean().await, 0);
    assert_eq!(count(&store), 5);
}

#[tokio::test]
async fn a_restart_finds_the_newest_of_each_name_and_deletes_the_rest() {
    let store = Arc::new(Memory::default());
    let keys = manager(&store);
    keys.generate_key("a", KeyType::EcP256).await.unwrap();
    let newest = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    drop(keys);
    let keys = manager(&store);
    let found = keys.get_key("a").await.unwrap().unwrap();
    assert_eq!(found.public_key(), newest.public_key());
    keys.clean().await;
    assert_eq!(count(&store), 1);
    found.sign_issued(b"m").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_making_was_cut_short_is_deleted() {
    let store = Arc::new(Memory::default());
    let keys = manager(&store);
    let old = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    store.hangs.store(true, Ordering::Relaxed);
    let cut = tokio::time::timeout(Duration::from_secs(1), keys.generate_key("a", KeyType::EcP256));
    assert!(cut.await.is_err());
    assert_eq!(count(&store), 2);
    let found = keys.get_key("a").await.unwrap().unwrap();
    assert_eq!(found.public_key(), old.public_key(), "the earlier key is still in place");
    keys.clean().await;
    assert_eq!(count(&store), 1);
    old.sign_issued(b"m").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn deletions_that_fail_are_tried_again() {
    let store = Arc::new(Memory::default());
    let keys = manager(&store);
    store.does_not_delete.store(true, Ordering::Relaxed);
    keys.generate_key("a", KeyType::EcP256).await.unwrap();
    keys.generate_key("a", KeyType::EcP256).await.unwrap();
    let running = tokio::spawn({
        let keys = keys.clone();
        async move { keys.run().await }
    });
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(count(&store), 2);
    store.does_not_delete.store(false, Ordering::Relaxed);
    tokio::time::sleep(LAST_RETRY * 2).await;
    assert_eq!(count(&store), 1);
    running.abort();
}

#[tokio::test]
async fn new_settings_must_lead_to_the_same_keys() {
    let store = Arc::new(Memory::default());
    let keys = manager(&store);
    let key = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    let elsewhere = keys.replace_store(Arc::new(Memory::default())).await.unwrap_err();
    assert!(elsewhere.to_string().contains("where the key a is not"), "{elsewhere}");
    key.sign_issued(b"m").await.unwrap();
    keys.replace_store(store).await.unwrap();
    key.sign_issued(b"m").await.unwrap();
}
