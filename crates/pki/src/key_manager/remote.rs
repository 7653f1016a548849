//! A key manager whose keys are elsewhere: what is the same for every KMS, Vault and HSM.
//!
//! [`RemoteKeyManager`] knows which key belongs to which name, replaces keys, and removes those
//! that were replaced or left behind by a call that was cut short. How a key is made, found, used
//! and deleted is its [`KeyStore`]'s business.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use signet_base::Backoff;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    KeyManager, KeyManagerError, ManagedKey, RemoteSigner, SigningFault, SigningLimits,
    SigningQueue, check_id, lock,
};
use crate::{KeyType, PublicKey, SignError, SignatureAlgorithm};

/// How many keys are read at once.
const AT_ONCE: usize = 8;
/// How many keys may wait for their deletion; beyond that the store's own records have to tell.
const MAX_STALE: usize = 1024;
/// How long a deletion may take.
const DELETE_DEADLINE: Duration = Duration::from_secs(60);
/// How soon a deletion that failed is tried again: doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);

/// Where the keys of one server are.
#[async_trait]
pub trait KeyStore: Send + Sync + fmt::Debug {
    /// The plugin's name, `aws_kms`.
    fn name(&self) -> &'static str;

    /// What a new key of that name will be known by in the store. It is chosen before the key is
    /// made, so that a key whose maker was interrupted can be found.
    ///
    /// # Errors
    /// The store cannot have a key of that name.
    fn new_handle(&self, id: &str) -> Result<String, KeyStoreError>;

    /// Makes a key, which is durable when this returns.
    ///
    /// # Errors
    /// [`KeyStoreError`]; it says whether there may be a key now.
    async fn create(
        &self,
        handle: &str,
        id: &str,
        key_type: KeyType,
    ) -> Result<PublicKey, KeyStoreError>;

    /// By what the store knows the key that was just made under a handle, where it names keys
    /// itself. Asked for once, after [`KeyStore::create`] went well.
    fn final_handle(&self, handle: &str) -> String {
        handle.to_owned()
    }

    /// All keys of this server, and of no other. Several may have the same name: the newest of
    /// them is in use.
    ///
    /// # Errors
    /// [`KeyStoreError`]; never part of the keys.
    async fn list(&self) -> Result<Vec<StoredKey>, KeyStoreError>;

    /// Hashes and signs as [`RemoteSigner::sign`] does, and is dropped in the same way.
    ///
    /// # Errors
    /// [`SignError`] when the back end refuses, fails or answers a signature that is not the key's.
    async fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError>;

    /// Deletes a key; one that is not there is fine.
    ///
    /// # Errors
    /// [`KeyStoreError`]: it is tried again later.
    async fn delete(&self, handle: &str) -> Result<(), KeyStoreError>;

    /// What the store wants done for as long as it is in use: tokens renewed, keys marked as
    /// alive. Never ends; is dropped at any point.
    async fn upkeep(&self) {
        std::future::pending().await
    }
}

/// A key in a store.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// By what the store knows it.
    pub handle: String,
    /// The name that this server gave it, `x509-CA-A`.
    pub id: String,
    /// Its public half.
    pub public_key: PublicKey,
    /// Orders keys of one name by their age: the newest has the largest.
    pub made: i128,
}

/// Why a store failed, without secrets.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct KeyStoreError {
    message: String,
    may_be_done: bool,
}

impl KeyStoreError {
    /// Nothing was done.
    pub fn undone(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), may_be_done: false }
    }

    /// Whether it was done is not known.
    pub fn unknown(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), may_be_done: true }
    }
}

/// Reads the keys of a [`KeyStore`], some at once, and hands on what comes, in any order.
///
/// # Errors
/// The first [`KeyStoreError`] of `reads` or `take`: what is still being read is given up.
pub async fn read_keys<T, R>(
    reads: impl IntoIterator<Item = R>,
    mut take: impl FnMut(T) -> Result<(), KeyStoreError>,
) -> Result<(), KeyStoreError>
where
    T: Send + 'static,
    R: Future<Output = Result<T, KeyStoreError>> + Send + 'static,
{
    let mut reads = reads.into_iter();
    let mut reading = JoinSet::new();
    loop {
        while reading.len() < AT_ONCE
            && let Some(read) = reads.next()
        {
            reading.spawn(read);
        }
        let Some(read) = reading.join_next().await else { return Ok(()) };
        take(read.map_err(KeyStoreError::undone)??)?;
    }
}

