//! Points in time as values; where the current one comes from is `signet_base::Clock`.

use std::{
    fmt,
    ops::{Add, Sub},
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// A point in time in whole seconds since 1970-01-01T00:00:00Z, without leap seconds; negative
/// before that.
///
/// This is how certificates, tokens, SPIRE's API and the databases count time. All arithmetic ends
/// at [`MIN`](Self::MIN) and [`MAX`](Self::MAX) instead of wrapping around, so that a time from
/// outside, whatever it is, stays on its side of every comparison. An `i64` that is added, taken
/// off or comes out of a subtraction is a number of seconds.
///
/// Where a format has no other way of saying "never", the value is [`EPOCH`](Self::EPOCH), and the
/// docs of the field say so. With serde this is the bare number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixTime(i64);

impl UnixTime {
    /// 1970-01-01T00:00:00Z, and what 0 stands for where it means "never" or "not known".
    pub const EPOCH: Self = Self(0);
    /// After every other time.
    pub const MAX: Self = Self(i64::MAX);
    /// Before every other time.
    pub const MIN: Self = Self(i64::MIN);

    /// The time that many seconds after 1970, or before it if negative.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds)
    }

    /// The seconds since 1970, for formats that count so.
    pub const fn seconds(self) -> i64 {
        self.0
    }

    /// The time half-way between two, rounded towards 1970.
    pub const fn midpoint(self, other: Self) -> Self {
        Self(self.0.midpoint(other.0))
    }

    /// Reads RFC 3339, and nothing else; parts of a second are dropped.
    ///
    /// # Errors
    /// [`ParseTimeError`] when it is no such text.
    pub fn from_rfc3339(text: &str) -> Result<Self, ParseTimeError> {
        OffsetDateTime::parse(text, &Rfc3339).map(Self::from).map_err(|_| ParseTimeError)
    }

    /// RFC 3339 in UTC, such as `2026-11-21T07:49:11Z`; none for years that it cannot write.
    pub fn rfc3339(self) -> Option<String> {
        OffsetDateTime::from_unix_timestamp(self.0).ok()?.format(&Rfc3339).ok()
    }

    /// As SPIRE's commands print it, which is how Go does: `2026-11-21 07:49:11 +0000 UTC`; none
    /// for years that this cannot write.
    pub fn go(self) -> Option<String> {
        let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
        OffsetDateTime::from_unix_timestamp(self.0).ok()?.format(format).ok()
    }
}

impl fmt::Display for UnixTime {
    /// RFC 3339 in UTC; the seconds since 1970 for years that it cannot write.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rfc3339() {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} s after 1970", self.0),
        }
    }
}

impl FromStr for UnixTime {
    type Err = ParseTimeError;

    /// Reads seconds since 1970, as SPIRE's flags have them, or RFC 3339.
    fn from_str(text: &str) -> Result<Self, ParseTimeError> {
        if let Ok(seconds) = text.parse() {
            return Ok(Self(seconds));
        }
        Self::from_rfc3339(text)
    }
}

/// A text is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTimeError;

impl fmt::Display for ParseTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected seconds since 1970, or a time such as 2027-01-31T12:00:00Z")
    }
}

impl std::error::Error for ParseTimeError {}

impl From<SystemTime> for UnixTime {
    /// Rounds down, also before 1970.
    fn from(time: SystemTime) -> Self {
        let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self(whole(after)),
            Err(before) => {
                let before = before.duration();
                Self((-whole(before)).saturating_sub(i64::from(before.subsec_nanos() > 0)))
            }
        }
    }
}

impl From<UnixTime> for SystemTime {
    /// 1970 for the times before it, and the same for those that the system cannot count to.
    fn from(time: UnixTime) -> Self {
        let after = Duration::from_secs(u64::try_from(time.0).unwrap_or_default());
        Self::UNIX_EPOCH.checked_add(after).unwrap_or(Self::UNIX_EPOCH)
    }
}

impl From<OffsetDateTime> for UnixTime {
    fn from(time: OffsetDateTime) -> Self {
        Self(time.unix_timestamp())
    }
}

impl Add<i64> for UnixTime {
    type Output = Self;

    /// That many seconds later.
    fn add(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

impl Sub<i64> for UnixTime {
    type Output = Self;

    /// That many seconds earlier.
    fn sub(self, seconds: i64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }
}

impl Add<Duration> for UnixTime {
    type Output = Self;

    /// Later by the whole seconds of a duration.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add_unsigned(duration.as_secs()))
    }
}

impl Sub<Duration> for UnixTime {
    type Output = Self;

    /// Earlier by the whole seconds of a duration.
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(duration.as_secs()))
    }
}

impl Sub for UnixTime {
    type Output = i64;

    /// The seconds from the other time to this one; negative if the other one is later.
    fn sub(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_ends_where_the_numbers_do() {
        assert_eq!(UnixTime::MAX + 1, UnixTime::MAX);
        assert_eq!(UnixTime::MAX + Duration::MAX, UnixTime::MAX);
        assert_eq!(UnixTime::MIN - 1, UnixTime::MIN);
        assert_eq!(UnixTime::MIN - Duration::MAX, UnixTime::MIN);
        assert_eq!(UnixTime::MIN - UnixTime::MAX, i64::MIN);
        assert_eq!(UnixTime::MAX - UnixTime::MIN, i64::MAX);
        assert_eq!(UnixTime::from_seconds(5) + Duration::from_millis(1_999), UnixTime(6));
        assert_eq!(UnixTime::from_seconds(5) - UnixTime::from_seconds(7), -2);
    }

    #[test]
    fn seconds_are_rounded_down_on_both_sides_of_1970() {
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(UnixTime::from(epoch + Duration::from_millis(1_999)), UnixTime(1));
        assert_eq!(UnixTime::from(epoch - Duration::from_millis(1)), UnixTime(-1));
        assert_eq!(UnixTime::from(epoch - Duration::from_secs(1)), UnixTime(-1));
    }

    #[test]
    fn a_time_reads_as_it_was_written() {
        let time = UnixTime::from_seconds(1_795_247_351);
        assert_eq!(time.to_string(), "2026-11-21T07:49:11Z");
        assert_eq!(time.go().as_deref(), Some("2026-11-21 07:49:11 +0000 UTC"));
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!("1795247351".parse(), Ok(time));
        assert_eq!("2026-11-21T08:49:11+01:00".parse(), Ok(time));
        assert_eq!("tomorrow".parse::<UnixTime>(), Err(ParseTimeError));
        assert_eq!(UnixTime::MAX.rfc3339(), None);
        assert_eq!(UnixTime::MAX.to_string(), format!("{} s after 1970", i64::MAX));
    }
}
