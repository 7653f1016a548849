//! TLS with a key that a key manager holds, perhaps elsewhere.

use std::sync::Arc;

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task::block_in_place,
};

use super::{TlsError, TlsIdentity};
use crate::{ManagedKey, PublicKey, SignError, SignatureAlgorithm, Signer};

/// How many handshakes may wait for a key's holder at once: each keeps a thread meanwhile. One more
/// is refused, and its client comes back.
const AT_ONCE: usize = 8;

impl TlsIdentity {
    /// As [`TlsIdentity::new`], with a key that may be elsewhere. rustls cannot wait for a signature,
    /// so each handshake keeps a thread of the runtime until the key's holder has signed, within the
    /// deadline of its [`SigningQueue`](crate::key_manager::SigningQueue). The runtime must have
    /// several threads; with a key in this process any will do.
    ///
    /// # Errors
    /// [`TlsError`] when the leaf is not for the key.
    pub fn managed(chain: &[Arc<[u8]>], key: &ManagedKey) -> Result<Self, TlsError> {
        let signer = key.in_memory().unwrap_or_else(|| {
            Arc::new(Waiting { key: key.clone(), turns: Semaphore::new(AT_ONCE) })
        });
        Self::new(chain, signer)
    }
}

/// Waits for the key's holder.
#[derive(Debug)]
struct Waiting {
    key: ManagedKey,
    turns: Semaphore,
}

impl Signer for Waiting {
    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let failed = |why: &str| SignError::Failed(why.to_owned());
        let runtime = Handle::try_current().map_err(|error| failed(&error.to_string()))?;
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return Err(failed("there is no thread that could wait for the key manager"));
        }
        let _turn = self.turns.try_acquire().map_err(|_| {
            failed("too many TLS handshakes are waiting for the key manager to sign")
        })?;
        block_in_place(|| runtime.block_on(self.key.sign(algorithm, message)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use rustls::pki_types::ServerName;
    use signet_base::SystemClock;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        PrivateKey,
        key_manager::{RemoteSigner, SigningLimits, SigningQueue},
        tls::{SwappableIdentity, TlsOptions, WebCheck, web_client_config, web_server_config_with},
    };

    /// Signs elsewhere, after a while.
    #[derive(Debug)]
    struct Elsewhere(Arc<dyn Signer>);

    #[async_trait]
    impl RemoteSigner for Elsewhere {
        async fn sign(
            &self,
            algorithm: SignatureAlgorithm,
            message: &[u8],
        ) -> Result<Vec<u8>, SignError> {
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.0.sign(algorithm, message)
        }
    }

    fn identity() -> TlsIdentity {
        let made = rcgen::generate_simple_self_signed(["web.test".to_owned()]).unwrap();
        let signer = PrivateKey::from_pem(&made.signing_key.serialize_pem()).unwrap();
        let signer = signer.signer().unwrap();
        let queue = SigningQueue::new("elsewhere", SigningLimits::default());
        let public = signer.public_key().clone();
        let key = ManagedKey::remote(public, Arc::new(Elsewhere(signer)), queue);
        TlsIdentity::managed(&[made.cert.der().to_vec().into()], &key).unwrap()
    }

    async fn handshake() -> std::io::Result<()> {
        let clock = SystemClock::shared();
        let identity = Arc::new(SwappableIdentity::new(identity()));
        let server = web_server_config_with(identity, clock.clone(), TlsOptions::default());
        let client = web_client_config(WebCheck::Nothing, &[], None, clock).unwrap();
        let (near, far) = tokio::io::duplex(16 * 1024);
        let acceptor = tokio_rustls::TlsAcceptor::from(server.unwrap());
        let served = tokio::spawn(async move {
            let mut stream = acceptor.accept(far).await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await
        });
        let name = ServerName::try_from("web.test").unwrap();
        let connected = tokio_rustls::TlsConnector::from(client).connect(name, near).await;
        let read = async {
            let mut text = String::new();
            connected?.read_to_string(&mut text).await?;
            assert_eq!(text, "hello");
            std::io::Result::Ok(())
        };
        let read = read.await;
        served.await.unwrap()?;
        read
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_handshake_waits_for_a_key_that_is_elsewhere() {
        handshake().await.unwrap();
    }

    #[tokio::test]
    async fn without_a_thread_to_wait_on_a_handshake_fails_and_says_why() {
        let error = handshake().await.unwrap_err().to_string();
        assert!(error.contains("no thread"), "{error}");
    }
}
