//! A key that a key manager holds, in this process or elsewhere.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::SigningQueue;
use crate::{
    KeyType, LocalSigner, PublicKey, SignError, SignatureAlgorithm, Signer, signer::verify_made,
};

/// What a new key signs to show that it can.
const PROOF: &[u8] = b"signet: a new key shows that it signs";

/// What a remote key manager does for one of its keys.
///
/// It is called through a [`ManagedKey`], which bounds how many calls there are, gives each a
/// deadline, and checks what comes back.
#[async_trait]
pub trait RemoteSigner: Send + Sync + fmt::Debug {
    /// Hashes and signs `message` as [`Signer::sign`] does: ECDSA signatures are DER.
    ///
    /// The future is dropped when the deadline has passed: then nothing of it may go on, neither
    /// a thread nor a task. A library that blocks is called on a fixed number of threads.
    ///
    /// # Errors
    /// [`SignError::Failed`] with what the back end said, without secrets.
    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError>;
}

/// A private key that a key manager holds.
///
/// Signing is asynchronous. With a key in this process the future is ready when it is first
/// polled: no thread, no queue, no allocation. With a remote key it is bounded by the key
/// manager's [`SigningQueue`], and a signature that is not the key's is never handed out.
#[derive(Clone)]
pub struct ManagedKey {
    holder: Holder,
    observer: Option<Arc<dyn SigningObserver>>,
}

/// Is told of every signature of a key, made or not. Called from the task that asked, so it must
/// be quick.
pub trait SigningObserver: Send + Sync + fmt::Debug {
    /// It took so long, waiting for its turn included. A signature whose caller gave up is not told
    /// of.
    fn ended(&self, elapsed: Duration, outcome: Result<(), &SignError>);
}

#[derive(Clone)]
enum Holder {
    Local(Arc<dyn Signer>),
    Remote(Arc<Remote>),
}

struct Remote {
    public_key: PublicKey,
    signer: Arc<dyn RemoteSigner>,
    queue: SigningQueue,
}

impl ManagedKey {
    /// A key behind a remote key manager. `queue` is shared by all keys of that key manager.
    pub fn remote(
        public_key: PublicKey,
        signer: Arc<dyn RemoteSigner>,
        queue: SigningQueue,
    ) -> Self {
        Holder::Remote(Arc::new(Remote { public_key, signer, queue })).into()
    }

    /// The same key, of whose signatures `observer` is told; those of TLS, which signs by
    /// [`ManagedKey::in_memory`], are not among them.
    #[must_use]
    pub fn observed(self, observer: Arc<dyn SigningObserver>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        match &self.holder {
            Holder::Local(signer) => signer.public_key(),
            Holder::Remote(remote) => &remote.public_key,
        }
    }

    /// What signs with the key where it is in this process's memory; for one that is elsewhere, TLS
    /// has [`TlsIdentity::managed`](crate::tls::TlsIdentity::managed).
    pub fn in_memory(&self) -> Option<Arc<dyn Signer>> {
        match &self.holder {
            Holder::Local(signer) => Some(Arc::clone(signer)),
            Holder::Remote(_) => None,
        }
    }

    /// Hashes and signs `message`. ECDSA signatures are DER.
    ///
    /// # Errors
    /// [`SignError`]: the key does not sign this way, or its holder is busy, too slow, fails, or
    /// returned something else than this key's signature.
    pub async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let begun = self.observer.as_ref().map(|observer| (observer, Instant::now()));
        let signed = match &self.holder {
            Holder::Local(signer) => signer.sign(algorithm, message),
            Holder::Remote(remote) => remote.sign(algorithm, message).await,
        };
        if let Some((observer, begun)) = begun {
            observer.ended(begun.elapsed(), signed.as_ref().map(|_| ()));
        }
        signed
    }

    /// Signs as certificates and JWTs of this key are signed
    /// ([`SignatureAlgorithm::for_issuing`]).
    ///
    /// # Errors
    /// As [`ManagedKey::sign`].
    pub async fn sign_issued(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let algorithm = SignatureAlgorithm::for_issuing(self.public_key().algorithm());
        self.sign(algorithm, message).await
    }

    /// Whether this is a key of that type which signs; asked before anybody is told of the key.
    ///
    /// # Errors
    /// [`SignError`] when it is another type's, or as [`ManagedKey::sign`].
    pub async fn prove(&self, key_type: KeyType) -> Result<(), SignError> {
        let (wanted, found) = (key_type.algorithm(), self.public_key().algorithm());
        if wanted != found {
            return Err(SignError::Failed(format!(
                "the key manager made a {found:?} key where {wanted:?} was asked for"
            )));
        }
        match &self.holder {
            Holder::Local(_) => Ok(()),
            Holder::Remote(_) => self.sign_issued(PROOF).await.map(drop),
        }
    }
}

impl Remote {
    async fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let check = |signature: Vec<u8>| {
            verify_made(&self.public_key, algorithm, message, &signature)
                .map(|()| signature)
                .map_err(|_| SignError::Mismatch { holder: self.queue.holder() })
        };
        let signing = async { self.signer.sign(algorithm, message).await.and_then(check) };
        self.queue.run(signing).await
    }
}

impl From<Arc<dyn Signer>> for ManagedKey {
    fn from(signer: Arc<dyn Signer>) -> Self {
        Holder::Local(signer).into()
    }
}

impl From<Holder> for ManagedKey {
    fn from(holder: Holder) -> Self {
        Self { holder, observer: None }
    }
}

impl From<Arc<LocalSigner>> for ManagedKey {
    fn from(signer: Arc<LocalSigner>) -> Self {
        Holder::Local(signer).into()
    }
}

impl fmt::Debug for ManagedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Holder::Local(signer) => signer.fmt(f),
            Holder::Remote(remote) => {
                let (holder, kind) = (remote.queue.holder(), remote.public_key.algorithm());
                write!(f, "RemoteKey({holder}, {kind:?})")
            }
        }
    }
}
