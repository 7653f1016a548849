//! Writing identities to secret stores: what entries with `store_svid` are for.
//!
//! The selectors of such an entry say in which store, and under which name there. They are of the
//! store's type, which no workload has, so that a subscription with them is for nobody else.

mod aws;
mod disk;
mod gcp;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Map, Value};
use signet_aws::AwsError;
use signet_base::{CancellationToken, SharedClock};
use signet_http::HttpError;
use signet_identity::{Bundle, EntryId, SelectorSet};
use signet_pki::{digest::sha256, jwks, pem};
use zeroize::Zeroizing;

use crate::{
    cache::{Identity, Served, Subscription, WorkloadUpdate},
    entry::AgentEntry,
    plugins::svid_store::SvidStore,
};

/// How often is looked for new entries, and what failed is tried again (SPIRE's number).
const INTERVAL: Duration = Duration::from_secs(5);

/// A secret store.
#[async_trait]
trait Store: Send + Sync {
    /// Writes a secret, in the place of what was there.
    async fn put(&self, place: &Place, secret: &Secret) -> Result<(), StoreError>;

    /// Removes a secret; one that is not there is fine.
    async fn delete(&self, place: &Place) -> Result<(), StoreError>;
}

/// Why a store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    /// The selectors of the entry make no sense to it: trying again does not help.
    #[error("{0}")]
    Selectors(String),
    /// It answered otherwise, or not at all.
    #[error("{0}")]
    Failed(String),
    /// It could not be reached.
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// AWS's.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// The machine's roots or proxies cannot be used.
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// Where in a store: what the selectors of an entry say.
type Place = BTreeMap<String, String>;

/// What is written.
struct Secret {
    identity: Identity,
    bundle: Arc<Bundle>,
    federated: Vec<Arc<Bundle>>,
}

impl Secret {
    fn of(identity: &Identity, update: &WorkloadUpdate) -> Self {
        let with = &identity.entry.federates_with;
        let federated = update.federated.iter().filter(|b| with.contains(&b.trust_domain));
        Self {
            identity: identity.clone(),
            bundle: Arc::clone(&update.bundle),
            federated: federated.cloned().collect(),
        }
    }

    fn chain(&self) -> String {
        pem::encode_certificates(self.identity.svid.chain.iter().map(|der| &**der))
    }

    fn key(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode("PRIVATE KEY", &self.identity.svid.key))
    }

    /// The form in which SPIRE's plugins write it.
    fn json(&self) -> Zeroizing<String> {
        let mut json = Map::new();
        let mut set = |name: &str, text: String| json.insert(name.to_owned(), Value::from(text));
        set("spiffeID", self.identity.svid.spiffe_id.to_string());
        set("x509SVID", self.chain());
        set("bundle", jwks::encode_pem(&self.bundle));
        let federated: Map<String, Value> = self
            .federated
            .iter()
            .map(|bundle| (bundle.trust_domain.id_string(), jwks::encode_pem(bundle).into()))
            .collect();
        if !federated.is_empty() {
            json.insert("federatedBundles".to_owned(), federated.into());
        }
        // The key is put in last, into text that is wiped: JSON escapes nothing of PEM but its line
        // ends.
        let mut text = Zeroizing::new(Value::Object(json).to_string());
        text.pop();
        let key = Zeroizing::new(self.key().replace('\n', "\\n"));
        let mut whole = Zeroizing::new(String::with_capacity(text.len() + key.len() + 32));
        for part in [text.as_str(), ",\"x509SVIDKey\":\"", key.as_str(), "\"}"] {
            whole.push_str(part);
        }
        whole
    }

    fn digest(&self) -> [u8; 32] {
        let parts = [self.chain(), jwks::encode_pem(&self.bundle)];
        let federated = self.federated.iter().map(|bundle| jwks::encode_pem(bundle));
        sha256(parts.into_iter().chain(federated).collect::<Vec<_>>().join("\0").as_bytes())
    }
}

/// The store that an entry's selectors name, and the place in it.
fn place(entry: &AgentEntry) -> Result<(&str, Place), StoreError> {
    let selectors = &entry.selectors;
    let kind = selectors.iter().next().map(|selector| selector.kind()).unwrap_or_default();
    let mut place = Place::new();
    for selector in selectors {
        let (name, value) = selector.value().split_once(':').ok_or_else(|| {
            StoreError::Selectors(format!("selector {selector} is not {kind}:name:value"))
        })?;
        place.insert(name.to_owned(), value.to_owned());
    }
    Ok((kind, place))
}

/// What was written of an entry.
struct Handled {
    entry: Arc<AgentEntry>,
    digest: [u8; 32],
}

/// Keeps the stores up to date.
pub struct SvidStores {
    cache: Served,
    stores: BTreeMap<&'static str, Box<dyn Store>>,
    handled: HashMap<EntryId, Handled>,
}

