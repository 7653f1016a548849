//! A registration entry as an agent knows it: the fields that a server sends to it, no more.

use std::sync::Arc;

use signet_identity::{EntryId, SelectorSet, SpiffeId, TrustDomain};
use signet_time::UnixTime;

/// An entry this agent is authorised for. Parent, TTLs and DNS names stay on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentEntry {
    /// The entry ID; identities are served in its order.
    pub id: EntryId,
    /// The SPIFFE ID to issue.
    pub spiffe_id: SpiffeId,
    /// What a workload must have.
    pub selectors: SelectorSet,
    /// Foreign trust domains whose bundles the workload gets.
    pub federates_with: Vec<TrustDomain>,
    /// Whether the identity may call the server's admin API.
    pub admin: bool,
    /// Whether the identity may ask for an intermediate CA.
    pub downstream: bool,
    /// Whether the SVID goes to a secret store instead of to workloads.
    pub store_svid: bool,
    /// A hint for workloads with several identities; empty for none.
    pub hint: Box<str>,
    /// When the entry was created, Unix seconds.
    pub created_at: UnixTime,
    /// Grows by one with every change.
    pub revision_number: i64,
    /// Whether nothing is signed before a workload asks.
    pub disable_x509_svid_prefetch: bool,
    /// Whether every JWT-SVID is fresh and carries a `jti`.
    pub jwt_svid_include_jti: bool,
}

impl AgentEntry {
    /// Whether both give the same identity to the same workloads, as entries of several server sets
    /// may.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.spiffe_id == other.spiffe_id && self.selectors == other.selectors
    }

    /// Whether somebody else may be given the identity for the workload, as delegates and brokers
    /// are: not that of an administrator or a downstream server.
    pub fn may_be_passed_on(&self) -> bool {
        !self.admin && !self.downstream
    }
}

/// Drops entries whose hint another entry has, as the Workload API demands: the oldest entry
/// keeps its hint, then the one with the lowest ID. Empty hints are never duplicates.
///
/// `entries` are in the order of their IDs and stay so.
pub fn without_duplicate_hints<T>(items: Vec<T>, entry: impl Fn(&T) -> &AgentEntry) -> Vec<T> {
    let rank = |item: &T| {
        let entry = entry(item);
        (entry.created_at, entry.id.clone())
    };
    if items.iter().all(|item| entry(item).hint.is_empty()) {
        return items;
    }
    let mut keeper = std::collections::HashMap::<Box<str>, (UnixTime, EntryId)>::new();
    for item in &items {
        let hint = &entry(item).hint;
        if hint.is_empty() {
            continue;
        }
        let candidate = rank(item);
        keeper
            .entry(hint.clone())
            .and_modify(|best| {
                if candidate < *best {
                    *best = candidate.clone();
                }
            })
            .or_insert(candidate);
    }
    items
        .into_iter()
        .filter(|item| {
            let entry = entry(item);
            let keep =
                entry.hint.is_empty() || keeper.get(&entry.hint).is_some_and(|k| k.1 == entry.id);
            if !keep {
                tracing::warn!(
                    hint = %entry.hint,
                    entry_id = %entry.id,
                    "Ignoring entry with duplicate hint"
                );
            }
            keep
        })
        .collect()
}

/// Entries by ID, shared.
pub type EntryMap = std::collections::BTreeMap<EntryId, Arc<AgentEntry>>;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An entry for tests: `id`, a SPIFFE ID of the same name, and selectors.
    pub(crate) fn entry(id: &str, selectors: &[&str]) -> AgentEntry {
        AgentEntry {
            id: id.parse().unwrap(),
            spiffe_id: format!("spiffe://td/{id}").parse().unwrap(),
            selectors: selectors.iter().map(|s| s.parse().unwrap()).collect(),
            federates_with: Vec::new(),
            admin: false,
            downstream: false,
            store_svid: false,
            hint: "".into(),
            created_at: UnixTime::from_seconds(1),
            revision_number: 0,
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        }
    }

    #[test]
    fn of_two_equal_hints_the_oldest_entry_stays_then_the_lowest_id() {
        let with = |id: &str, hint: &str, created_at| AgentEntry {
            hint: hint.into(),
            created_at,
            ..entry(id, &["unix:uid:0"])
        };
        let kept = without_duplicate_hints(
            vec![
                with("a", "x", UnixTime::from_seconds(5)),
                with("b", "x", UnixTime::from_seconds(4)),
                with("c", "", UnixTime::from_seconds(1)),
                with("d", "", UnixTime::from_seconds(1)),
            ],
            |e| e,
        );
        assert_eq!(kept.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["b", "c", "d"]);
        let kept = without_duplicate_hints(
            vec![
                with("a", "x", UnixTime::from_seconds(4)),
                with("b", "x", UnixTime::from_seconds(4)),
            ],
            |e| e,
        );
        assert_eq!(kept.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["a"]);
    }
}
