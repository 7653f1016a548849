//! What of a URL, and of what a server says, is shown.

/// How much is shown, characters.
const MAX_SHOWN: usize = 300;

/// Text of a server for a message: bounded, on one line.
pub fn shown(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    if line.chars().count() > MAX_SHOWN {
        line = line.chars().take(MAX_SHOWN).chain("…".chars()).collect();
    }
    line
}

/// A URL without user, password, query and fragment, fit for logs.
pub(super) fn redacted(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = url.get(..end).unwrap_or_default();
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(s, r)| (s, r));
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}{path}")
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_SHOWN)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_one_bounded_line() {
        assert_eq!(shown(" a\n\t b\u{7}c "), "a bc");
        let long = shown(&"ü".repeat(MAX_SHOWN + 1));
        assert_eq!(long.chars().count(), MAX_SHOWN + 1);
        assert!(long.ends_with("ü…"));
    }

    #[test]
    fn what_is_shown_of_a_url_is_no_secret() {
        for (url, want) in [
            ("https://u:p@h:1/a/b?token=t#f", "https://h:1/a/b"),
            ("u:p@h", "h"),
            ("https://h", "https://h"),
        ] {
            assert_eq!(redacted(url), want);
        }
    }
}
