//! Keys in the transit secrets engine, named as SPIRE's KeyManager `hashicorp_vault` names them:
//! `<server id>-<uuid>-<key id>`.

use std::{collections::HashMap, fmt};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;
use signet_base::chain;
use signet_http::shown;
use signet_pki::{
    KeyType, PublicKey, SignError, SignatureAlgorithm,
    key_manager::{KeyStore, KeyStoreError, StoredKey, is_uuid, read_keys},
    pem, random,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Client, VaultError, path};

/// The plugin's name.
const NAME: &str = "hashicorp_vault";
/// What stands for "+", which a name may not have: the account's key of a bundle endpoint with ACME
/// has one in its name.
const PLUS: &str = "_2b";
/// How many keys one server may have: two for each authority, and what was left behind.
const MAX_OWN: usize = 10_000;

/// Keys in a transit secrets engine.
#[derive(Clone)]
pub struct Transit {
    client: Client,
    mount: String,
    server_id: String,
}

/// A key as the engine describes it.
#[derive(Deserialize)]
struct Described {
    #[serde(rename = "type")]
    kind: String,
    latest_version: u64,
    keys: HashMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Version {
    public_key: String,
    creation_time: String,
}

impl Transit {
    /// Keys of the server `server_id` in the engine at `mount`.
    pub fn new(client: Client, mount: impl Into<String>, server_id: impl Into<String>) -> Self {
        Self { client, mount: mount.into(), server_id: server_id.into() }
    }

    fn key_path(&self, handle: &str) -> String {
        path(&[&self.mount, "keys", handle])
    }

    /// The name that the server gave the key with this handle, if it is a key of this server.
    fn id_of(&self, handle: &str) -> Option<String> {
        let rest = handle.strip_prefix(&*self.server_id)?.strip_prefix('-')?;
        let (uuid, id) = (rest.get(..36)?, rest.get(36..)?);
        let id = id.strip_prefix('-')?;
        (is_uuid(uuid) && !id.is_empty()).then(|| id.replace(PLUS, "+"))
    }

    async fn read(&self, handle: String) -> Result<Option<StoredKey>, VaultError> {
        let at = self.key_path(&handle);
        let described: Described = match self.client.read(&*at).await {
            Ok(answer) => answer.data()?,
            // It was deleted between the list and this.
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let nonsense = |why: &str| VaultError::Nonsense { path: at.clone(), why: why.to_owned() };
        let version = described.keys.get(&described.latest_version.to_string());
        let version = version.ok_or_else(|| nonsense("its latest version is missing"))?;
        if !matches!(&*described.kind, "ecdsa-p256" | "ecdsa-p384" | "rsa-2048" | "rsa-4096") {
            tracing::warn!(
                key = handle,
                kind = described.kind,
                "A key of another kind is left alone"
            );
            return Ok(None);
        }
        let version: Version = serde_json::from_value(version.clone())
            .map_err(|_| nonsense("it has no public key or no time of creation"))?;
        let made = OffsetDateTime::parse(&version.creation_time, &Rfc3339)
            .map_err(|_| nonsense("its time of creation is not understood"))?;
        let blocks = pem::decode(&version.public_key).map_err(|error| nonsense(&chain(&error)))?;
        let der = blocks.iter().find(|block| block.label == "PUBLIC KEY");
        let der = der.ok_or_else(|| nonsense("its public key is not PEM"))?;
        let public_key =
            PublicKey::from_spki(&der.der).map_err(|error| nonsense(&chain(&error)))?;
        let id = self.id_of(&handle).unwrap_or_default();
        Ok(Some(StoredKey { handle, id, public_key, made: made.unix_timestamp_nanos() }))
    }
}

#[async_trait]
impl KeyStore for Transit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn new_handle(&self, id: &str) -> Result<String, KeyStoreError> {
        let uuid = random::uuid_v4().map_err(KeyStoreError::undone)?;
        let handle = format!("{}-{uuid}-{}", self.server_id, id.replace('+', PLUS));
        // The engine's own rule for names.
        let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let inside = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        let bytes = handle.as_bytes();
        let good = edge(bytes.first().copied())
            && edge(bytes.last().copied())
            && bytes.iter().all(|byte| inside(*byte));
        if good {
            return Ok(handle);
        }
        Err(KeyStoreError::undone(format!(
            "{:?} cannot name a transit key: expected letters, digits, \"_\", \"-\" and \".\"",
            shown(&handle)
        )))
    }

