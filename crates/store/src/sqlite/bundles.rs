//! Trust bundles: the server's own and those of foreign trust domains.

use async_trait::async_trait;
use signet_identity::{Bundle, TrustDomain};
use signet_time::UnixTime;
use sqlx::Row;

use crate::{
    BundleChange, BundleUpdate, Bundles, CreateOutcome, DeleteBundleMode, DeleteBundleOutcome,
    Operation, Page, PageRequest, StoreError,
    sqlite::{SqliteStore, entries, fault::Fault, index::Index, terms, tx::Tx},
};

pub(crate) mod rows;

/// Entries of a deleted bundle are read in portions of so many.
const ENTRIES_AT_ONCE: usize = 1_000;

#[async_trait]
impl Bundles for SqliteStore {
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
        self.reading(Operation::READ_BUNDLE, async {
            let mut conn = self.reader().await?;
            Ok(rows::get(&mut conn, trust_domain).await?.map(|(_, bundle)| bundle))
        })
        .await
    }

    async fn list_bundles(&self, page: PageRequest) -> Result<Page<Bundle>, StoreError> {
        self.reading(Operation::LIST_BUNDLES, async {
            let mut conn = self.reader().await?;
            let found = rows::list(&mut conn, page.after.unwrap_or(0), page.limit()).await?;
            Ok(page.cut(found))
        })
        .await
    }

    async fn count_bundles(&self) -> Result<u64, StoreError> {
        self.reading(Operation::COUNT_BUNDLES, async {
            let mut conn = self.reader().await?;
            let row = sqlx::query("SELECT count(*) FROM bundles").fetch_one(&mut *conn).await?;
            Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
        })
        .await
    }

    async fn create_bundles(
        &self,
        bundles: Vec<Bundle>,
        now: UnixTime,
    ) -> Result<Vec<CreateOutcome<Bundle>>, StoreError> {
        let bundles = &bundles;
        self.write(Operation::CREATE_BUNDLES, now, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(bundles.len());
            for bundle in bundles {
                if rows::get(tx.conn().await?, &bundle.trust_domain).await?.is_some() {
                    outcomes.push(CreateOutcome::Exists);
                } else {
                    rows::put(&mut tx, None, bundle).await?;
                    outcomes.push(CreateOutcome::Created(bundle.clone()));
                }
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    async fn set_bundles(
        &self,
        bundles: Vec<Bundle>,
        now: UnixTime,
    ) -> Result<Vec<Bundle>, StoreError> {
        let all = &bundles;
        let set = self.write(Operation::SET_BUNDLES, now, move |mut tx| async move {
            for bundle in all {
                set(&mut tx, bundle).await?;
            }
            tx.commit().await
        });
        set.await?;
        Ok(bundles)
    }

    async fn update_bundles(
        &self,
        updates: Vec<BundleUpdate>,
        now: UnixTime,
    ) -> Result<Vec<Option<Bundle>>, StoreError> {
        let updates = &updates;
        self.write(Operation::UPDATE_BUNDLES, now, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(updates.len());
            for update in updates {
                let Some((row, old)) = rows::get(tx.conn().await?, &update.trust_domain).await?
                else {
                    outcomes.push(None);
                    continue;
                };
                let mut bundle = old.clone();
                (update.change)(&mut bundle);
                bundle.trust_domain = update.trust_domain.clone();
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

    async fn rewrite_bundle(
        &self,
        trust_domain: &TrustDomain,
        now: UnixTime,
        change: &BundleChange<'_>,
    ) -> Result<Option<Bundle>, StoreError> {
        self.write(Operation::CHANGE_BUNDLE, now, move |mut tx| async move {
            let found = rows::get(tx.conn().await?, trust_domain).await?;
            let (row, old) = match found {
                Some((row, bundle)) => (Some(row), bundle),
                None => (None, Bundle::empty(trust_domain.clone())),
            };
            let mut bundle = old.clone();
            if !change(&mut bundle) {
                return Ok(None);
            }
            bundle.trust_domain = trust_domain.clone();
            bundle.sequence_number = old.sequence_number;
            if !bundle.same_content(&old) {
                bundle.sequence_number += 1;
                rows::put(&mut tx, row, &bundle).await?;
                tx.commit().await?;
            }
            Ok(Some(bundle))
        })
        .await
    }

    async fn delete_bundles(
        &self,
        trust_domains: Vec<TrustDomain>,
        mode: DeleteBundleMode,
        now: UnixTime,
    ) -> Result<Vec<DeleteBundleOutcome>, StoreError> {
        let trust_domains = &trust_domains;
        self.write(Operation::DELETE_BUNDLES, now, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(trust_domains.len());
            for trust_domain in trust_domains {
                outcomes.push(delete(&mut tx, trust_domain, mode).await?);
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }
}

/// Creates or replaces one bundle.
pub(crate) async fn set(tx: &mut Tx, bundle: &Bundle) -> Result<(), Fault> {
    match rows::get(tx.conn().await?, &bundle.trust_domain).await? {
        Some((_, old)) if old == *bundle => Ok(()),
        Some((row, _)) => rows::put(tx, Some(row), bundle).await,
        None => rows::put(tx, None, bundle).await,
    }
}

async fn delete(
    tx: &mut Tx,
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
                    let mut draft = entry.spec.clone();
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
