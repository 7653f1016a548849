//! Federation relationships.

use signet_identity::{Bundle, BundleEndpointProfile, FederationRelationship, TrustDomain};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    ChangeKind, ChangedTo, CreateOutcome, Page, PageRequest, Store, StoreError,
    bundles::{self, rows::trust_domain},
    fault::{Fault, doing},
    store::Tx,
};

/// A change of one relationship, applied within the transaction to what is stored then.
pub struct FederationUpdate {
    /// With whom.
    pub trust_domain: TrustDomain,
    /// Changes the relationship. The trust domain cannot be changed.
    pub change: Box<dyn FnOnce(&mut FederationRelationship) + Send>,
    /// Also set this bundle.
    pub bundle: Option<Bundle>,
}

impl std::fmt::Debug for FederationUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FederationUpdate({})", self.trust_domain)
    }
}

impl Store {
    /// One relationship.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn federation(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<FederationRelationship>, StoreError> {
        doing("reading a federation relationship", async {
            let mut conn = self.read().await?;
            get(&mut conn, trust_domain).await
        })
        .await
    }

    /// A page of the relationships, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn list_federations(
        &self,
        page: PageRequest,
    ) -> Result<Page<FederationRelationship>, StoreError> {
        doing("listing federation relationships", async {
            let mut conn = self.read().await?;
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

    /// Creates a batch in one transaction, each with the foreign bundle when one is given; one
    /// outcome for each, in order.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn create_federations(
        &self,
        relationships: Vec<(FederationRelationship, Option<Bundle>)>,
        now: i64,
    ) -> Result<Vec<CreateOutcome<FederationRelationship>>, StoreError> {
        doing("creating federation relationships", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let mut outcomes = Vec::with_capacity(relationships.len());
            for (relationship, bundle) in relationships {
                if get(tx.conn().await?, &relationship.trust_domain).await?.is_some() {
                    outcomes.push(CreateOutcome::Exists);
                    continue;
                }
                put(&mut tx, &relationship).await?;
                if let Some(bundle) = bundle {
                    bundles::set(&mut tx, &bundle).await?;
                }
                outcomes.push(CreateOutcome::Created(relationship));
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    /// Updates a batch in one transaction; the relationship after the change, or `None` where
    /// there is none.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn update_federations(
        &self,
        updates: Vec<FederationUpdate>,
        now: i64,
    ) -> Result<Vec<Option<FederationRelationship>>, StoreError> {
        doing("updating federation relationships", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let mut outcomes = Vec::with_capacity(updates.len());
            for update in updates {
                let Some(mut relationship) = get(tx.conn().await?, &update.trust_domain).await?
                else {
                    outcomes.push(None);
                    continue;
                };
                (update.change)(&mut relationship);
                relationship.trust_domain = update.trust_domain;
                put(&mut tx, &relationship).await?;
                if let Some(bundle) = update.bundle {
                    bundles::set(&mut tx, &bundle).await?;
                }
                outcomes.push(Some(relationship));
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }

    /// Deletes a batch in one transaction; for each, in order, whether it was there.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn delete_federations(
        &self,
        trust_domains: Vec<TrustDomain>,
        now: i64,
    ) -> Result<Vec<bool>, StoreError> {
        doing("deleting federation relationships", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let mut outcomes = Vec::with_capacity(trust_domains.len());
            for name in &trust_domains {
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
    let profile = match row.try_get::<Option<&str>, _>(2)? {
        None => BundleEndpointProfile::HttpsWeb,
        Some(id) => BundleEndpointProfile::HttpsSpiffe {
            endpoint_spiffe_id: id
                .parse()
                .map_err(|error| Fault::corrupt(&format!("federation {trust_domain}"), error))?,
        },
    };
    Ok(FederationRelationship { trust_domain, bundle_endpoint_url: row.try_get(1)?, profile })
}

/// Writes a relationship, new or old.
pub(crate) async fn put(
    tx: &mut Tx<'_>,
    relationship: &FederationRelationship,
) -> Result<(), Fault> {
    let endpoint_spiffe_id = match &relationship.profile {
        BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => {
            Some(endpoint_spiffe_id.to_string())
        }
        BundleEndpointProfile::HttpsWeb => None,
    };
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
