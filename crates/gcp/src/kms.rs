//! Keys in Cloud KMS, named, labelled and kept alive as SPIRE's KeyManager `gcp_kms` does, so that
//! neither deletes what the other uses.
//!
//! A key of the server is a CryptoKey, `spire-key-<server id>-<key id>`; each key that is made in its
//! place is another CryptoKeyVersion, and the one before is destroyed. Versions are numbered by the
//! service. A handle is the name of a version, which is known before it is made: one more than the
//! last. Whether something was made under a number is found out before the number is used again.

mod calls;
mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use signet_base::{SharedClock, chain};
use signet_http::rest::RestError;
use signet_identity::TrustDomain;
use signet_pki::{
    KeyType, PublicKey, SignError, SignatureAlgorithm,
    digest::sha1_hex,
    key_manager::{KeyStore, KeyStoreError, StoredKey, read_keys},
    text_file,
};

use self::calls::{Calls, CryptoKey, State};
use crate::Gcp;

/// The plugin's name.
const NAME: &str = "gcp_kms";
/// How CryptoKeys of servers begin.
const PREFIX: &str = "spire-key";
/// The version of IAM policies that are set.
pub const POLICY_VERSION: u8 = 3;
const VERSIONS: &str = "/cryptoKeyVersions/";
const LABEL_TD: &str = "spire-server-td";
const LABEL_SERVER: &str = "spire-server-id";
const LABEL_ACTIVE: &str = "spire-active";
const LABEL_UPDATED: &str = "spire-last-update";
const ROLE: &str = "roles/cloudkms.signerVerifier";
/// The longest ID of a CryptoKey.
const MAX_ID: usize = 63;
/// How often a version is asked for whose making was answered by nothing.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(250);

/// Where the keys are and whose they are.
#[derive(Clone, Debug)]
pub struct KmsSettings {
    /// The service's URL, `https://cloudkms.googleapis.com`.
    pub endpoint: String,
    /// `projects/*/locations/*/keyRings/*`.
    pub key_ring: String,
    /// Which keys are this server's.
    pub server_id: String,
    /// The IAM policy of new CryptoKeys, as [`read_policy`] gives it; unset, the account in use may
    /// sign and verify.
    pub policy: Option<Value>,
}

/// Keys in Cloud KMS. Clones share everything.
#[derive(Clone)]
pub struct CloudKms(Arc<Inner>);

struct Inner {
    calls: Calls,
    gcp: Gcp,
    key_ring: String,
    server_id: String,
    /// SHA-1 of the trust domain, lower-case hex: a label can have no dots.
    td_hash: String,
    policy: Option<Value>,
    clock: SharedClock,
    /// By the name of the CryptoKey.
    known: Mutex<BTreeMap<String, Known>>,
}

/// What is known of a CryptoKey of this server.
#[derive(Clone, Debug, Default)]
struct Known {
    exists: bool,
    /// The algorithm of the next version; empty where that is not known.
    algorithm: String,
    active: bool,
    /// The largest number of a version.
    last: u64,
    /// The versions in use.
    live: BTreeSet<u64>,
    /// Numbers under which something may have been made.
    begun: BTreeSet<u64>,
}

/// Why no key was made.
struct Unmade {
    why: String,
    /// Whether it is certain that there is none.
    certain: bool,
}

impl From<RestError> for Unmade {
    fn from(error: RestError) -> Self {
        Self { why: chain(&error), certain: error.had_no_effect() }
    }
}

/// Reads an IAM policy from a file, as SPIRE's `key_policy_file` has it.
///
/// # Errors
/// What is wrong with it, beginning with the file's name.
pub fn read_policy(path: &Path) -> Result<Value, String> {
    let wrong = |what: &str| format!("{}: {what}", path.display());
    let text = text_file::text(path).map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_str(&text).map_err(|_| wrong("it is no JSON"))?;
    let bindings = json.get("bindings").and_then(Value::as_array);
    let bindings = bindings.ok_or_else(|| wrong("expected an IAM policy with bindings"))?;
    for binding in bindings {
        let members = binding.get("members").and_then(Value::as_array);
        let good = binding.get("role").is_some_and(Value::is_string)
            && members.is_some_and(|members| members.iter().all(Value::is_string));
        if !good {
            return Err(wrong("each of its bindings needs a role and members"));
        }
    }
    Ok(json!({ "version": POLICY_VERSION, "bindings": bindings }))
}

