//! The CA journals.

use async_trait::async_trait;
use signet_time::UnixTime;
use sqlx::Row;

use crate::{Journals, Operation, StoreError, sqlite::SqliteStore};

#[async_trait]
impl Journals for SqliteStore {
    async fn journal(&self, server: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.reading(Operation::READ_JOURNAL, async {
            let mut conn = self.reader().await?;
            let row = sqlx::query("SELECT data FROM journals WHERE server = ?")
                .bind(server)
                .fetch_optional(&mut *conn)
                .await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?)
        })
        .await
    }

    async fn journals(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.reading(Operation::LIST_JOURNALS, async {
            let mut conn = self.reader().await?;
            let rows = sqlx::query("SELECT server, data FROM journals ORDER BY server")
                .fetch_all(&mut *conn)
                .await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        })
        .await
    }

    async fn put_journal(
        &self,
        server: &str,
        data: &[u8],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.write(Operation::WRITE_JOURNAL, now, move |mut tx| async move {
            sqlx::query(
                "INSERT INTO journals (server, data, updated_at) VALUES (?, ?, ?) \
                 ON CONFLICT (server) DO UPDATE SET data = excluded.data, \
                 updated_at = excluded.updated_at",
            )
            .bind(server)
            .bind(data)
            .bind(now.seconds())
            .execute(tx.conn().await?)
            .await?;
            tx.commit().await
        })
        .await
    }

    async fn rename_journal(
        &self,
        from: &str,
        to: &str,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write(Operation::WRITE_JOURNAL, now, move |mut tx| async move {
            let done = sqlx::query(
                "UPDATE journals SET server = ?, updated_at = ? WHERE server = ? \
                 AND NOT EXISTS (SELECT 1 FROM journals WHERE server = ?)",
            )
            .bind(to)
            .bind(now.seconds())
            .bind(from)
            .bind(to)
            .execute(tx.conn().await?)
            .await?;
            tx.commit().await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }
}
