//! Values as text, the way Go prints them.

use crate::{
    out::Out,
    printf::Printer,
    val::{Meter, Val},
};

/// What an action writes for `value`.
pub(crate) fn print(value: &Val<'_>, meter: &Meter) -> Result<String, String> {
    match value {
        Val::Missing | Val::Nil => Ok("<no value>".to_owned()),
        Val::Text(text) => Ok((**text).to_owned()),
        value => {
            let mut out = Out::new(meter);
            self::value(&mut out, value)?;
            Ok(out.into_text())
        }
    }
}

/// `%v` of `value`.
pub(crate) fn value(out: &mut Out<'_>, value: &Val<'_>) -> Result<(), String> {
    Printer::new(out).arg(value, 'v')
}

/// `%v` of `value`, as a text of its own.
pub(crate) fn display(value: &Val<'_>, meter: &Meter) -> Result<String, String> {
    let mut out = Out::new(meter);
    self::value(&mut out, value)?;
    Ok(out.into_text())
}

/// The operands in a row, a space between two of which neither is a text.
pub(crate) fn sprint(args: &[Val<'_>], meter: &Meter) -> Result<String, String> {
    let mut out = Out::new(meter);
    let mut text_before = true;
    for arg in args {
        let is_text = matches!(arg, Val::Text(_));
        if !text_before && !is_text {
            out.push(" ")?;
        }
        value(&mut out, arg)?;
        text_before = is_text;
    }
    Ok(out.into_text())
}
