//! A remote key manager for tests, which can be told to misbehave.

#![allow(clippy::unwrap_used, reason = "a helper of tests, which may panic")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use super::{
    KeyManager, KeyManagerError, ManagedKey, RemoteSigner, SigningFault, SigningLimits,
    SigningQueue, check_id, lock,
};
use crate::{KeyAlgorithm, KeyType, PrivateKey, SignError, SignatureAlgorithm, Signer};

/// How the back end behaves, from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// It does what it is asked for.
    #[default]
    Good,
    /// It does, after that long.
    Slow(Duration),
    /// It never answers.
    Hangs,
    /// It refuses everything.
    Fails,
    /// What it returns as a signature is another key's.
    ForeignSignatures,
    /// What it returns as a signature is no signature.
    NoSignatures,
    /// It makes keys of another type than asked for.
    OtherKeyTypes,
    /// It answers with another public key than the one it signs with.
    OtherPublicKeys,
}

/// A remote key manager in this process. Clones share keys and behaviour.
#[derive(Clone, Debug)]
pub struct FakeRemoteKeyManager {
    backend: Arc<Backend>,
    queue: SigningQueue,
}

#[derive(Debug, Default)]
struct Backend {
    behaviour: Mutex<Behaviour>,
    keys: Mutex<BTreeMap<String, Arc<dyn Signer>>>,
    made: AtomicUsize,
    at_work: AtomicUsize,
    most_at_work: AtomicUsize,
}

impl FakeRemoteKeyManager {
    /// Without keys.
    pub fn new(limits: SigningLimits) -> Self {
        Self { backend: Arc::default(), queue: SigningQueue::new("fake", limits) }
    }

    /// Behaves that way from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *lock(&self.backend.behaviour) = behaviour;
    }

    /// How many keys were made, replaced ones included.
    pub fn made(&self) -> usize {
        self.backend.made.load(Ordering::SeqCst)
    }

    /// How many calls it was at work on at once, at most.
    pub fn most_at_work(&self) -> usize {
        self.backend.most_at_work.load(Ordering::SeqCst)
    }

    fn key(&self, signer: Arc<dyn Signer>) -> ManagedKey {
        let public_key = match self.backend.behaviour() {
            Behaviour::OtherPublicKeys => other_key(&*signer),
            _ => Arc::clone(&signer),
        };
        let backend = Arc::clone(&self.backend);
        let remote = FakeSigner { backend, signer };
        ManagedKey::remote(public_key.public_key().clone(), Arc::new(remote), self.queue.clone())
    }
}

impl Backend {
    fn behaviour(&self) -> Behaviour {
        *lock(&self.behaviour)
    }

    /// What happens before any answer.
    async fn call(&self) -> Result<(), String> {
        let at_work = self.at_work.fetch_add(1, Ordering::SeqCst) + 1;
        let _done = Done(self);
        self.most_at_work.fetch_max(at_work, Ordering::SeqCst);
        match self.behaviour() {
            Behaviour::Slow(delay) => tokio::time::sleep(delay).await,
            Behaviour::Hangs => std::future::pending().await,
            Behaviour::Fails => return Err("503 Service Unavailable".to_owned()),
            _ => {}
        }
        Ok(())
    }
}

struct Done<'a>(&'a Backend);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl KeyManager for FakeRemoteKeyManager {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn generate_key(
        &self,
        id: &str,
        key_type: KeyType,
    ) -> Result<ManagedKey, KeyManagerError> {
        check_id(id)?;
        self.backend.call().await.map_err(failed)?;
        let key_type = match (self.backend.behaviour(), key_type) {
            (Behaviour::OtherKeyTypes, KeyType::EcP256) => KeyType::EcP384,
            (Behaviour::OtherKeyTypes, _) => KeyType::EcP256,
            (_, asked) => asked,
        };
        let signer: Arc<dyn Signer> = PrivateKey::generate(key_type)?.signer()?;
        self.backend.made.fetch_add(1, Ordering::SeqCst);
        lock(&self.backend.keys).insert(id.to_owned(), Arc::clone(&signer));
        Ok(self.key(signer))
    }

    async fn get_key(&self, id: &str) -> Result<Option<ManagedKey>, KeyManagerError> {
        self.backend.call().await.map_err(failed)?;
        let found = lock(&self.backend.keys).get(id).cloned();
        Ok(found.map(|signer| self.key(signer)))
    }

    async fn list(&self) -> Result<Vec<(String, ManagedKey)>, KeyManagerError> {
        self.backend.call().await.map_err(failed)?;
        let all = lock(&self.backend.keys).clone();
        Ok(all.into_iter().map(|(id, signer)| (id, self.key(signer))).collect())
    }

    fn fault(&self) -> Option<SigningFault> {
        self.queue.fault()
    }
}

#[derive(Debug)]
struct FakeSigner {
    backend: Arc<Backend>,
    signer: Arc<dyn Signer>,
}

#[async_trait]
impl RemoteSigner for FakeSigner {
    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        self.backend.call().await.map_err(SignError::Failed)?;
        match self.backend.behaviour() {
            Behaviour::ForeignSignatures => other_key(&*self.signer).sign(algorithm, message),
            Behaviour::NoSignatures => Ok(b"<html>proxy login</html>".to_vec()),
            _ => self.signer.sign(algorithm, message),
        }
    }
}

/// Another key of the same kind.
fn other_key(key: &dyn Signer) -> Arc<dyn Signer> {
    let key_type = match key.public_key().algorithm() {
        KeyAlgorithm::EcP384 => KeyType::EcP384,
        KeyAlgorithm::Rsa { .. } => KeyType::Rsa2048,
        _ => KeyType::EcP256,
    };
    PrivateKey::generate(key_type).unwrap().signer().unwrap()
}

fn failed(message: String) -> KeyManagerError {
    KeyManagerError::Remote { name: "fake", message }
}
