//! Tenants, and for whom agents and foreign trust domains are.

use async_trait::async_trait;
use signet_identity::tenant::{Assigned, Assignment};
use signet_time::UnixTime;

use crate::StoreError;

/// What is kept about tenants besides what entries say.
///
/// An assignment belongs to nothing else in the store: that of an agent is there before the agent
/// attests, and stays when the agent is deleted.
#[async_trait]
pub trait Tenants: Send + Sync {
    /// Says something about one thing, in place of what was said before.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn assign(&self, said: Assignment, now: UnixTime) -> Result<(), StoreError>;

    /// Takes back what was said about one thing; answers whether anything was.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn unassign(&self, about: &Assigned, now: UnixTime) -> Result<bool, StoreError>;

    /// What is said about one thing.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn assignment(&self, about: &Assigned) -> Result<Option<Assignment>, StoreError>;

    /// All that is said.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn assignments(&self) -> Result<Vec<Assignment>, StoreError>;
}
