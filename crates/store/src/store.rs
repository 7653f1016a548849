//! The store behind its port.

use std::{
    convert::Infallible,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

use signet_identity::{AttestedNode, Bundle, Entry, JwtAuthority, SpiffeId, TrustDomain};
use signet_time::UnixTime;
use tokio::sync::mpsc;

use crate::{
    DataStore, FeedPosition, OpenError, PageRequest, StoreError, StoreOptions,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::SqliteStore,
};

/// How many entries [`Store::read_entries`] reads at a time.
const PAGE: u32 = 1000;
/// And how many pages it reads before they are asked for.
const PAGES_AHEAD: usize = 2;

/// A registration store, whichever it is. Cheap to clone; all clones are the same store.
///
/// What it can do is in the traits of [`DataStore`]; here are a few conveniences that a
/// dyn-compatible trait cannot have.
#[derive(Clone, Debug)]
pub struct Store(Arc<dyn DataStore>);

impl Deref for Store {
    type Target = dyn DataStore;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Store {
    /// Opens (or creates) the SQLite database and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]; the file is then as it was.
    pub async fn open(options: StoreOptions) -> Result<Self, OpenError> {
        Ok(Self::new(Arc::new(SqliteStore::open(options).await?)))
    }

    /// Opens the PostgreSQL database and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]; the database is then as it was.
    pub async fn open_postgres(options: PostgresOptions) -> Result<Self, OpenError> {
        Ok(Self::new(Arc::new(PostgresStore::open(options).await?)))
    }

    /// A store of another kind.
    pub fn new(store: Arc<dyn DataStore>) -> Self {
        Self(store)
    }

    /// The newest revision that this process knows of.
    pub fn revision(&self) -> u64 {
        self.known().revision
    }

    /// Reads every entry, oldest first, and hands them to `take`, some at a time, while the next are
    /// being read. What was committed at `since` is among them; what was changed later may be seen
    /// or not.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read; `take` was given a part then.
    pub async fn read_entries(
        &self,
        since: &FeedPosition,
        mut take: impl FnMut(Vec<Entry>),
    ) -> Result<(), StoreError> {
        let (ready, mut pages) = mpsc::channel(PAGES_AHEAD);
        let (store, since) = (self.clone(), since.clone());
        let reading = tokio::spawn(async move {
            let mut page = PageRequest::first(PAGE);
            loop {
                let read = store.scan_entries(&since, page).await;
                page.after = read.as_ref().ok().and_then(|page| page.next);
                let read = read.map(|page| page.items);
                // Nobody may wait for it any more.
                if ready.send(read).await.is_err() || page.after.is_none() {
                    return;
                }
            }
        });
        while let Some(page) = pages.recv().await {
            take(page?);
        }
        reading.await.map_err(|_| StoreError::Closed { doing: "reading the entries" })
    }

    /// [`crate::Nodes::rewrite_node`] for closures that move what they hold; `change` is cloned
    /// for each try of the transaction.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn update_node(
        &self,
        id: &SpiffeId,
        now: UnixTime,
        change: impl FnOnce(&mut AttestedNode) -> bool + Clone + Send + Sync,
    ) -> Result<Option<(AttestedNode, bool)>, StoreError> {
        self.rewrite_node(id, now, &|node| change.clone()(node)).await
    }

    /// [`crate::Bundles::rewrite_bundle`] with an answer: an error leaves all as it was. Returns
    /// the bundle as it is then, and what `change` answered. `change` is cloned for each try of
    /// the transaction.
    ///
    /// This is what the own bundle's life (append, taint, revoke, prune) is made of.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed. The inner error is the closure's.
    pub async fn change_bundle<T: Send, E: Send>(
        &self,
        trust_domain: &TrustDomain,
        now: UnixTime,
        change: impl FnOnce(&mut Bundle) -> Result<T, E> + Clone + Send + Sync,
    ) -> Result<Result<(Bundle, T), E>, StoreError> {
        // Of the last try, which is the one that counts.
        let answer = Mutex::new(None);
        let asked = |bundle: &mut Bundle| {
            let said = change.clone()(bundle);
            let goes_on = said.is_ok();
            *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
            goes_on
        };
        let changed = self.rewrite_bundle(trust_domain, now, &asked).await?;
        match (answer.into_inner().unwrap_or_else(PoisonError::into_inner), changed) {
            (Some(Ok(answer)), Some(bundle)) => Ok(Ok((bundle, answer))),
            (Some(Err(refused)), _) => Ok(Err(refused)),
            // A store that answers without having asked.
            (Some(Ok(_)) | None, _) => Err(StoreError::Corrupt {
                doing: "changing a bundle",
                why: "the store did not ask for the change".to_owned(),
            }),
        }
    }

    /// Adds those authorities of `bundle` that the stored bundle lacks, creating it if need be.
    /// Certificates are compared by their bytes, keys by ID, key and expiry, as in SPIRE: another
    /// key of a known ID is added. The sequence number grows by one when something was added.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn append_bundle(&self, bundle: Bundle, now: UnixTime) -> Result<Bundle, StoreError> {
        let trust_domain = bundle.trust_domain.clone();
        let changed = self.change_bundle(&trust_domain, now, |stored| {
            for authority in bundle.x509_authorities {
                if !stored.x509_authorities.iter().any(|it| it.der == authority.der) {
                    stored.x509_authorities.push(authority);
                }
            }
            append_keys(&mut stored.jwt_authorities, bundle.jwt_authorities);
            append_keys(&mut stored.wit_authorities, bundle.wit_authorities);
            Ok::<(), Infallible>(())
        });
        match changed.await? {
            Ok((bundle, ())) => Ok(bundle),
            Err(never) => match never {},
        }
    }
}

fn append_keys(stored: &mut Vec<JwtAuthority>, added: Vec<JwtAuthority>) {
    for authority in added {
        // Tainting is no difference: what was tainted does not come back.
        let is_same = |it: &JwtAuthority| {
            it.key_id == authority.key_id
                && it.public_key == authority.public_key
                && it.expires_at == authority.expires_at
        };
        if !stored.iter().any(is_same) {
            stored.push(authority);
        }
    }
}
