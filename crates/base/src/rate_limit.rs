//! Token buckets by key, with a bound on everything an outsider controls.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A bucket that nobody used for one to two of these is forgotten.
const GENERATION: Duration = Duration::from_secs(60);
/// How many keys are remembered unless told otherwise.
const DEFAULT_MAX_KEYS: usize = 65_536;
/// How long a caller may be made to wait unless told otherwise.
const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(30);

/// Limits calls by key: each key has a bucket of `per_second` tokens that refills at that rate.
///
/// A call waits until its tokens are there, as SPIRE's server makes its callers wait. It is refused
/// when it needs more tokens than a bucket holds, or would wait for too long. At most `max_keys`
/// buckets are remembered: a flood of keys makes the limiter forget the idlest ones early, which
/// costs accuracy but never memory. Rates must be above zero; to switch a limit off, have none.
pub struct RateLimiter<K> {
    per_second: u32,
    max_wait: Duration,
    max_keys: usize,
    buckets: Mutex<Generations<K>>,
}

struct Generations<K> {
    current: HashMap<K, Bucket>,
    previous: HashMap<K, Bucket>,
    rotated: Instant,
}

/// `tokens` may be negative: callers that wait have already taken theirs.
#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    updated: Instant,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateLimitError {
    /// The call needs more than a full bucket, so that waiting would not help.
    #[error("rate (count={count}) exceeds burst size (burst={burst})")]
    ExceedsBurst {
        /// What the call needs.
        count: u32,
        /// What a bucket holds.
        burst: u32,
    },
    /// So many calls are waiting for this key that this one would wait for too long.
    #[error("rate limit exceeded; retry in {} s", .retry_after.as_secs().saturating_add(1))]
    TooManyWaiting {
        /// How long the call would have waited.
        retry_after: Duration,
    },
}

impl<K: Clone + Eq + Hash> RateLimiter<K> {
    /// Buckets of `per_second` tokens that refill at `per_second` tokens a second (at least one).
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second: per_second.max(1),
            max_wait: DEFAULT_MAX_WAIT,
            max_keys: DEFAULT_MAX_KEYS,
            buckets: Mutex::new(Generations {
                current: HashMap::new(),
                previous: HashMap::new(),
                rotated: Instant::now(),
            }),
        }
    }

    /// Sets how many keys are remembered (at least two).
    #[must_use]
    pub fn with_max_keys(mut self, max_keys: usize) -> Self {
        self.max_keys = max_keys.max(2);
        self
    }

    /// Sets how long a call may be made to wait.
    #[must_use]
    pub fn with_max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// What a bucket holds, which is also its rate per second.
    pub fn burst(&self) -> u32 {
        self.per_second
    }

    /// Takes `cost` tokens of `key`'s bucket, waiting for them if need be.
    ///
    /// A caller that stops waiting gives its tokens back.
    ///
    /// # Errors
    /// [`RateLimitError`] at once, without taking anything.
    pub async fn acquire(&self, key: &K, cost: u32) -> Result<(), RateLimitError> {
        let wait = self.reserve(key, cost, self.max_wait)?;
        if wait.is_zero() {
            return Ok(());
        }
        let give_back = GiveBack { limiter: self, key, cost: Some(cost) };
        tokio::time::sleep(wait).await;
        give_back.keep();
        Ok(())
    }

    /// Takes `cost` tokens of `key`'s bucket if they are there now.
    ///
    /// # Errors
    /// [`RateLimitError`] when they are not.
    pub fn try_acquire(&self, key: &K, cost: u32) -> Result<(), RateLimitError> {
        self.reserve(key, cost, Duration::ZERO).map(drop)
    }

    /// How many buckets are remembered.
    pub fn len(&self) -> usize {
        let buckets = self.lock();
        buckets.current.len() + buckets.previous.len()
    }

    /// Whether no bucket is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn reserve(&self, key: &K, cost: u32, max_wait: Duration) -> Result<Duration, RateLimitError> {
        if cost > self.per_second {
            return Err(RateLimitError::ExceedsBurst { count: cost, burst: self.per_second });
        }
        let rate = f64::from(self.per_second);
        let now = Instant::now();
        let mut buckets = self.lock();
        let mut bucket = buckets
            .take(key, now, self.max_keys / 2)
            .unwrap_or(Bucket { tokens: rate, updated: now });
        let elapsed = now.saturating_duration_since(bucket.updated).as_secs_f64();
        bucket.tokens = (bucket.tokens + elapsed * rate).min(rate);
        bucket.updated = now;
        let left = bucket.tokens - f64::from(cost);
        let wait = Duration::try_from_secs_f64(-left / rate).unwrap_or(Duration::ZERO);
        let granted = wait <= max_wait;
        if granted {
            bucket.tokens = left;
        }
        buckets.current.insert(key.clone(), bucket);
        if granted { Ok(wait) } else { Err(RateLimitError::TooManyWaiting { retry_after: wait }) }
    }

    fn give_back(&self, key: &K, cost: u32) {
        let mut buckets = self.lock();
        let Generations { current, previous, .. } = &mut *buckets;
        if let Some(bucket) = current.get_mut(key).or_else(|| previous.get_mut(key)) {
            bucket.tokens = (bucket.tokens + f64::from(cost)).min(f64::from(self.per_second));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations<K>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Generations<K> {
    /// Finds a bucket after forgetting the idle ones.
    fn take(&mut self, key: &K, now: Instant, max_each: usize) -> Option<Bucket> {
        let age = now.saturating_duration_since(self.rotated);
        let full = self.current.len() >= max_each && !self.current.contains_key(key);
        if age >= GENERATION || full {
            self.previous = std::mem::take(&mut self.current);
            self.rotated = now;
        }
        if age >= 2 * GENERATION {
            self.previous.clear();
        }
        self.current.get(key).copied().or_else(|| self.previous.remove(key))
    }
}

impl<K> fmt::Debug for RateLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RateLimiter({}/s)", self.per_second)
    }
}

