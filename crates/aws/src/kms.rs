//! The key manager `aws_kms`: keys in the Key Management Service, named, tagged and kept alive as
//! SPIRE does it, so that servers of both kinds can share an account and take over from each other.

mod api;
mod names;
mod policy;
mod search;
mod upkeep;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signet_base::chain;
use signet_identity::TrustDomain;
use signet_pki::{
    KeyType, PublicKey, SignError, SignatureAlgorithm,
    key_manager::{KeyStore, KeyStoreError, StoredKey},
    random,
};
use tokio::sync::{Notify, OnceCell};

use self::{
    api::{Api, Described},
    names::Names,
};
use crate::{AwsError, Client, Credentials, Service};

/// The plugin's name.
const NAME: &str = "aws_kms";
/// How long a key that is to be deleted can still be saved, days: as SPIRE, and the shortest.
const PENDING_DAYS: u8 = 7;
/// What a handle begins with before KMS has given the key its ARN.
const BEGUN: &str = "new/";
/// How often a key that was just made is asked for its public half: KMS is a little late at times.
const PUBLIC_KEY_ATTEMPTS: u32 = 6;
const FIRST_PUBLIC_KEY_PAUSE: Duration = Duration::from_millis(100);

/// What the keys of one server are known by, and what they are made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsSettings {
    /// The server's trust domain.
    pub trust_domain: TrustDomain,
    /// What tells its keys from those of other servers.
    pub server_id: String,
    /// The key policy, JSON; without it one for the role of the server.
    pub policy: Option<String>,
    /// Tags that new keys get.
    pub tags: BTreeMap<String, String>,
    /// Whether keys are found by their tags, not by their aliases alone.
    pub by_tags: bool,
}

/// Keys in KMS. Clones share everything.
#[derive(Clone)]
pub struct Kms(Arc<Inner>);

struct Inner {
    api: Api,
    credentials: Credentials,
    settings: KmsSettings,
    names: Names,
    /// The policy of new keys; nothing where KMS's own is to hold.
    policy: OnceCell<Option<String>>,
    state: Mutex<State>,
    /// Held while an alias of this server is looked at and changed: a refresh must not undo a
    /// rotation.
    aliases: tokio::sync::Mutex<()>,
    is_loaded: Notify,
}

#[derive(Default)]
struct State {
    /// The ARNs of the keys in use, by their names.
    own: BTreeMap<String, String>,
    /// Keys that are being made, by their first handles.
    begun: HashMap<String, Begun>,
    /// Whether tags were refused to a server that finds its keys by aliases.
    tags_are_refused: bool,
}

/// A key that is being made.
#[derive(Clone)]
struct Begun {
    id: String,
    /// Once KMS has said it.
    arn: Option<String>,
}

