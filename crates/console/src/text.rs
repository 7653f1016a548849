//! Text as people read it.

use signet_time::UnixTime;

/// How many characters of a value a table shows; the whole of it is in its title.
const LONGEST: usize = 96;

/// Text of others with everything visible: control characters, and those that turn the direction of
/// what follows or take no space, are written as escapes, so that no text looks like another.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_deceptive(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Control and format characters: bidirectional marks (Unicode Standard Annex 9), zero-width ones,
/// tags and the like.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// The beginning of a long text, and whether something was left out.
pub(crate) fn short(text: &str) -> (String, bool) {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => {
            let head = text.get(..end).unwrap_or(text);
            (format!("{}…", visible(head)), true)
        }
        None => (visible(text), false),
    }
}

/// A time as RFC 3339 in UTC; `—` for 0, which stands for none.
pub(crate) fn at(unix: UnixTime) -> String {
    if unix == UnixTime::EPOCH {
        return "—".to_owned();
    }
    unix.rfc3339().unwrap_or_else(|| unix.seconds().to_string())
}

/// How long from `now` to `then`: `in 3 h`, `5 min ago`, `now`.
pub fn relative(then: UnixTime, now: UnixTime) -> String {
    let seconds = then - now;
    match span(seconds.unsigned_abs()) {
        _ if seconds == 0 => "now".to_owned(),
        span if seconds > 0 => format!("in {span}"),
        span => format!("{span} ago"),
    }
}

/// Seconds in the largest unit of which there are at least two.
pub(crate) fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    for (size, name) in UNITS {
        if seconds >= 2 * size || size == 1 {
            return format!("{} {name}", seconds / size);
        }
    }
    format!("{seconds} s")
}

/// A number with its thousands set apart.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_would_turn_or_hide_what_follows_is_shown_as_what_it_is() {
        assert_eq!(visible("unix:uid:0"), "unix:uid:0");
        assert_eq!(visible("k8s:ns:\u{202e}nimda"), "k8s:ns:\\u{202e}nimda");
        assert_eq!(visible("a\u{200b}b\n\u{7}"), "a\\u{200b}b\\u{a}\\u{7}");
        assert_eq!(visible("Grüße 世界"), "Grüße 世界");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let (text, cut) = short(&"ü".repeat(200));
        assert!(cut);
        assert_eq!(text.chars().count(), LONGEST + 1);
        assert_eq!(short("short"), ("short".to_owned(), false));
    }

    #[test]
    fn times_and_numbers_read_well() {
        assert_eq!(at(UnixTime::EPOCH), "—");
        assert_eq!(at(UnixTime::from_seconds(1_764_500_000)), "2025-11-30T10:53:20Z");
        let seconds = UnixTime::from_seconds;
        assert_eq!(relative(seconds(100), seconds(100)), "now");
        assert_eq!(relative(seconds(7_300), seconds(100)), "in 2 h");
        assert_eq!(relative(seconds(0), seconds(90)), "90 s ago");
        assert_eq!(number(1_234_567).replace('\u{202f}', " "), "1 234 567");
        assert_eq!(number(999), "999");
    }
}
