//! Who the agent is: its own SVID, and the two slots its keys take turns in.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use signet_base::chain;
use signet_identity::SpiffeId;
use signet_pki::{
    DiskKeyManager, KeyManager, KeyManagerError, KeyType, ManagedKey, MemoryKeyManager, PrivateKey,
    Signer, digest, files,
    key_manager::Sealing,
    tls::{TlsError, TlsIdentity},
    x509::{CertError, Certificate, parse_chain},
};
use signet_time::UnixTime;

use tokio::{task::JoinHandle, time::timeout};

use crate::{
    metrics::keys::KeyMetrics,
    rotation::{self, RotationRule},
};

/// The names of the agent's keys, SPIRE's own.
const SLOTS: [&str; 2] = ["agent-svid-A", "agent-svid-B"];
/// Notes which key a join token was sent with.
const PENDING_FILE: &str = "join-token-attempt.json";
/// How long is waited for a disk before the agent goes on without it.
pub const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// The agent's SVID with its key.
#[derive(Clone, Debug)]
pub struct AgentIdentity {
    /// The agent ID.
    pub id: SpiffeId,
    /// Certificates, leaf first.
    pub chain: Vec<Certificate>,
    /// The leaf's key.
    pub key: AgentKey,
    /// Whether the agent may attest again with the same evidence.
    pub reattestable: bool,
}

/// A key of the agent.
#[derive(Clone, Debug)]
pub struct AgentKey {
    /// Its name in the key manager.
    pub slot: &'static str,
    /// What signs with it.
    pub signer: Arc<dyn Signer>,
}

impl AgentKey {
    fn new(slot: &'static str, key: &ManagedKey) -> Result<Self, KeyManagerError> {
        let signer = key.in_memory().ok_or_else(|| KeyManagerError::Remote {
            name: "agent",
            message: format!("key {slot} is held elsewhere; TLS needs it in memory"),
        })?;
        Ok(Self { slot, signer })
    }
}

/// Why an SVID cannot be the agent's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A certificate is refused.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// No certificate at all.
    #[error("the agent's SVID has no certificate")]
    Empty,
    /// The certificate is for another key.
    #[error("the agent's SVID is not for its key")]
    OtherKey,
}

impl AgentIdentity {
    /// An identity from certificates (DER, leaf first) and the leaf's key.
    ///
    /// # Errors
    /// [`IdentityError`] when they do not belong together.
    pub fn new(
        chain: &[Vec<u8>],
        key: AgentKey,
        reattestable: bool,
    ) -> Result<Self, IdentityError> {
        let chain = parse_chain(chain)?;
        let leaf = chain.first().ok_or(IdentityError::Empty)?;
        let matches = leaf
            .public_key()
            .is_ok_and(|public| public.spki_der() == key.signer.public_key().spki_der());
        if !matches {
            return Err(IdentityError::OtherKey);
        }
        Ok(Self { id: leaf.spiffe_id()?, chain, key, reattestable })
    }

    /// When the SVID expires, Unix seconds.
    pub fn not_after(&self) -> UnixTime {
        self.chain.first().map_or(UnixTime::EPOCH, Certificate::not_after)
    }

    /// Whether the SVID has expired at `now`, or will within a second.
    pub fn expired(&self, now: UnixTime) -> bool {
        now + 1 >= self.not_after()
    }

    /// Whether the clock, at `now`, was set back to before the SVID's validity. Clocks of servers
    /// may be a little ahead.
    pub fn is_not_yet_valid(&self, now: UnixTime) -> bool {
        self.chain.first().is_some_and(|leaf| rotation::is_not_yet_valid(now, leaf.not_before()))
    }

    /// When the SVID is to be renewed, Unix seconds.
    pub fn due_at(&self, rule: RotationRule) -> UnixTime {
        self.chain.first().map_or(UnixTime::EPOCH, |leaf| {
            rule.x509_due_at(leaf.not_before(), leaf.not_after(), rotation::draw(leaf.der()))
        })
    }

