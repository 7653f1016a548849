//! `-expandEnv`: environment variables in the text of a file.

/// Replaces `$NAME` and `${NAME}` by what `lookup` gives for the name, before anything is parsed.
///
/// As SPIRE does it: an unknown name becomes nothing, `$$` becomes `$`, a `$` that no name follows
/// stays, and a malformed `${` or `${}` is dropped.
pub fn expand_env(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, next) = name(after);
        match name {
            Name::None if after.len() == next.len() => out.push('$'),
            Name::None => {}
            Name::Is("$") => out.push('$'),
            Name::Is(name) => out.push_str(&lookup(name).unwrap_or_default()),
        }
        rest = next;
    }
    out.push_str(rest);
    out
}

enum Name<'a> {
    /// No name; what was taken is dropped.
    None,
    Is(&'a str),
}

/// The name that `text` starts with, and what follows it.
fn name(text: &str) -> (Name<'_>, &str) {
    let split = |at: usize| text.split_at_checked(at).unwrap_or((text, ""));
    if let Some(inner) = text.strip_prefix('{') {
        return match inner.split_once('}') {
            Some(("", rest)) => (Name::None, rest),
            Some((name, rest)) => (Name::Is(name), rest),
            None => (Name::None, inner),
        };
    }
    if text.chars().next().is_some_and(is_special) {
        let (name, rest) = split(1);
        return (Name::Is(name), rest);
    }
    let end = text.find(|c: char| !(c == '_' || c.is_ascii_alphanumeric())).unwrap_or(text.len());
    match split(end) {
        ("", rest) => (Name::None, rest),
        (name, rest) => (Name::Is(name), rest),
    }
}

/// The one-character names of a shell.
fn is_special(c: char) -> bool {
    matches!(c, '*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_as_spire_does() {
        let lookup = |name: &str| match name {
            "A" => Some("alpha".to_owned()),
            "a.b" => Some("dotted".to_owned()),
            "1" => Some("one".to_owned()),
            _ => None,
        };
        for (text, wanted) in [
            ("x $A y", "x alpha y"),
            ("${A}B$A_", "alphaB"),
            ("$A$A", "alphaalpha"),
            ("${a.b}", "dotted"),
            ("$unknown|", "|"),
            ("$$A", "$A"),
            ("${$}A", "$A"),
            ("a$ b", "a$ b"),
            ("end$", "end$"),
            ("${}x", "x"),
            ("${open", "open"),
            ("$10", "one0"),
            ("${1}0", "one0"),
            ("$\u{e4}", "$\u{e4}"),
            ("\"$A\"", "\"alpha\""),
        ] {
            assert_eq!(expand_env(text, &lookup), wanted, "{text}");
        }
    }
}
