//! Why a workload does, or does not, get an identity: as values that print themselves.
//!
//! [`workload`] is the agent's view: which of the entries it was sent match what its attestors
//! found, which nearly do, and what each lacks. [`for_agent`] is the server's: it also knows the
//! entries that this agent is not sent, and says why not.

mod server;

use std::fmt;

use crate::{EntryId, Selector, SelectorSet, SpiffeId};

pub use server::{AgentExplanation, Withheld, WithheldEntry, for_agent};

/// How many near misses an explanation names; the rest is counted.
pub const MAX_NEAR_MISSES: usize = 10;
/// How many counterparts a [`MissingSelector`] names.
const MAX_COUNTERPARTS: usize = 5;

/// An entry, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The entry ID.
    pub entry_id: EntryId,
    /// What it would issue.
    pub spiffe_id: SpiffeId,
    /// What it asks for.
    pub selectors: SelectorSet,
}

impl From<&crate::Entry> for Candidate {
    fn from(entry: &crate::Entry) -> Self {
        Self {
            entry_id: entry.id.clone(),
            spiffe_id: entry.spiffe_id.clone(),
            selectors: entry.selectors.clone(),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (entry {})", self.spiffe_id, self.entry_id)
    }
}

/// A selector that an entry asks for and that was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingSelector {
    /// What the entry asks for.
    pub wanted: Selector,
    /// Why it is not there.
    pub reason: MissingReason,
}

/// What was found instead of a wanted selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MissingReason {
    /// Selectors that differ only in their last part, as `unix:uid:0` does from `unix:uid:1000`.
    Differs(Vec<Selector>),
    /// Selectors of that type, but none of that kind.
    NotFound,
    /// No selector of that type at all: its attestor is not configured, failed, or does not
    /// apply to this process.
    NothingOfType,
}

impl MissingSelector {
    fn of(wanted: &Selector, found: &SelectorSet) -> Self {
        let mut same_type = found.iter().filter(|it| it.kind() == wanted.kind()).peekable();
        let reason = if same_type.peek().is_none() {
            MissingReason::NothingOfType
        } else {
            let differs: Vec<Selector> = same_type
                .filter(|it| stem(it).is_some() && stem(it) == stem(wanted))
                .take(MAX_COUNTERPARTS)
                .cloned()
                .collect();
            if differs.is_empty() {
                MissingReason::NotFound
            } else {
                MissingReason::Differs(differs)
            }
        };
        Self { wanted: wanted.clone(), reason }
    }
}

/// The value up to its last `:`.
fn stem(selector: &Selector) -> Option<&str> {
    selector.value().rsplit_once(':').map(|(stem, _)| stem)
}

impl fmt::Display for MissingSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wants {}, ", self.wanted)?;
        match &self.reason {
            MissingReason::Differs(found) => {
                f.write_str("found ")?;
                for (position, selector) in found.iter().enumerate() {
                    let comma = if position == 0 { "" } else { ", " };
                    write!(f, "{comma}{selector}")?;
                }
                Ok(())
            }
            MissingReason::NotFound => f.write_str("not found"),
            MissingReason::NothingOfType => {
                write!(f, "but no attestor found any \"{}\" selector", self.wanted.kind())
            }
        }
    }
}

/// An entry that does not match, and what it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The entry.
    pub entry: Candidate,
    /// What was not found; never empty.
    pub missing: Vec<MissingSelector>,
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.entry)?;
        for (position, missing) in self.missing.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}{missing}")?;
        }
        Ok(())
    }
}

/// What a set of found selectors gets out of a set of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadExplanation {
    /// The entries that match, by entry ID: the order in which they are served.
    pub matching: Vec<Candidate>,
    /// Those that nearly match, nearest first, at most [`MAX_NEAR_MISSES`].
    pub near_misses: Vec<NearMiss>,
    /// How many other entries there are.
    pub others: usize,
}