impl CloudKms {
    /// Keys of one server. Nothing is sent yet.
    pub fn new(
        gcp: Gcp,
        settings: KmsSettings,
        trust_domain: &TrustDomain,
        clock: SharedClock,
    ) -> Self {
        let KmsSettings { endpoint, key_ring, server_id, policy } = settings;
        Self(Arc::new(Inner {
            calls: Calls::new(gcp.clone(), &endpoint),
            gcp,
            key_ring,
            server_id,
            td_hash: sha1_hex(trust_domain.as_str().as_bytes()),
            policy,
            clock,
            known: Mutex::default(),
        }))
    }

    /// Marks the CryptoKeys in use as alive, which SPIRE servers of the trust domain look at: what was
    /// not marked for two weeks is destroyed by them.
    ///
    /// # Errors
    /// The first [`RestError`], after all were tried.
    pub async fn keep_alive(&self) -> Result<(), RestError> {
        self.0.keep_alive().await
    }

    /// Destroys the keys of other servers of the trust domain that were not marked as alive for two
    /// weeks.
    ///
    /// # Errors
    /// [`RestError`]; it goes on the next time.
    pub async fn dispose(&self) -> Result<(), RestError> {
        self.0.dispose().await
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the CryptoKey of a key.
    fn crypto_key(&self, id: &str) -> String {
        format!("{}/cryptoKeys/{PREFIX}-{}-{id}", self.key_ring, self.server_id)
    }

    /// The CryptoKeys of this server. An inactive one is among them: its number goes on.
    async fn own(&self) -> Result<Vec<(String, CryptoKey)>, RestError> {
        let filter = format!(
            "labels.{LABEL_TD} = {} AND labels.{LABEL_SERVER} = {}",
            self.td_hash, self.server_id
        );
        let found = self.calls.crypto_keys(&self.key_ring, &filter).await?;
        let begin = self.crypto_key("");
        let own = found.into_iter().filter(|key| {
            key.label(LABEL_TD) == self.td_hash && key.label(LABEL_SERVER) == self.server_id
        });
        Ok(own
            .filter_map(|key| {
                let id = key.name.strip_prefix(&begin).filter(|id| !id.is_empty())?.to_owned();
                Some((id, key))
            })
            .collect())
    }

    /// The keys of one CryptoKey, and what is known of it.
    async fn read(
        &self,
        id: String,
        key: CryptoKey,
    ) -> Result<(String, Known, Vec<StoredKey>), RestError> {
        let versions = self.calls.versions(&key.name, None).await?;
        let mut known = Known {
            exists: true,
            algorithm: key.algorithm(),
            active: key.label(LABEL_ACTIVE) == "true",
            ..Known::default()
        };
        let mut keys = Vec::new();
        for version in versions {
            let Some((_, number)) = split(&version.name) else { continue };
            known.last = known.last.max(number);
            let is_used = matches!(version.state, State::Enabled | State::PendingGeneration);
            if !is_used || !known.active {
                continue;
            }
            if calls::key_type(&version.algorithm).is_none() {
                let (key, algorithm) = (version.name, version.algorithm);
                tracing::warn!(key, algorithm, "A key of another kind is left alone");
                continue;
            }
            let public_key = self.calls.public_key(&version.name).await?;
            known.live.insert(number);
            let made = i128::from(number);
            keys.push(StoredKey { handle: version.name, id: id.clone(), public_key, made });
        }
        Ok((key.name, known, keys))
    }

    async fn make(
        &self,
        name: &str,
        number: u64,
        known: &Known,
        key_type: KeyType,
    ) -> Result<PublicKey, Unmade> {
        let algorithm = calls::algorithm(key_type);
        let made = match known.exists {
            true => self.add_version(name, number, known, algorithm).await?,
            false => self.create_crypto_key(name, algorithm).await?,
        };
        let wanted = version(name, number);
        if made != wanted {
            // Somebody else counts here. What was made by this call goes away again.
            let removed = self.calls.destroy(&made).await;
            let left = removed.err().map(|error| format!("; it is left: {}", chain(&error)));
            if let Some((_, made)) = split(&made)
                && let Some(known) = self.known().get_mut(name)
            {
                known.last = known.last.max(made);
            }
            return Err(Unmade {
                why: format!(
                    "{made} was made where {wanted} was expected: does another server have this \
                     key identifier?{}",
                    left.unwrap_or_default()
                ),
                certain: true,
            });
        }
        let uncertain = |error: RestError| Unmade { why: chain(&error), certain: false };
        if known.live.is_empty() {
            self.set_policy(name).await.map_err(uncertain)?;
        }
        self.calls.public_key(&wanted).await.map_err(uncertain)
    }

    async fn create_crypto_key(&self, name: &str, algorithm: &str) -> Result<String, Unmade> {
        let id = name.rsplit('/').next().unwrap_or_default();
        let labels = json!({
            LABEL_TD: self.td_hash,
            LABEL_SERVER: self.server_id,
            LABEL_ACTIVE: "true",
        });
        let first = version(name, 1);
        let mut attempt = 1;
        loop {
            let made = self.calls.create_crypto_key(&self.key_ring, id, algorithm, &labels).await;
            let error = match made {
                Ok(()) => return Ok(first),
                Err(error) if error.status() == Some(409) && attempt == 1 => {
                    return Err(Unmade {
                        why: format!(
                            "there is a CryptoKey {name} already, without the labels of this server"
                        ),
                        certain: true,
                    });
                }
                // It was made after all.
                Err(error) if error.status() == Some(409) => {
                    let own = self.own().await?;
                    return match own.into_iter().any(|(_, key)| key.name == name) {
                        true => Ok(first),
                        false => Err(error.into()),
                    };
                }
                Err(error) => error,
            };
            if error.had_no_effect() || attempt >= ATTEMPTS {
                return Err(error.into());
            }
            tokio::time::sleep(PAUSE * attempt).await;
            attempt += 1;
        }
    }

    async fn add_version(
        &self,
        name: &str,
        number: u64,
        known: &Known,
        algorithm: &str,
    ) -> Result<String, Unmade> {
        if known.algorithm != algorithm {
            self.calls.set_algorithm(name, algorithm).await.map_err(undone)?;
        }
        if !known.active {
            let own = self.own().await.map_err(undone)?;
            if let Some((_, key)) = own.into_iter().find(|(_, key)| key.name == name) {
                let set = [(LABEL_ACTIVE, "true".to_owned()), (LABEL_UPDATED, self.now())];
                self.calls.set_labels(&key, set).await.map_err(undone)?;
            }
        }
        let mut attempt = 1;
        loop {
            let error = match self.calls.create_version(name).await {
                Ok(made) => return Ok(made),
                Err(error) => error,
            };
            if error.had_no_effect() {
                return Err(error.into());
            }
            // Whether it was made is in the list, under the next number.
            let wanted = version(name, number);
            match self.calls.version(&wanted).await {
                Ok(_) => return Ok(wanted),
                Err(looked) if looked.is_not_found() => {}
                Err(looked) => return Err(Unmade { why: chain(&looked), certain: false }),
            }
            if attempt >= ATTEMPTS {
                return Err(error.into());
            }
            tokio::time::sleep(PAUSE * attempt).await;
            attempt += 1;
        }
    }

    /// Sets the policy of a new CryptoKey, unless it has one.
    async fn set_policy(&self, name: &str) -> Result<(), RestError> {
        let present = self.calls.policy(name).await?;
        let bindings = present.get("bindings").and_then(Value::as_array);
        if bindings.is_some_and(|bindings| !bindings.is_empty()) {
            tracing::warn!(key = name, "The CryptoKey has a policy, which is left as it is");
            return Ok(());
        }
        let policy = match &self.policy {
            Some(policy) => policy.clone(),
            None => match self.gcp.email().await? {
                Some(email) => json!({
                    "version": POLICY_VERSION,
                    "bindings": [{ "role": ROLE, "members": [format!("serviceAccount:{email}")] }],
                }),
                None => {
                    tracing::warn!(
                        key = name,
                        "The credentials are of no service account: no policy is set, and the \
                         CryptoKey has that of its key ring"
                    );
                    return Ok(());
                }
            },
        };
        self.calls.set_policy(name, &policy, present.get("etag")).await
    }

    fn now(&self) -> String {
        self.clock.unix().seconds().to_string()
    }
}

/// What failed was not the making.
fn undone(error: RestError) -> Unmade {
    Unmade { why: chain(&error), certain: true }
}

/// The name of a version.
fn version(crypto_key: &str, number: u64) -> String {
    format!("{crypto_key}{VERSIONS}{number}")
}

/// The CryptoKey and the number of a version.
fn split(version: &str) -> Option<(&str, u64)> {
    let (crypto_key, number) = version.split_once(VERSIONS)?;
    Some((crypto_key, number.parse().ok()?))
}

#[async_trait]
impl KeyStore for CloudKms {
    fn name(&self) -> &'static str {
        NAME
    }