/// Keys in a [`KeyStore`]. Clones share everything.
#[derive(Clone)]
pub struct RemoteKeyManager(Arc<Shared>);

struct Shared {
    name: &'static str,
    store: ArcSwap<Arc<dyn KeyStore>>,
    queue: SigningQueue,
    /// Held while the store is asked for its keys or for a new one.
    work: tokio::sync::Mutex<()>,
    /// The keys in use, by name; none before the store was asked.
    keys: Mutex<Option<BTreeMap<String, StoredKey>>>,
    /// Handles of keys that are to be deleted.
    stale: Mutex<BTreeSet<String>>,
    something_is_stale: Notify,
    store_was_replaced: Notify,
}

impl RemoteKeyManager {
    /// Keys in `store`. It is asked for them when they are first needed.
    pub fn new(store: Arc<dyn KeyStore>, limits: SigningLimits) -> Self {
        let name = store.name();
        Self(Arc::new(Shared {
            name,
            store: ArcSwap::from_pointee(store),
            queue: SigningQueue::new(name, limits),
            work: tokio::sync::Mutex::default(),
            keys: Mutex::default(),
            stale: Mutex::default(),
            something_is_stale: Notify::new(),
            store_was_replaced: Notify::new(),
        }))
    }

    /// Goes on with another way to the same keys: another address, another login.
    ///
    /// # Errors
    /// [`KeyManagerError`] when it does not have the keys in use; nothing is changed then.
    pub async fn replace_store(&self, store: Arc<dyn KeyStore>) -> Result<(), KeyManagerError> {
        let shared = &*self.0;
        let _work = shared.work.lock().await;
        let there = store.list().await.map_err(|error| shared.failed(&error))?;
        {
            let keys = lock(&shared.keys);
            let missing = keys.iter().flatten().find(|(_, key)| {
                !there
                    .iter()
                    .any(|other| other.handle == key.handle && other.public_key == key.public_key)
            });
            if let Some((id, _)) = missing {
                let why = format!(
                    "the new settings lead to where the key {id} is not; move keys by a rotation \
                     of the authorities, not by changing where they are"
                );
                return Err(shared.failed(&KeyStoreError::undone(why)));
            }
        }
        shared.store.store(Arc::new(store));
        shared.store_was_replaced.notify_one();
        Ok(())
    }

    /// Deletes what is to be deleted; says how many keys could not be.
    pub async fn clean(&self) -> usize {
        let shared = &*self.0;
        let stale: Vec<_> = lock(&shared.stale).iter().cloned().collect();
        let mut left = 0;
        for handle in stale {
            let store = shared.store.load_full();
            let deleted = tokio::time::timeout(DELETE_DEADLINE, store.delete(&handle)).await;
            let error = match deleted {
                Ok(Ok(())) => {
                    lock(&shared.stale).remove(&handle);
                    tracing::info!(key = handle, key_manager = shared.name, "Old key deleted");
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it did not answer in time".to_owned(),
            };
            left += 1;
            tracing::warn!(
                error,
                key = handle,
                key_manager = shared.name,
                "An old key could not be deleted; it is tried again later"
            );
        }
        left
    }

    async fn clean_up(&self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY).with_factor(2.0);
        loop {
            self.0.something_is_stale.notified().await;
            while self.clean().await > 0 {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            backoff.reset();
        }
    }

    async fn upkeep(&self) {
        loop {
            let store = self.0.store.load_full();
            tokio::select! {
                () = store.upkeep() => {}
                () = self.0.store_was_replaced.notified() => {}
            }
        }
    }
}

#[async_trait]
impl KeyManager for RemoteKeyManager {
    fn name(&self) -> &'static str {
        self.0.name
    }

