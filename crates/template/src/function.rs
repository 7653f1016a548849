//! What a function is, and how one reads its arguments.

use crate::val::{Heap, Val};

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// `interface{}`.
    Any,
    Bool,
    /// `map[string]interface{}`.
    Dict,
    Int,
    /// `reflect.Value`: as [`Type::Any`], with a missing value let through.
    Raw,
    Text,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "interface {}",
            Self::Bool => "bool",
            Self::Dict => "map[string]interface {}",
            Self::Int => "int",
            Self::Raw => "reflect.Value",
            Self::Text => "string",
        }
    }

    pub fn can_be_nil(self) -> bool {
        matches!(self, Self::Any | Self::Dict | Self::Raw)
    }
}

pub(crate) type Run = for<'v> fn(&Heap<'v>, &[Val<'v>]) -> Result<Val<'v>, String>;

/// A function: its parameters, the type of further ones, and what it does.
pub(crate) struct Function {
    pub name: &'static str,
    pub params: &'static [Type],
    pub rest: Option<Type>,
    pub run: Run,
}

/// The `at`th argument, which its type says is a text.
pub(crate) fn text<'a>(args: &'a [Val<'_>], at: usize) -> Result<&'a str, String> {
    match args.get(at) {
        Some(Val::Text(text)) => Ok(text),
        other => Err(format!("argument {} is not a text: {other:?}", at + 1)),
    }
}

/// The `at`th argument, which its type says is an integer.
pub(crate) fn int(args: &[Val<'_>], at: usize) -> Result<i64, String> {
    match args.get(at) {
        Some(Val::Int(int)) => Ok(*int),
        other => Err(format!("argument {} is not an integer: {other:?}", at + 1)),
    }
}

/// The `at`th argument; nil when it is not there.
pub(crate) fn any<'v>(args: &[Val<'v>], at: usize) -> Val<'v> {
    args.get(at).cloned().unwrap_or(Val::Nil)
}
