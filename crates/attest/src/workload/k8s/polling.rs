//! When the kubelet is asked: at once, soon again while somebody waits, and never too often.

use std::time::Duration;

use tokio::time::Instant;

/// The least time between the starts of two requests.
const QUICK: Duration = Duration::from_millis(100);
/// The time between them in the long run: SPIRE's.
pub(super) const STEADY: Duration = Duration::from_millis(500);
/// How many requests may follow each other quickly: for a minute and a quarter.
const CREDIT: f64 = 600.0;
/// A kubelet that takes long is left alone for this many times as long.
const REST: u32 = 2;

/// Decides when the next request may start.
///
/// Without a fixed interval: requests start at least 100 ms apart, and at least twice as long as
/// the last answer took (but no more than 500 ms); after six hundred of them in a row they
/// start 500 ms apart, and two more quick ones are earned each second. So there are at most ten a
/// second, for little more than a minute, and in the long run no more than SPIRE's two.
#[derive(Debug)]
pub(super) struct Pace {
    fixed: Option<Duration>,
    started: Option<Instant>,
    took: Duration,
    credit: f64,
}

impl Pace {
    /// With a fixed interval, or with the adaptive one.
    pub(super) fn new(fixed: Option<Duration>) -> Self {
        Self { fixed, started: None, took: Duration::ZERO, credit: CREDIT }
    }

    /// When the next request may start.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let Some(started) = self.started else { return now };
        started + self.fixed.unwrap_or_else(|| self.adaptive(started, now))
    }

    fn adaptive(&self, started: Instant, now: Instant) -> Duration {
        let earned = now.duration_since(started).as_secs_f64() / STEADY.as_secs_f64();
        if self.credit + earned < 1.0 {
            return STEADY;
        }
        (self.took * REST).clamp(QUICK, STEADY)
    }

    /// A request starts now.
    pub(super) fn start(&mut self, now: Instant) {
        if let Some(started) = self.started {
            let earned = now.duration_since(started).as_secs_f64() / STEADY.as_secs_f64();
            self.credit = (self.credit + earned).min(CREDIT);
        }
        self.credit = (self.credit - 1.0).max(0.0);
        self.started = Some(now);
    }

    /// The request that started last is answered, well or not.
    pub(super) fn answered(&mut self, now: Instant) {
        self.took = self.started.map_or(Duration::ZERO, |started| now.duration_since(started));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many requests start within `time` when each takes `took` and somebody always waits.
    fn starts(mut pace: Pace, time: Duration, took: Duration) -> usize {
        let begin = Instant::now();
        let mut now = begin;
        let mut count = 0;
        loop {
            now = now.max(pace.due(now));
            if now > begin + time {
                return count;
            }
            pace.start(now);
            count += 1;
            now += took;
            pace.answered(now);
        }
    }

    #[test]
    fn requests_are_quick_at_first_and_never_more_than_ten_a_second() {
        let quick = Duration::from_millis(5);
        assert_eq!(starts(Pace::new(None), Duration::from_secs(1), quick), 11);
        let minute = starts(Pace::new(None), Duration::from_secs(60), quick);
        assert!((590..=601).contains(&minute), "{minute}");
        let longer = starts(Pace::new(None), Duration::from_secs(300), quick);
        assert!((1190..=1210).contains(&longer), "{longer}");
        let hour = starts(Pace::new(None), Duration::from_secs(3600), quick);
        assert!(hour <= 2 * 3600 + 610, "{hour}");
    }

    #[test]
    fn a_slow_kubelet_is_asked_less_often() {
        let slow = Duration::from_millis(60);
        assert_eq!(starts(Pace::new(None), Duration::from_secs(1), slow), 9);
        // But at least as often as by SPIRE, where answers are quicker than its interval.
        let very_slow = Duration::from_millis(400);
        assert_eq!(starts(Pace::new(None), Duration::from_secs(10), very_slow), 21);
    }

    #[test]
    fn a_fixed_interval_is_kept() {
        let second = Some(Duration::from_secs(1));
        let quick = Duration::from_millis(5);
        assert_eq!(starts(Pace::new(second), Duration::from_secs(10), quick), 11);
        // A first request, and one after a long pause, is made at once.
        let now = Instant::now();
        assert_eq!(Pace::new(second).due(now), now);
        let mut pace = Pace::new(second);
        pace.start(now);
        assert!(pace.due(now + Duration::from_secs(5)) < now + Duration::from_secs(5));
    }
}