/// Compares what was found with what the entries ask for.
///
/// A near miss has at least one selector in common with what was found, or one that differs only
/// in its last part. The entries of other pods are none: they can never be this one's, and say
/// nothing but what those are called.
pub fn workload(
    found: &SelectorSet,
    entries: impl IntoIterator<Item = Candidate>,
) -> WorkloadExplanation {
    let mut matching = Vec::new();
    let mut near: Vec<(Distance, NearMiss)> = Vec::new();
    let mut others = 0;
    for entry in entries {
        if entry.selectors.is_subset_of(found) {
            matching.push(entry);
            continue;
        }
        if is_of_another_pod(&entry, found) {
            others += 1;
            continue;
        }
        let missing: Vec<MissingSelector> = entry
            .selectors
            .missing_from(found)
            .map(|wanted| MissingSelector::of(wanted, found))
            .collect();
        let common = entry.selectors.len() - missing.len();
        let differs = missing
            .iter()
            .filter(|missing| matches!(missing.reason, MissingReason::Differs(_)))
            .count();
        if common == 0 && differs == 0 {
            others += 1;
            continue;
        }
        let distance = (missing.len() - differs, missing.len(), usize::MAX - common);
        near.push((distance, NearMiss { entry, missing }));
        // Kept short while it grows: an agent may hold very many entries.
        if near.len() >= 8 * MAX_NEAR_MISSES {
            others += keep_nearest(&mut near);
        }
    }
    others += keep_nearest(&mut near);
    matching.sort_by(|a, b| a.entry_id.cmp(&b.entry_id));
    let near_misses = near.into_iter().map(|(_, miss)| miss).collect();
    WorkloadExplanation { matching, near_misses, others }
}

/// Whether an entry names the UID of a pod, and what was found is of another one.
fn is_of_another_pod(entry: &Candidate, found: &SelectorSet) -> bool {
    let names_pod =
        |selector: &Selector| selector.kind() == "k8s" && selector.value().starts_with("pod-uid:");
    found.iter().any(names_pod) && entry.selectors.missing_from(found).any(names_pod)
}

/// What is absent outright, what is absent at all, and (less is better) what is not in common.
type Distance = (usize, usize, usize);

fn keep_nearest(near: &mut Vec<(Distance, NearMiss)>) -> usize {
    near.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.entry.entry_id.cmp(&y.entry.entry_id)));
    let dropped = near.len().saturating_sub(MAX_NEAR_MISSES);
    near.truncate(MAX_NEAR_MISSES);
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: &[&str]) -> SelectorSet {
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn entry(id: &str, selectors: &[&str]) -> Candidate {
        Candidate {
            entry_id: id.parse().unwrap(),
            spiffe_id: format!("spiffe://td/{id}").parse().unwrap(),
            selectors: set(selectors),
        }
    }

    #[test]
    fn says_what_matches_and_what_each_near_miss_lacks() {
        let found = set(&["unix:uid:0", "unix:gid:0", "unix:user:root"]);
        let explained = workload(
            &found,
            [
                entry("b", &["unix:uid:0"]),
                entry("a", &["unix:gid:0"]),
                entry("c", &["unix:uid:1000"]),
                entry("d", &["unix:uid:0", "k8s:ns:default"]),
                entry("e", &["docker:label:x:y"]),
                entry("f", &["unix:gid:0", "unix:sha256:ab"]),
            ],
        );
        let ids: Vec<_> = explained.matching.iter().map(|it| it.entry_id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        let near: Vec<String> = explained.near_misses.iter().map(ToString::to_string).collect();
        assert_eq!(
            near,
            [
                "spiffe://td/c (entry c): wants unix:uid:1000, found unix:uid:0",
                "spiffe://td/d (entry d): wants k8s:ns:default, but no attestor found any \
                 \"k8s\" selector",
                "spiffe://td/f (entry f): wants unix:sha256:ab, not found",
            ]
        );
        assert_eq!(explained.others, 1);
    }

    #[test]
    fn near_misses_leave_the_entries_of_other_pods_out() {
        let found = set(&["k8s:ns:a", "k8s:pod-uid:1"]);
        let explained = workload(
            &found,
            [
                entry("other", &["k8s:ns:a", "k8s:pod-uid:2"]),
                entry("own", &["k8s:ns:b", "k8s:pod-uid:1"]),
            ],
        );
        let near: Vec<_> =
            explained.near_misses.iter().map(|miss| miss.entry.entry_id.as_str()).collect();
        assert_eq!((near, explained.others), (vec!["own"], 1));
    }

    #[test]
    fn names_few_of_many_near_misses_and_counts_the_rest() {
        let entries = (0..500).map(|n| entry(&format!("e{n:03}"), &[&format!("unix:uid:{n}")]));
        let explained = workload(&set(&["unix:uid:1000"]), entries);
        assert_eq!(explained.near_misses.len(), MAX_NEAR_MISSES);
        assert_eq!(explained.others, 500 - MAX_NEAR_MISSES);
        assert_eq!(explained.near_misses[0].entry.entry_id.as_str(), "e000");
    }
}
