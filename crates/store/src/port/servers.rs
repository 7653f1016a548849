//! The servers that share a store, and the jobs that one of them does for all.

use async_trait::async_trait;
use signet_time::UnixTime;

use crate::StoreError;

/// A server of the trust domain, as it last said of itself. Times are Unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerRecord {
    /// Its ID, under which its CA journal is stored.
    pub id: String,
    /// What its machine is called.
    pub host: String,
    /// Which version it is.
    pub version: String,
    /// When it started.
    pub started_at: UnixTime,
    /// When it was last seen.
    pub seen_at: UnixTime,
    /// When the last of the SVIDs that it has signed expires.
    pub issued_until: UnixTime,
    /// When it was said to be gone for good; 0 while it is not.
    pub retired_at: UnixTime,
}

/// Servers and leases.
#[async_trait]
pub trait Servers: Send + Sync {
    /// Writes what a server says of itself. It is not retired then, and `issued_until` never goes
    /// back.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn put_server(&self, server: &ServerRecord) -> Result<(), StoreError>;

    /// Every server, by ID.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn servers(&self) -> Result<Vec<ServerRecord>, StoreError>;

    /// Notes that a server is gone for good. Answers whether it is known and was not retired.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn retire_server(&self, id: &str, now: UnixTime) -> Result<bool, StoreError>;

    /// Forgets a server that is retired, and its CA journal. Answers whether it was.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn forget_server(&self, id: &str) -> Result<bool, StoreError>;

    /// Takes or renews the lease of a job for so many seconds. Answers whether `holder` has it now:
    /// nobody else has, unless their clocks differ by more than that. `now` does not count where the
    /// database has a clock of its own.
    ///
    /// # Errors
    /// [`StoreError`]; then nobody else was kept from it.
    async fn take_lease(
        &self,
        job: &str,
        holder: &str,
        seconds: u32,
        now: UnixTime,
    ) -> Result<bool, StoreError>;
}
