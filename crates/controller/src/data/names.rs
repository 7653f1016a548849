//! Which fields templates mention.

use std::collections::BTreeSet;

use super::schema::schema;

/// Go field names. A struct's field can be reached by its literal name only, so what no template
/// mentions no template can see: it need not be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(BTreeSet<&'static str>);

impl Names {
    /// The field names that may occur in a template: every known one after a dot, wherever the dot
    /// stands. Too many are harmless, too few never happen.
    pub fn of_template(text: &str) -> Self {
        let mut names = BTreeSet::new();
        for after_dot in text.split('.').skip(1) {
            let end = after_dot
                .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                .unwrap_or(after_dot.len());
            names.extend(after_dot.get(..end).and_then(|name| schema().known(name)));
        }
        Self(names)
    }

    /// Takes those of `other` too.
    pub fn add(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    /// Whether every name of `self` is in `other`.
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Whether `name` is mentioned.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}
