//! Federation relationships.

use async_trait::async_trait;
use signet_identity::{
    Bundle, BundleEndpointProfile, FederationRelationship, SpiffeId, TrustDomain,
};
use signet_time::UnixTime;
use tokio_postgres::Row;

use super::{
    bundles::{self, rows::trust_domain},
    fault::Fault,
    sql::{Query, params},
    store::PostgresStore,
    tx::{Lock, Tx},
};
use crate::{
    ChangeKind, ChangedTo, CreateOutcome, FederationUpdate, Federations, Operation, Page,
    PageRequest, StoreError,
};

#[async_trait]
impl Federations for PostgresStore {
    async fn federation(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<FederationRelationship>, StoreError> {
        self.reading(
            Operation::READ_FEDERATION,
            |query| async move { get(&query, trust_domain).await },
        )
        .await
    }

    async fn list_federations(
        &self,
        page: PageRequest,
    ) -> Result<Page<FederationRelationship>, StoreError> {
        self.reading(Operation::LIST_FEDERATIONS, |query| async move {
            let after = page.after.unwrap_or(0);
            let rows = query
                .all(
                    "SELECT trust_domain, bundle_endpoint_url, endpoint_spiffe_id, id \
                     FROM signet_federations WHERE id > $1 ORDER BY id LIMIT $2",
                    params![after => INT8, page.limit() => INT8],
                )
                .await?;
            let found = rows.iter().map(|row| Ok((row.try_get(3)?, read(row)?)));
            Ok(page.cut(found.collect::<Result<_, Fault>>()?))
        })
        .await
    }

    async fn create_federations(
        &self,
        relationships: Vec<(FederationRelationship, Option<Bundle>)>,
        now: UnixTime,
    ) -> Result<Vec<CreateOutcome<FederationRelationship>>, StoreError> {
        let (relationships, lock) = (&relationships, Lock::Registrations);
        self.write(Operation::CREATE_FEDERATIONS, now, lock, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(relationships.len());
            for (relationship, bundle) in relationships {
                if get(&tx.query, &relationship.trust_domain).await?.is_some() {
                    outcomes.push(CreateOutcome::Exists);
                    continue;
                }
                put(&mut tx, relationship).await?;
                if let Some(bundle) = bundle {
                    bundles::set(&mut tx, bundle).await?;
                }
                outcomes.push(CreateOutcome::Created(relationship.clone()));
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    async fn update_federations(
        &self,
        updates: Vec<FederationUpdate>,
        now: UnixTime,
    ) -> Result<Vec<Option<FederationRelationship>>, StoreError> {
        let (updates, lock) = (&updates, Lock::Registrations);
        self.write(Operation::UPDATE_FEDERATIONS, now, lock, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(updates.len());
            for update in updates {
                let Some(mut relationship) = get(&tx.query, &update.trust_domain).await? else {
                    outcomes.push(None);
                    continue;
                };
                (update.change)(&mut relationship);
                relationship.trust_domain = update.trust_domain.clone();
                put(&mut tx, &relationship).await?;
                if let Some(bundle) = &update.bundle {
                    bundles::set(&mut tx, bundle).await?;
                }
                outcomes.push(Some(relationship));
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    async fn delete_federations(
        &self,
        trust_domains: Vec<TrustDomain>,
        now: UnixTime,
    ) -> Result<Vec<bool>, StoreError> {
        let (trust_domains, lock) = (&trust_domains, Lock::Registrations);
        self.write(Operation::DELETE_FEDERATIONS, now, lock, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(trust_domains.len());
            for name in trust_domains {
                let text = "DELETE FROM signet_federations WHERE trust_domain = $1";
                let found = tx.query.execute(text, params![name.as_str() => TEXT]).await? > 0;
                if found {
                    tx.changed(ChangeKind::Federation, name.as_str(), ChangedTo::Unread);
                }
                outcomes.push(found);
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }
}

async fn get(
    query: &Query,
    trust_domain: &TrustDomain,
) -> Result<Option<FederationRelationship>, Fault> {
    let text = "SELECT trust_domain, bundle_endpoint_url, endpoint_spiffe_id \
                FROM signet_federations WHERE trust_domain = $1";
    let row = query.first(text, params![trust_domain.as_str() => TEXT]).await?;
    row.as_ref().map(read).transpose()
}

fn read(row: &Row) -> Result<FederationRelationship, Fault> {
    let trust_domain = trust_domain(row.try_get(0)?)?;
    let endpoint = row.try_get::<_, Option<&str>>(2)?.map(str::parse::<SpiffeId>).transpose();
    let endpoint =
        endpoint.map_err(|error| Fault::corrupt(&format!("federation {trust_domain}"), error))?;
    let profile = BundleEndpointProfile::from(endpoint);
    Ok(FederationRelationship { trust_domain, bundle_endpoint_url: row.try_get(1)?, profile })
}

/// Writes a relationship, new or old.
pub(super) async fn put(tx: &mut Tx, relationship: &FederationRelationship) -> Result<(), Fault> {
    let endpoint_spiffe_id = relationship.profile.endpoint_spiffe_id().map(SpiffeId::to_string);
    let row = tx.next_row("signet_federations").await?;
    tx.query
        .execute(
            "INSERT INTO signet_federations \
             (id, trust_domain, bundle_endpoint_url, endpoint_spiffe_id) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (trust_domain) DO UPDATE SET \
             bundle_endpoint_url = excluded.bundle_endpoint_url, \
             endpoint_spiffe_id = excluded.endpoint_spiffe_id",
            params![
                row => INT8, relationship.trust_domain.as_str() => TEXT,
                relationship.bundle_endpoint_url => TEXT, endpoint_spiffe_id => TEXT,
            ],
        )
        .await?;
    tx.changed(ChangeKind::Federation, relationship.trust_domain.as_str(), ChangedTo::Unread);
    Ok(())
}
