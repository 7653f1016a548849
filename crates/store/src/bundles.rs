//! Trust bundles: the server's own and those of foreign trust domains.

use std::convert::Infallible;

use signet_identity::{Bundle, JwtAuthority, TrustDomain};
use sqlx::Row;

use crate::{
    CreateOutcome, Page, PageRequest, Store, StoreError, entries,
    fault::{Fault, doing},
    store::Tx,
    terms::{self, Index},
};

pub(crate) mod rows;

/// Entries of a deleted bundle are read in portions of so many.
const ENTRIES_AT_ONCE: usize = 1_000;

/// What becomes of the entries that federate with a deleted bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteBundleMode {
    /// Refuse to delete the bundle while there are such entries.
    Restrict,
    /// Delete those entries too.
    Delete,
    /// Keep the entries and take the trust domain off their lists.
    Dissociate,
}

/// What came of deleting one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteBundleOutcome {
    /// It is gone.
    Deleted(Bundle),
    /// So many entries federate with it: nothing was changed ([`DeleteBundleMode::Restrict`]).
    InUse(u64),
    /// No such bundle.
    NotFound,
}

/// A change of one bundle, applied within the transaction to what is stored then.
pub struct BundleUpdate {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Changes the bundle. The trust domain cannot be changed.
    pub change: Box<dyn FnOnce(&mut Bundle) + Send>,
}

impl BundleUpdate {
    /// An update from a closure.
    pub fn new(
        trust_domain: TrustDomain,
        change: impl FnOnce(&mut Bundle) + Send + 'static,
    ) -> Self {
        Self { trust_domain, change: Box::new(change) }
    }
}

impl std::fmt::Debug for BundleUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BundleUpdate({})", self.trust_domain)
    }
}

