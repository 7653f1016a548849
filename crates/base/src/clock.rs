//! Wall-clock time as a value.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use signet_time::UnixTime;
use tokio::time::Instant;

/// The longest single sleep of [`sleep_until`]; a jump of the wall clock is noticed within it.
const SLEEP_SLICE: Duration = Duration::from_secs(30);

/// A clock that is passed around.
pub type SharedClock = Arc<dyn Clock>;

/// Where wall-clock time comes from.
///
/// Durations and timeouts use tokio's [`Instant`]; this is for times that leave the process or
/// come from outside it: certificate validity, token expiry, stored times.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The current wall-clock time.
    fn now(&self) -> SystemTime;

    /// The current wall-clock time in whole seconds, rounded down.
    fn unix(&self) -> UnixTime {
        self.now().into()
    }
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clock, ready to be passed around.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock for tests: a fixed start plus what tokio's (usually paused) time has moved, plus jumps.
///
/// Clones share their jumps. It must be made inside a tokio runtime when time is paused there.
#[derive(Clone)]
pub struct TestClock {
    base: SystemTime,
    start: Instant,
    jump_ms: Arc<AtomicI64>,
}

impl TestClock {
    /// A clock that reads 2026-01-01T00:00:00Z now.
    pub fn new() -> Self {
        Self::at_unix(UnixTime::from_seconds(1_767_225_600))
    }

    /// A clock that reads `unix` now.
    pub fn at_unix(unix: UnixTime) -> Self {
        let base = shift(UNIX_EPOCH, unix.seconds().saturating_mul(1000));
        Self { base, start: Instant::now(), jump_ms: Arc::new(AtomicI64::new(0)) }
    }

    /// Moves the wall clock, and only it, forward: tokio's timers do not notice.
    ///
    /// To let time pass as it does in life, use `tokio::time::advance`.
    pub fn jump_forward(&self, by: Duration) {
        self.jump_ms.fetch_add(millis(by), Ordering::SeqCst);
    }

    /// Moves the wall clock, and only it, backward.
    pub fn jump_back(&self, by: Duration) {
        self.jump_ms.fetch_sub(millis(by), Ordering::SeqCst);
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        shift(self.base + self.start.elapsed(), self.jump_ms.load(Ordering::SeqCst))
    }
}

impl fmt::Debug for TestClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestClock({})", self.unix().seconds())
    }
}

/// Sleeps until the wall clock reads `deadline` or later.
///
/// Timers of the operating system stand still while a laptop sleeps and do not see a corrected
/// clock, so this sleeps in slices of at most 30 seconds and looks at the clock after each.
pub async fn sleep_until(clock: &dyn Clock, deadline: SystemTime) {
    loop {
        match deadline.duration_since(clock.now()) {
            Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(SLEEP_SLICE)).await,
            _ => return,
        }
    }
}

fn shift(time: SystemTime, by_ms: i64) -> SystemTime {
    let by = Duration::from_millis(by_ms.unsigned_abs());
    let moved = if by_ms < 0 { time.checked_sub(by) } else { time.checked_add(by) };
    moved.unwrap_or(time)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn test_clock_moves_with_paused_time_and_jumps_alone() {
        let clock = TestClock::at_unix(UnixTime::from_seconds(1_000));
        assert_eq!(clock.unix().seconds(), 1_000);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.unix().seconds(), 1_005);
        let other = clock.clone();
        other.jump_back(Duration::from_secs(2_000));
        assert_eq!(clock.unix().seconds(), -995);
        clock.jump_forward(Duration::from_millis(500));
        assert_eq!(clock.unix().seconds(), -995, "half a second is rounded down");
    }

    #[tokio::test(start_paused = true)]
    async fn sleep_until_notices_a_jump_of_the_wall_clock() {
        let clock = TestClock::new();
        let begun = Instant::now();
        let deadline = clock.now() + Duration::from_secs(3_600);
        let sleeper = {
            let clock = clock.clone();
            tokio::spawn(async move { sleep_until(&clock, deadline).await })
        };
        tokio::task::yield_now().await;
        clock.jump_forward(Duration::from_secs(3_600));
        sleeper.await.unwrap();
        assert!(begun.elapsed() <= SLEEP_SLICE + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn sleep_until_the_past_returns_at_once() {
        let clock = TestClock::new();
        let begun = Instant::now();
        sleep_until(&clock, UNIX_EPOCH).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
