//! `key=value` pairs: blanks around `=` do not count, a value may be quoted with `'`, and `\`
//! takes away the meaning of what follows.

use super::ConnectionStringError;

pub(super) fn read(text: &str) -> Result<Vec<(String, String)>, ConnectionStringError> {
    let mut pairs = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| !c.is_whitespace() && *c != '=') {
            key.push(c);
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.next_if_eq(&'=').is_none() {
            // A text without any key is more likely a forgotten one than a parameter.
            let what = if pairs.is_empty() && !text.contains('=') {
                "expected key=value pairs or a postgres:// URL".to_owned()
            } else {
                format!("expected `=` after {key:?}")
            };
            return Err(ConnectionStringError::new(what));
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        if rest.next_if_eq(&'\'').is_some() {
            loop {
                match rest.next() {
                    Some('\'') => break,
                    Some('\\') => value.extend(rest.next()),
                    Some(c) => value.push(c),
                    None => {
                        let what = format!("the quoted value of {key} has no end");
                        return Err(ConnectionStringError::new(what));
                    }
                }
            }
        } else {
            while let Some(c) = rest.next_if(|c| !c.is_whitespace()) {
                if c != '\\' {
                    value.push(c);
                } else if let Some(c) = rest.next() {
                    value.push(c);
                } else {
                    let what = format!("nothing follows the `\\` at the end of {key}");
                    return Err(ConnectionStringError::new(what));
                }
            }
        }
        pairs.push((key, value));
    }
}
