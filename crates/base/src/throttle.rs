//! Keeps repeated lines out of the log, and counts them.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How many keys are remembered unless told otherwise.
const DEFAULT_MAX_KEYS: usize = 4096;

/// Lets through, of what has the same key, the first `burst` in each `interval`, and counts the
/// rest.
///
/// At most `max_keys` keys are told apart in an interval. What comes with yet another one shares a
/// single allowance, so that a flood of keys is held back as one flood: neither memory nor what is
/// let through grows with what an outsider thinks up.
pub struct Throttle<K> {
    burst: u32,
    interval: Duration,
    max_keys: usize,
    state: Mutex<State<K>>,
}

struct State<K> {
    since: Instant,
    keys: HashMap<K, Seen>,
    others: Seen,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    passed: u32,
    suppressed: u64,
}

impl<K: Clone + Eq + Hash> Throttle<K> {
    /// Lets `burst` of each key through in each `interval`.
    pub fn new(burst: u32, interval: Duration) -> Self {
        let state = State { since: Instant::now(), keys: HashMap::new(), others: Seen::default() };
        Self { burst, interval, max_keys: DEFAULT_MAX_KEYS, state: Mutex::new(state) }
    }

    /// Tells at most `max_keys` keys apart.
    pub fn with_max_keys(mut self, max_keys: usize) -> Self {
        self.max_keys = max_keys;
        self
    }

    /// Whether to go on with what has this key: then, how many like it were held back since the
    /// last time that one went through; else `None`.
    pub fn admit(&self, key: &K) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(state.since) >= self.interval {
            state.since = now;
            // What was held back is still to be told; the others are forgotten.
            state
                .keys
                .retain(|_, seen| std::mem::take(&mut seen.passed) > 0 && seen.suppressed > 0);
            state.others.passed = 0;
        }
        let known = state.keys.contains_key(key) || state.keys.len() < self.max_keys;
        let seen = match known {
            true => state.keys.entry(key.clone()).or_default(),
            false => &mut state.others,
        };
        if seen.passed < self.burst {
            seen.passed += 1;
            return Some(std::mem::take(&mut seen.suppressed));
        }
        seen.suppressed = seen.suppressed.saturating_add(1);
        None
    }
}

impl<K> fmt::Debug for Throttle<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Throttle({} in {:?})", self.burst, self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repetitions_are_counted_and_told_of_in_the_next_interval() {
        let throttle = Throttle::new(2, Duration::from_secs(10));
        let got: Vec<_> = (0..5).map(|_| throttle.admit(&"a")).collect();
        assert_eq!(got, [Some(0), Some(0), None, None, None]);
        assert_eq!(throttle.admit(&"b"), Some(0), "another key");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(throttle.admit(&"a"), Some(3));
        assert_eq!(throttle.admit(&"a"), Some(0));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(throttle.admit(&"b"), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_keys_is_held_back_as_one() {
        let throttle = Throttle::new(2, Duration::from_secs(10)).with_max_keys(3);
        let passed = (0..1000).filter(|n| throttle.admit(n).is_some()).count();
        assert_eq!(passed, 3 + 2);
        tokio::time::advance(Duration::from_secs(10)).await;
        for n in 0..3 {
            assert_eq!(throttle.admit(&(2000 + n)), Some(0));
        }
        assert_eq!(throttle.admit(&3000), Some(995));
    }
}
