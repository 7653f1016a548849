//! A text being made.

use crate::{MAX_RESULT, val::Meter};

/// A text being made, bounded.
pub(crate) struct Out<'m> {
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
