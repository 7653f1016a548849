//! Quoted texts and here-documents of HCL 1, and quoted texts of JSON.

use crate::{
    ast::{Pos, SyntaxError},
    cursor::Cursor,
};

/// Which rules a quoted text follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quoting {
    /// HCL 1: nothing between `${` and its `}` ends the text or is an escape.
    Hcl,
    /// JSON, and the escapes that SPIRE's reader takes besides.
    Json,
}

/// Reads a quoted text; the opening quote has been taken at `start`.
pub(crate) fn quoted(
    cursor: &mut Cursor<'_>,
    start: Pos,
    quoting: Quoting,
) -> Result<String, SyntaxError> {
    let open = || SyntaxError::new(start, "this text has no closing quote on its line");
    let mut bytes = Vec::new();
    loop {
        let pos = cursor.pos();
        match cursor.next() {
            None | Some('\n') => return Err(open()),
            Some('"') => break,
            Some('\\') => escape(cursor, pos, quoting, &mut bytes)?,
            Some('$') if quoting == Quoting::Hcl && cursor.peek() == Some('{') => {
                bytes.push(b'$');
                braces(cursor, pos, &mut bytes)?;
            }
            Some(c) => push(&mut bytes, c),
        }
    }
    String::from_utf8(bytes)
        .map_err(|_| SyntaxError::new(start, "the escapes in this text do not make up UTF-8"))
}

/// Copies `{ … }` as it stands, quotes and line ends included, to the brace that closes it.
fn braces(cursor: &mut Cursor<'_>, start: Pos, bytes: &mut Vec<u8>) -> Result<(), SyntaxError> {
    let mut depth = 0_u32;
    loop {
        let pos = cursor.pos();
        let Some(c) = cursor.next() else {
            return Err(SyntaxError::new(start, "`${` has no closing brace"));
        };
        push(bytes, c);
        match c {
            '{' => depth = depth.saturating_add(1),
            '}' => depth = depth.saturating_sub(1),
            // An escape is checked as everywhere, but stays as written.
            '\\' => {
                let before = cursor.rest();
                escape(cursor, pos, Quoting::Hcl, &mut Vec::new())?;
                bytes.extend_from_slice(cursor.since(before).as_bytes());
            }
            _ => {}
        }
        if depth == 0 {
            return Ok(());
        }
    }
}

fn escape(
    cursor: &mut Cursor<'_>,
    start: Pos,
    quoting: Quoting,
    bytes: &mut Vec<u8>,
) -> Result<(), SyntaxError> {
    let bad = |what: &str| SyntaxError::new(start, format!("{what} in a quoted text"));
    let Some(c) = cursor.peek() else {
        return Err(bad("a lone backslash"));
    };
    if ('0'..='7').contains(&c) {
        let code = digits(cursor, 8, 3).ok_or_else(|| bad("an octal escape without 3 digits"))?;
        bytes.push(u8::try_from(code).map_err(|_| bad("an octal escape above 377"))?);
        return Ok(());
    }
    cursor.next();
    match c {
        '"' | '\\' => push(bytes, c),
        '/' if quoting == Quoting::Json => bytes.push(b'/'),
        'a' => bytes.push(0x07),
        'b' => bytes.push(0x08),
        'f' => bytes.push(0x0c),
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        'v' => bytes.push(0x0b),
        'x' => {
            let code = digits(cursor, 16, 2).ok_or_else(|| bad("\\x without 2 hex digits"))?;
            bytes.push(u8::try_from(code).unwrap_or_default());
        }
        'u' => {
            let code = digits(cursor, 16, 4).ok_or_else(|| bad("\\u without 4 hex digits"))?;
            let code = match code {
                0xd800..0xdc00 if quoting == Quoting::Json => surrogates(cursor, code),
                _ => code,
            };
            push(bytes, char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        'U' => {
            let code = digits(cursor, 16, 8).ok_or_else(|| bad("\\U without 8 hex digits"))?;
            if code > u32::from(char::MAX) {
                return Err(bad("a code point above 10FFFF"));
            }
            push(bytes, char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        _ => return Err(bad(&format!("unknown escape \\{}", c.escape_default()))),
    }
    Ok(())
}

/// The code point of a UTF-16 pair whose first half is `high`, if the second half follows.
fn surrogates(cursor: &mut Cursor<'_>, high: u32) -> u32 {
    let mut ahead = cursor.clone();
    if ahead.eat('\\')
        && ahead.eat('u')
        && let Some(low @ 0xdc00..0xe000) = digits(&mut ahead, 16, 4)
    {
        *cursor = ahead;
        return 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    }
    high
}

fn digits(cursor: &mut Cursor<'_>, radix: u32, count: u32) -> Option<u32> {
    let mut code = 0_u32;
    for _ in 0..count {
        let digit = cursor.peek()?.to_digit(radix)?;
        cursor.next();
        code = code.checked_mul(radix)?.checked_add(digit)?;
    }
    Some(code)
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Reads a here-document; the first `<` has been taken at `start`.
pub(crate) fn heredoc(cursor: &mut Cursor<'_>, start: Pos) -> Result<String, SyntaxError> {
    if !cursor.eat('<') {
        return Err(SyntaxError::new(start, "expected `<<` and the end mark of a here-document"));
    }
    let indented = cursor.eat('-');
    let mark = cursor.take_while(|c| c.is_alphanumeric() || c == '_');
    cursor.eat('\r');
    if mark.is_empty() || !cursor.eat('\n') {
        return Err(SyntaxError::new(start, "expected an end mark, then the end of the line"));
    }
    let open =
        || SyntaxError::new(start, format!("no line after this one ends with `{mark}` alone"));
    // SPIRE's reader counts the dash of `<<-` when it looks for a line as long as the end mark.
    let shortest = mark.len() + usize::from(indented);
    let mut lines = Vec::new();
    loop {
        let line = cursor.take_while(|c| c != '\n');
        if !cursor.eat('\n') {
            return Err(open());
        }
        let trimmed = line.trim_start_matches(is_space);
        if line.len() >= shortest && trimmed.trim_end_matches('\r') == mark {
            let indent = line.get(..line.len() - trimmed.len()).unwrap_or_default();
            return Ok(if indented { unindent(&lines, indent) } else { join(&lines, indent) });
        }
        lines.push(line);
    }
}

/// The lines without the end mark's indent, if all of them have it, else as they are.
fn unindent(lines: &[&str], indent: &str) -> String {
    match lines.iter().map(|line| line.strip_prefix(indent)).collect::<Option<Vec<_>>>() {
        Some(lines) => join(&lines, ""),
        None => join(lines, ""),
    }
}

fn join(lines: &[&str], last: &str) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(last);
    text
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}
