//! Turns one event into one line.

use std::{borrow::Cow, fmt::Write};

use serde_json::Value;
use time::OffsetDateTime;

/// The fields of one event, and of the spans around it.
pub(super) type Fields = Vec<(&'static str, Value)>;

/// One event, ready to be written.
pub(super) struct Line<'a> {
    pub(super) time: OffsetDateTime,
    pub(super) level: &'static str,
    pub(super) message: &'a str,
    /// Sorted by name, without duplicates.
    pub(super) fields: &'a [(Cow<'static, str>, Value)],
}

impl Line<'_> {
    /// `time="…" level=info msg="…" key=value`, with a line feed.
    pub(super) fn text(&self) -> String {
        let mut line = String::with_capacity(160);
        line.push_str("time=\"");
        push_time(&mut line, self.time);
        line.push_str("\" level=");
        line.push_str(self.level);
        line.push_str(" msg=");
        push_text(&mut line, self.message);
        for (name, value) in self.fields {
            line.push(' ');
            line.push_str(name);
            line.push('=');
            match value {
                Value::String(text) => push_text(&mut line, text),
                other => push_text(&mut line, &other.to_string()),
            }
        }
        line.push('\n');
        line
    }

    /// One JSON object, its names sorted as Go sorts them, with a line feed.
    pub(super) fn json(&self) -> String {
        let mut time = String::with_capacity(30);
        push_time(&mut time, self.time);
        let mut object = serde_json::Map::new();
        for (name, value) in self.fields {
            object.insert(name.clone().into_owned(), value.clone());
        }
        object.insert("level".to_owned(), Value::from(self.level));
        object.insert("msg".to_owned(), Value::from(self.message));
        object.insert("time".to_owned(), Value::from(time));
        let mut line = Value::Object(object).to_string();
        line.push('\n');
        line
    }
}

/// RFC 3339 in UTC, with as many digits of the second as are not zero.
fn push_time(line: &mut String, time: OffsetDateTime) {
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second, nano) = time.to_hms_nano();
    // Writing to a string cannot fail.
    let _ =
        write!(line, "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", u8::from(month));
    if nano != 0 {
        let digits = format!("{nano:09}");
        line.push('.');
        line.push_str(digits.trim_end_matches('0'));
    }
    line.push('Z');
}

/// Bare when it holds only letters, digits and `-._/@^+`, else quoted as Go's `%q` does.
fn push_text(line: &mut String, text: &str) {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b)) {
        line.push_str(text);
        return;
    }
    line.push('"');
    for c in text.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_ascii_control() => {
                let _ = write!(line, "\\x{:02x}", u32::from(c));
            }
            // Control and direction characters could make a line read as another.
            c if c.is_control() || is_invisible(c) => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn line<'a>(message: &'a str, fields: &'a [(Cow<'static, str>, Value)]) -> Line<'a> {
        Line { time: datetime!(2026-11-21 06:49:11.0204 UTC), level: "info", message, fields }
    }

    #[test]
    fn text_lines_look_like_logrus() {
        let fields = [
            ("count".into(), Value::from(3)),
            ("empty".into(), Value::from("")),
            ("id".into(), Value::from("spiffe://example.org/a")),
            ("path".into(), Value::from("/run/x.sock")),
        ];
        assert_eq!(
            line("Opening database", &fields).text(),
            "time=\"2026-11-21T06:49:11.0204Z\" level=info msg=\"Opening database\" count=3 \
             empty= id=\"spiffe://example.org/a\" path=/run/x.sock\n"
        );
    }

    #[test]
    fn json_lines_hold_the_same_fields_with_their_types() {
        let fields = [("ok".into(), Value::from(true)), ("ttl".into(), Value::from(1.5))];
        assert_eq!(
            line("x", &fields).json(),
            "{\"level\":\"info\",\"msg\":\"x\",\"ok\":true,\"time\":\"2026-11-21T06:49:11.0204Z\",\
             \"ttl\":1.5}\n"
        );
    }

    #[test]
    fn nothing_in_a_value_can_begin_a_line_or_hide() {
        let fields =
            [("a".into(), Value::from("x\ntime=\"1\" level=error\u{1b}[2K\u{202e}\u{85}"))];
        let text = line("m", &fields).text();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.ends_with("a=\"x\\ntime=\\\"1\\\" level=error\\x1b[2K\\u202e\\u0085\"\n"));
        assert_eq!(line("m", &fields).json().matches('\n').count(), 1);
    }
}
