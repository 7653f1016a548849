//! The server's view: also what an agent is not sent.

use std::{collections::HashSet, fmt, sync::Arc};

use signet_time::UnixTime;

use super::{Candidate, MAX_NEAR_MISSES, MissingSelector, WorkloadExplanation, workload};
use crate::{AuthorizedIndex, Entry, EntryId, SelectorSet, SpiffeId};

/// How many node aliases one reason names.
const MAX_ALIASES: usize = 3;

/// Why a matching entry is not sent to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Withheld {
    /// It is a node alias: a name for nodes, never sent to workloads.
    NodeAlias,
    /// Its parent is another agent.
    OtherAgent(SpiffeId),
    /// Its parent is a node alias that this node's selectors do not match: for each entry of
    /// that alias (at most three) what the node lacks.
    AliasNotMatched {
        /// The alias's SPIFFE ID: the entry's parent, or a parent of that.
        alias: SpiffeId,
        /// The alias entries and what the node lacks.
        missing: Vec<(EntryId, Vec<MissingSelector>)>,
    },
    /// Its parent is a node alias, and the agent is unknown or has no selectors.
    NodeWithoutSelectors {
        /// The alias's SPIFFE ID.
        alias: SpiffeId,
    },
    /// No agent and no entry has the ID of its parent (or of a parent of that).
    ParentUnknown(SpiffeId),
    /// Its parents form a circle that no agent is part of.
    Circle,
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeAlias => f.write_str(
                "it is a node alias (its parent is the server): it names nodes and is not issued \
                 to workloads",
            ),
            Self::OtherAgent(parent) => write!(f, "its parent is another agent, {parent}"),
            Self::AliasNotMatched { alias, missing } => {
                write!(f, "its parent {alias} is a node alias that this node does not match")?;
                for (entry, missing) in missing {
                    write!(f, "; entry {entry}")?;
                    for (position, missing) in missing.iter().enumerate() {
                        write!(f, "{} {missing}", if position == 0 { "" } else { "," })?;
                    }
                }
                Ok(())
            }
            Self::NodeWithoutSelectors { alias } => write!(
                f,
                "its parent {alias} is a node alias, and this agent has no node selectors"
            ),
            Self::ParentUnknown(parent) => {
                write!(f, "no agent and no entry has the ID of its parent {parent}")
            }
            Self::Circle => f.write_str("its parents form a circle that leads to no agent"),
        }
    }
}

/// A matching entry that the agent is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithheldEntry {
    /// The entry.
    pub entry: Candidate,
    /// Why not.
    pub reason: Withheld,
}

impl fmt::Display for WithheldEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.entry, self.reason)
    }
}

/// What workloads with some selectors get at an agent, and what not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentExplanation {
    /// Whether the agent is attested.
    pub agent_known: bool,
    /// The node selectors it has.
    pub node_selectors: SelectorSet,
    /// Of the entries that the agent is sent.
    pub authorized: WorkloadExplanation,
    /// Of those that match: expired, and pruned soon.
    pub expired: Vec<Candidate>,
    /// Entries that match but are not sent to this agent, by entry ID, at most
    /// [`MAX_NEAR_MISSES`].
    pub withheld: Vec<WithheldEntry>,
    /// How many more of those there are.
    pub more_withheld: usize,
}

/// Explains what a workload with the selectors `found` gets at `agent`. `matching` are the entries
/// that match, which takes a walk over all of them to find; those that have gone meanwhile, and
/// those that do not match, do not count. `now` is Unix seconds.
pub fn for_agent(
    index: &AuthorizedIndex,
    agent: &SpiffeId,
    found: &SelectorSet,
    matching: Vec<Arc<Entry>>,
    now: UnixTime,
) -> AgentExplanation {
    let sent = index.authorized(agent);
    let sent_ids: HashSet<&EntryId> = sent.iter().map(|entry| &entry.id).collect();
    let is_expired = |entry: &Entry| entry.expires_at > UnixTime::EPOCH && entry.expires_at < now;
    let expired = sent
        .iter()
        .filter(|entry| is_expired(entry) && entry.selectors.is_subset_of(found))
        .map(|entry| Candidate::from(&**entry))
        .collect();
    let mut others: Vec<&Entry> = matching
        .iter()
        .filter_map(|entry| index.entry(&entry.id))
        .filter(|entry| entry.selectors.is_subset_of(found) && !sent_ids.contains(&entry.id))
        .map(|entry| &**entry)
        .collect();
    others.sort_by(|a, b| a.id.cmp(&b.id));
    let more_withheld = others.len().saturating_sub(MAX_NEAR_MISSES);
    let withheld = others
        .into_iter()
        .take(MAX_NEAR_MISSES)
        .map(|entry| WithheldEntry {
            entry: Candidate::from(entry),
            reason: why_withheld(index, agent, entry),
        })
        .collect();
    AgentExplanation {
        agent_known: index.node_selectors(agent).is_some(),
        node_selectors: index.node_selectors(agent).cloned().unwrap_or_default(),
        authorized: workload(found, sent.iter().map(|entry| Candidate::from(&**entry))),
        expired,
        withheld,
        more_withheld,
    }
}

