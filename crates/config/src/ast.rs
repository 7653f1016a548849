//! What a configuration file says, before anyone asks what it means.

use std::{fmt, sync::Arc};

/// A place in a file; both numbers start at 1, the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl Pos {
    /// The start of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A parsed file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The name used in messages.
    pub file: Arc<str>,
    /// The items at the top.
    pub items: Vec<Item>,
}

/// `key = value` or `key { … }`; `a "b" { … }` is read as `a { "b" { … } }`.
///
/// One key may occur any number of times in an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The key's text, without quotes.
    pub key: String,
    /// Where the key starts.
    pub pos: Pos,
    /// What it is set to.
    pub value: Node,
}

/// A value and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where the value starts.
    pub pos: Pos,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// `[ … ]`.
    List(Vec<Node>),
    /// JSON's `null`, which counts as not set.
    Null,
    /// A number, as written: an integer in any base that HCL has, or a decimal fraction.
    Number(String),
    /// `{ … }`.
    Object(Vec<Item>),
    /// A quoted text or a here-document.
    String(String),
}

impl Value {
    /// What the value is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Null => "null",
            Self::Number(_) => "a number",
            Self::Object(_) => "a block",
            Self::String(_) => "a text",
        }
    }
}

/// Why a text is not a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pos}: {message}")]
pub struct SyntaxError {
    /// Where it went wrong.
    pub pos: Pos,
    /// What was found and what was expected.
    pub message: String,
}

impl SyntaxError {
    pub(crate) fn new(pos: Pos, message: impl Into<String>) -> Self {
        Self { pos, message: message.into() }
    }
}
