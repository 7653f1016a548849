//! Times and messages as SPIRE's commands print them.

use std::time::Duration;

use prost::{Message, Name};
use serde_json::Value;
use signet_api::{json, pb::spire::api::types};
use signet_time::UnixTime;

use super::{CliError, Terminal};

impl Terminal<'_> {
    /// Prints a message as JSON on one line.
    pub(super) fn json<M: Message + Name>(&mut self, message: &M) -> Result<(), CliError> {
        self.json_value(&json::to_value(message))
    }

    /// Prints JSON on one line.
    pub(super) fn json_value(&mut self, value: &Value) -> Result<(), CliError> {
        Ok(writeln!(self.out, "{}", json::to_line(value))?)
    }
}

/// Unix seconds as `2026-11-21 06:49:06 +0000 UTC`.
pub(super) fn timestamp(unix: i64) -> String {
    UnixTime::from_seconds(unix).go().unwrap_or_else(|| unix.to_string())
}

/// Unix seconds as `2026-11-21T06:49:06Z`.
pub(super) fn rfc3339(unix: i64) -> String {
    UnixTime::from_seconds(unix).rfc3339().unwrap_or_else(|| unix.to_string())
}

/// A duration in Go's notation: `2.984575ms`, `16s`, `1h0m5.5s`.
pub(super) fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |nanos: u128, unit: u128, digits: usize| {
        let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}\u{b5}s", fraction(nanos, 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000, 6)),
        _ => {
            let seconds = duration.as_secs();
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = fraction(nanos % 60_000_000_000, 1_000_000_000, 9);
            match (hours, minutes) {
                (0, 0) => format!("{rest}s"),
                (0, _) => format!("{minutes}m{rest}s"),
                _ => format!("{hours}h{minutes}m{rest}s"),
            }
        }
    }
}

/// An ID of a message, or `(none)`.
pub(super) fn spiffe_id(id: Option<&types::Spiffeid>) -> String {
    match id {
        Some(id) => format!("spiffe://{}{}", id.trust_domain, id.path),
        None => "(none)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_times_print_as_in_go() {
        for (nanos, wanted) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5\u{b5}s"),
            (2_984_575, "2.984575ms"),
            (4_000_000, "4ms"),
            (16_000_000_000, "16s"),
            (10_500_000_000, "10.5s"),
            (65_000_000_000, "1m5s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_605_500_000_000, "1h0m5.5s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), wanted);
        }
        assert_eq!(timestamp(1_795_243_746), "2026-11-21 06:49:06 +0000 UTC");
        assert_eq!(rfc3339(1_795_243_746), "2026-11-21T06:49:06Z");
    }
}
