//! Which server polls: one of all that share a store, under a lease. The others get what it fetched
//! with the change feed.

use std::time::Duration;

use signet_base::{Jitter, SharedClock, chain};
use signet_store::Store;
use tokio::time::Instant;

/// The name of the lease.
const JOB: &str = "federation";
/// For how long the lease is taken: so long after the end of a server another one polls.
const LEASE: Duration = Duration::from_secs(20);
/// How often it is asked for, give or take a tenth.
const ASK: Duration = Duration::from_secs(6);

/// Whether this server polls.
pub(super) struct Lead {
    store: Store,
    server_id: String,
    clock: SharedClock,
    random: Jitter,
    /// Until when the lease is held; by then the next one must be.
    held_until: Option<Instant>,
    ask_at: Instant,
}

impl Lead {
    pub(super) fn new(store: Store, server_id: String, clock: SharedClock) -> Self {
        let random = Jitter::new();
        Self { store, server_id, clock, random, held_until: None, ask_at: Instant::now() }
    }

    /// Whether this server is the one that polls now; asks the store when it is time to. A store that
    /// nobody shares is this server's own.
    pub(super) async fn look(&mut self) -> bool {
        if !self.store.is_shared() {
            return true;
        }
        let asked = Instant::now();
        if asked >= self.ask_at {
            let seconds = u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX);
            let now = self.clock.unix();
            match self.store.take_lease(JOB, &self.server_id, seconds, now).await {
                // From before it was asked: nobody else holds it until then.
                Ok(held) => self.held_until = held.then_some(asked + LEASE),
                Err(error) => {
                    tracing::debug!(error = chain(&error), "No lease for polling bundle endpoints");
                }
            }
            self.ask_at = Instant::now() + self.random.spread(ASK, 0.1);
        }
        self.held_until.is_some_and(|until| Instant::now() < until)
    }

    /// When to look again.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let shared = self.store.is_shared();
        shared.then(|| self.held_until.map_or(self.ask_at, |until| until.min(self.ask_at)))
    }
}
