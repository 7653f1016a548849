//! Arguments of a command, as the configuration writes them.

/// Splits arguments as spiffe-helper does: at each space, except inside double quotes; two of them
/// there are one.
///
/// # Errors
/// A sentence, when a quote is in the wrong place.
pub fn split_args(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut args = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut arg = String::new();
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next() {
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        arg.push('"');
                    }
                    Some('"') => break,
                    Some(c) => arg.push(c),
                    None => return Err("a double quote is not closed".to_owned()),
                }
            }
            if !matches!(chars.peek(), None | Some(' ')) {
                return Err("a closing double quote is not followed by a space".to_owned());
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ' ') {
                if c == '"' {
                    return Err("a double quote stands inside an argument".to_owned());
                }
                arg.push(c);
            }
        }
        args.push(arg);
        if chars.next().is_none() {
            return Ok(args);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_split_as_spiffe_helper_does() {
        for (text, wanted) in [
            ("", &[][..]),
            ("-a b", &["-a", "b"]),
            ("-c 'echo hello'", &["-c", "'echo", "hello'"]),
            (r#"-c "echo hello""#, &["-c", "echo hello"]),
            (r#""one ""quoted"" word" x"#, &[r#"one "quoted" word"#, "x"]),
            ("a  b", &["a", "", "b"]),
        ] {
            assert_eq!(split_args(text).unwrap(), wanted, "{text}");
        }
        for text in [r#"a"b"#, r#""a"#, r#""a"b"#] {
            assert!(split_args(text).is_err(), "{text}");
        }
    }
}