impl Store {
    /// One bundle.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
        doing("reading a bundle", async {
            let mut conn = self.read().await?;
            Ok(rows::get(&mut conn, trust_domain).await?.map(|(_, bundle)| bundle))
        })
        .await
    }

    /// A page of the bundles (the own one included), oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn list_bundles(&self, page: PageRequest) -> Result<Page<Bundle>, StoreError> {
        doing("listing bundles", async {
            let mut conn = self.read().await?;
            let found = rows::list(&mut conn, page.after.unwrap_or(0), page.limit()).await?;
            Ok(page.cut(found))
        })
        .await
    }

    /// How many bundles there are, the own one included.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn count_bundles(&self) -> Result<u64, StoreError> {
        doing("counting bundles", async {
            let mut conn = self.read().await?;
            let row = sqlx::query("SELECT count(*) FROM bundles").fetch_one(&mut *conn).await?;
            Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
        })
        .await
    }

    /// Creates a batch in one transaction; one outcome for each, in order. Sequence numbers are
    /// stored as given.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn create_bundles(
        &self,
        bundles: Vec<Bundle>,
        now: i64,
    ) -> Result<Vec<CreateOutcome<Bundle>>, StoreError> {
        doing("creating bundles", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let mut outcomes = Vec::with_capacity(bundles.len());
            for bundle in bundles {
                if rows::get(tx.conn().await?, &bundle.trust_domain).await?.is_some() {
                    outcomes.push(CreateOutcome::Exists);
                } else {
                    rows::put(&mut tx, None, &bundle).await?;
                    outcomes.push(CreateOutcome::Created(bundle));
                }
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    /// Creates or replaces a batch in one transaction. Sequence numbers are stored as given. A
    /// bundle that is stored just so already is left alone and makes no change.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn set_bundles(
        &self,
        bundles: Vec<Bundle>,
        now: i64,
    ) -> Result<Vec<Bundle>, StoreError> {
        doing("setting bundles", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            for bundle in &bundles {
                set(&mut tx, bundle).await?;
            }
            tx.commit().await?;
            Ok(bundles)
        })
        .await
    }

    /// Updates a batch in one transaction; the bundle after the change, or `None` where there is
    /// none. Sequence numbers are what the closures leave.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn update_bundles(
        &self,
        updates: Vec<BundleUpdate>,
        now: i64,
    ) -> Result<Vec<Option<Bundle>>, StoreError> {
        doing("updating bundles", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let mut outcomes = Vec::with_capacity(updates.len());
            for update in updates {
                let Some((row, old)) = rows::get(tx.conn().await?, &update.trust_domain).await?
                else {
                    outcomes.push(None);
                    continue;
                };
                let mut bundle = old.clone();
                (update.change)(&mut bundle);
                bundle.trust_domain = update.trust_domain;
                if bundle != old {
                    rows::put(&mut tx, Some(row), &bundle).await?;
                }
                outcomes.push(Some(bundle));
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    /// Changes one bundle within a transaction, whether it exists or not (then it starts empty
    /// with sequence number 0). `change` answers an error to leave all as it was. When the
    /// content did change, the sequence number grows by one and the bundle is written. Returns
    /// the bundle as it is then, and what `change` answered.
    ///
    /// This is what the own bundle's life (append, taint, revoke, prune) is made of.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed. The inner error is the closure's.
    pub async fn change_bundle<T, E>(
        &self,
        trust_domain: &TrustDomain,
        now: i64,
        change: impl FnOnce(&mut Bundle) -> Result<T, E> + Send,
    ) -> Result<Result<(Bundle, T), E>, StoreError> {
        doing("changing a bundle", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let found = rows::get(tx.conn().await?, trust_domain).await?;
            let (row, old) = match found {
                Some((row, bundle)) => (Some(row), bundle),
                None => (None, Bundle::empty(trust_domain.clone())),
            };
            let mut bundle = old.clone();
            let answer = match change(&mut bundle) {
                Ok(answer) => answer,
                Err(refused) => return Ok(Err(refused)),
            };
            bundle.trust_domain = trust_domain.clone();
            bundle.sequence_number = old.sequence_number;
            if !bundle.same_content(&old) {
                bundle.sequence_number += 1;
                rows::put(&mut tx, row, &bundle).await?;
                tx.commit().await?;
            }
            Ok(Ok((bundle, answer)))
        })
        .await
    }

    /// Adds those authorities of `bundle` that the stored bundle lacks (by certificate, by key
    /// ID), creating it if need be. The sequence number grows by one when something was added.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn append_bundle(&self, bundle: Bundle, now: i64) -> Result<Bundle, StoreError> {
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

    /// Deletes a batch in one transaction; one outcome for each, in order.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn delete_bundles(
        &self,
        trust_domains: Vec<TrustDomain>,
        mode: DeleteBundleMode,
        now: i64,
    ) -> Result<Vec<DeleteBundleOutcome>, StoreError> {
        doing("deleting bundles", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let mut outcomes = Vec::with_capacity(trust_domains.len());
            for trust_domain in &trust_domains {
                outcomes.push(delete(&mut tx, trust_domain, mode).await?);
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }
}

/// Creates or replaces one bundle.
pub(crate) async fn set(tx: &mut Tx<'_>, bundle: &Bundle) -> Result<(), Fault> {
    match rows::get(tx.conn().await?, &bundle.trust_domain).await? {
        Some((_, old)) if old == *bundle => Ok(()),
        Some((row, _)) => rows::put(tx, Some(row), bundle).await,
        None => rows::put(tx, None, bundle).await,
    }
}

fn append_keys(stored: &mut Vec<JwtAuthority>, added: Vec<JwtAuthority>) {
    for authority in added {
        if !stored.iter().any(|it| it.key_id == authority.key_id) {
            stored.push(authority);
        }
    }
}

async fn delete(
    tx: &mut Tx<'_>,
    trust_domain: &TrustDomain,
    mode: DeleteBundleMode,
) -> Result<DeleteBundleOutcome, Fault> {
    let Some((row, bundle)) = rows::get(tx.conn().await?, trust_domain).await? else {
        return Ok(DeleteBundleOutcome::NotFound);
    };
    let term = terms::federates_with(trust_domain);
    let found = terms::rows_with(tx.conn().await?, Index::Entries, &[term]).await?;
    let mut count = 0;
    for some in found.chunks(ENTRIES_AT_ONCE) {
        let mut entries = entries::rows::by_rows(tx.conn().await?, some).await?;
        entries.retain(|(_, entry)| entry.federates_with.contains(trust_domain));
        count += entries.len() as u64;
        match mode {
            DeleteBundleMode::Restrict => {}
            DeleteBundleMode::Delete => entries::write::delete(tx, &entries).await?,
            DeleteBundleMode::Dissociate => {
                for (row, mut entry) in entries {
                    let mut draft = entry.body.clone();
                    draft.federates_with.retain(|name| name != trust_domain);
                    entries::write::rewrite(tx, row, &mut entry, draft).await?;
                }
            }
        }
    }
    if mode == DeleteBundleMode::Restrict && count > 0 {
        return Ok(DeleteBundleOutcome::InUse(count));
    }
    rows::delete(tx, row, &bundle).await?;
    Ok(DeleteBundleOutcome::Deleted(bundle))
}
