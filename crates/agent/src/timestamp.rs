//! Times as people and files of SPIRE read them.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Unix seconds as RFC 3339 in UTC, such as `2026-11-30T07:31:06Z`; none for a time that this
/// cannot write.
pub fn rfc3339(unix: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(unix).ok()?.format(&Rfc3339).ok()
}

/// The same for messages: the bare number where there is no better text.
pub fn show(unix: i64) -> String {
    rfc3339(unix).unwrap_or_else(|| unix.to_string())
}