    /// When three quarters of the SVID's life are over, Unix seconds: from then on its renewal
    /// waits for nothing.
    pub fn late_at(&self) -> UnixTime {
        self.chain.first().map_or(UnixTime::EPOCH, |leaf| {
            let life = leaf.not_after() - leaf.not_before();
            leaf.not_after() - life / 4
        })
    }

    /// The certificates, DER, leaf first.
    pub fn chain_der(&self) -> Vec<Vec<u8>> {
        self.chain.iter().map(|certificate| certificate.der().to_vec()).collect()
    }

    /// What is presented to the server.
    ///
    /// # Errors
    /// [`TlsError`] when TLS cannot use it.
    pub fn tls(&self) -> Result<TlsIdentity, TlsError> {
        let chain: Vec<Arc<[u8]>> = self.chain.iter().map(|c| Arc::clone(c.der())).collect();
        TlsIdentity::new(&chain, Arc::clone(&self.key.signer))
    }
}

/// The agent's keys in its key manager.
///
/// A key that its disk does not take is held in memory until [`AgentKeys::write`] succeeds: the
/// agent goes on, and only a restart in between would miss it.
#[derive(Debug)]
pub struct AgentKeys {
    manager: Manager,
    unwritten: Mutex<BTreeMap<&'static str, PrivateKey>>,
    /// A write that the disk has not answered. While it has not, there is no other: each would take
    /// a thread from those who can get on.
    hanging: Mutex<Option<JoinHandle<Result<(), KeyManagerError>>>>,
    pending_path: PathBuf,
    pending: Mutex<Option<Pending>>,
    measured: Option<KeyMetrics>,
}

#[derive(Debug)]
enum Manager {
    /// In this file.
    Disk(DiskKeyManager, PathBuf),
    Memory(MemoryKeyManager),
}

/// A join token, or the evidence of a kind of node attestor, that was, or is about to be, sent with a
/// certain key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    key_id: String,
    token_sha256: String,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending({}, ..)", self.key_id)
    }
}

impl AgentKeys {
    /// The keys in `file`, that of `disk`; what is pending is noted in `data_dir`.
    pub fn on_disk(disk: DiskKeyManager, file: PathBuf, data_dir: &Path) -> Self {
        Self::new(Manager::Disk(disk, file), data_dir)
    }

    /// Keys that end with the program; what is pending is noted in `data_dir`.
    pub fn in_memory(data_dir: &Path) -> Self {
        Self::new(Manager::Memory(MemoryKeyManager::new()), data_dir)
    }

