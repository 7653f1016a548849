//! When an endpoint is asked again.

use std::time::Duration;

use signet_base::Jitter;
use signet_identity::Bundle;

/// The refresh hint of a bundle that has none (SPIFFE Federation, section 4.1).
const DEFAULT_HINT: Duration = Duration::from_secs(5 * 60);
/// Bounds of what a bundle may hint at.
const MIN_HINT: Duration = Duration::from_secs(60);
const MAX_HINT: Duration = Duration::from_secs(24 * 3600);
/// How many times within a hint an endpoint is asked, as SPIRE does.
const TIMES: u32 = 4;
/// The shortest pause, whatever an endpoint says of itself.
const MIN_PAUSE: Duration = Duration::from_secs(10);
/// As long as there is no bundle at all: the first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// By how much pauses are spread, so that servers do not ask in step.
const SPREAD: f64 = 0.1;

/// The pause until the next poll.
///
/// With a bundle it is a quarter of its hint, after a failure too (section 6.2: to retry at once
/// overwhelms the endpoint). An endpoint that offers conditional requests and says for how long an
/// answer is fresh is asked again then, if that is sooner. `failures` in a row count only while
/// there is no bundle.
pub(super) fn pause(bundle: Option<&Bundle>, fresh: Option<Duration>, failures: u32) -> Duration {
    let Some(bundle) = bundle else {
        let doublings = failures.saturating_sub(1).min(8);
        return FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    };
    let hint = match u64::try_from(bundle.refresh_hint) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).clamp(MIN_HINT, MAX_HINT),
        _ => DEFAULT_HINT,
    };
    let pause = hint / TIMES;
    match fresh {
        Some(fresh) => pause.min(fresh.max(MIN_PAUSE)),
        None => pause,
    }
}

/// The pause, a little longer or shorter.
pub(super) fn spread(pause: Duration) -> Duration {
    Jitter::new().spread(pause, SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hinting(refresh_hint: i64) -> Bundle {
        Bundle { refresh_hint, ..Bundle::empty("x.test".parse().unwrap()) }
    }

    #[test]
    fn a_quarter_of_the_hint_within_bounds_whatever_the_endpoint_says() {
        let seconds = |hint: i64| pause(Some(&hinting(hint)), None, 0).as_secs();
        assert_eq!(seconds(300), 75);
        assert_eq!(seconds(0), 75);
        assert_eq!(seconds(-5), 75);
        assert_eq!(seconds(1), 15);
        assert_eq!(seconds(i64::MAX), 6 * 3600);
        // Failing makes nothing faster.
        assert_eq!(pause(Some(&hinting(300)), None, 7).as_secs(), 75);
    }

    #[test]
    fn an_endpoint_that_is_fresh_for_less_is_asked_sooner_but_not_without_pause() {
        let seconds =
            |fresh: u64| pause(Some(&hinting(300)), Some(Duration::from_secs(fresh)), 0).as_secs();
        assert_eq!((seconds(15), seconds(1), seconds(3600)), (15, 10, 75));
    }

    #[test]
    fn a_peer_that_is_not_up_yet_is_tried_often_at_first() {
        let seconds: Vec<_> = (1..7).map(|n| pause(None, None, n).as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 60, 60]);
        assert_eq!(pause(None, None, u32::MAX).as_secs(), 60);
    }

    #[test]
    fn pauses_are_spread_by_a_tenth() {
        for _ in 0..100 {
            let spread = spread(Duration::from_secs(100)).as_secs_f64();
            assert!((89.9..110.1).contains(&spread), "{spread}");
        }
    }
}
