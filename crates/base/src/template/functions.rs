//! Which functions a template may call.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    builtins, sprig,
    val::{Heap, Val},
};

/// The functions that a template may call besides Go's own, and what a missing key is.
#[derive(Clone, Default)]
pub struct Functions {
    sprig: bool,
    strict: bool,
    extra: BTreeMap<&'static str, Extra>,
}

#[derive(Clone)]
pub(super) enum Extra {
    Of(Arc<dyn Fn(&str) -> String + Send + Sync>),
    Source(Arc<dyn Fn() -> String + Send + Sync>),
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
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

pub(super) type Run = for<'v> fn(&Heap<'v>, &[Val<'v>]) -> Result<Val<'v>, String>;

/// A function: its parameters, the type of further ones, and what it does.
pub(super) struct Function {
    pub name: &'static str,
    pub params: &'static [Type],
    pub rest: Option<Type>,
    pub run: Run,
}

/// A function that a name means.
pub(super) enum Found<'f> {
    /// `and`, which stops at the first that is false, and `or`.
    ShortCircuit {
        stops_at: bool,
    },
    Plain(&'static Function),
    Extra(&'f Extra),
}

impl Functions {
    /// Go's own functions alone: what ClusterSPIFFEIDs have.
    pub fn go() -> Self {
        Self::default()
    }

    /// The part of sprig that SPIRE lets `agent_path_template` use, but for what takes a hash or
    /// chance (`sha1sum`, `sha256sum`, `uuidv4`): those come from the caller, with
    /// [`Functions::with`] and [`Functions::with_source`].
    pub fn sprig_subset() -> Self {
        Self { sprig: true, ..Self::default() }
    }

    /// Makes a key that is missing in a map an error (`missingkey=error`).
    #[must_use]
    pub fn missing_key_is_error(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Adds a function from text to text.
    #[must_use]
    pub fn with(
        mut self,
        name: &'static str,
        function: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        self.extra.insert(name, Extra::Of(Arc::new(function)));
        self
    }

    /// Adds a function without parameters.
    #[must_use]
    pub fn with_source(
        mut self,
        name: &'static str,
        function: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.extra.insert(name, Extra::Source(Arc::new(function)));
        self
    }

    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// What `name` means: sprig's `slice` hides Go's.
    pub(super) fn find(&self, name: &str) -> Option<Found<'_>> {
        if let Some(extra) = self.extra.get(name) {
            return Some(Found::Extra(extra));
        }
        if let Some(function) = self.sprig.then(|| sprig::find(name)).flatten() {
            return Some(Found::Plain(function));
        }
        match name {
            "and" => Some(Found::ShortCircuit { stops_at: false }),
            "or" => Some(Found::ShortCircuit { stops_at: true }),
            _ => builtins::find(name).map(Found::Plain),
        }
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions")
            .field("sprig", &self.sprig)
            .field("missing_key_is_error", &self.strict)
            .field("extra", &self.extra.keys())
            .finish_non_exhaustive()
    }
}

/// The `at`th argument, which its type says is a text.
pub(super) fn text<'a>(args: &'a [Val<'_>], at: usize) -> Result<&'a str, String> {
    match args.get(at) {
        Some(Val::Text(text)) => Ok(text),
        other => Err(format!("argument {} is not a text: {other:?}", at + 1)),
    }
}

/// The `at`th argument, which its type says is an integer.
pub(super) fn int(args: &[Val<'_>], at: usize) -> Result<i64, String> {
    match args.get(at) {
        Some(Val::Int(int)) => Ok(*int),
        other => Err(format!("argument {} is not an integer: {other:?}", at + 1)),
    }
}

/// The `at`th argument; nil when it is not there.
pub(super) fn any<'v>(args: &[Val<'v>], at: usize) -> Val<'v> {
    args.get(at).cloned().unwrap_or(Val::Nil)
}