    fn new_handle(&self, id: &str) -> Result<String, KeyStoreError> {
        let name = self.0.crypto_key(id);
        let short = name.rsplit('/').next().unwrap_or_default();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        if short.len() > MAX_ID || !short.bytes().all(allowed) {
            return Err(KeyStoreError::undone(format!(
                "{short:?} cannot name a CryptoKey: expected at most {MAX_ID} letters, digits, \"_\" \
                 and \"-\""
            )));
        }
        let mut all = self.0.known();
        let known = all.entry(name.clone()).or_default();
        if !known.begun.is_empty() {
            return Err(KeyStoreError::undone(format!(
                "what an interrupted call may have left in {short} is being removed first"
            )));
        }
        let number = known.last.saturating_add(1);
        known.begun.insert(number);
        Ok(version(&name, number))
    }

    async fn create(
        &self,
        handle: &str,
        _id: &str,
        key_type: KeyType,
    ) -> Result<PublicKey, KeyStoreError> {
        let found = split(handle).and_then(|(name, number)| {
            self.0.known().get(name).cloned().map(|known| (name, number, known))
        });
        let Some((name, number, known)) = found else {
            return Err(KeyStoreError::undone(format!("{handle} was not begun")));
        };
        let made = self.0.make(name, number, &known, key_type).await;
        let mut all = self.0.known();
        let known = all.entry(name.to_owned()).or_default();
        match made {
            Ok(public_key) => {
                known.begun.remove(&number);
                known.live.insert(number);
                known.last = known.last.max(number);
                known.exists = true;
                known.active = true;
                known.algorithm = calls::algorithm(key_type).to_owned();
                Ok(public_key)
            }
            Err(Unmade { why, certain: true }) => {
                known.begun.remove(&number);
                Err(KeyStoreError::undone(why))
            }
            Err(Unmade { why, certain: false }) => Err(KeyStoreError::unknown(why)),
        }
    }

