//! The CA journal: opaque bytes to the store.

use sqlx::Row;

use crate::{Store, StoreError, fault::doing};

impl Store {
    /// The journal of the server named `server` (its own choice; the same at every start).
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn journal(&self, server: &str) -> Result<Option<Vec<u8>>, StoreError> {
        doing("reading the CA journal", async {
            let mut conn = self.read().await?;
            let row = sqlx::query("SELECT data FROM journals WHERE server = ?")
                .bind(server)
                .fetch_optional(&mut *conn)
                .await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?)
        })
        .await
    }

    /// Stores the journal; it is on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; then the one before is still there.
    pub async fn put_journal(&self, server: &str, data: &[u8], now: i64) -> Result<(), StoreError> {
        doing("writing the CA journal", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            sqlx::query(
                "INSERT INTO journals (server, data, updated_at) VALUES (?, ?, ?) \
                 ON CONFLICT (server) DO UPDATE SET data = excluded.data, \
                 updated_at = excluded.updated_at",
            )
            .bind(server)
            .bind(data)
            .bind(now)
            .execute(tx.conn().await?)
            .await?;
            tx.commit().await
        })
        .await
    }
}
