//! Keys in Azure Key Vault, named, tagged and kept alive as SPIRE's KeyManager `azure_key_vault`
//! does, so that neither deletes what the other uses.
//!
//! Each key that is made is a key of its own, `spire-key-<uuid>-<key id>`, for versions cannot be
//! deleted singly. Its name is chosen before it is made, and is its handle.

mod calls;
mod upkeep;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use signet_base::{SharedClock, chain};
use signet_http::rest::RestError;
use signet_identity::TrustDomain;
use signet_pki::{
    KeyType, PublicKey, SignError, SignatureAlgorithm,
    key_manager::{KeyStore, KeyStoreError, StoredKey, is_uuid, read_keys},
    random,
};

use self::calls::{Calls, Item};
use crate::Azure;

/// The plugin's name.
const NAME: &str = "azure_key_vault";
/// How keys of servers begin.
const PREFIX: &str = "spire-key-";
const TAG_TD: &str = "spire-server-td";
const TAG_SERVER: &str = "spire-server-id";
/// Our own: when a key was made, nanoseconds since 1970. The service knows the second only, and a
/// server that starts often makes two keys of one name in it.
const TAG_MADE: &str = "signet-made";
/// The longest name of a key.
const MAX_NAME: usize = 127;
/// How often a key is asked for whose making was answered by nothing.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(250);

/// Where the keys are and whose they are.
#[derive(Clone, Debug)]
pub struct VaultSettings {
    /// The vault's URL, `https://name.vault.azure.net`.
    pub vault: String,
    /// Which keys are this server's.
    pub server_id: String,
}

/// Keys in a Key Vault. Clones share everything.
#[derive(Clone)]
pub struct KeyVault(Arc<Inner>);

struct Inner {
    calls: Calls,
    vault: String,
    server_id: String,
    trust_domain: String,
    clock: SharedClock,
    /// The version of each key in use, by its name.
    versions: Mutex<HashMap<String, String>>,
}

/// The service that gives tokens for a vault must give them for this one: what comes after the
/// vault's own name in the host of its URL.
pub(crate) fn resource_of(vault: &str) -> String {
    let host = vault.split_once("://").map_or(vault, |(_, rest)| rest);
    let host = host.split(['/', ':']).next().unwrap_or_default();
    match host.split_once('.') {
        Some((_, rest)) if rest.contains(|c: char| c.is_ascii_alphabetic()) => {
            format!("https://{rest}")
        }
        _ => "https://vault.azure.net".to_owned(),
    }
}

impl KeyVault {
    /// The service that tokens are for, of a vault's URL: `https://vault.azure.net`.
    pub fn resource(vault: &str) -> String {
        resource_of(vault)
    }

    /// Keys of one server. Nothing is sent yet.
    pub fn new(
        azure: Azure,
        settings: VaultSettings,
        trust_domain: &TrustDomain,
        clock: SharedClock,
    ) -> Self {
        let VaultSettings { vault, server_id } = settings;
        Self(Arc::new(Inner {
            calls: Calls::new(azure, &vault),
            vault,
            server_id,
            trust_domain: trust_domain.as_str().to_owned(),
            clock,
            versions: Mutex::default(),
        }))
    }

    /// Marks the keys in use as alive, which SPIRE servers of the trust domain look at: what was not
    /// updated for two weeks is deleted by them.
    ///
    /// # Errors
    /// The first [`RestError`], after all were tried.
    pub async fn keep_alive(&self) -> Result<(), RestError> {
        self.0.keep_alive().await
    }

    /// Deletes the keys of other servers of the trust domain that were not updated for two weeks.
    ///
    /// # Errors
    /// [`RestError`]; it goes on the next time.
    pub async fn dispose(&self) -> Result<(), RestError> {
        self.0.dispose().await
    }
}

