//! When an SVID is to be replaced (the rules of SPIRE's agent).

use signet_time::UnixTime;

/// The least validity that must remain beside an availability target, seconds.
const MIN_GRACE: i64 = 12 * 3600;
/// How far the clocks of agents and servers may differ, seconds.
const MAX_SKEW: i64 = 60;
/// How far an availability target is spread, seconds.
const TARGET_SPREAD: i64 = 10 * 60;

/// The rotation rule: at the jittered half of the lifetime, or earlier when an availability
/// target is set and the lifetime is long enough for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RotationRule {
    /// How long an X.509-SVID must stay valid without the server, seconds; 0 for no such rule.
    pub availability_target: i64,
}

impl RotationRule {
    /// Whether `lifetime` (seconds) is too short for the availability target, so that the
    /// half-life rule applies instead. False when no target is set.
    pub fn falls_back(&self, lifetime: i64) -> bool {
        self.availability_target > 0 && lifetime - self.availability_target <= MIN_GRACE
    }

    /// Whether an X.509-SVID is due at `now`. `draw` is in `0.0..1.0` and fixed per SVID, so that
    /// the moment does not wander from check to check.
    pub fn x509_due(
        &self,
        now: UnixTime,
        not_before: UnixTime,
        not_after: UnixTime,
        draw: f64,
    ) -> bool {
        now >= self.x509_due_at(not_before, not_after, draw)
    }

    /// When an X.509-SVID becomes due.
    pub fn x509_due_at(&self, not_before: UnixTime, not_after: UnixTime, draw: f64) -> UnixTime {
        let lifetime = (not_after - not_before).max(0);
        if self.availability_target > 0 && !self.falls_back(lifetime) {
            let spread = (TARGET_SPREAD as f64 * draw) as i64;
            return not_after - self.availability_target - spread;
        }
        half_life(not_before, not_after, draw)
    }

    /// Whether a JWT-SVID is due at `now`: past its jittered half-life or expired.
    pub fn jwt_due(
        &self,
        now: UnixTime,
        issued_at: UnixTime,
        expires_at: UnixTime,
        draw: f64,
    ) -> bool {
        now >= expires_at || now >= half_life(issued_at, expires_at, draw)
    }
}

/// Whether what begins at `not_before` is valid only later than `now`, by more than clocks differ.
pub fn is_not_yet_valid(now: UnixTime, not_before: UnixTime) -> bool {
    not_before > now + MAX_SKEW
}

/// The moment half the lifetime is left, moved by up to a tenth of that half either way.
fn half_life(from: UnixTime, to: UnixTime, draw: f64) -> UnixTime {
    let half = (to - from).max(0) as f64 / 2.0;
    let remaining = half * (0.9 + 0.2 * draw.clamp(0.0, 1.0));
    to - remaining as i64
}

/// A number in `0.0..1.0` that depends on `seed` only: spreads rotations without wandering.
pub fn draw(seed: &[u8]) -> f64 {
    // FNV-1a: this spreads load, nothing depends on its being hard to guess.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in seed {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_life_is_spread_by_a_tenth_either_way() {
        let rule = RotationRule::default();
        assert_eq!(
            rule.x509_due_at(UnixTime::EPOCH, UnixTime::from_seconds(2000), 0.0),
            UnixTime::from_seconds(1100)
        );
        assert_eq!(
            rule.x509_due_at(UnixTime::EPOCH, UnixTime::from_seconds(2000), 0.5),
            UnixTime::from_seconds(1000)
        );
        assert_eq!(
            rule.x509_due_at(UnixTime::EPOCH, UnixTime::from_seconds(2000), 1.0),
            UnixTime::from_seconds(900)
        );
        assert!(
            !rule.x509_due(
                UnixTime::from_seconds(899),
                UnixTime::EPOCH,
                UnixTime::from_seconds(2000),
                1.0
            ) && rule.x509_due(
                UnixTime::from_seconds(900),
                UnixTime::EPOCH,
                UnixTime::from_seconds(2000),
                1.0
            )
        );
        assert!(
            rule.x509_due(
                UnixTime::from_seconds(5000),
                UnixTime::EPOCH,
                UnixTime::from_seconds(2000),
                0.0
            ),
            "an expired SVID is due"
        );
        assert!(
            rule.jwt_due(
                UnixTime::from_seconds(1000),
                UnixTime::EPOCH,
                UnixTime::from_seconds(2000),
                0.5
            ) && !rule.jwt_due(
                UnixTime::from_seconds(999),
                UnixTime::EPOCH,
                UnixTime::from_seconds(2000),
                0.5
            )
        );
    }

    #[test]
    fn availability_target_rotates_early_when_the_lifetime_allows() {
        let day = 86_400;
        let rule = RotationRule { availability_target: day };
        assert_eq!(
            rule.x509_due_at(UnixTime::EPOCH, UnixTime::from_seconds(3 * day), 0.0),
            UnixTime::from_seconds(2 * day)
        );
        assert_eq!(
            rule.x509_due_at(UnixTime::EPOCH, UnixTime::from_seconds(3 * day), 1.0),
            UnixTime::from_seconds(2 * day - 600)
        );
        assert!(rule.falls_back(day + 12 * 3600) && !rule.falls_back(day + 12 * 3600 + 1));
        assert_eq!(
            rule.x509_due_at(UnixTime::EPOCH, UnixTime::from_seconds(3600), 0.5),
            UnixTime::from_seconds(1800)
        );
    }

    #[test]
    fn draws_lie_in_the_unit_interval_and_are_stable() {
        let draws: Vec<f64> = (0..1000_u32).map(|i| draw(&i.to_be_bytes())).collect();
        assert!(draws.iter().all(|d| (0.0..1.0).contains(d)));
        let mean = draws.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
        assert_eq!(draw(b"x").to_bits(), draw(b"x").to_bits());
    }

    #[test]
    fn clocks_that_jump_do_not_overflow() {
        let rule = RotationRule::default();
        assert!(rule.x509_due(UnixTime::MAX, UnixTime::EPOCH, UnixTime::from_seconds(10), 0.5));
        assert!(!rule.x509_due(UnixTime::MIN, UnixTime::EPOCH, UnixTime::from_seconds(10), 0.5));
        assert_eq!(
            rule.x509_due_at(UnixTime::from_seconds(10), UnixTime::EPOCH, 0.5),
            UnixTime::EPOCH
        );
        assert!(
            is_not_yet_valid(UnixTime::EPOCH, UnixTime::from_seconds(61))
                && !is_not_yet_valid(UnixTime::EPOCH, UnixTime::from_seconds(60))
        );
        assert!(!is_not_yet_valid(UnixTime::MAX, UnixTime::EPOCH));
    }
}