    async fn generate_key(
        &self,
        id: &str,
        key_type: KeyType,
    ) -> Result<ManagedKey, KeyManagerError> {
        check_id(id)?;
        let shared = &self.0;
        let _work = shared.work.lock().await;
        shared.load().await?;
        let store = shared.store.load_full();
        let handle = store.new_handle(id).map_err(|error| shared.failed(&error))?;
        let mut begun = Begun { shared, handle: Some(handle.clone()) };
        let public_key = match store.create(&handle, id, key_type).await {
            Ok(public_key) => public_key,
            Err(error) => {
                if !error.may_be_done {
                    begun.handle = None;
                }
                return Err(shared.failed(&error));
            }
        };
        begun.handle = None;
        let handle = store.final_handle(&handle);
        let key = StoredKey { handle, id: id.to_owned(), public_key, made: i128::MAX };
        let managed = shared.managed(&key);
        let old = lock(&shared.keys).get_or_insert_default().insert(id.to_owned(), key);
        if let Some(old) = old {
            shared.delete_soon(old.handle);
        }
        Ok(managed)
    }

    async fn get_key(&self, id: &str) -> Result<Option<ManagedKey>, KeyManagerError> {
        self.0.loaded().await?;
        let key = lock(&self.0.keys)
            .iter()
            .flatten()
            .find(|(name, _)| *name == id)
            .map(|(_, k)| k.clone());
        Ok(key.map(|key| self.0.managed(&key)))
    }

    async fn list(&self) -> Result<Vec<(String, ManagedKey)>, KeyManagerError> {
        self.0.loaded().await?;
        let keys = lock(&self.0.keys).clone().unwrap_or_default();
        Ok(keys.into_iter().map(|(id, key)| (id, self.0.managed(&key))).collect())
    }

    fn fault(&self) -> Option<SigningFault> {
        self.0.queue.fault()
    }

    async fn run(&self) {
        tokio::join!(self.clean_up(), self.upkeep());
    }
}

impl Shared {
    async fn loaded(&self) -> Result<(), KeyManagerError> {
        if lock(&self.keys).is_some() {
            return Ok(());
        }
        let _work = self.work.lock().await;
        self.load().await
    }

    /// Asks the store for the keys unless that was done. `work` is held by the caller.
    async fn load(&self) -> Result<(), KeyManagerError> {
        if lock(&self.keys).is_some() {
            return Ok(());
        }
        let mut listed =
            self.store.load_full().list().await.map_err(|error| self.failed(&error))?;
        listed.sort_by(|a, b| a.made.cmp(&b.made).then_with(|| a.handle.cmp(&b.handle)));
        let mut keys = BTreeMap::new();
        for key in listed {
            // A server that was stopped in the middle of a rotation leaves the older one behind.
            if let Some(older) = keys.insert(key.id.clone(), key) {
                self.delete_soon(older.handle);
            }
        }
        tracing::info!(key_manager = self.name, keys = keys.len(), "Keys found");
        *lock(&self.keys) = Some(keys);
        Ok(())
    }

    fn managed(self: &Arc<Self>, key: &StoredKey) -> ManagedKey {
        let signer = StoredSigner { shared: Arc::clone(self), key: key.clone() };
        ManagedKey::remote(key.public_key.clone(), Arc::new(signer), self.queue.clone())
    }

    fn delete_soon(&self, handle: String) {
        let mut stale = lock(&self.stale);
        if stale.len() >= MAX_STALE {
            tracing::error!(
                key = handle,
                key_manager = self.name,
                "Too many old keys wait to be deleted: this one stays until the server starts again"
            );
            return;
        }
        stale.insert(handle);
        self.something_is_stale.notify_one();
    }

    fn failed(&self, error: &KeyStoreError) -> KeyManagerError {
        KeyManagerError::Remote { name: self.name, message: error.to_string() }
    }
}

/// A key that is being made: dropped before it was, it is deleted.
struct Begun<'a> {
    shared: &'a Shared,
    handle: Option<String>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            self.shared.delete_soon(handle);
        }
    }
}

#[derive(Debug)]
struct StoredSigner {
    shared: Arc<Shared>,
    key: StoredKey,
}

#[async_trait]
impl RemoteSigner for StoredSigner {
    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let key = self.key.public_key.algorithm();
        if !algorithm.is_for(key) {
            return Err(SignError::WrongAlgorithm { key, algorithm });
        }
        let store = self.shared.store.load_full();
        store.sign(&self.key, algorithm, message).await
    }
}

impl fmt::Debug for RemoteKeyManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKeyManager").field("store", &self.store).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