impl Inner {
    fn versions(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of this server, and those alone.
    async fn own(&self) -> Result<Vec<Item>, RestError> {
        let mut items = self.calls.list().await?;
        items.retain(|item| {
            item.tag(TAG_TD) == Some(&self.trust_domain)
                && item.tag(TAG_SERVER) == Some(&self.server_id)
                && id_of(&item.name).is_some()
        });
        Ok(items)
    }

    async fn read(&self, name: String) -> Result<Option<StoredKey>, RestError> {
        let key = match self.calls.get(&name).await {
            Ok(key) => key,
            // It was deleted between the list and this.
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        if !key.enabled {
            // Somebody did that, and can undo it; without the key, authorities would be made anew.
            return Err(RestError::Setting(format!(
                "the key {name} is disabled: enable or delete it"
            )));
        }
        let id = id_of(&name).unwrap_or_default().to_owned();
        let Some(public_key) = key.public_key else {
            tracing::warn!(key = name, "A key of another kind is left alone");
            return Ok(None);
        };
        self.versions().insert(name.clone(), key.version);
        let made = key.tags.get(TAG_MADE).and_then(|text| text.parse().ok());
        let made = made.unwrap_or(i128::from(key.created) * 1_000_000_000);
        Ok(Some(StoredKey { handle: name, id, public_key, made }))
    }

    async fn make(&self, name: &str, key_type: KeyType) -> Result<PublicKey, (String, bool)> {
        let now = self.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let tags = json!({
            TAG_TD: self.trust_domain,
            TAG_SERVER: self.server_id,
            TAG_MADE: now.as_nanos().to_string(),
        });
        let mut attempt = 1;
        let key = loop {
            let error = match self.calls.create(name, key_type, &tags).await {
                Ok(key) => break key,
                Err(error) if error.had_no_effect() => return Err((chain(&error), true)),
                Err(error) => error,
            };
            // It may have been made all the same; another request would make a second version.
            match self.calls.get(name).await {
                Ok(key) => break key,
                Err(looked) if looked.is_not_found() => {}
                Err(looked) => return Err((chain(&looked), false)),
            }
            if attempt >= ATTEMPTS {
                return Err((chain(&error), false));
            }
            tokio::time::sleep(PAUSE * attempt).await;
            attempt += 1;
        };
        let public_key = key.public_key.filter(|found| found.algorithm() == key_type.algorithm());
        let public_key = public_key
            .ok_or_else(|| ("a key of another kind was made than asked for".to_owned(), false))?;
        self.versions().insert(name.to_owned(), key.version);
        Ok(public_key)
    }

    async fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, RestError> {
        let name = &key.handle;
        let version = self.versions().get(name).cloned();
        let version = match version {
            Some(version) => version,
            None => {
                let found = self.calls.get(name).await?.version;
                self.versions().insert(name.clone(), found.clone());
                found
            }
        };
        self.calls.sign(name, &version, algorithm, message).await
    }
}

/// The name that a server gave the key with this name in the vault.
fn id_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PREFIX)?;
    let (uuid, id) = (rest.get(..36)?, rest.get(36..)?);
    let id = id.strip_prefix('-')?;
    (is_uuid(uuid) && !id.is_empty()).then_some(id)
}

#[async_trait]
impl KeyStore for KeyVault {
    fn name(&self) -> &'static str {
        NAME
    }

    fn new_handle(&self, id: &str) -> Result<String, KeyStoreError> {
        let uuid = random::uuid_v4().map_err(KeyStoreError::undone)?;
        let name = format!("{PREFIX}{uuid}-{id}");
        if name.len() > MAX_NAME || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(KeyStoreError::undone(format!(
                "{id:?} cannot be in the name of a key: expected letters, digits and \"-\", and at \
                 most {MAX_NAME} of them in all"
            )));
        }
        Ok(name)
    }

    async fn create(
        &self,
        handle: &str,
        _id: &str,
        key_type: KeyType,
    ) -> Result<PublicKey, KeyStoreError> {
        self.0.make(handle, key_type).await.map_err(|(why, certain)| match certain {
            true => KeyStoreError::undone(why),
            false => KeyStoreError::unknown(why),
        })
    }

    async fn list(&self) -> Result<Vec<StoredKey>, KeyStoreError> {
        let failed = |error: RestError| KeyStoreError::undone(chain(&error));
        let own = self.0.own().await.map_err(failed)?;
        let store = Arc::clone(&self.0);
        let reads = own.into_iter().map(move |item| {
            let store = Arc::clone(&store);
            async move { store.read(item.name).await.map_err(failed) }
        });
        let mut keys = Vec::new();
        let take = |key: Option<StoredKey>| {
            keys.extend(key);
            Ok(())
        };
        read_keys(reads, take).await?;
        Ok(keys)
    }

    async fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let signed = self.0.sign(key, algorithm, message).await;
        signed.map_err(|error| SignError::Failed(chain(&error)))
    }

    async fn delete(&self, handle: &str) -> Result<(), KeyStoreError> {
        match self.0.calls.delete(handle).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(KeyStoreError::unknown(chain(&error))),
        }
        self.0.versions().remove(handle);
        Ok(())
    }

    async fn upkeep(&self) {
        self.0.upkeep().await;
    }
}

impl fmt::Debug for KeyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyVault({}, {})", self.0.vault, self.0.server_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_spire() {
        let uuid = "0b2d8d4e-6a4c-4f0e-9d43-0d2f2f0f5a01";
        assert_eq!(id_of(&format!("spire-key-{uuid}-x509-CA-A")), Some("x509-CA-A"));
        for other in ["spire-key-x", &format!("spire-key-{uuid}-"), &format!("key-{uuid}-a")] {
            assert_eq!(id_of(other), None, "{other}");
        }
    }

    #[test]
    fn tokens_are_for_the_cloud_of_the_vault() {
        for (vault, want) in [
            ("https://a.vault.azure.net/", "https://vault.azure.net"),
            ("https://a.vault.usgovcloudapi.net", "https://vault.usgovcloudapi.net"),
            ("https://a.managedhsm.azure.net", "https://managedhsm.azure.net"),
            ("http://127.0.0.1:80", "https://vault.azure.net"),
        ] {
            assert_eq!(resource_of(vault), want);
        }
    }
}