/// Returns the tokens of a caller that was cancelled while it waited.
struct GiveBack<'a, K: Clone + Eq + Hash> {
    limiter: &'a RateLimiter<K>,
    key: &'a K,
    cost: Option<u32>,
}

impl<K: Clone + Eq + Hash> GiveBack<'_, K> {
    fn keep(mut self) {
        self.cost = None;
    }
}

impl<K: Clone + Eq + Hash> Drop for GiveBack<'_, K> {
    fn drop(&mut self) {
        if let Some(cost) = self.cost {
            self.limiter.give_back(self.key, cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_the_next_call_waits_its_share() {
        let limiter = RateLimiter::new(10);
        let begun = Instant::now();
        limiter.acquire(&"a", 10).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        limiter.acquire(&"a", 5).await.unwrap();
        assert_eq!(begun.elapsed().as_millis(), 500);
        let other = Instant::now();
        limiter.acquire(&"b", 10).await.unwrap();
        assert_eq!(other.elapsed(), Duration::ZERO, "keys do not share a bucket");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_above_the_burst_is_refused_and_takes_nothing() {
        let limiter = RateLimiter::new(10);
        assert_eq!(
            limiter.acquire(&"a", 11).await,
            Err(RateLimitError::ExceedsBurst { count: 11, burst: 10 })
        );
        limiter.try_acquire(&"a", 10).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_limit() {
        let limiter = Arc::new(RateLimiter::new(1).with_max_wait(Duration::from_secs(3)));
        let mut waiting = Vec::new();
        let mut refused = 0;
        for _ in 0..10 {
            let limiter = Arc::clone(&limiter);
            waiting.push(tokio::spawn(async move { limiter.acquire(&(), 1).await }));
        }
        for call in waiting {
            refused += usize::from(call.await.unwrap().is_err());
        }
        assert_eq!(refused, 6, "one at once, three waiting, the others refused");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_caller_gives_its_tokens_back() {
        let limiter = Arc::new(RateLimiter::new(1));
        limiter.acquire(&(), 1).await.unwrap();
        let waiting = {
            let limiter = Arc::clone(&limiter);
            tokio::spawn(async move { limiter.acquire(&(), 1).await })
        };
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        let begun = Instant::now();
        limiter.acquire(&(), 1).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_buckets_are_forgotten_and_busy_ones_are_not() {
        let limiter = RateLimiter::new(1_000);
        limiter.try_acquire(&0, 1).unwrap();
        for n in 1..100 {
            limiter.try_acquire(&n, 1).unwrap();
        }
        for _ in 0..3 {
            tokio::time::advance(GENERATION).await;
            limiter.try_acquire(&0, 1).unwrap();
        }
        assert_eq!(limiter.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_keys_does_not_grow_memory() {
        let limiter = RateLimiter::new(5).with_max_keys(100);
        for n in 0..10_000 {
            limiter.try_acquire(&n, 1).unwrap();
            assert!(limiter.len() <= 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_keeps_its_state_when_generations_turn() {
        let limiter = RateLimiter::new(1);
        limiter.try_acquire(&"other", 1).unwrap();
        tokio::time::advance(GENERATION - Duration::from_millis(100)).await;
        limiter.try_acquire(&"a", 1).unwrap();
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(limiter.try_acquire(&"a", 1).is_err(), "only a fifth of a token is back");
    }
}
