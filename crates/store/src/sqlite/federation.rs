//! Federation relationships.

use async_trait::async_trait;
use signet_identity::{
    Bundle, BundleEndpointProfile, FederationRelationship, SpiffeId, TrustDomain,
};
use signet_time::UnixTime;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    ChangeKind, ChangedTo, CreateOutcome, FederationUpdate, Federations, Operation, Page,
    PageRequest, StoreError,
    sqlite::{
        SqliteStore,
        bundles::{self, rows::trust_domain},
        fault::Fault,
        tx::Tx,
    },
};

#[async_trait]
impl Federations for SqliteStore {
    async fn federation(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<FederationRelationship>, StoreError> {
        self.reading(Operation::READ_FEDERATION, async {
            let mut conn = self.reader().await?;
            get(&mut conn, trust_domain).await
        })
        .await
    }

    async fn list_federations(
        &self,
        page: PageRequest,
    ) -> Result<Page<FederationRelationship>, StoreError> {
        self.reading(Operation::LIST_FEDERATIONS, async {
            let mut conn = self.reader().await?;
            let rows = sqlx::query(
                "SELECT trust_domain, bundle_endpoint_url, endpoint_spiffe_id, id \
                 FROM federations WHERE id > ? ORDER BY id LIMIT ?",
            )
            .bind(page.after.unwrap_or(0))
            .bind(page.limit())
            .fetch_all(&mut *conn)
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
        let relationships = &relationships;
        self.write(Operation::CREATE_FEDERATIONS, now, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(relationships.len());
            for (relationship, bundle) in relationships {
                if get(tx.conn().await?, &relationship.trust_domain).await?.is_some() {
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
        let updates = &updates;
        self.write(Operation::UPDATE_FEDERATIONS, now, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(updates.len());
            for update in updates {
                let Some(mut relationship) = get(tx.conn().await?, &update.trust_domain).await?
                else {
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
        let trust_domains = &trust_domains;
        self.write(Operation::DELETE_FEDERATIONS, now, move |mut tx| async move {
            let mut outcomes = Vec::with_capacity(trust_domains.len());
            for name in trust_domains {
                let done = sqlx::query("DELETE FROM federations WHERE trust_domain = ?")
                    .bind(name.as_str())
                    .execute(tx.conn().await?)
                    .await?;
                let found = done.rows_affected() > 0;
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
    conn: &mut SqliteConnection,
    trust_domain: &TrustDomain,
) -> Result<Option<FederationRelationship>, Fault> {
    let row = sqlx::query(
        "SELECT trust_domain, bundle_endpoint_url, endpoint_spiffe_id FROM federations \
         WHERE trust_domain = ?",
    )
    .bind(trust_domain.as_str())
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(read).transpose()
}

fn read(row: &SqliteRow) -> Result<FederationRelationship, Fault> {
    let trust_domain = trust_domain(row.try_get(0)?)?;
    let endpoint = row.try_get::<Option<&str>, _>(2)?.map(str::parse::<SpiffeId>).transpose();
    let endpoint =
        endpoint.map_err(|error| Fault::corrupt(&format!("federation {trust_domain}"), error))?;
    let profile = BundleEndpointProfile::from(endpoint);
    Ok(FederationRelationship { trust_domain, bundle_endpoint_url: row.try_get(1)?, profile })
}

/// Writes a relationship, new or old.
pub(crate) async fn put(tx: &mut Tx, relationship: &FederationRelationship) -> Result<(), Fault> {
    let endpoint_spiffe_id = relationship.profile.endpoint_spiffe_id().map(SpiffeId::to_string);
    let row = tx.next_row("federations").await?;
    sqlx::query(
        "INSERT INTO federations (id, trust_domain, bundle_endpoint_url, endpoint_spiffe_id) \
         VALUES (?, ?, ?, ?) ON CONFLICT (trust_domain) DO UPDATE SET \
         bundle_endpoint_url = excluded.bundle_endpoint_url, \
         endpoint_spiffe_id = excluded.endpoint_spiffe_id",
    )
    .bind(row)
    .bind(relationship.trust_domain.as_str())
    .bind(&relationship.bundle_endpoint_url)
    .bind(endpoint_spiffe_id)
    .execute(tx.conn().await?)
    .await?;
    tx.changed(ChangeKind::Federation, relationship.trust_domain.as_str(), ChangedTo::Unread);
    Ok(())
}
