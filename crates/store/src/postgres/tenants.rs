//! What is kept about tenants besides what entries say.

use async_trait::async_trait;
use signet_identity::tenant::{Assigned, Assignment};
use signet_time::UnixTime;
use tokio_postgres::Row;

use super::{
    fault::Fault,
    sql::params,
    store::PostgresStore,
    tx::{Lock, Tx},
};
use crate::{
    ChangeKind, ChangedTo, Operation, StoreError, Tenants,
    sqlite::tenants::{parse, written},
};

#[async_trait]
impl Tenants for PostgresStore {
    async fn assign(&self, said: Assignment, now: UnixTime) -> Result<(), StoreError> {
        let said = &said;
        self.write(Operation::ASSIGN_TENANTS, now, Lock::Registrations, move |mut tx| async move {
            put(&mut tx, said).await?;
            tx.commit().await
        })
        .await
    }

    async fn unassign(&self, about: &Assigned, now: UnixTime) -> Result<bool, StoreError> {
        let about = &about.to_string();
        self.write(Operation::ASSIGN_TENANTS, now, Lock::Registrations, move |mut tx| async move {
            let text = "DELETE FROM signet_assignments WHERE about = $1";
            let was_there = tx.query.execute(text, params![*about => TEXT]).await? > 0;
            if was_there {
                tx.changed(ChangeKind::Tenancy, about, ChangedTo::Gone);
            }
            tx.commit().await?;
            Ok(was_there)
        })
        .await
    }

    async fn assignment(&self, about: &Assigned) -> Result<Option<Assignment>, StoreError> {
        let about = about.to_string();
        let about = &about;
        self.reading(Operation::READ_TENANTS, |query| async move {
            let text = "SELECT about, said FROM signet_assignments WHERE about = $1";
            let row = query.first(text, params![*about => TEXT]).await?;
            row.as_ref().map(read).transpose()
        })
        .await
    }

    async fn assignments(&self) -> Result<Vec<Assignment>, StoreError> {
        self.reading(Operation::READ_TENANTS, |query| async move {
            let text = "SELECT about, said FROM signet_assignments ORDER BY about COLLATE \"C\"";
            query.all(text, &[]).await?.iter().map(read).collect()
        })
        .await
    }
}

/// Writes one assignment.
pub(super) async fn put(tx: &mut Tx, said: &Assignment) -> Result<(), Fault> {
    let (about, text) = (said.about().to_string(), written(said));
    tx.query
        .execute(
            "INSERT INTO signet_assignments (about, said) VALUES ($1, $2) \
             ON CONFLICT (about) DO UPDATE SET said = excluded.said",
            params![about => TEXT, text => TEXT],
        )
        .await?;
    tx.changed(ChangeKind::Tenancy, about, ChangedTo::Unread);
    Ok(())
}

fn read(row: &Row) -> Result<Assignment, Fault> {
    let (about, said): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
    parse(about, said).map_err(|why| Fault::corrupt(&format!("assignment {about:?}"), why))
}