impl std::fmt::Debug for SvidStores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SvidStores({:?})", self.stores.keys())
    }
}

impl SvidStores {
    /// The stores of `settings`.
    ///
    /// # Errors
    /// [`OpenError`] when the settings, or the machine's roots or proxies, cannot be used.
    pub fn new<'a>(
        settings: impl IntoIterator<Item = &'a SvidStore>,
        cache: Served,
        clock: &SharedClock,
    ) -> Result<Self, OpenError> {
        let trust_domain = cache.own_bundle().trust_domain.clone();
        let mut stores: BTreeMap<&'static str, Box<dyn Store>> = BTreeMap::new();
        for store in settings {
            let opened: Box<dyn Store> = match store {
                SvidStore::Aws(aws) => Box::new(aws::Aws::new(aws, clock)?),
                SvidStore::Disk { directory } => Box::new(disk::Disk::new(directory.clone())),
                SvidStore::Gcp(gcp) => {
                    Box::new(gcp::Gcp::new(gcp.clone(), &trust_domain, Arc::clone(clock))?)
                }
            };
            stores.insert(store.name(), opened);
        }
        Ok(Self { cache, stores, handled: HashMap::new() })
    }

    /// Writes and removes until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut selectors = SelectorSet::default();
        let mut subscription: Option<Subscription> = None;
        loop {
            let entries: Vec<_> =
                self.cache.entries().into_iter().filter(|entry| entry.store_svid).collect();
            let all: SelectorSet =
                entries.iter().flat_map(|entry| entry.selectors.iter()).cloned().collect();
            if all != selectors {
                subscription = (!all.is_empty()).then(|| self.cache.subscribe(all.clone()));
                selectors = all;
            }
            let update = subscription.as_mut().and_then(Subscription::ready);
            let work = self.look(&entries, update.as_deref());
            if stop.run_until_cancelled(work).await.is_none() {
                return;
            }
            let changed = async {
                match &mut subscription {
                    Some(subscription) => drop(subscription.next().await),
                    None => std::future::pending().await,
                }
            };
            let pause = tokio::time::timeout(INTERVAL, changed);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn look(&mut self, entries: &[Arc<AgentEntry>], update: Option<&WorkloadUpdate>) {
        let gone: Vec<EntryId> = self
            .handled
            .keys()
            .filter(|id| !entries.iter().any(|entry| entry.id == **id))
            .cloned()
            .collect();
        for id in gone {
            if let Some(handled) = self.handled.get(&id)
                && self.delete(&handled.entry).await
            {
                self.handled.remove(&id);
            }
        }
        for identity in update.iter().flat_map(|update| &update.identities) {
            let (Some(update), entry) = (update, &identity.entry) else { continue };
            let secret = Secret::of(identity, update);
            let digest = secret.digest();
            if let Some(handled) = self.handled.get(&entry.id) {
                let same_place = handled.entry.selectors == entry.selectors;
                if same_place && handled.digest == digest {
                    continue;
                }
                if !same_place {
                    self.delete(&handled.entry).await;
                }
            }
            if self.put(&secret).await {
                let handled = Handled { entry: Arc::clone(entry), digest };
                self.handled.insert(entry.id.clone(), handled);
            }
        }
    }

    async fn put(&self, secret: &Secret) -> bool {
        let entry = &secret.identity.entry;
        let put = async {
            let (kind, place) = place(entry)?;
            match self.stores.get(kind) {
                Some(store) => store.put(&place, secret).await,
                None => Err(StoreError::Selectors(format!("there is no SVIDStore {kind:?}"))),
            }
        };
        match put.await {
            Ok(()) => {
                tracing::info!(entry_id = %entry.id, spiffe_id = %entry.spiffe_id, "SVID stored");
                true
            }
            Err(error) => {
                tracing::error!(
                    entry_id = %entry.id,
                    spiffe_id = %entry.spiffe_id,
                    %error,
                    "Failed to put X509-SVID"
                );
                false
            }
        }
    }

    /// Whether the secret of an entry is no more.
    async fn delete(&self, entry: &AgentEntry) -> bool {
        let delete = async {
            let (kind, place) = place(entry)?;
            match self.stores.get(kind) {
                Some(store) => store.delete(&place).await,
                None => Ok(()),
            }
        };
        match delete.await {
            Ok(()) => {
                tracing::info!(entry_id = %entry.id, spiffe_id = %entry.spiffe_id, "SVID deleted");
                true
            }
            Err(StoreError::Selectors(error)) => {
                tracing::debug!(entry_id = %entry.id, error, "Nothing to delete");
                true
            }
            Err(error) => {
                tracing::error!(entry_id = %entry.id, %error, "Failed to delete SVID");
                false
            }
        }
    }
}

/// A value of a place that has to be there.
fn needed<'a>(place: &'a Place, name: &str) -> Result<&'a str, StoreError> {
    place
        .get(name)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| StoreError::Selectors(format!("a selector {name:?} is required")))
}
