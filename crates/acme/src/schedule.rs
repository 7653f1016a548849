//! When a certificate is renewed.

use std::time::Duration;

use signet_base::Jitter;
use signet_time::UnixTime;

/// How long before its end a certificate is renewed, seconds, as SPIRE does; of one that lives less
/// than three times as long, after two thirds of its life.
const MARGIN: i64 = 30 * 86_400;

/// When to renew a certificate of that validity. A part of the margin is left to chance, so that many
/// servers which got theirs at once do not come back at once.
pub(crate) fn renew_at(from: UnixTime, to: UnixTime, random: &mut Jitter) -> UnixTime {
    let margin = MARGIN.min((to - from).max(0) / 3);
    let early = (margin as f64 / 10.0 * random.next_unit()) as i64;
    to - margin - early
}

/// When to renew, with the window that the authority suggests (RFC 9773): at a moment in it, where
/// that is sooner than we would by ourselves. An authority that is about to revoke suggests one that
/// has passed; a later one is not waited for.
pub(crate) fn within(
    planned: UnixTime,
    (start, end): (UnixTime, UnixTime),
    random: &mut Jitter,
) -> UnixTime {
    let width = (end - start).max(0) as f64;
    let moment = start + (width * random.next_unit()) as i64;
    moment.min(planned)
}

/// How soon an authority is asked again for the window it suggests, given what it said: between one
/// hour and one day.
pub(crate) fn ask_again(after: Duration) -> Duration {
    const HOUR: Duration = Duration::from_secs(3600);
    after.clamp(HOUR, HOUR * 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> UnixTime {
        UnixTime::from_seconds(day * 86_400)
    }

    #[test]
    fn a_certificate_is_renewed_thirty_days_or_a_third_of_its_life_before_its_end() {
        for seed in 0..100 {
            let mut random = Jitter::from_seed(seed);
            let mut renewed = |life| renew_at(at(0), at(life), &mut random);
            assert!((at(57)..=at(60)).contains(&renewed(90)), "{seed}");
            assert!((at(332)..=at(335)).contains(&renewed(365)), "{seed}");
            assert!((at(27)..=at(30)).contains(&renewed(45)), "{seed}");
        }
        let short = renew_at(at(0), UnixTime::from_seconds(30), &mut Jitter::from_seed(1));
        assert!((19..=20).contains(&short.seconds()), "{short:?}");
        let none = renew_at(at(1), at(0), &mut Jitter::from_seed(1));
        assert_eq!(none, at(0));
    }

    #[test]
    fn the_authority_brings_a_renewal_forward_and_never_puts_it_off() {
        let mut random = Jitter::from_seed(3);
        assert!((at(10)..=at(12)).contains(&within(at(60), (at(10), at(12)), &mut random)));
        assert_eq!(within(at(60), (at(70), at(72)), &mut random), at(60));
        assert_eq!(within(at(60), (at(10), at(9)), &mut random), at(10));
    }

    #[test]
    fn the_authority_is_asked_at_least_daily_and_at_most_hourly() {
        let asked = |seconds| ask_again(Duration::from_secs(seconds)).as_secs();
        assert_eq!((asked(0), asked(21_600), asked(u64::MAX)), (3600, 21_600, 86_400));
    }
}
