//! The servers that share the store, and leases.

use async_trait::async_trait;
use signet_time::UnixTime;
use sqlx::Row;

use crate::{Operation, ServerRecord, Servers, StoreError, sqlite::SqliteStore};

#[async_trait]
impl Servers for SqliteStore {
    async fn put_server(&self, server: &ServerRecord) -> Result<(), StoreError> {
        self.write(Operation::WRITE_SERVER, server.seen_at, move |mut tx| async move {
            sqlx::query(
                "INSERT INTO servers \
                 (id, host, version, started_at, seen_at, issued_until, retired_at) \
                 VALUES (?, ?, ?, ?, ?, ?, 0) ON CONFLICT (id) DO UPDATE SET \
                 host = excluded.host, version = excluded.version, \
                 started_at = excluded.started_at, seen_at = excluded.seen_at, retired_at = 0, \
                 issued_until = max(issued_until, excluded.issued_until)",
            )
            .bind(&server.id)
            .bind(&server.host)
            .bind(&server.version)
            .bind(server.started_at.seconds())
            .bind(server.seen_at.seconds())
            .bind(server.issued_until.seconds())
            .execute(tx.conn().await?)
            .await?;
            tx.commit().await
        })
        .await
    }

    async fn servers(&self) -> Result<Vec<ServerRecord>, StoreError> {
        self.reading(Operation::LIST_SERVERS, async {
            let mut conn = self.reader().await?;
            let rows = sqlx::query(
                "SELECT id, host, version, started_at, seen_at, issued_until, retired_at \
                 FROM servers ORDER BY id",
            )
            .fetch_all(&mut *conn)
            .await?;
            let read = |row: &sqlx::sqlite::SqliteRow| {
                Ok(ServerRecord {
                    id: row.try_get(0)?,
                    host: row.try_get(1)?,
                    version: row.try_get(2)?,
                    started_at: UnixTime::from_seconds(row.try_get(3)?),
                    seen_at: UnixTime::from_seconds(row.try_get(4)?),
                    issued_until: UnixTime::from_seconds(row.try_get(5)?),
                    retired_at: UnixTime::from_seconds(row.try_get(6)?),
                })
            };
            rows.iter().map(read).collect()
        })
        .await
    }

    async fn retire_server(&self, id: &str, now: UnixTime) -> Result<bool, StoreError> {
        self.write(Operation::WRITE_SERVER, now, move |mut tx| async move {
            let text = "UPDATE servers SET retired_at = ? WHERE id = ? AND retired_at = 0";
            let done =
                sqlx::query(text).bind(now.seconds()).bind(id).execute(tx.conn().await?).await?;
            tx.commit().await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    async fn forget_server(&self, id: &str) -> Result<bool, StoreError> {
        self.write(Operation::WRITE_SERVER, UnixTime::EPOCH, move |mut tx| async move {
            let text = "DELETE FROM servers WHERE id = ? AND retired_at <> 0";
            let done = sqlx::query(text).bind(id).execute(tx.conn().await?).await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
            let text = "DELETE FROM journals WHERE server = ?";
            sqlx::query(text).bind(id).execute(tx.conn().await?).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn take_lease(
        &self,
        job: &str,
        holder: &str,
        seconds: u32,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write(Operation::TAKE_LEASE, now, move |mut tx| async move {
            let taken = sqlx::query(
                "INSERT INTO leases (job, holder, ends_at) VALUES (?, ?, ?) \
                 ON CONFLICT (job) DO UPDATE SET holder = excluded.holder, \
                 ends_at = excluded.ends_at WHERE leases.holder = excluded.holder \
                 OR leases.ends_at <= ? RETURNING 1",
            )
            .bind(job)
            .bind(holder)
            .bind((now + i64::from(seconds)).seconds())
            .bind(now.seconds())
            .fetch_optional(tx.conn().await?)
            .await?;
            tx.commit().await?;
            Ok(taken.is_some())
        })
        .await
    }
}
