//! The handle.

use std::sync::Arc;

use crate::{OpenError, StoreError, StoreOptions};

/// The registration store. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store(..)")
    }
}

impl Store {
    /// Opens (or creates) the database and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]; the file is then as it was.
    pub async fn open(_options: StoreOptions) -> Result<Self, OpenError> {
        todo!()
    }

    /// Whether the database answers a read.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let _ = &self.inner;
        todo!()
    }

    /// Waits for the running transaction, checkpoints the log into the database file and closes
    /// every connection. Later calls fail with [`StoreError::Closed`].
    pub async fn close(&self) {
        todo!()
    }
}