    fn new(manager: Manager, data_dir: &Path) -> Self {
        let pending_path = data_dir.join(PENDING_FILE);
        let pending = files::read_bounded(&pending_path, 4096)
            .ok()
            .flatten()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            manager,
            unwritten: Mutex::default(),
            hanging: Mutex::default(),
            pending_path,
            pending: Mutex::new(pending),
            measured: None,
        }
    }

    /// The same, and what is asked of the key manager is counted.
    #[must_use]
    pub fn measured(self, metrics: KeyMetrics) -> Self {
        Self { measured: Some(metrics), ..self }
    }

    /// The key of a certificate; none when it is not there.
    ///
    /// # Errors
    /// [`KeyManagerError`] when a key cannot be used.
    pub async fn key_of(&self, leaf: &Certificate) -> Result<Option<AgentKey>, KeyManagerError> {
        let timer = self.measured.as_ref().map(|measured| measured.get.start(&[]));
        let found = self.search(leaf).await;
        if let Some(timer) = timer {
            timer.done(if found.is_ok() { "OK" } else { "Unknown" });
        }
        found
    }

    async fn search(&self, leaf: &Certificate) -> Result<Option<AgentKey>, KeyManagerError> {
        let Ok(public) = leaf.public_key() else { return Ok(None) };
        for slot in SLOTS {
            if let Some(signer) = self.signer(slot).await?
                && signer.public_key().spki_der() == public.spki_der()
            {
                return Ok(Some(AgentKey { slot, signer }));
            }
        }
        Ok(None)
    }

    /// A new key in the slot that `current` does not take. It is on disk before this returns,
    /// unless the disk fails: then that is logged.
    ///
    /// # Errors
    /// [`KeyManagerError`] when no key can be made; the current key is never touched.
    pub async fn fresh(&self, current: Option<&AgentKey>) -> Result<AgentKey, KeyManagerError> {
        let timer = self.measured.as_ref().map(|measured| measured.generate.start(&[]));
        let made = self.make(current).await;
        if let Some(timer) = timer {
            timer.done(if made.is_ok() { "OK" } else { "Unknown" });
        }
        made
    }

    async fn make(&self, current: Option<&AgentKey>) -> Result<AgentKey, KeyManagerError> {
        let [a, b] = SLOTS;
        let slot = if current.is_some_and(|key| key.slot == a) { b } else { a };
        let disk = match &self.manager {
            Manager::Memory(memory) => {
                return AgentKey::new(slot, &memory.generate_key(slot, KeyType::EcP256).await?);
            }
            Manager::Disk(disk, _) => disk,
        };
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let signer: Arc<dyn Signer> = key.signer()?;
        let error = match self.store(disk, slot, &key).await {
            Ok(()) => {
                lock(&self.unwritten).remove(slot);
                return Ok(AgentKey { slot, signer });
            }
            Err(error) => error,
        };
        tracing::warn!(
            error,
            "Could not store the agent's new key: it is only in memory until it can be"
        );
        lock(&self.unwritten).insert(slot, key);
        Ok(AgentKey { slot, signer })
    }

    async fn store(
        &self,
        disk: &DiskKeyManager,
        slot: &'static str,
        key: &PrivateKey,
    ) -> Result<(), String> {
        if lock(&self.hanging).as_ref().is_some_and(|earlier| !earlier.is_finished()) {
            return Err("the disk has not answered an earlier write".to_owned());
        }
        let (disk, key) = (disk.clone(), key.clone());
        let mut write = tokio::spawn(async move { disk.import(slot, key).await });
        match timeout(DISK_PATIENCE, &mut write).await {
            Ok(Ok(result)) => result.map_err(|error| chain(&error)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => {
                *lock(&self.hanging) = Some(write);
                Err(format!("the disk has not answered for {DISK_PATIENCE:?}"))
            }
        }
    }

    /// Writes the keys that are only in memory.
    ///
    /// # Errors
    /// Why they stay only in memory.
    pub async fn write(&self) -> Result<(), String> {
        let Manager::Disk(disk, _) = &self.manager else { return Ok(()) };
        let unwritten = lock(&self.unwritten).clone();
        for (slot, key) in unwritten {
            self.store(disk, slot, &key).await?;
            let mut unwritten = lock(&self.unwritten);
            if unwritten.get(slot).is_some_and(|now| now.public_key() == key.public_key()) {
                unwritten.remove(slot);
            }
        }
        Ok(())
    }

    /// Writes all keys again: the file was lost.
    ///
    /// # Errors
    /// Why they are only in memory.
    pub async fn write_anew(&self) -> Result<(), String> {
        if let Manager::Disk(disk, file) = &self.manager {
            let moved = disk.move_to(file.clone(), Sealing::Off).await;
            moved.map_err(|error| chain(&error))?;
        }
        self.write().await
    }

    /// The directory of their file, if they have one.
    pub fn directory(&self) -> Option<&Path> {
        match &self.manager {
            Manager::Disk(_, file) => file.parent(),
            Manager::Memory(_) => None,
        }
    }

    async fn signer(&self, slot: &'static str) -> Result<Option<Arc<dyn Signer>>, KeyManagerError> {
        if let Some(key) = lock(&self.unwritten).get(slot) {
            return Ok(Some(key.signer()?));
        }
        let key = match &self.manager {
            Manager::Disk(disk, _) => disk.get_key(slot).await,
            Manager::Memory(memory) => memory.get_key(slot).await,
        };
        key?.map(|key| AgentKey::new(slot, &key).map(|key| key.signer)).transpose()
    }

    /// The key to attest with, by a join token or a node attestor: the one that was sent with it
    /// before, if any, so that a server that binds an attestation to the key answers again after a
    /// lost reply.
    ///
    /// # Errors
    /// [`KeyManagerError`] when the key manager cannot make, find or name a key.
    pub async fn for_attempt(
        &self,
        what: &str,
        current: Option<&AgentKey>,
    ) -> Result<AgentKey, KeyManagerError> {
        let token_sha256 = digest::sha256_hex(what.as_bytes());
        let pending = lock(&self.pending).clone();
        if let Some(pending) = pending.filter(|pending| pending.token_sha256 == token_sha256)
            && let Some(slot) = SLOTS.into_iter().find(|slot| *slot == pending.key_id)
            && let Some(signer) = self.signer(slot).await?
        {
            return Ok(AgentKey { slot, signer });
        }
        let key = self.fresh(current).await?;
        let pending = Pending { key_id: key.slot.to_owned(), token_sha256 };
        if let Ok(text) = serde_json::to_vec(&pending)
            && let Err(error) = files::write_atomic(&self.pending_path, &text, 0o600)
        {
            // Attesting is still possible; only a reply lost together with this process is not
            // recovered from.
            tracing::warn!(error = %error, "Could not note the attempt to attest");
        }
        *lock(&self.pending) = Some(pending);
        Ok(key)
    }

    /// Notes that no attempt is pending any more.
    pub fn settled(&self) {
        if lock(&self.pending).take().is_some()
            && let Err(error) = files::remove_durably(&self.pending_path)
        {
            tracing::warn!(error = %error, "Could not remove the note of the attempt to attest");
        }
    }
}

