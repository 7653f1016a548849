//! A replica, which takes the reading of everything off the primary.

use std::sync::atomic::{AtomicBool, Ordering};

use super::pool::Pool;

/// The database of `ro_connection_string`.
pub(super) struct Replica {
    pub(super) pool: Pool,
    /// Whether it was of no use when it was last asked; said once.
    pub(super) is_told: AtomicBool,
}

impl Replica {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool, is_told: AtomicBool::new(false) }
    }

    pub(super) fn is_of_no_use(&self, why: &dyn std::fmt::Display) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(why = %why, "The replica cannot be read from; the primary is read");
        }
    }
}
