//! What is kept about tenants besides what entries say.

use std::collections::BTreeSet;

use async_trait::async_trait;
use signet_identity::{
    Tenant, TenantError,
    tenant::{Assigned, AssignedError, Assignment, TenantState},
};
use signet_time::UnixTime;
use sqlx::{Row, sqlite::SqliteRow};

use crate::{
    ChangeKind, ChangedTo, Operation, StoreError, Tenants,
    sqlite::{SqliteStore, fault::Fault, json, tx::Tx},
};

const ACTIVE: &str = "active";
const SUSPENDED: &str = "suspended";

#[async_trait]
impl Tenants for SqliteStore {
    async fn assign(&self, said: Assignment, now: UnixTime) -> Result<(), StoreError> {
        let said = &said;
        self.write(Operation::ASSIGN_TENANTS, now, move |mut tx| async move {
            put(&mut tx, said).await?;
            tx.commit().await
        })
        .await
    }

    async fn unassign(&self, about: &Assigned, now: UnixTime) -> Result<bool, StoreError> {
        let about = &about.to_string();
        self.write(Operation::ASSIGN_TENANTS, now, move |mut tx| async move {
            let done = sqlx::query("DELETE FROM assignments WHERE about = ?").bind(about);
            let was_there = done.execute(tx.conn().await?).await?.rows_affected() > 0;
            if was_there {
                tx.changed(ChangeKind::Tenancy, about, ChangedTo::Gone);
            }
            tx.commit().await?;
            Ok(was_there)
        })
        .await
    }

    async fn assignment(&self, about: &Assigned) -> Result<Option<Assignment>, StoreError> {
        self.reading(Operation::READ_TENANTS, async {
            let mut conn = self.reader().await?;
            let row = sqlx::query("SELECT about, said FROM assignments WHERE about = ?")
                .bind(about.to_string())
                .fetch_optional(&mut *conn)
                .await?;
            row.as_ref().map(read).transpose()
        })
        .await
    }

    async fn assignments(&self) -> Result<Vec<Assignment>, StoreError> {
        self.reading(Operation::READ_TENANTS, async {
            let mut conn = self.reader().await?;
            let rows = sqlx::query("SELECT about, said FROM assignments ORDER BY about")
                .fetch_all(&mut *conn)
                .await?;
            rows.iter().map(read).collect()
        })
        .await
    }
}

/// Writes one assignment.
pub(super) async fn put(tx: &mut Tx, said: &Assignment) -> Result<(), Fault> {
    let about = said.about().to_string();
    sqlx::query(
        "INSERT INTO assignments (about, said) VALUES (?, ?) \
         ON CONFLICT (about) DO UPDATE SET said = excluded.said",
    )
    .bind(&about)
    .bind(written(said))
    .execute(tx.conn().await?)
    .await?;
    tx.changed(ChangeKind::Tenancy, &about, ChangedTo::Unread);
    Ok(())
}

fn read(row: &SqliteRow) -> Result<Assignment, Fault> {
    let (about, said): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
    parse(about, said).map_err(|why| Fault::corrupt(&format!("assignment {about:?}"), why))
}

/// What is stored of an assignment.
pub(crate) fn written(said: &Assignment) -> String {
    match said {
        Assignment::Tenant(_, TenantState::Active) => ACTIVE.to_owned(),
        Assignment::Tenant(_, TenantState::Suspended) => SUSPENDED.to_owned(),
        Assignment::Agent(_, tenants) | Assignment::TrustDomain(_, tenants) => {
            let names: Vec<&str> = tenants.iter().map(Tenant::as_str).collect();
            json::list(&names).unwrap_or_else(|| "[]".to_owned())
        }
    }
}

/// Reads what [`written`] wrote about something.
pub(crate) fn parse(about: &str, said: &str) -> Result<Assignment, String> {
    let tenants = || -> Result<BTreeSet<Tenant>, String> {
        let names = json::read_list(Some(said)).map_err(|error| error.to_string())?;
        names.iter().map(|name| name.parse().map_err(|e: TenantError| e.to_string())).collect()
    };
    match about.parse().map_err(|error: AssignedError| error.to_string())? {
        Assigned::Agent(id) => Ok(Assignment::Agent(id, tenants()?)),
        Assigned::TrustDomain(name) => Ok(Assignment::TrustDomain(name, tenants()?)),
        Assigned::Tenant(tenant) => match said {
            ACTIVE => Ok(Assignment::Tenant(tenant, TenantState::Active)),
            // Of what is not known, nothing is issued.
            _ => Ok(Assignment::Tenant(tenant, TenantState::Suspended)),
        },
    }
}
