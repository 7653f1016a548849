//! The servers that share the store, and leases.

use async_trait::async_trait;
use signet_time::UnixTime;

use super::{sql::params, store::PostgresStore, tx::Lock};
use crate::{Operation, ServerRecord, Servers, StoreError};

#[async_trait]
impl Servers for PostgresStore {
    async fn put_server(&self, server: &ServerRecord) -> Result<(), StoreError> {
        let (operation, now) = (Operation::WRITE_SERVER, server.seen_at);
        self.write(operation, now, Lock::Rows, move |tx| async move {
            tx.query
                .execute(
                    "INSERT INTO signet_servers AS s \
                     (id, host, version, started_at, seen_at, issued_until, retired_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT (id) DO UPDATE SET \
                     host = excluded.host, version = excluded.version, \
                     started_at = excluded.started_at, seen_at = excluded.seen_at, \
                     retired_at = 0, issued_until = greatest(s.issued_until, excluded.issued_until)",
                    params![
                        server.id => TEXT, server.host => TEXT, server.version => TEXT,
                        server.started_at.seconds() => INT8, server.seen_at.seconds() => INT8,
                        server.issued_until.seconds() => INT8,
                    ],
                )
                .await?;
            tx.commit().await
        })
        .await
    }

    async fn servers(&self) -> Result<Vec<ServerRecord>, StoreError> {
        self.reading(Operation::LIST_SERVERS, |query| async move {
            let text = "SELECT id, host, version, started_at, seen_at, issued_until, retired_at \
                        FROM signet_servers ORDER BY id COLLATE \"C\"";
            let rows = query.all(text, &[]).await?;
            let read = |row: &tokio_postgres::Row| {
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
        self.write(Operation::WRITE_SERVER, now, Lock::Rows, move |tx| async move {
            let text = "UPDATE signet_servers SET retired_at = $1 WHERE id = $2 AND retired_at = 0";
            let done = tx.query.execute(text, params![now.seconds() => INT8, id => TEXT]).await?;
            tx.commit().await?;
            Ok(done > 0)
        })
        .await
    }

    async fn forget_server(&self, id: &str) -> Result<bool, StoreError> {
        self.write(Operation::WRITE_SERVER, UnixTime::EPOCH, Lock::Rows, move |tx| async move {
            let text = "DELETE FROM signet_servers WHERE id = $1 AND retired_at <> 0";
            let done = tx.query.execute(text, params![id => TEXT]).await? > 0;
            if done {
                let text = "DELETE FROM signet_journals WHERE server = $1";
                tx.query.execute(text, params![id => TEXT]).await?;
            }
            tx.commit().await?;
            Ok(done)
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
        self.write(Operation::TAKE_LEASE, now, Lock::Rows, move |tx| async move {
            // The database's own clock is the same for all of them.
            let taken = tx
                .query
                .first(
                    "INSERT INTO signet_leases AS l (job, holder, ends_at) \
                     VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3::float8)) \
                     ON CONFLICT (job) DO UPDATE SET holder = excluded.holder, \
                     ends_at = excluded.ends_at WHERE l.holder = excluded.holder \
                     OR l.ends_at <= clock_timestamp() RETURNING 1",
                    params![job => TEXT, holder => TEXT, f64::from(seconds) => FLOAT8],
                )
                .await?;
            tx.commit().await?;
            Ok(taken.is_some())
        })
        .await
    }
}
