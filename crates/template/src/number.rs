//! Literals: numbers, characters and quoted texts, as Go writes them.

/// A number of a template.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number {
    /// Its value as an integer, if it has one.
    pub int: Option<i64>,
    /// What it is where nothing asks for a certain type.
    pub ideal: Ideal,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ideal {
    Float(f64),
    Int(i64),
    /// An integer beyond 63 bits.
    Overflow,
}

/// Reads a number.
pub(crate) fn number(text: &str) -> Result<Number, String> {
    if text.ends_with('i') {
        return Err(format!("complex number {text:?} is not supported"));
    }
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let signed = text.len() != digits.len();
    let is_hex = text.starts_with("0x") || text.starts_with("0X");
    let looks_float = text.contains(if is_hex { &['p', 'P'][..] } else { &['.', 'e', 'E'][..] });
    if let Some(magnitude) = integer(digits) {
        let int = if negative {
            0_i64.checked_sub_unsigned(magnitude)
        } else {
            i64::try_from(magnitude).ok()
        };
        return match int {
            Some(int) => Ok(Number { int: Some(int), ideal: Ideal::Int(int) }),
            None if signed => Err(format!("integer overflow: {text:?}")),
            None => Ok(Number { int: None, ideal: Ideal::Overflow }),
        };
    }
    let float = float(digits).ok_or_else(|| format!("illegal number syntax: {text:?}"))?;
    if !text.contains(['.', 'e', 'E', 'p', 'P']) {
        return Err(format!("integer overflow: {text:?}"));
    }
    let float = if negative { -float } else { float };
    #[expect(clippy::cast_possible_truncation, reason = "compared with the original just below")]
    let truncated = float as i64;
    #[expect(clippy::cast_precision_loss, reason = "only exact values pass")]
    let int = (truncated as f64 == float).then_some(truncated);
    let ideal = match int {
        Some(int) if !looks_float => Ideal::Int(int),
        _ => Ideal::Float(float),
    };
    Ok(Number { int, ideal })
}

/// An unsigned integer with Go's prefixes and underscores.
fn integer(digits: &str) -> Option<u64> {
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.get(..2) {
        Some("0x") => (16, lower.get(2..)?),
        Some("0o") => (8, lower.get(2..)?),
        Some("0b") => (2, lower.get(2..)?),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, lower.get(1..)?),
        _ => (10, lower.as_str()),
    };
    let body = without_underscores(body, lower.len() != body.len())?;
    if body.is_empty() || !body.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(&body, radix).ok()
}

/// Underscores stand between digits, or between a prefix and a digit.
fn without_underscores(body: &str, prefixed: bool) -> Option<String> {
    let mut digit_before = prefixed;
    let mut underscore_before = false;
    let mut plain = String::with_capacity(body.len());
    for c in body.chars() {
        let is_digit = c.is_ascii_hexdigit();
        if (c == '_' && !digit_before) || (underscore_before && !is_digit) {
            return None;
        }
        underscore_before = c == '_';
        digit_before = is_digit;
        if c != '_' {
            plain.push(c);
        }
    }
    (!underscore_before).then_some(plain)
}

fn float(digits: &str) -> Option<f64> {
    let lower = digits.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0x") {
        return hex_float(&without_underscores(hex, true)?);
    }
    let plain = if lower.contains('_') { decimal_underscores(&lower)? } else { lower };
    let starts = plain.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let is_float = plain.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | '+' | '-'));
    let parsed: f64 = (starts && is_float).then(|| plain.parse().ok()).flatten()?;
    parsed.is_finite().then_some(parsed)
}

fn decimal_underscores(digits: &str) -> Option<String> {
    let bytes = digits.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    for (at, b) in bytes.iter().enumerate() {
        if *b == b'_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1))) {
            return None;
        }
    }
    Some(digits.replace('_', ""))
}

/// `1.8p3`, the prefix gone: an exponent is required.
fn hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once('p')?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 || whole.len() + fraction.len() > 13 {
        return None;
    }
    let digits = u64::from_str_radix(&format!("{whole}{fraction}"), 16).ok()?;
    let exponent: i32 = exponent.parse().ok()?;
    let shift = exponent.checked_sub(4 * i32::try_from(fraction.len()).ok()?)?;
    #[expect(clippy::cast_precision_loss, reason = "13 hex digits are at most 52 bits")]
    let value = digits as f64 * 2_f64.powi(shift);
    value.is_finite().then_some(value)
}

/// The value of a character constant, its quotes included.
pub(crate) fn character(text: &str) -> Result<Number, String> {
    let malformed = || format!("malformed character constant: {text}");
    let body = text.get(1..text.len().saturating_sub(1)).ok_or_else(malformed)?;
    let mut chars = body.chars();
    let value = match chars.next() {
        Some('\\') => escape(&mut chars, '\'').ok_or_else(malformed)?.value(),
        Some(c) => u32::from(c),
        None => return Err(malformed()),
    };
    if chars.next().is_some() {
        return Err(malformed());
    }
    let int = i64::from(value);
    Ok(Number { int: Some(int), ideal: Ideal::Int(int) })
}

/// The text between quotes or backquotes.
pub(crate) fn unquote(text: &str) -> Result<String, String> {
    let inner = text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
    if text.starts_with('`') {
        return Ok(inner.replace('\r', ""));
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let unit = match c {
            '\\' => escape(&mut chars, '"').ok_or_else(|| format!("invalid syntax: {text}"))?,
            c => Unit::Char(c),
        };
        match unit {
            Unit::Byte(byte) => bytes.push(byte),
            Unit::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("{text} is not UTF-8"))
}

enum Unit {
    Byte(u8),
    Char(char),
}

impl Unit {
    fn value(self) -> u32 {
        match self {
            Self::Byte(byte) => byte.into(),
            Self::Char(c) => c.into(),
        }
    }
}

fn escape(chars: &mut std::str::Chars<'_>, quote: char) -> Option<Unit> {
    let c = chars.next()?;
    Some(Unit::Char(match c {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '\\' => '\\',
        'x' => return Some(Unit::Byte(u8::try_from(digits(chars, 2, 16)?).ok()?)),
        'u' => char::from_u32(digits(chars, 4, 16)?)?,
        'U' => char::from_u32(digits(chars, 8, 16)?)?,
        '0'..='7' => {
            let first = c.to_digit(8)?;
            let byte = first * 64 + digits(chars, 2, 8)?;
            return Some(Unit::Byte(u8::try_from(byte).ok()?));
        }
        c if c == quote => c,
        _ => return None,
    }))
}

fn digits(chars: &mut std::str::Chars<'_>, count: usize, radix: u32) -> Option<u32> {
    let mut value = 0_u32;
    for _ in 0..count {
        value = value.checked_mul(radix)?.checked_add(chars.next()?.to_digit(radix)?)?;
    }
    Some(value)
}
