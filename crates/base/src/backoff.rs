//! Exponential backoff with jitter.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// A small, fast random source for spreading load; never for secrets.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    /// A source seeded from the process's hash keys: different in each process and each call.
    pub fn new() -> Self {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(0);
        Self(hasher.finish())
    }

    /// A source that always gives the same numbers, for tests.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits (SplitMix64).
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number in `[0, 1)`.
    pub fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `middle` moved by up to `fraction` of itself either way; `fraction` is cut to `[0, 1]`.
    pub fn spread(&mut self, middle: Duration, fraction: f64) -> Duration {
        let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        let factor = 1.0 + fraction * (2.0 * self.next_unit() - 1.0);
        Duration::try_from_secs_f64(middle.as_secs_f64() * factor).unwrap_or(middle)
    }
}

impl Default for Jitter {
    fn default() -> Self {
        Self::new()
    }
}

/// Delays that grow by a factor from a minimum to a maximum, each spread by jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    factor: f64,
    jitter: f64,
    next: Duration,
    random: Jitter,
}

impl Backoff {
    /// Doubling delays from `min` to `max` with a jitter of 10 %.
    pub fn new(min: Duration, max: Duration) -> Self {
        let max = max.max(min);
        Self { min, max, factor: 2.0, jitter: 0.1, next: min, random: Jitter::new() }
    }

    /// Sets how much a delay may differ from its middle: 0 for none, 0.5 for half to one and a half.
    #[must_use]
    pub fn with_jitter(mut self, fraction: f64) -> Self {
        self.jitter = fraction;
        self
    }

    /// Sets the growth from one delay to the next; below 1 counts as 1.
    #[must_use]
    pub fn with_factor(mut self, factor: f64) -> Self {
        self.factor = if factor.is_finite() { factor.max(1.0) } else { 1.0 };
        self
    }

    /// Sets the random source, for tests.
    #[must_use]
    pub fn with_random(mut self, random: Jitter) -> Self {
        self.random = random;
        self
    }

    /// The delay before the next attempt; each call is one more failure. Never above the maximum.
    pub fn next_delay(&mut self) -> Duration {
        let middle = self.next;
        let grown = Duration::try_from_secs_f64(middle.as_secs_f64() * self.factor);
        self.next = grown.unwrap_or(self.max).min(self.max);
        self.random.spread(middle, self.jitter).min(self.max)
    }

    /// Sleeps for [`Backoff::next_delay`].
    pub async fn wait(&mut self) {
        let delay = self.next_delay();
        tokio::time::sleep(delay).await;
    }

    /// Starts again from the minimum, after a success.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_maximum_and_starts_again_after_a_success() {
        let mut backoff =
            Backoff::new(Duration::from_secs(1), Duration::from_secs(5)).with_jitter(0.0);
        let delays: Vec<_> = (0..5).map(|_| backoff.next_delay().as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.next_delay().as_secs(), 1);
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_spreads() {
        let mut random = Jitter::from_seed(7);
        let middle = Duration::from_secs(10);
        let got: Vec<_> = (0..1_000).map(|_| random.spread(middle, 0.5)).collect();
        assert!(got.iter().all(|d| *d >= middle / 2 && *d < middle * 3 / 2));
        assert!(got.iter().any(|d| *d < middle * 6 / 10));
        assert!(got.iter().any(|d| *d > middle * 14 / 10));
    }

    #[test]
    fn never_exceeds_the_maximum_and_survives_odd_numbers() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(1))
            .with_factor(f64::NAN)
            .with_jitter(f64::INFINITY);
        for _ in 0..100 {
            assert_eq!(backoff.next_delay(), Duration::from_secs(10));
        }
        let mut huge = Backoff::new(Duration::from_secs(1), Duration::MAX).with_factor(f64::MAX);
        for _ in 0..10 {
            huge.next_delay();
        }
    }

    #[test]
    fn two_sources_differ() {
        assert_ne!(Jitter::new().next_u64(), Jitter::new().next_u64());
    }
}
