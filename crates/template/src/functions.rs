//! Which functions a template may call.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{builtins, function::Function, sprig};

/// The functions that a template may call besides Go's own, and what a missing key is.
#[derive(Clone, Default)]
pub struct Functions {
    sprig: bool,
    strict: bool,
    extra: BTreeMap<&'static str, Extra>,
}

#[derive(Clone)]
pub(crate) enum Extra {
    Of(Arc<dyn Fn(&str) -> String + Send + Sync>),
    Source(Arc<dyn Fn() -> String + Send + Sync>),
}

/// A function that a name means.
pub(crate) enum Found<'f> {
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

    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// What `name` means: sprig's `slice` hides Go's.
    pub(crate) fn find(&self, name: &str) -> Option<Found<'_>> {
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
