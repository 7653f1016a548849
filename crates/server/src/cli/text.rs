//! Values as text, and text as values.

use std::time::Duration;

use signet_api::pb::spire::api::types;
use signet_config::parse_duration;
use signet_identity::SpiffeId;
use signet_time::{ParseTimeError, UnixTime};
use time::{OffsetDateTime, macros::format_description};

use super::env::CliError;

/// A time as SPIRE prints it: `2026-11-21 07:49:11 +0000 UTC`.
pub fn utc(unix: i64) -> String {
    UnixTime::from_seconds(unix).go().unwrap_or_else(|| format!("{unix} s"))
}

/// A time in RFC 3339: `2026-11-21T07:49:11Z`.
pub fn rfc3339(unix: i64) -> String {
    UnixTime::from_seconds(unix).rfc3339().unwrap_or_else(|| format!("{unix} s"))
}

/// An ID as text; empty when absent.
pub fn id(id: Option<&types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path)).unwrap_or_default()
}

/// Reads an ID from the command line.
///
/// # Errors
/// [`CliError::Usage`] with the rule that it breaks.
pub fn parse_id(flag: &str, text: &str) -> Result<types::Spiffeid, CliError> {
    let id: SpiffeId =
        text.parse().map_err(|error| CliError::usage(format!("-{flag} \"{text}\": {error}")))?;
    Ok(signet_api::convert::id_to_pb(&id))
}

/// Reads a selector, `type:value`.
///
/// # Errors
/// [`CliError::Usage`] when it has no colon.
pub fn parse_selector(text: &str) -> Result<types::Selector, CliError> {
    match text.split_once(':') {
        Some((kind, value)) => {
            Ok(types::Selector { r#type: kind.to_owned(), value: value.to_owned() })
        }
        None => {
            Err(CliError::usage(format!("selector \"{text}\" must be formatted as type:value")))
        }
    }
}

/// Reads selectors.
///
/// # Errors
/// [`CliError::Usage`] with the first that has no colon.
pub fn parse_selectors(texts: &[String]) -> Result<Vec<types::Selector>, CliError> {
    texts.iter().map(|text| parse_selector(text)).collect()
}

/// How a list filter compares; the values are those of both protobuf enumerations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MatchOn {
    /// At least one in common
    Any,
    /// The same set
    Exact,
    /// All of the record's are among those given
    Subset,
    /// All that are given are among the record's
    #[default]
    Superset,
}

impl MatchOn {
    /// The number on the wire.
    pub fn number(self) -> i32 {
        match self {
            Self::Exact => 0,
            Self::Subset => 1,
            Self::Superset => 2,
            Self::Any => 3,
        }
    }
}

/// Reads a duration such as `720h` or `1h30m`, or plain seconds; for clap.
///
/// # Errors
/// What is wrong.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    parse_duration(text).map_err(|error| error.to_string())
}

/// Reads seconds as SPIRE's flags have them, or a duration such as `1h30m`; for clap.
///
/// # Errors
/// What was expected.
pub fn seconds(text: &str) -> Result<i32, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let duration = parse_duration(text)
        .map_err(|_| "expected seconds, or a duration such as 1h30m".to_owned())?;
    i32::try_from(duration.as_secs()).map_err(|_| "too long".to_owned())
}

/// Reads a time as SPIRE's flags have it, in seconds since 1970, or as RFC 3339 writes it; for
/// clap.
///
/// # Errors
/// What was expected.
pub fn unix_time(text: &str) -> Result<UnixTime, String> {
    text.parse().map_err(|error: ParseTimeError| error.to_string())
}

/// Seconds, rounded up, as the API takes them.
///
/// # Errors
/// [`CliError::Usage`] when it is too long.
pub fn ttl_seconds(duration: Option<Duration>) -> Result<i32, CliError> {
    let duration = duration.unwrap_or_default();
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(seconds).map_err(|_| CliError::usage("invalid value for TTL: too long"))
}

/// Checks a date in the layout `2006-01-02 15:04:05 -0700 -07`, which the server reads.
///
/// # Errors
/// [`CliError::Usage`] that shows the layout.
pub fn check_date(text: &str) -> Result<(), CliError> {
    let format = format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    let parsed = text.rsplit_once(' ').and_then(|(date, zone)| {
        let date = OffsetDateTime::parse(date, format).ok()?;
        zone.starts_with(['+', '-']).then_some(date)
    });
    if parsed.is_some() {
        return Ok(());
    }
    Err(CliError::usage(format!(
        "date \"{text}\" is not valid: expected the form \"2006-01-02 15:04:05 -0700 -07\""
    )))
}

/// `1 entry`, `2 entries`.
pub fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A list of selectors on one line.
pub fn selectors(all: &[types::Selector]) -> String {
    let texts: Vec<String> =
        all.iter().map(|one| format!("{}:{}", one.r#type, one.value)).collect();
    if texts.is_empty() { "(none)".to_owned() } else { texts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_forms_of_go() {
        assert_eq!(utc(4_000_000_000), "2096-10-02 07:06:40 +0000 UTC");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(i64::MAX), format!("{} s", i64::MAX));
    }

    #[test]
    fn lifetimes_and_times_have_two_forms() {
        assert_eq!((seconds("90"), seconds("1h30m"), seconds("-5")), (Ok(90), Ok(5400), Ok(-5)));
        assert!(seconds("1 hour").is_err() && seconds("").is_err());
        assert_eq!(unix_time("4000000000"), Ok(UnixTime::from_seconds(4_000_000_000)));
        assert_eq!(unix_time("2096-10-02T07:06:40Z"), Ok(UnixTime::from_seconds(4_000_000_000)));
        assert_eq!(
            unix_time("2096-10-02T08:06:40+01:00"),
            Ok(UnixTime::from_seconds(4_000_000_000))
        );
        assert!(unix_time("tomorrow").is_err());
    }

    #[test]
    fn dates_durations_and_selectors_are_checked() {
        assert!(check_date("2026-11-21 07:49:11 +0000 +00").is_ok());
        assert!(check_date("2026-11-21 07:49:11 -0330 -03").is_ok());
        for bad in ["bad", "", "2026-11-21", "2026-11-21 07:49:11 +0000", "x +00"] {
            assert!(check_date(bad).is_err(), "{bad}");
        }
        assert_eq!(ttl_seconds(Some(Duration::from_millis(1500))).unwrap(), 2);
        assert_eq!(ttl_seconds(None).unwrap(), 0);
        assert_eq!(parse_selector("k8s:pod-label:a:b").unwrap().value, "pod-label:a:b");
        assert!(parse_selector("nocolon").is_err());
    }
}
