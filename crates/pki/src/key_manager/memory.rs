//! Keys that live as long as the process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;

use super::{KeyManager, KeyManagerError};
use crate::{KeyType, Signer};

/// A key manager without persistence: a new CA on each start (SPIRE's `memory`).
#[derive(Debug, Default)]
pub struct MemoryKeyManager {
    keys: Mutex<BTreeMap<String, Arc<dyn Signer>>>,
}

impl MemoryKeyManager {
    /// Without keys.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl KeyManager for MemoryKeyManager {
    async fn generate_key(
        &self,
        id: &str,
        key_type: KeyType,
    ) -> Result<Arc<dyn Signer>, KeyManagerError> {
        let _ = (id, key_type, &self.keys);
        todo!()
    }

    async fn get_key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, KeyManagerError> {
        let _ = id;
        todo!()
    }

    async fn list(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, KeyManagerError> {
        todo!()
    }
}
