//! Readiness as a set of guards: the program is ready when every part has dropped its own.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::{sync::watch, time::Instant};

/// What a program still waits for before it is ready. Clones share the set.
#[derive(Clone)]
pub struct Readiness {
    pending: Arc<watch::Sender<Pending>>,
    start: Instant,
}

#[derive(Default)]
struct Pending {
    next: u64,
    parts: BTreeMap<u64, &'static str>,
}

/// One part that is not up yet. Dropping it says that the part is up.
///
/// A part that fails must end the program rather than drop its guard and go on.
#[must_use = "dropping the guard marks the part as ready"]
pub struct ReadyGuard {
    id: u64,
    readiness: Readiness,
}

impl Readiness {
    /// A set without guards: ready.
    pub fn new() -> Self {
        Self { pending: Arc::new(watch::Sender::new(Pending::default())), start: Instant::now() }
    }

    /// Adds a part that must come up first.
    pub fn guard(&self, part: &'static str) -> ReadyGuard {
        let mut id = 0;
        self.pending.send_modify(|pending| {
            id = pending.next;
            pending.next += 1;
            pending.parts.insert(id, part);
        });
        ReadyGuard { id, readiness: self.clone() }
    }

    /// Whether no guard is held.
    pub fn is_ready(&self) -> bool {
        self.pending.borrow().parts.is_empty()
    }

    /// The parts that are not up yet, in the order in which they were added.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.borrow().parts.values().copied().collect()
    }

    /// Waits until no guard is held.
    pub async fn ready(&self) {
        let mut watch = self.pending.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = watch.wait_for(|pending| pending.parts.is_empty()).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.pending()).finish()
    }
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        let mut part = "";
        self.readiness.pending.send_modify(|pending| {
            part = pending.parts.remove(&self.id).unwrap_or_default();
        });
        let took_ms = self.readiness.start.elapsed().as_millis() as u64;
        let left = self.readiness.pending();
        if left.is_empty() {
            tracing::debug!(part, took_ms, "Ready");
        } else {
            tracing::debug!(part, took_ms, waiting_for = ?left, "Part is ready");
        }
    }
}

impl fmt::Debug for ReadyGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadyGuard({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_ready_when_the_last_guard_is_dropped() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let store = readiness.guard("store");
        let ca = readiness.guard("ca");
        let again = readiness.guard("ca");
        assert_eq!(readiness.pending(), ["store", "ca", "ca"]);
        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        drop(ca);
        drop(store);
        assert_eq!(readiness.pending(), ["ca"]);
        assert!(!waiter.is_finished());
        drop(again);
        waiter.await.unwrap();
        assert!(readiness.is_ready());
    }
}
