//! What of a URL may be shown.

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
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
