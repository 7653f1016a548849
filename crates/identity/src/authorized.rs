//! Which entries an agent is authorised for.

use std::{collections::HashSet, sync::Arc};

use crate::{Entry, EntryId, SelectorSet, SpiffeId, TrustDomain};

/// The index of authorised entries: all entries and the node selectors of all agents, kept so
/// that "what may this agent have?" is answered from memory.
///
/// The rule is SPIRE's: an agent gets the entries parented to its own ID; to the SPIFFE ID of
/// every node alias (an entry parented to `/spire/server`) whose selectors the node all has;
/// and, again and again, to the SPIFFE ID of each entry it gets. Alias entries themselves are
/// not part of the answer. Cycles are cut.
#[derive(Debug)]
pub struct AuthorizedIndex {}

/// A change for [`AuthorizedIndex::apply`].
#[derive(Clone, Debug)]
pub enum IndexChange {
    /// An entry was created or changed.
    Entry(Entry),
    /// An entry was deleted.
    EntryGone(EntryId),
    /// An agent attested, or its selectors changed.
    Node(SpiffeId, SelectorSet),
    /// An agent was deleted.
    NodeGone(SpiffeId),
}

impl AuthorizedIndex {
    /// An empty index for the entries and agents of `trust_domain`; others are ignored.
    pub fn new(_trust_domain: TrustDomain) -> Self {
        todo!()
    }

    /// Takes over a change without asking whom it concerns: for loading.
    pub fn load(&mut self, _change: IndexChange) {
        todo!()
    }

    /// Takes over changes and returns the agents whose answer may differ now.
    pub fn apply(&mut self, _changes: impl IntoIterator<Item = IndexChange>) -> HashSet<SpiffeId> {
        todo!()
    }

    /// The entries `agent` is authorised for, in no particular order, each once.
    pub fn authorized(&self, _agent: &SpiffeId) -> Vec<Arc<Entry>> {
        todo!()
    }

    /// The entry with this ID if `agent` is authorised for it, without building the whole set.
    pub fn entry_for_agent(&self, _agent: &SpiffeId, _id: &EntryId) -> Option<Arc<Entry>> {
        todo!()
    }

    /// The entry with this ID, whoever is authorised for it.
    pub fn entry(&self, _id: &EntryId) -> Option<&Arc<Entry>> {
        todo!()
    }

    /// The entries that issue this SPIFFE ID (for the admin and downstream rights of a caller).
    pub fn entries_of(&self, _spiffe_id: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        std::iter::empty()
    }

    /// All entries, in no particular order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        std::iter::empty()
    }

    /// The node selectors of an agent, if it is known.
    pub fn node_selectors(&self, _agent: &SpiffeId) -> Option<&SelectorSet> {
        todo!()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
