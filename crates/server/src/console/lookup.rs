//! Who gets an entry: from the index in memory.

use std::collections::BTreeSet;

use signet_identity::{AuthorizedIndex, SpiffeId};

/// How many aliases of aliases are followed.
const MAX_STEPS: usize = 64;

/// The agents that hand out entries with this parent: the parent itself, or every node that matches
/// it as an alias. The first `most` in order, and how many in all.
pub(super) fn agents_under(
    index: &AuthorizedIndex,
    parent: &SpiffeId,
    most: usize,
) -> (Vec<SpiffeId>, u64) {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::from([parent.clone()]);
    let mut waiting = vec![parent.clone()];
    while let Some(id) = waiting.pop() {
        if index.node_selectors(&id).is_some() {
            found.insert(id.clone());
        }
        for alias in index.entries_of(&id) {
            if alias.parent_id.is_server() {
                let matching = index.agents().filter(|(_, has)| alias.selectors.is_subset_of(has));
                found.extend(matching.map(|(agent, _)| agent.clone()));
            } else if seen.len() < MAX_STEPS && seen.insert(alias.parent_id.clone()) {
                waiting.push(alias.parent_id.clone());
            }
        }
    }
    let count = found.len() as u64;
    (found.into_iter().take(most).collect(), count)
}

/// Whether there is an agent, an alias or the server behind the ID of a parent.
pub(super) fn is_known(index: &AuthorizedIndex, parent: &SpiffeId) -> bool {
    parent.is_server()
        || index.node_selectors(parent).is_some()
        || index.entries_of(parent).next().is_some()
}