/// Every critical section leaves what it guards whole, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_take_turns_and_the_current_one_is_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        let keys = AgentKeys::in_memory(dir.path());
        let a = keys.fresh(None).await.unwrap();
        let b = keys.fresh(Some(&a)).await.unwrap();
        assert_eq!((a.slot, b.slot), ("agent-svid-A", "agent-svid-B"));
        assert_eq!(keys.fresh(Some(&b)).await.unwrap().slot, "agent-svid-A");
        let held = keys.signer("agent-svid-B").await.unwrap().unwrap();
        assert_eq!(held.public_key().spki_der(), b.signer.public_key().spki_der());
    }

    #[tokio::test]
    async fn one_token_is_always_sent_with_one_key_even_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.json");
        let open = || {
            let disk = DiskKeyManager::open(&file, Sealing::Off).unwrap();
            AgentKeys::on_disk(disk, file.clone(), dir.path())
        };
        let spki = |key: &AgentKey| key.signer.public_key().spki_der().to_vec();
        let keys = open();
        let first = spki(&keys.for_attempt("t1", None).await.unwrap());
        assert_eq!(spki(&keys.for_attempt("t1", None).await.unwrap()), first);
        let after_crash = open();
        assert_eq!(spki(&after_crash.for_attempt("t1", None).await.unwrap()), first);
        assert_ne!(spki(&after_crash.for_attempt("t2", None).await.unwrap()), first);
        after_crash.settled();
        assert!(!dir.path().join(PENDING_FILE).exists());
        let note = Pending { key_id: "k".into(), token_sha256: "secret".into() };
        assert!(!format!("{note:?}").contains("secret"));
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_stored_is_used_and_stored_later() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("keys");
        std::fs::create_dir(&place).unwrap();
        let file = place.join("keys.json");
        let open = || {
            let disk = DiskKeyManager::open(&file, Sealing::Off).unwrap();
            AgentKeys::on_disk(disk, file.clone(), dir.path())
        };
        let spki = |key: &AgentKey| key.signer.public_key().spki_der().to_vec();
        let keys = open();
        let stored = keys.fresh(None).await.unwrap();
        std::fs::remove_dir_all(&place).unwrap();
        let held = keys.fresh(Some(&stored)).await.unwrap();
        let found = keys.signer(held.slot).await.unwrap().unwrap();
        assert_eq!(found.public_key().spki_der(), spki(&held));
        keys.write().await.unwrap_err();
        std::fs::create_dir(&place).unwrap();
        keys.write_anew().await.unwrap();
        for key in [stored, held] {
            let found = open().signer(key.slot).await.unwrap().unwrap();
            assert_eq!(found.public_key().spki_der(), spki(&key));
        }
    }
}
