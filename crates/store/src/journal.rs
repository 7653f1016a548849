//! The CA journal: opaque bytes to the store.

use crate::{Store, StoreError};

impl Store {
    /// The journal of the server named `server` (its own choice; the same at every start).
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn journal(&self, _server: &str) -> Result<Option<Vec<u8>>, StoreError> {
        todo!()
    }

    /// Stores the journal; it is on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; then the one before is still there.
    pub async fn put_journal(
        &self,
        _server: &str,
        _data: &[u8],
        _now: i64,
    ) -> Result<(), StoreError> {
        todo!()
    }
}
