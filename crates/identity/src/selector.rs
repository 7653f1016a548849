//! Selectors: what an attestor found out about a node or a workload.

use std::{fmt, str::FromStr, sync::Arc};

/// A selector: a type (the attestor's name) and a value, written `type:value`.
///
/// The text form splits at the first `:`; both parts are non-empty and the type has no `:`.
/// Ordered by type, then value.
// The text form in one piece: there are millions of them in a large server.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Selector(Box<str>);

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The type is empty.
    #[error("missing selector type")]
    MissingType,
    /// The value is empty.
    #[error("missing selector value")]
    MissingValue,
    /// No `:` between type and value.
    #[error("selector \"{0}\" must be formatted as type:value")]
    NoColon(String),
    /// The type holds a `:`.
    #[error("selector type contains ':'")]
    TypeHasColon,
}

impl Selector {
    /// A selector from its parts.
    ///
    /// # Errors
    /// [`SelectorError`] when a part is empty or the type holds a `:`.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        if kind.is_empty() {
            return Err(SelectorError::MissingType);
        }
        if kind.contains(':') {
            return Err(SelectorError::TypeHasColon);
        }
        if value.is_empty() {
            return Err(SelectorError::MissingValue);
        }
        Ok(Self(format!("{kind}:{value}").into()))
    }

    /// The selector type, for example `unix`.
    pub fn kind(&self) -> &str {
        self.parts().0
    }

    /// The selector value, for example `uid:0`.
    pub fn value(&self) -> &str {
        self.parts().1
    }

    /// The text form, `type:value`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or((&self.0, ""))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None => Err(SelectorError::NoColon(text.to_owned())),
            Some(("", _)) => Err(SelectorError::MissingType),
            Some((_, "")) => Err(SelectorError::MissingValue),
            Some(_) => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of selectors: sorted by type then value, without duplicates. Cheap to clone: clones
/// share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorSet(Arc<[Selector]>);

impl SelectorSet {
    /// The selectors in order.
    pub fn as_slice(&self) -> &[Selector] {
        &self.0
    }

    /// Iterates over the selectors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.0.iter()
    }

    /// How many selectors there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `selector` is in the set.
    pub fn contains(&self, selector: &Selector) -> bool {
        self.0.binary_search(selector).is_ok()
    }

    /// Whether every selector of `self` is in `other`.
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.len() <= other.len() && self.iter().all(|selector| other.contains(selector))
    }

    /// The selectors of `self` that `other` lacks.
    pub fn missing_from<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Selector> {
        self.iter().filter(|selector| !other.contains(selector))
    }
}

impl FromIterator<Selector> for SelectorSet {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        let mut all: Vec<Selector> = selectors.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self(all.into())
    }
}

impl<'a> IntoIterator for &'a SelectorSet {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// How a list filter compares a candidate's set with the filter's set.
///
/// The direction is the candidate relative to the filter, as SPIRE has it: `Subset` keeps a
/// candidate whose set is a subset of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchBehavior {
    /// At least one in common.
    Any,
    /// The same set.
    Exact,
    /// Every one of the candidate's is in the filter.
    Subset,
    /// Every one of the filter's is in the candidate.
    Superset,
}

impl MatchBehavior {
    /// Whether `candidate` passes `filter`; both are sorted and without duplicates.
    pub fn accepts<T: Ord>(self, candidate: &[T], filter: &[T]) -> bool {
        let within = |a: &[T], b: &[T]| a.iter().all(|x| b.binary_search(x).is_ok());
        match self {
            Self::Any => candidate.iter().any(|x| filter.binary_search(x).is_ok()),
            Self::Exact => candidate == filter,
            Self::Subset => !candidate.is_empty() && within(candidate, filter),
            Self::Superset => within(filter, candidate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: &[&str]) -> SelectorSet {
        all.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn splits_at_the_first_colon() {
        let selector: Selector = "k8s:pod-label:a:b".parse().unwrap();
        assert_eq!((selector.kind(), selector.value()), ("k8s", "pod-label:a:b"));
        for bad in ["", "unix", ":x", "unix:"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn types_are_ordered_before_values() {
        let set = set(&["a-b:1", "a:2", "a:1"]);
        let texts: Vec<&str> = set.iter().map(Selector::as_str).collect();
        assert_eq!(texts, ["a:1", "a:2", "a-b:1"]);
    }

    #[test]
    fn match_directions_are_those_of_spire() {
        let (entry, filter) = (set(&["t:a"]), set(&["t:a", "t:b"]));
        let accepts = |m: MatchBehavior| m.accepts(entry.as_slice(), filter.as_slice());
        assert!(!accepts(MatchBehavior::Exact) && accepts(MatchBehavior::Any));
        assert!(!accepts(MatchBehavior::Superset) && accepts(MatchBehavior::Subset));
    }
}
