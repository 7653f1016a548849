//! How many signatures a remote key manager is asked for at once, how long each may take, and
//! how it fares.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::SignError;

/// What a remote key manager is asked for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigningLimits {
    /// How many signatures it makes at once; at least 1.
    pub at_once: usize,
    /// How many more may wait for their turn; one beyond is refused at once.
    pub waiting: usize,
    /// How long a signature may take, waiting included.
    pub deadline: Duration,
}

impl Default for SigningLimits {
    /// 32 at once, 1,024 waiting, 10 s: what a cloud KMS takes from one client, and less than
    /// agents and workloads wait for.
    fn default() -> Self {
        Self { at_once: 32, waiting: 1024, deadline: Duration::from_secs(10) }
    }
}

/// Signatures failed, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningFault {
    /// How many failed since the last that was made.
    pub in_a_row: u32,
    /// Why the last one failed.
    pub last: SignError,
}

/// Bounds the signatures asked of one remote key manager. Clones share the bounds.
#[derive(Clone)]
pub struct SigningQueue(Arc<Inner>);

struct Inner {
    holder: &'static str,
    limits: SigningLimits,
    /// One permit for each signature being made or waiting.
    places: Semaphore,
    /// One permit for each signature being made.
    turns: Semaphore,
    failed_in_a_row: AtomicU32,
    last_failure: Mutex<Option<SignError>>,
}

impl SigningQueue {
    /// The queue of the key manager `holder` (the plugin's name, `aws_kms`).
    pub fn new(holder: &'static str, limits: SigningLimits) -> Self {
        let at_once = limits.at_once.clamp(1, Semaphore::MAX_PERMITS);
        let places = at_once.saturating_add(limits.waiting).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            holder,
            limits,
            places: Semaphore::new(places),
            turns: Semaphore::new(at_once),
            failed_in_a_row: AtomicU32::new(0),
            last_failure: Mutex::new(None),
        }))
    }

    /// The key manager's name.
    pub fn holder(&self) -> &'static str {
        self.0.holder
    }

    /// How the key manager fares: `None` when the last signature was made, or none was asked for.
    pub fn fault(&self) -> Option<SigningFault> {
        let in_a_row = self.0.failed_in_a_row.load(Ordering::Relaxed);
        let last = self.0.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (in_a_row > 0).then_some(last).flatten().map(|last| SigningFault { in_a_row, last })
    }

    /// Runs `signing` when its turn comes, within the deadline.
    pub(super) async fn run(
        &self,
        signing: impl Future<Output = Result<Vec<u8>, SignError>>,
    ) -> Result<Vec<u8>, SignError> {
        let inner = &*self.0;
        let holder = inner.holder;
        let Ok(_place) = inner.places.try_acquire() else {
            return Err(SignError::Busy { holder });
        };
        let deadline = inner.limits.deadline;
        let turn = async {
            // The semaphore is never closed.
            let _turn = inner.turns.acquire().await;
            signing.await
        };
        let outcome = tokio::time::timeout(deadline, turn).await;
        let outcome = outcome.unwrap_or(Err(SignError::TimedOut { holder, after: deadline }));
        self.note(outcome.as_ref().err());
        outcome
    }

    fn note(&self, failure: Option<&SignError>) {
        let Some(failure) = failure else {
            self.0.failed_in_a_row.store(0, Ordering::Relaxed);
            return;
        };
        *self.0.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.clone());
        let add_one = |n: u32| Some(n.saturating_add(1));
        let _ = self.0.failed_in_a_row.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add_one);
    }
}

impl fmt::Debug for SigningQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningQueue({}, {:?})", self.0.holder, self.0.limits)
    }
}
