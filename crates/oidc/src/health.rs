//! `health_checks`: whether the keys are current, and what there is to say of certificates.

use std::time::Duration;

use async_trait::async_trait;
use signet_acme::Status;
use signet_base::SharedClock;
use signet_daemon::health::{HealthCheck, State};
use tokio::time::Instant;

use crate::keys::Keys;

/// How many polls may fail in a row.
const POLLS: u32 = 5;
/// The least time that keys count as current for.
const MIN_AGE: Duration = Duration::from_secs(3 * 60);

/// Checks a source by what it last gave.
#[derive(Debug)]
pub struct Source {
    keys: Keys,
    threshold: Duration,
    started: Instant,
}

impl Source {
    /// Of a source that is asked every `poll_interval`.
    pub fn new(keys: Keys, poll_interval: Duration) -> Self {
        let threshold = poll_interval.saturating_mul(POLLS).max(MIN_AGE);
        Self { keys, threshold, started: Instant::now() }
    }
}

#[async_trait]
impl HealthCheck for Source {
    /// Ready once there are keys, and live as long as they come; at the start, as long as they may
    /// still come.
    async fn check(&self) -> State {
        let Some(seen) = self.keys.seen() else {
            return match self.started.elapsed() < self.threshold {
                true => State::starting(),
                false => State::failed("the source has given no keys"),
            };
        };
        let age = seen.elapsed();
        if age < self.threshold {
            return State::good();
        }
        State::failed(format!("the source has given no keys for {} s", age.as_secs()))
    }
}

/// Tells of certificates by ACME that are missing or not renewed. The provider counts as ready all the
/// same: an authority can confirm a domain only where connections are sent to the provider.
#[derive(Debug)]
pub struct Certificates {
    status: Status,
    clock: SharedClock,
}

impl Certificates {
    /// Of a listener.
    pub fn new(status: Status, clock: SharedClock) -> Self {
        Self { status, clock }
    }
}

#[async_trait]
impl HealthCheck for Certificates {
    async fn check(&self) -> State {
        State::good_despite(&self.status.complaints(self.clock.unix()))
    }
}

#[cfg(test)]
mod tests {
    use signet_base::SystemClock;

    use super::*;
    use crate::keys::Publishing;

    #[tokio::test(start_paused = true)]
    async fn a_provider_is_live_while_keys_come_and_ready_once_they_have() {
        let keys = Keys::new(Publishing::default(), SystemClock::shared());
        let source = Source::new(keys.clone(), Duration::from_secs(10));
        let state = async || {
            let state = source.check().await;
            (state.live, state.ready)
        };
        assert_eq!(state().await, (true, false));
        tokio::time::advance(MIN_AGE).await;
        assert_eq!(state().await, (false, false));
        keys.set(&[]);
        assert_eq!(state().await, (true, true));
        tokio::time::advance(MIN_AGE - Duration::from_secs(1)).await;
        assert_eq!(state().await, (true, true));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(state().await, (false, false));
    }
}
