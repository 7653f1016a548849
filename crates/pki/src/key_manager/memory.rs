//! Keys that live as long as the process.

use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;

use super::{KeyManager, KeyManagerError, ManagedKey, check_id, generate, lock};
use crate::KeyType;

/// A key manager without persistence: a new CA on each start (SPIRE's `memory`).
#[derive(Debug, Default)]
pub struct MemoryKeyManager {
    keys: Mutex<BTreeMap<String, ManagedKey>>,
}

impl MemoryKeyManager {
    /// Without keys.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl KeyManager for MemoryKeyManager {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn outlives_process(&self) -> bool {
        false
    }

    async fn generate_key(
        &self,
        id: &str,
        key_type: KeyType,
    ) -> Result<ManagedKey, KeyManagerError> {
        check_id(id)?;
        let (_, signer) = generate(key_type).await?;
        lock(&self.keys).insert(id.to_owned(), signer.clone());
        Ok(signer)
    }

    async fn get_key(&self, id: &str) -> Result<Option<ManagedKey>, KeyManagerError> {
        Ok(lock(&self.keys).get(id).cloned())
    }

    async fn list(&self) -> Result<Vec<(String, ManagedKey)>, KeyManagerError> {
        Ok(lock(&self.keys).iter().map(|(id, key)| (id.clone(), key.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_promises_of_a_key_manager() {
        super::super::conformance::check(&MemoryKeyManager::new()).await;
    }
}
