//! When things happen in the life of an authority (the rules of SPIRE's CA manager).
//!
//! All times are Unix seconds, all spans seconds.

use std::time::Duration;

use signet_time::UnixTime;

/// How often the rotation loop looks.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked whether the upstream authority is to be asked for its bundle.
pub const UPSTREAM_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How often expired authorities are dropped from the bundle.
pub const BUNDLE_PRUNE_INTERVAL: Duration = Duration::from_secs(6 * HOUR as u64);
/// How long an expired authority stays in the bundle.
pub const BUNDLE_PRUNE_AGE: i64 = DAY;
/// How long an authority that expired is kept in the journal.
pub const JOURNAL_PRUNE_AGE: i64 = 14 * DAY;
/// How far behind its own issue an authority may find the clock before it is replaced: nobody
/// whose clock agrees with ours would accept what it signs.
pub const BACKWARD_TOLERANCE: i64 = 60;

/// The longest SVID life that no scheduled rotation cuts short, however long the CA lives.
pub const MAX_SVID_TTL: Duration = Duration::from_secs(ACTIVATE_CAP as u64);

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const PREPARE_DIVISOR: i64 = 2;
const PREPARE_CAP: i64 = 30 * DAY;
const ACTIVATE_DIVISOR: i64 = 6;
const ACTIVATE_CAP: i64 = 7 * DAY;

/// When the successor of an authority is to be prepared.
pub fn prepare_at(issued_at: UnixTime, not_after: UnixTime) -> UnixTime {
    let life = not_after - issued_at;
    not_after - (life / PREPARE_DIVISOR).min(PREPARE_CAP)
}

/// When the successor of an authority is to take over.
pub fn activate_at(issued_at: UnixTime, not_after: UnixTime) -> UnixTime {
    let life = not_after - issued_at;
    not_after - (life / ACTIVATE_DIVISOR).min(ACTIVATE_CAP)
}

/// Until when at the latest a successor may wait for others to know it: half of the time between
/// [`activate_at`] and the end, so that SVIDs still get a life.
pub fn latest_at(issued_at: UnixTime, not_after: UnixTime) -> UnixTime {
    let left = not_after - activate_at(issued_at, not_after);
    not_after - left / 2
}

/// The longest SVID life that a scheduled rotation never cuts short, given the CA's life.
pub fn max_svid_ttl(ca_ttl: Duration) -> Duration {
    (ca_ttl / ACTIVATE_DIVISOR as u32).min(MAX_SVID_TTL)
}

/// The shortest CA life under which an SVID of life `svid_ttl` is never cut short.
pub fn min_ca_ttl(svid_ttl: Duration) -> Duration {
    svid_ttl.saturating_mul(ACTIVATE_DIVISOR as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_long_authority_is_prepared_at_half_and_replaced_at_five_sixths() {
        assert_eq!(
            prepare_at(UnixTime::EPOCH, UnixTime::from_seconds(DAY)),
            UnixTime::from_seconds(12 * HOUR)
        );
        assert_eq!(
            activate_at(UnixTime::EPOCH, UnixTime::from_seconds(DAY)),
            UnixTime::from_seconds(20 * HOUR)
        );
    }

    #[test]
    fn long_lives_are_capped_at_thirty_and_seven_days() {
        let year = 365 * DAY;
        assert_eq!(
            prepare_at(UnixTime::EPOCH, UnixTime::from_seconds(year)),
            UnixTime::from_seconds(year - 30 * DAY)
        );
        assert_eq!(
            activate_at(UnixTime::EPOCH, UnixTime::from_seconds(year)),
            UnixTime::from_seconds(year - 7 * DAY)
        );
    }

    #[test]
    fn an_svid_may_live_a_sixth_of_the_ca_and_at_most_a_week() {
        assert_eq!(max_svid_ttl(Duration::from_secs(86_400)), Duration::from_secs(14_400));
        assert_eq!(
            max_svid_ttl(Duration::from_secs(86_400 * 365)),
            Duration::from_secs(7 * 86_400)
        );
        assert_eq!(min_ca_ttl(Duration::from_secs(3_600)), Duration::from_secs(21_600));
    }
}