    async fn list(&self) -> Result<Vec<StoredKey>, KeyStoreError> {
        let failed = |error: RestError| KeyStoreError::undone(chain(&error));
        let own = self.0.own().await.map_err(failed)?;
        let store = Arc::clone(&self.0);
        let reads = own.into_iter().map(move |(id, key)| {
            let store = Arc::clone(&store);
            async move { store.read(id, key).await.map_err(failed) }
        });
        let mut keys = Vec::new();
        let mut known = BTreeMap::new();
        let take = |(name, found, held): (String, Known, Vec<StoredKey>)| {
            known.insert(name, found);
            keys.extend(held);
            Ok(())
        };
        read_keys(reads, take).await?;
        let mut all = self.0.known();
        for (name, before) in std::mem::take(&mut *all) {
            if !before.begun.is_empty() {
                known.entry(name).or_default().begun = before.begun;
            }
        }
        *all = known;
        Ok(keys)
    }

    async fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let signed = self.0.calls.sign(&key.handle, algorithm, message).await;
        signed.map_err(|error| SignError::Failed(chain(&error)))
    }

    async fn delete(&self, handle: &str) -> Result<(), KeyStoreError> {
        let there = self.0.calls.destroy(handle).await;
        let there = there.map_err(|error| KeyStoreError::unknown(chain(&error)))?;
        let Some((name, number)) = split(handle) else { return Ok(()) };
        let mut all = self.0.known();
        let Some(known) = all.get_mut(name) else { return Ok(()) };
        known.begun.remove(&number);
        known.live.remove(&number);
        if there && known.last < number {
            // An interrupted call made it after all.
            known.last = number;
            known.exists = true;
            known.algorithm = String::new();
        }
        Ok(())
    }

    async fn upkeep(&self) {
        self.0.upkeep().await;
    }
}

impl fmt::Debug for CloudKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloudKms({}, {})", self.0.key_ring, self.0.server_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_versions_are_taken_apart() {
        let name = "projects/p/locations/l/keyRings/r/cryptoKeys/spire-key-s-x509-CA-A";
        assert_eq!(split(&version(name, 12)), Some((name, 12)));
        for other in [name, "a/cryptoKeyVersions/", "a/cryptoKeyVersions/x"] {
            assert_eq!(split(other), None, "{other}");
        }
    }

    #[test]
    fn policies_are_read_as_spire_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_policy(&path)
        };
        let policy = r#"{"bindings":[{"role":"roles/r","members":["user:a@example.org"]}]}"#;
        assert_eq!(read(policy).unwrap()["version"], 3);
        for (bad, want) in [
            ("{", "it is no JSON"),
            ("{}", "expected an IAM policy with bindings"),
            (r#"{"bindings":[{"role":"r"}]}"#, "a role and members"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains("policy.json: ") && error.contains(want), "{error}");
        }
    }
}
