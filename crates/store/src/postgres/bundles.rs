//! Trust bundles: the server's own and those of foreign trust domains.

use async_trait::async_trait;
use signet_identity::{Bundle, TrustDomain};
use signet_time::UnixTime;

use super::{
    entries,
    fault::Fault,
    store::PostgresStore,
    tx::{Lock, Tx},
};
use crate::{
    BundleChange, BundleUpdate, Bundles, CreateOutcome, DeleteBundleMode, DeleteBundleOutcome,
    Operation, Page, PageRequest, StoreError, terms,
};

pub(super) mod rows;

#[async_trait]
impl Bundles for PostgresStore {
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
        self.reading(Operation::READ_BUNDLE, |query| async move {
            Ok(rows::get(&query, trust_domain).await?.map(|(_, bundle)| bundle))
        })
        .await
    }

    async fn list_bundles(&self, page: PageRequest) -> Result<Page<Bundle>, StoreError> {
        self.reading(Operation::LIST_BUNDLES, |query| async move {
            let found = rows::list(&query, page.after.unwrap_or(0), page.limit()).await?;
            Ok(page.cut(found))
        })
        .await
    }

    async fn count_bundles(&self) -> Result<u64, StoreError> {
        self.reading(Operation::COUNT_BUNDLES, |query| async move {
            let row = query.one("SELECT count(*) FROM signet_bundles", &[]).await?;
            Ok(row.try_get::<_, i64>(0)?.cast_unsigned())
        })
        .await
    }

    async fn create_bundles(
        &self,
        bundles: Vec<Bundle>,
        now: UnixTime,
    ) -> Result<Vec<CreateOutcome<Bundle>>, StoreError> {
        let (bundles, lock) = (&bundles, Lock::Registrations);
        self.write(Operation::CREATE_BUNDLES, now, lock, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(bundles.len());
            for bundle in bundles {
                if rows::get(&tx.query, &bundle.trust_domain).await?.is_some() {
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
        let (all, lock) = (&bundles, Lock::Registrations);
        let set = self.write(Operation::SET_BUNDLES, now, lock, move |mut tx| async move {
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
        let (updates, lock) = (&updates, Lock::Registrations);
        self.write(Operation::UPDATE_BUNDLES, now, lock, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(updates.len());
            for update in updates {
                let Some((row, old)) = rows::get(&tx.query, &update.trust_domain).await? else {
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
        let lock = Lock::Registrations;
        self.write(Operation::CHANGE_BUNDLE, now, lock, move |mut tx| async move {
            let found = rows::get(&tx.query, trust_domain).await?;
            let (row, old) = match found {
                Some((row, bundle)) => (Some(row), bundle),
                None => (None, Bundle::empty(trust_domain.clone())),
            };
            let mut bundle = old.clone();
            if !change(&mut bundle) {
                tx.leave().await?;
                return Ok(None);
            }
            bundle.trust_domain = trust_domain.clone();
            bundle.sequence_number = old.sequence_number;
            if bundle.same_content(&old) {
                tx.leave().await?;
            } else {
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
        let (trust_domains, lock) = (&trust_domains, Lock::Registrations);
        self.write(Operation::DELETE_BUNDLES, now, lock, move |mut tx| async move {
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
pub(super) async fn set(tx: &mut Tx, bundle: &Bundle) -> Result<(), Fault> {
    match rows::get(&tx.query, &bundle.trust_domain).await? {
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
    let Some((row, bundle)) = rows::get(&tx.query, trust_domain).await? else {
        return Ok(DeleteBundleOutcome::NotFound);
    };
    let term = terms::federates_with(trust_domain);
    let mut entries = entries::rows::with_term(&tx.query, term).await?;
    entries.retain(|(_, entry)| entry.federates_with.contains(trust_domain));
    match mode {
        DeleteBundleMode::Restrict if !entries.is_empty() => {
            return Ok(DeleteBundleOutcome::InUse(entries.len() as u64));
        }
        DeleteBundleMode::Restrict => {}
        DeleteBundleMode::Delete => entries::write::delete(tx, &entries).await?,
        DeleteBundleMode::Dissociate => {
            entries::write::rewrite(tx, entries, |draft| {
                draft.federates_with.retain(|name| name != trust_domain);
            })
            .await?;
        }
    }
    rows::delete(tx, row, &bundle).await?;
    Ok(DeleteBundleOutcome::Deleted(bundle))
}
