//! Go's text/template over plain values; no I/O, SPIFFE-free.
//!
//! SPIRE's `agent_path_template` and the templates of ClusterSPIFFEIDs are written in it, so the
//! language is here as a whole: actions, pipelines, variables, `if`, `range`, `with`, `define`,
//! `template`, `block`, `break`, `continue`, comments, trim markers, every literal but complex
//! numbers, and the built-in functions. Values print, compare and count as true as Go's do.
//!
//! What differs, on purpose:
//! - everything is bounded ([`MAX_TEMPLATE`], [`MAX_RESULT`], [`MAX_DEPTH`], [`MAX_STEPS`]): a
//!   template ends, with an error if need be;
//! - texts are UTF-8: cutting a character in two is an error;
//! - a struct is not printed as a whole, and `call` and complex numbers are refused.

mod ast;
mod builtins;
mod call;
mod compare;
mod eval;
mod float;
mod format;
mod function;
mod functions;
mod lex;
mod number;
mod out;
mod parse;
mod printf;
mod sprig;
mod val;

use std::collections::BTreeMap;

pub use functions::Functions;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// All but the characters that mean themselves everywhere in a URL (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The longest template, bytes.
pub const MAX_TEMPLATE: usize = 64 * 1024;
/// The longest result, and the longest text made on the way, bytes.
pub const MAX_RESULT: usize = 256 * 1024;
/// The deepest nesting of parentheses, blocks and template calls.
pub const MAX_DEPTH: usize = 100;
/// The most steps of one execution. A step takes a tenth of a microsecond or so: it is a node
/// visited, an element copied, or [`BYTES_PER_STEP`] made or looked at. Whatever takes longer, such
/// as a regular expression, costs more steps, so that a template ends within some 50 milliseconds.
pub const MAX_STEPS: u32 = 200_000;
/// The bytes of text that a function makes or looks at for one step.
const BYTES_PER_STEP: usize = 8;
/// The most variables that are known at one place.
const MAX_VARIABLES: usize = 250;

/// A value that a template sees.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: a nil pointer as a field of a [`Value::Struct`], elsewhere an empty interface.
    Nil,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A text.
    Text(String),
    /// A list; one of texts alone is a `[]string`.
    List(Vec<Value>),
    /// A map; one of texts alone is a `map[string]string`. A key that is missing is `<no value>`,
    /// or an error where the [`Functions`] say so.
    Map(BTreeMap<String, Value>),
    /// A struct: a field that is missing is an error.
    Struct(BTreeMap<String, Value>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Why a template cannot be read or executed, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct TemplateError {
    /// The line in the template, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// A template, read and checked. Two are equal when their texts are.
#[derive(Clone, Debug)]
pub struct Template {
    text: Box<str>,
    trees: BTreeMap<Box<str>, Vec<ast::Node>>,
    functions: Functions,
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Template {}

/// What went wrong, and at which byte of the template.
#[derive(Debug)]
struct Fail {
    at: usize,
    message: String,
}

impl Fail {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }

    fn in_text(self, text: &str) -> TemplateError {
        let before = text.get(..self.at.min(text.len())).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        TemplateError {
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            message: self.message,
        }
    }
}

impl Template {
    /// Reads a template that may call `functions` besides Go's own.
    ///
    /// # Errors
    /// [`TemplateError`] when the template is malformed, calls a function that is not there, or
    /// exceeds a bound.
    pub fn parse(text: &str, functions: &Functions) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE {
            return Err(Fail::new(0, format!("longer than {MAX_TEMPLATE} bytes")).in_text(text));
        }
        let trees = parse::trees(text, functions).map_err(|fail| fail.in_text(text))?;
        Ok(Self { text: text.into(), trees, functions: functions.clone() })
    }

    /// Executes the template with `data` as its dot.
    ///
    /// # Errors
    /// [`TemplateError`] when the data lacks what the template names, a function fails, or a
    /// bound is exceeded.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        eval::run(self, data).map_err(|fail| fail.in_text(&self.text))
    }

    /// The text the template was read from.
    pub fn text(&self) -> &str {
        &self.text
    }
}
