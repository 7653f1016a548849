//! Values as text, the way Go prints them.

use super::{
    MAX_RESULT,
    printf::Printer,
    val::{Meter, Val},
};

/// A text being made, bounded.
pub(super) struct Out<'m> {
    text: String,
    pub meter: &'m Meter,
}

impl<'m> Out<'m> {
    pub fn new(meter: &'m Meter) -> Self {
        Self { text: String::new(), meter }
    }

    pub fn push(&mut self, text: &str) -> Result<(), String> {
        if self.text.len() + text.len() > MAX_RESULT {
            return Err(format!("a text longer than {MAX_RESULT} bytes"));
        }
        self.text.push_str(text);
        Ok(())
    }

    pub fn pad(&mut self, with: char, count: usize) -> Result<(), String> {
        if self.text.len() + count > MAX_RESULT {
            return Err(format!("a text longer than {MAX_RESULT} bytes"));
        }
        self.text.extend(std::iter::repeat_n(with, count));
        Ok(())
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

/// What an action writes for `value`.
pub(super) fn print(value: &Val<'_>, meter: &Meter) -> Result<String, String> {
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
pub(super) fn value(out: &mut Out<'_>, value: &Val<'_>) -> Result<(), String> {
    Printer::new(out).arg(value, 'v')
}

/// `%v` of `value`, as a text of its own.
pub(super) fn display(value: &Val<'_>, meter: &Meter) -> Result<String, String> {
    let mut out = Out::new(meter);
    self::value(&mut out, value)?;
    Ok(out.into_text())
}

/// The operands in a row, a space between two of which neither is a text.
pub(super) fn sprint(args: &[Val<'_>], meter: &Meter) -> Result<String, String> {
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