    async fn create(
        &self,
        handle: &str,
        _id: &str,
        key_type: KeyType,
    ) -> Result<PublicKey, KeyStoreError> {
        let kind = match key_type {
            KeyType::EcP256 => "ecdsa-p256",
            KeyType::EcP384 => "ecdsa-p384",
            KeyType::Rsa2048 => "rsa-2048",
            KeyType::Rsa4096 => "rsa-4096",
        };
        let body = json!({ "type": kind, "exportable": false, "auto_rotate_period": 0 });
        // Making a key that is there changes nothing, so this may be sent again.
        let request = crate::Request::post(self.key_path(handle)).json(&body).repeatable();
        self.client.send(request).await.map_err(|error| match &error {
            VaultError::Denied { .. }
            | VaultError::NotFound { .. }
            | VaultError::Refused { .. }
            | VaultError::Sealed
            | VaultError::Login { .. }
            | VaultError::TokenGone
            | VaultError::Waiting(_) => KeyStoreError::undone(chain(&error)),
            _ => KeyStoreError::unknown(chain(&error)),
        })?;
        let key = self.read(handle.to_owned()).await;
        match key.map_err(|error| KeyStoreError::unknown(chain(&error)))? {
            Some(key) => Ok(key.public_key),
            None => Err(KeyStoreError::unknown("the key that was made is not there")),
        }
    }

    async fn list(&self) -> Result<Vec<StoredKey>, KeyStoreError> {
        let failed = |error: VaultError| KeyStoreError::undone(chain(&error));
        let names = self.client.list(path(&[&self.mount, "keys"])).await;
        let mut own = names.map_err(failed)?;
        own.retain(|name| self.id_of(name).is_some());
        let store = self.clone();
        let reads = own.into_iter().map(move |name| {
            let store = store.clone();
            async move { store.read(name).await.map_err(failed) }
        });
        let mut keys = Vec::new();
        let take = |key: Option<StoredKey>| {
            keys.extend(key);
            if keys.len() > MAX_OWN {
                let why = format!("this server has more than {MAX_OWN} keys");
                return Err(KeyStoreError::undone(why));
            }
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
        let hash = format!("sha2-{}", algorithm.digest_bits());
        let mut body = json!({
            "input": STANDARD.encode(algorithm.digest(message)),
            "prehashed": true,
            "marshaling_algorithm": "asn1",
        });
        if matches!(key.public_key.algorithm(), signet_pki::KeyAlgorithm::Rsa { .. }) {
            let scheme = if algorithm.is_pss() { "pss" } else { "pkcs1v15" };
            if let Some(fields) = body.as_object_mut() {
                fields.insert("signature_algorithm".to_owned(), scheme.into());
                fields.insert("salt_length".to_owned(), "hash".into());
            }
        }
        #[derive(Deserialize)]
        struct Signed {
            signature: String,
        }
        let at = path(&[&self.mount, "sign", &key.handle, &hash]);
        let request = crate::Request::post(at).json(&body).repeatable();
        let answer = self.client.send(request).await.and_then(crate::Answer::data::<Signed>);
        let signed = answer.map_err(|error| SignError::Failed(chain(&error)))?;
        // vault:v1:<base64>
        let mut parts = signed.signature.splitn(3, ':');
        let encoded = match (parts.next(), parts.next(), parts.next()) {
            (Some("vault"), Some(version), Some(encoded)) if version.starts_with('v') => encoded,
            _ => return Err(SignError::Failed("what Vault answers is no signature".to_owned())),
        };
        STANDARD
            .decode(encoded)
            .map_err(|_| SignError::Failed("what Vault answers is no signature".to_owned()))
    }

    async fn delete(&self, handle: &str) -> Result<(), KeyStoreError> {
        let at = self.key_path(handle);
        let allow = json!({ "deletion_allowed": true });
        let config = path(&[&self.mount, "keys", handle, "config"]);
        let is_gone = |error: &VaultError| match error {
            VaultError::NotFound { .. } => true,
            VaultError::Refused { errors, .. } => {
                errors.iter().any(|error| error.contains("no existing key named"))
            }
            _ => false,
        };
        let request = crate::Request::post(config).json(&allow).repeatable();
        match self.client.send(request).await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(KeyStoreError::unknown(chain(&error))),
        }
        match self.client.delete(at).await {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(KeyStoreError::unknown(chain(&error))),
        }
    }

    async fn upkeep(&self) {
        self.client.keep_alive().await;
    }
}

impl fmt::Debug for Transit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transit({}, {})", self.mount, self.server_id)
    }
}
