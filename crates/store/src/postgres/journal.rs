//! The CA journals.

use async_trait::async_trait;
use signet_time::UnixTime;

use super::{sql::params, store::PostgresStore, tx::Lock};
use crate::{Journals, Operation, StoreError};

#[async_trait]
impl Journals for PostgresStore {
    async fn journal(&self, server: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.reading(Operation::READ_JOURNAL, |query| async move {
            let text = "SELECT data FROM signet_journals WHERE server = $1";
            let row = query.first(text, params![server => TEXT]).await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?)
        })
        .await
    }

    async fn journals(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.reading(Operation::LIST_JOURNALS, |query| async move {
            let text = "SELECT server, data FROM signet_journals ORDER BY server COLLATE \"C\"";
            let rows = query.all(text, &[]).await?;
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
        self.write(Operation::WRITE_JOURNAL, now, Lock::Rows, move |tx| async move {
            tx.query
                .execute(
                    "INSERT INTO signet_journals (server, data, updated_at) VALUES ($1, $2, $3) \
                     ON CONFLICT (server) DO UPDATE SET data = excluded.data, \
                     updated_at = excluded.updated_at",
                    params![server => TEXT, data => BYTEA, now.seconds() => INT8],
                )
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
        self.write(Operation::WRITE_JOURNAL, now, Lock::Rows, move |tx| async move {
            let done = tx
                .query
                .execute(
                    "UPDATE signet_journals SET server = $1, updated_at = $2 WHERE server = $3 \
                     AND NOT EXISTS (SELECT 1 FROM signet_journals WHERE server = $1)",
                    params![to => TEXT, now.seconds() => INT8, from => TEXT],
                )
                .await?;
            tx.commit().await?;
            Ok(done > 0)
        })
        .await
    }
}
