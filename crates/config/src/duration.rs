//! Durations in Go's notation, as SPIRE's files write them.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// A minus sign before something other than 0.
    #[error("a duration cannot be negative: {0:?}")]
    Negative(String),
    /// Anything else.
    #[error("not a duration such as \"30s\", \"5m\" or \"1h30m\": {0:?}")]
    Syntax(String),
    /// More than about 292 years.
    #[error("a duration of more than 292 years: {0:?}")]
    TooLong(String),
}

/// Reads a duration: numbers with a unit of `ns`, `us`, `ms`, `s`, `m` or `h` each, such as
/// `1h30m` or `1.5h`, or a bare `0`.
///
/// # Errors
/// [`DurationError`] when the text is anything else, negative or too long.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let syntax = || DurationError::Syntax(text.to_owned());
    let too_long = || DurationError::TooLong(text.to_owned());
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(syntax());
    }
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(syntax());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end).ok_or_else(syntax)?;
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(syntax()),
        };
        let whole: u64 =
            if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
        nanos = nanos.saturating_add(u128::from(whole).saturating_mul(unit));
        // Eighteen digits of a fraction of an hour are less than a nanosecond.
        let fraction = fraction.get(..18).unwrap_or(fraction);
        if !fraction.is_empty() {
            let digits: u64 = fraction.parse().map_err(|_| syntax())?;
            let scale = 10_u128.saturating_pow(fraction.len() as u32);
            nanos = nanos.saturating_add(u128::from(digits).saturating_mul(unit) / scale);
        }
        rest = after;
    }
    if nanos > i64::MAX as u128 {
        return Err(too_long());
    }
    if negative && nanos > 0 {
        return Err(DurationError::Negative(text.to_owned()));
    }
    Ok(Duration::from_nanos(u64::try_from(nanos).map_err(|_| too_long())?))
}

/// Whole seconds of a duration as people write it: `168h`, `1h30m`, `45s`.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    for (number, unit) in [(h, "h"), (m, "m"), (s, "s")] {
        if number > 0 {
            text.push_str(&format!("{number}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("+0", 0),
            ("-0s", 0),
            ("5s", 5_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("300ms", 300_000_000),
            ("1h1h", 7_200_000_000_000),
            ("7us3ns", 7_003),
            ("1\u{b5}s", 1_000),
            ("2540400h10m10.000000000s", 9_145_440_610_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for bad in ["", "-", "5", "1d", "s", ".s", "1 h", "h1", "1h-5m", "--1s", "1.2.3s", "1e3s"] {
            assert_eq!(parse_duration(bad), Err(DurationError::Syntax(bad.to_owned())), "{bad}");
        }
        for long in ["9223372036854775808ns", "3000000h", "99999999999999999999s"] {
            assert!(matches!(parse_duration(long), Err(DurationError::TooLong(_))), "{long}");
        }
        assert!(matches!(parse_duration("-5m"), Err(DurationError::Negative(_))));
    }

    #[test]
    fn prints_what_people_write() {
        for text in ["0s", "45s", "5m", "1h30m", "168h", "1h1s"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }
}
