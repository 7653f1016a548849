//! Floats as text, as Go's strconv writes them.

/// `value` by `verb` (`e`, `E`, `f`, `g`, `G`), with a sign always; `precision` unset is the
/// fewest digits that tell it from any other float.
pub(crate) fn float(value: f64, verb: char, precision: Option<usize>) -> String {
    let sign = if value.is_sign_negative() && !value.is_nan() { '-' } else { '+' };
    let size = value.abs();
    if value.is_nan() {
        return "+NaN".to_owned();
    }
    if value.is_infinite() {
        return format!("{sign}Inf");
    }
    let body = match (verb.to_ascii_lowercase(), precision) {
        ('e', precision) => exponential(size, precision),
        ('f', Some(precision)) => format!("{size:.precision$}"),
        ('f', None) => format!("{size}"),
        (_, precision) => general(size, precision),
    };
    let body = if verb.is_ascii_uppercase() { body.to_uppercase() } else { body };
    format!("{sign}{body}")
}

/// `d.ddde±dd`.
fn exponential(size: f64, precision: Option<usize>) -> String {
    let text = match precision {
        Some(precision) => format!("{size:.precision$e}"),
        None => format!("{size:e}"),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// The shorter of the two notations, without trailing zeros.
fn general(size: f64, precision: Option<usize>) -> String {
    let significant = precision.map(|precision| precision.max(1));
    let text = match significant {
        Some(digits) => format!("{size:.*e}", digits - 1),
        None => format!("{size:e}"),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    // Without a precision the exponent decides as if there were six digits.
    let limit = match significant {
        None => 6,
        Some(wanted) => {
            let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
            if wanted > count && count > exponent { count } else { wanted }
        }
    };
    if exponent < -4 || exponent >= limit {
        return exponential_of(digits, exponent);
    }
    plain(digits, exponent)
}

fn exponential_of(digits: &str, exponent: i32) -> String {
    let (first, rest) = digits.split_at_checked(1).unwrap_or((digits, ""));
    let point = if rest.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{first}{point}{rest}e{sign}{:02}", exponent.unsigned_abs())
}

/// `digits` with the point after the digit of 10^`exponent`.
fn plain(digits: &str, exponent: i32) -> String {
    let Ok(whole) = usize::try_from(exponent + 1) else {
        let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
        return format!("0.{}{digits}", "0".repeat(zeros));
    };
    if whole == 0 {
        return format!("0.{digits}");
    }
    match digits.split_at_checked(whole) {
        Some((whole, "")) => whole.to_owned(),
        Some((whole, fraction)) => format!("{whole}.{fraction}"),
        None => format!("{digits}{}", "0".repeat(whole - digits.len())),
    }
}