/// Walks up from an entry that the agent is not authorised for, to the first thing to blame.
fn why_withheld(index: &AuthorizedIndex, agent: &SpiffeId, entry: &Entry) -> Withheld {
    if entry.parent_id.is_server() {
        return Withheld::NodeAlias;
    }
    let mut seen = HashSet::new();
    let mut parents = vec![&entry.parent_id];
    let mut unknown = None;
    let mut other_agent = None;
    while let Some(parent) = parents.pop() {
        if !seen.insert(parent) {
            continue;
        }
        let (aliases, above): (Vec<_>, Vec<_>) =
            index.entries_of(parent).partition(|entry| entry.parent_id.is_server());
        if !aliases.is_empty() {
            return alias_not_matched(index, agent, parent, &aliases);
        }
        if above.is_empty() {
            let is_agent = parent.is_agent() || index.node_selectors(parent).is_some();
            let slot = if is_agent { &mut other_agent } else { &mut unknown };
            slot.get_or_insert(parent);
        }
        parents.extend(above.into_iter().map(|entry| &entry.parent_id));
    }
    match (other_agent, unknown) {
        (Some(parent), _) => Withheld::OtherAgent(parent.clone()),
        (None, Some(parent)) => Withheld::ParentUnknown(parent.clone()),
        (None, None) => Withheld::Circle,
    }
}

fn alias_not_matched(
    index: &AuthorizedIndex,
    agent: &SpiffeId,
    alias: &SpiffeId,
    entries: &[&std::sync::Arc<Entry>],
) -> Withheld {
    let Some(selectors) = index.node_selectors(agent).filter(|set| !set.is_empty()) else {
        return Withheld::NodeWithoutSelectors { alias: alias.clone() };
    };
    let missing = |entry: &Entry| {
        entry
            .selectors
            .missing_from(selectors)
            .map(|it| MissingSelector::of(it, selectors))
            .collect()
    };
    let mut nearest: Vec<(EntryId, Vec<MissingSelector>)> =
        entries.iter().map(|entry| (entry.id.clone(), missing(entry))).collect();
    nearest.sort_by(|(a, x), (b, y)| x.len().cmp(&y.len()).then_with(|| a.cmp(b)));
    nearest.truncate(MAX_ALIASES);
    Withheld::AliasNotMatched { alias: alias.clone(), missing: nearest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EntrySpec, authorized::IndexChange};

    const AGENT: &str = "spiffe://td/spire/agent/t/1";

    fn set(all: &[&str]) -> SelectorSet {
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn entry(id: &str, spiffe_id: &str, parent: &str, selectors: &[&str]) -> Entry {
        let full = |path: &str| format!("spiffe://td{path}").parse().unwrap();
        Entry {
            id: id.parse().unwrap(),
            spec: EntrySpec::new(full(spiffe_id), full(parent), set(selectors)),
            revision_number: 0,
            created_at: UnixTime::EPOCH,
        }
    }

    #[test]
    fn says_why_an_entry_that_exists_is_not_for_this_agent() {
        let mut index = AuthorizedIndex::new("td".parse().unwrap());
        let agent: SpiffeId = AGENT.parse().unwrap();
        index.load(IndexChange::Node(agent.clone(), set(&["t:zone:a"])));
        let mut old = entry("old", "/old", "/spire/agent/t/1", &["unix:uid:0"]);
        old.spec.expires_at = UnixTime::from_seconds(5);
        for entry in [
            old,
            entry("mine", "/mine", "/spire/agent/t/1", &["unix:uid:0"]),
            entry("theirs", "/theirs", "/spire/agent/t/2", &["unix:uid:0"]),
            entry("alias", "/zone-b", "/spire/server", &["t:zone:b"]),
            entry("zone", "/in-zone-b", "/zone-b", &["unix:uid:0"]),
            entry("lost", "/lost", "/nobody", &["unix:uid:0"]),
            entry("ring", "/ring", "/ring", &["unix:uid:0"]),
        ] {
            index.load(IndexChange::Entry(entry));
        }
        let all = index.entries().cloned().collect();
        let now = UnixTime::from_seconds(10);
        let explained = for_agent(&index, &agent, &set(&["unix:uid:0"]), all, now);
        assert!(explained.agent_known);
        assert_eq!(explained.authorized.matching.len(), 2);
        assert_eq!(explained.expired.len(), 1);
        let withheld: Vec<String> = explained.withheld.iter().map(ToString::to_string).collect();
        assert_eq!(
            withheld,
            [
                "spiffe://td/lost (entry lost): no agent and no entry has the ID of its parent \
                 spiffe://td/nobody",
                "spiffe://td/ring (entry ring): its parents form a circle that leads to no agent",
                "spiffe://td/theirs (entry theirs): its parent is another agent, \
                 spiffe://td/spire/agent/t/2",
                "spiffe://td/in-zone-b (entry zone): its parent spiffe://td/zone-b is a node \
                 alias that this node does not match; entry alias wants t:zone:b, found t:zone:a",
            ]
        );
    }

    #[test]
    fn an_alias_and_a_node_without_selectors_are_named() {
        let mut index = AuthorizedIndex::new("td".parse().unwrap());
        index.load(IndexChange::Entry(entry("alias", "/all", "/spire/server", &["t:a"])));
        index.load(IndexChange::Entry(entry("child", "/child", "/all", &["t:a"])));
        let (agent, all) = (AGENT.parse().unwrap(), index.entries().cloned().collect());
        let explained = for_agent(&index, &agent, &set(&["t:a"]), all, UnixTime::EPOCH);
        let reasons: Vec<&Withheld> = explained.withheld.iter().map(|it| &it.reason).collect();
        let alias = "spiffe://td/all".parse().unwrap();
        assert_eq!(reasons, [&Withheld::NodeAlias, &Withheld::NodeWithoutSelectors { alias }]);
        assert!(!explained.agent_known);
    }
}
