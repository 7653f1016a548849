//! A line in the log per cause and interval, however often the cause shows.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How many causes are remembered. When all are of late, further ones are told each time.
const MAX_CAUSES: usize = 1024;

/// Remembers which causes were told, and when.
#[derive(Debug)]
pub struct Repeats<K> {
    interval: Duration,
    told: Mutex<HashMap<K, Told>>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    /// How often it has shown since then.
    untold: u64,
}

impl<K: Eq + Hash> Repeats<K> {
    /// The same cause is told at most once in `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, told: Mutex::default() }
    }

    /// Whether `cause` is to be told now: then how often it has shown since it was told last.
    pub fn tell(&self, cause: K) -> Option<u64> {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = told.get_mut(&cause)
            && now < one.at + self.interval
        {
            one.untold = one.untold.saturating_add(1);
            return None;
        }
        let untold = told.remove(&cause).map(|one| one.untold).unwrap_or_default();
        if told.len() >= MAX_CAUSES {
            told.retain(|_, one| now < one.at + self.interval);
        }
        if told.len() < MAX_CAUSES {
            told.insert(cause, Told { at: now, untold: 0 });
        }
        Some(untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cause_is_told_once_in_an_interval_with_the_number_of_times_it_was_not() {
        let repeats = Repeats::new(Duration::from_secs(60));
        assert_eq!((repeats.tell("a"), repeats.tell("b")), (Some(0), Some(0)));
        for _ in 0..100 {
            assert_eq!(repeats.tell("a"), None);
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((repeats.tell("a"), repeats.tell("b")), (Some(100), Some(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let repeats = Repeats::new(Duration::from_secs(60));
        for n in 0..2 * MAX_CAUSES {
            assert_eq!(repeats.tell(n), Some(0));
        }
        assert_eq!(repeats.told.lock().unwrap().len(), MAX_CAUSES);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(repeats.tell(MAX_CAUSES * 3), Some(0));
        assert_eq!(repeats.told.lock().unwrap().len(), 1);
    }
}
