//! `server_key_manager_*`: what the key manager did.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use signet_daemon::metrics::{Calls, Metrics};
use signet_pki::{
    KeyManager, KeyManagerError, KeyType, ManagedKey, SignError,
    key_manager::{SigningFault, SigningObserver},
};

/// A key manager whose calls are counted.
#[derive(Debug)]
pub struct MeasuredKeys {
    keys: Arc<dyn KeyManager>,
    generate: Calls,
    get: Calls,
    list: Calls,
    signatures: Arc<Signatures>,
}

#[derive(Debug)]
struct Signatures(Calls);

impl MeasuredKeys {
    /// `keys`, counted in `metrics`.
    pub fn new(keys: Arc<dyn KeyManager>, metrics: &Metrics) -> Self {
        let calls =
            |verb: &str, help: &str| metrics.calls(&["server_key_manager", verb], help, &[]);
        Self {
            keys,
            generate: calls("generate_key", "Keys that the key manager made"),
            get: calls("get_public_key", "Look-ups of a key"),
            list: calls("get_public_keys", "Lists of all keys"),
            signatures: Arc::new(Signatures(calls("sign_data", "Signatures"))),
        }
    }

    fn observed(&self, key: ManagedKey) -> ManagedKey {
        key.observed(Arc::clone(&self.signatures) as _)
    }
}

#[async_trait]
impl KeyManager for MeasuredKeys {
    fn name(&self) -> &'static str {
        self.keys.name()
    }

    fn outlives_process(&self) -> bool {
        self.keys.outlives_process()
    }

    async fn generate_key(
        &self,
        id: &str,
        key_type: KeyType,
    ) -> Result<ManagedKey, KeyManagerError> {
        let timer = self.generate.start(&[]);
        let made = self.keys.generate_key(id, key_type).await;
        timer.done(status(&made));
        made.map(|key| self.observed(key))
    }

    async fn get_key(&self, id: &str) -> Result<Option<ManagedKey>, KeyManagerError> {
        let timer = self.get.start(&[]);
        let found = self.keys.get_key(id).await;
        timer.done(match &found {
            Ok(None) => "NotFound",
            found => status(found),
        });
        found.map(|key| key.map(|key| self.observed(key)))
    }

    async fn list(&self) -> Result<Vec<(String, ManagedKey)>, KeyManagerError> {
        let timer = self.list.start(&[]);
        let listed = self.keys.list().await;
        timer.done(status(&listed));
        let all = listed?.into_iter();
        Ok(all.map(|(id, key)| (id, self.observed(key))).collect())
    }

    fn fault(&self) -> Option<SigningFault> {
        self.keys.fault()
    }
}

impl SigningObserver for Signatures {
    fn ended(&self, elapsed: Duration, outcome: Result<(), &SignError>) {
        let status = match outcome {
            Ok(()) => "OK",
            Err(SignError::Busy { .. }) => "ResourceExhausted",
            Err(_) => "Unknown",
        };
        self.0.observe(&[], status, elapsed);
    }
}

fn status<T>(outcome: &Result<T, KeyManagerError>) -> &'static str {
    match outcome {
        Ok(_) => "OK",
        Err(KeyManagerError::BadId) => "InvalidArgument",
        Err(_) => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use signet_pki::MemoryKeyManager;

    use super::*;

    #[tokio::test]
    async fn keys_and_their_signatures_are_counted() {
        let metrics = Metrics::detached();
        let keys = MeasuredKeys::new(Arc::new(MemoryKeyManager::new()), &metrics);
        assert!(keys.get_key("a").await.unwrap().is_none());
        keys.generate_key("a", KeyType::EcP256).await.unwrap();
        let key = keys.get_key("a").await.unwrap().unwrap();
        key.sign_issued(b"message").await.unwrap();
        assert!(key.in_memory().is_some());
        let text = metrics.encode();
        for line in [
            "signet_server_key_manager_generate_key{status=\"OK\"} 1",
            "signet_server_key_manager_get_public_key{status=\"NotFound\"} 1",
            "signet_server_key_manager_get_public_key{status=\"OK\"} 1",
            "signet_server_key_manager_sign_data{status=\"OK\"} 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }
}