impl Kms {
    /// The keys that `settings` describe, with `credentials`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`AwsError::Setting`] when the server's ID cannot be part of an alias, and as
    /// [`Client::new`].
    pub fn new(credentials: &Credentials, settings: KmsSettings) -> Result<Self, AwsError> {
        let names = Names::new(settings.trust_domain.as_str(), &settings.server_id)?;
        let api = Api {
            kms: Client::new(Service::KMS, None, credentials)?,
            tagging: Client::new(Service::TAGGING, None, credentials)?,
        };
        Ok(Self(Arc::new(Inner {
            api,
            credentials: credentials.clone(),
            names,
            policy: OnceCell::new(),
            state: Mutex::default(),
            aliases: tokio::sync::Mutex::default(),
            is_loaded: Notify::new(),
            settings,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a key and gives it its alias: from then on it is the key of that name.
    async fn make(
        &self,
        handle: &str,
        id: &str,
        key_type: KeyType,
    ) -> Result<PublicKey, KeyStoreError> {
        let alias = self.0.names.alias(id).map_err(|error| KeyStoreError::undone(chain(&error)))?;
        let policy = self.0.policy.get_or_try_init(|| policy::of(self)).await;
        let policy = policy.map_err(|error| {
            KeyStoreError::undone(format!("the key's policy: {}", chain(&error)))
        })?;
        let mut wanted = json!({
            "Description": self.0.names.description(id, handle),
            "KeyUsage": "SIGN_VERIFY",
            "KeySpec": spec(key_type),
        });
        if let Some(fields) = wanted.as_object_mut() {
            if let Some(policy) = policy {
                fields.insert("Policy".to_owned(), policy.as_str().into());
            }
            let tags = self.new_tags(id);
            if !tags.is_empty() {
                fields.insert("Tags".to_owned(), tags.into());
            }
        }
        let begun = Begun { id: id.to_owned(), arn: None };
        self.state().begun.insert(handle.to_owned(), begun);
        let made = match self.0.api.create_key(&wanted).await {
            Ok(made) => made,
            Err(error) if error.had_no_effect() => {
                self.state().begun.remove(handle);
                return Err(KeyStoreError::undone(chain(&error)));
            }
            Err(error) => return Err(KeyStoreError::unknown(chain(&error))),
        };
        if let Some(begun) = self.state().begun.get_mut(handle) {
            begun.arn = Some(made.arn.clone());
        }
        let unknown = |error: AwsError| KeyStoreError::unknown(chain(&error));
        let public_key = self.new_public_key(&made.arn).await.map_err(unknown)?;
        let _aliases = self.0.aliases.lock().await;
        let has_alias = self.state().own.contains_key(id);
        self.0.api.set_alias(&alias, &made.arn, has_alias).await.map_err(unknown)?;
        self.state().own.insert(id.to_owned(), made.arn);
        Ok(public_key)
    }

    async fn new_public_key(&self, arn: &str) -> Result<PublicKey, AwsError> {
        let mut pause = FIRST_PUBLIC_KEY_PAUSE;
        for _ in 1..PUBLIC_KEY_ATTEMPTS {
            match self.0.api.public_key(arn).await {
                Err(error) if error.is_not_found() => {}
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        self.0.api.public_key(arn).await
    }

    /// The tags of a new key.
    fn new_tags(&self, id: &str) -> Vec<Value> {
        let settings = &self.0.settings;
        let mut tags = if settings.by_tags { self.own_tags(id) } else { Vec::new() };
        tags.extend(settings.tags.iter().map(|(key, value)| api::tag(key, value)));
        tags
    }

    /// The tags by which SPIRE and this server know a key that is in use.
    fn own_tags(&self, id: &str) -> Vec<Value> {
        let settings = &self.0.settings;
        vec![
            api::tag(names::TAG_DOMAIN, settings.trust_domain.as_str()),
            api::tag(names::TAG_SERVER, &settings.server_id),
            api::tag(names::TAG_ACTIVE, "true"),
            api::tag(names::TAG_KEY, id),
            api::tag(names::TAG_UPDATED, &self.0.api.kms.unix().to_string()),
        ]
    }

    /// Undoes what was begun: a key whose making was interrupted or failed.
    async fn undo(&self, handle: &str) -> Result<(), AwsError> {
        let Some(begun) = self.state().begun.get(handle).cloned() else { return Ok(()) };
        let arn = match begun.arn {
            Some(arn) => Some(arn),
            None => self.find_begun(handle).await?,
        };
        if let Some(arn) = arn {
            self.give_alias_back(&begun.id, &arn).await?;
            self.0.api.schedule_deletion(&arn).await?;
        }
        self.state().begun.remove(handle);
        Ok(())
    }

    /// Takes the alias of a name from a key that is to go: back to the one that is in use.
    async fn give_alias_back(&self, id: &str, arn: &str) -> Result<(), AwsError> {
        let alias = self.0.names.alias(id)?;
        let _aliases = self.0.aliases.lock().await;
        match self.0.api.describe(&alias).await {
            Ok(target) if target.arn == arn => {}
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
        let in_use = self.state().own.get(id).filter(|own| *own != arn).cloned();
        match in_use {
            Some(own) => self.0.api.set_alias(&alias, &own, true).await,
            None => self.0.api.delete_alias(&alias).await,
        }
    }
}

#[async_trait]
impl KeyStore for Kms {
    fn name(&self) -> &'static str {
        NAME
    }

    fn new_handle(&self, id: &str) -> Result<String, KeyStoreError> {
        self.0.names.alias(id).map_err(|error| KeyStoreError::undone(chain(&error)))?;
        Ok(format!("{BEGUN}{}", random::uuid_v4().map_err(KeyStoreError::undone)?))
    }

    fn final_handle(&self, handle: &str) -> String {
        let begun = self.state().begun.remove(handle);
        begun.and_then(|begun| begun.arn).unwrap_or_else(|| handle.to_owned())
    }

    async fn create(
        &self,
        handle: &str,
        id: &str,
        key_type: KeyType,
    ) -> Result<PublicKey, KeyStoreError> {
        self.make(handle, id, key_type).await
    }

    async fn list(&self) -> Result<Vec<StoredKey>, KeyStoreError> {
        let found = self.find().await?;
        let own = found.iter().map(|key| (key.id.clone(), key.handle.clone())).collect();
        self.state().own = own;
        self.0.is_loaded.notify_one();
        Ok(found)
    }

    async fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let Some(name) = signing_algorithm(algorithm) else {
            return Err(SignError::Failed(format!("KMS cannot sign by {algorithm:?}")));
        };
        let signed = self.0.api.sign(&key.handle, name, &algorithm.digest(message)).await;
        signed.map_err(|error| SignError::Failed(chain(&error)))
    }

    async fn delete(&self, handle: &str) -> Result<(), KeyStoreError> {
        let unknown = |error: AwsError| KeyStoreError::unknown(chain(&error));
        if handle.starts_with(BEGUN) {
            return self.undo(handle).await.map_err(unknown);
        }
        if self.state().own.values().any(|own| own == handle) {
            return Err(KeyStoreError::undone("it is in use"));
        }
        self.0.api.schedule_deletion(handle).await.map_err(unknown)
    }

    async fn upkeep(&self) {
        self.keep_up().await;
    }
}

fn spec(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::EcP256 => "ECC_NIST_P256",
        KeyType::EcP384 => "ECC_NIST_P384",
        KeyType::Rsa2048 => "RSA_2048",
        KeyType::Rsa4096 => "RSA_4096",
    }
}

/// Whether keys of this kind are ours: others may have been given an alias of ours by hand.
fn is_known_spec(spec: &str) -> bool {
    KeyType::ALL.into_iter().any(|key_type| self::spec(key_type) == spec)
}

fn signing_algorithm(algorithm: SignatureAlgorithm) -> Option<&'static str> {
    Some(match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 => "ECDSA_SHA_256",
        SignatureAlgorithm::EcdsaP384Sha384 => "ECDSA_SHA_384",
        SignatureAlgorithm::RsaPkcs1Sha256 => "RSASSA_PKCS1_V1_5_SHA_256",
        SignatureAlgorithm::RsaPkcs1Sha384 => "RSASSA_PKCS1_V1_5_SHA_384",
        SignatureAlgorithm::RsaPkcs1Sha512 => "RSASSA_PKCS1_V1_5_SHA_512",
        SignatureAlgorithm::RsaPssSha256 => "RSASSA_PSS_SHA_256",
        SignatureAlgorithm::RsaPssSha384 => "RSASSA_PSS_SHA_384",
        SignatureAlgorithm::RsaPssSha512 => "RSASSA_PSS_SHA_512",
        _ => return None,
    })
}

/// A blob of an answer.
fn blob(action: &str, text: &str) -> Result<Vec<u8>, AwsError> {
    STANDARD.decode(text).map_err(|_| AwsError::Nonsense {
        action: action.to_owned(),
        why: "what should be base64 is not".to_owned(),
    })
}

impl fmt::Debug for Kms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kms({}, {})", self.0.api.kms.region(), self.0.settings.server_id)
    }
}
