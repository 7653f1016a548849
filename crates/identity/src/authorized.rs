//! Which entries an agent is authorised for.

mod slots;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{Entry, EntryId, Selector, SelectorSet, SpiffeId, TrustDomain};
use slots::{Slot, Slots};

/// The index of authorised entries: all entries and the node selectors of all agents, kept so
/// that "what may this agent have?" is answered from memory.
///
/// The rule is SPIRE's: an agent gets the entries parented to its own ID; to the SPIFFE ID of
/// every node alias (an entry parented to `/spire/server`) whose selectors the node all has;
/// and, again and again, to the SPIFFE ID of each entry it gets. Alias entries themselves are
/// not part of the answer. Cycles are cut.
///
/// Expiry is not looked at: an expired entry counts until it is pruned, as in SPIRE.
#[derive(Debug)]
pub struct AuthorizedIndex {
    trust_domain: TrustDomain,
    server: SpiffeId,
    slots: Slots,
    /// Node aliases, each under one of its selectors.
    aliases: HashMap<Selector, Vec<Slot>>,
    agents: HashMap<SpiffeId, SelectorSet>,
    agents_by_selector: HashMap<Selector, HashSet<SpiffeId>>,
}

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
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            server: SpiffeId::server(trust_domain.clone()),
            trust_domain,
            slots: Slots::default(),
            aliases: HashMap::new(),
            agents: HashMap::new(),
            agents_by_selector: HashMap::new(),
        }
    }

    /// Makes room for so many more entries.
    pub fn reserve(&mut self, more: usize) {
        self.slots.reserve(more);
    }

    /// Takes over a change without asking whom it concerns: for loading.
    pub fn load(&mut self, change: IndexChange) {
        match change {
            IndexChange::Entry(entry) => {
                self.remove_entry(&entry.id);
                self.insert_entry(entry);
            }
            IndexChange::EntryGone(id) => self.remove_entry(&id),
            IndexChange::Node(agent, selectors) => {
                self.remove_agent(&agent);
                self.insert_agent(agent, selectors);
            }
            IndexChange::NodeGone(agent) => self.remove_agent(&agent),
        }
    }

    /// Takes over changes and returns the agents whose answer may differ now.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = IndexChange>) -> HashSet<SpiffeId> {
        let mut concerned = Concerned::default();
        for change in changes {
            let entry = match &change {
                IndexChange::Entry(entry) => Some(entry.id.clone()),
                IndexChange::EntryGone(id) => Some(id.clone()),
                IndexChange::Node(agent, _) | IndexChange::NodeGone(agent) => {
                    concerned.agents.insert(agent.clone());
                    None
                }
            };
            // Those who had it, and those who have it now.
            if let Some(id) = &entry {
                self.find_concerned(id, &mut concerned);
            }
            self.load(change);
            if let Some(id) = &entry {
                self.find_concerned(id, &mut concerned);
            }
        }
        concerned.agents
    }

    /// The entries `agent` is authorised for, in no particular order, each once.
    pub fn authorized(&self, agent: &SpiffeId) -> Vec<Arc<Entry>> {
        let mut found = Vec::new();
        let mut parents = self.roots(agent);
        let mut seen = parents.iter().cloned().collect::<HashSet<_>>();
        while let Some(parent) = parents.pop() {
            for entry in self.slots.children(parent) {
                found.push(entry.clone());
                let id = &entry.spiffe_id;
                if self.slots.has_children(id) && *id != self.server && seen.insert(id) {
                    parents.push(id);
                }
            }
        }
        found
    }

    /// The entry with this ID if `agent` is authorised for it, without building the whole set.
    pub fn entry_for_agent(&self, agent: &SpiffeId, id: &EntryId) -> Option<Arc<Entry>> {
        let entry = self.slots.get(id)?;
        let roots = self.roots(agent);
        let mut seen = HashSet::new();
        let mut parents = vec![&entry.parent_id];
        while let Some(parent) = parents.pop() {
            if roots.contains(&parent) {
                return Some(entry.clone());
            }
            if *parent == self.server || !seen.insert(parent) {
                continue;
            }
            parents.extend(self.slots.issuing(parent).map(|entry| &entry.parent_id));
        }
        None
    }

    /// [`Self::authorized`], of which only those entries count, and lead to others, that `admit`
    /// lets pass, with the entry that led to them; node aliases too, with none.
    pub fn authorized_where(
        &self,
        agent: &SpiffeId,
        admit: &dyn Fn(Option<&Entry>, &Entry) -> bool,
    ) -> Vec<Arc<Entry>> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut parents: Vec<(&SpiffeId, Option<&Entry>)> = Vec::new();
        if agent.trust_domain() == &self.trust_domain && *agent != self.server {
            parents.push((agent, None));
        }
        let no_selectors = SelectorSet::default();
        let selectors = self.agents.get(agent).unwrap_or(&no_selectors);
        for alias in self.aliases_for(selectors).filter(|alias| admit(None, alias)) {
            parents.push((&alias.spiffe_id, Some(&**alias)));
        }
        parents.retain(|(id, _)| seen.insert(*id));
        while let Some((parent, by)) = parents.pop() {
            for entry in self.slots.children(parent).filter(|entry| admit(by, entry)) {
                found.push(entry.clone());
                let id = &entry.spiffe_id;
                if self.slots.has_children(id) && *id != self.server && seen.insert(id) {
                    parents.push((id, Some(&**entry)));
                }
            }
        }
        found
    }

    /// [`Self::entry_for_agent`] by steps that `admit` lets pass, as in
    /// [`Self::authorized_where`].
    pub fn entry_for_agent_where(
        &self,
        agent: &SpiffeId,
        id: &EntryId,
        admit: &dyn Fn(Option<&Entry>, &Entry) -> bool,
    ) -> Option<Arc<Entry>> {
        let entry = self.slots.get(id)?;
        if agent.trust_domain() != &self.trust_domain || *agent == self.server {
            return None;
        }
        let no_selectors = SelectorSet::default();
        let selectors = self.agents.get(agent).unwrap_or(&no_selectors);
        let aliases: Vec<&Arc<Entry>> =
            self.aliases_for(selectors).filter(|alias| admit(None, alias)).collect();
        let mut seen = HashSet::new();
        let mut steps: Vec<&Entry> = vec![entry];
        while let Some(step) = steps.pop() {
            let parent = &step.parent_id;
            let by_alias = |alias: &&&Arc<Entry>| alias.spiffe_id == *parent;
            if *parent == *agent && admit(None, step)
                || aliases.iter().filter(by_alias).any(|alias| admit(Some(&***alias), step))
            {
                return Some(entry.clone());
            }
            if *parent == self.server || !seen.insert(&step.id) {
                continue;
            }
            let above = self.slots.issuing(parent).map(|entry| &**entry);
            steps.extend(above.filter(|above| admit(Some(above), step)));
        }
        None
    }

    /// The entry with this ID, whoever is authorised for it.
    pub fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.slots.get(id)
    }

    /// The entries that issue this SPIFFE ID (for the admin and downstream rights of a caller).
    pub fn entries_of(&self, spiffe_id: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        self.slots.issuing(spiffe_id)
    }

    /// The entries with this parent.
    pub fn children_of(&self, parent: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        self.slots.children(parent)
    }

    /// All entries, in no particular order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.slots.all()
    }

    /// The entries at the places from `from` on, up to `most` places, each with its place, for walks
    /// that may not hold the index for long. An entry keeps its place as long as it is there: a walk
    /// from 0 to [`Self::places`] in several steps meets each that is there all the time once.
    pub fn between(&self, from: usize, most: usize) -> impl Iterator<Item = (usize, &Arc<Entry>)> {
        self.slots.between(from, most)
    }

    /// One more than the last place of an entry.
    pub fn places(&self) -> usize {
        self.slots.places()
    }

    /// The node selectors of an agent, if it is known.
    pub fn node_selectors(&self, agent: &SpiffeId) -> Option<&SelectorSet> {
        self.agents.get(agent)
    }

    /// All agents with their node selectors, in no particular order.
    pub fn agents(&self) -> impl Iterator<Item = (&SpiffeId, &SelectorSet)> {
        self.agents.iter()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The IDs that `agent` stands for itself: its own and those of its node aliases.
    fn roots<'a>(&'a self, agent: &'a SpiffeId) -> Vec<&'a SpiffeId> {
        if agent.trust_domain() != &self.trust_domain || *agent == self.server {
            return Vec::new();
        }
        let mut roots = vec![agent];
        if let Some(selectors) = self.agents.get(agent) {
            for alias in self.aliases_for(selectors) {
                if !roots.contains(&&alias.spiffe_id) {
                    roots.push(&alias.spiffe_id);
                }
            }
        }
        roots
    }

    /// The node aliases of a node with these selectors.
    fn aliases_for<'a>(
        &'a self,
        selectors: &'a SelectorSet,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        selectors
            .iter()
            .filter_map(|selector| self.aliases.get(selector))
            .flatten()
            .filter_map(|slot| self.slots.at(*slot))
            .filter(|alias| alias.selectors.is_subset_of(selectors))
    }

    fn insert_entry(&mut self, mut entry: Entry) {
        let foreign = |id: &SpiffeId| id.trust_domain() != &self.trust_domain;
        if foreign(&entry.spiffe_id) || foreign(&entry.parent_id) {
            return;
        }
        let spec = &mut entry.spec;
        spec.spiffe_id = spec.spiffe_id.clone().sharing(&self.trust_domain);
        spec.parent_id = spec.parent_id.clone().sharing(&self.trust_domain);
        let alias = (spec.parent_id == self.server).then(|| spec.selectors.clone());
        let slot = self.slots.insert(entry);
        if let Some(selectors) = alias
            && let Some(key) = self.rarest(&selectors)
        {
            self.aliases.entry(key.clone()).or_default().push(slot);
        }
    }

    /// The selector under which the fewest aliases are kept.
    fn rarest<'a>(&self, selectors: &'a SelectorSet) -> Option<&'a Selector> {
        selectors.iter().min_by_key(|selector| self.aliases.get(selector).map_or(0, Vec::len))
    }

    fn remove_entry(&mut self, id: &EntryId) {
        let Some((slot, entry)) = self.slots.remove(id) else {
            return;
        };
        if entry.parent_id == self.server {
            for selector in &entry.selectors {
                if let Some(held) = self.aliases.get_mut(selector) {
                    held.retain(|other| *other != slot);
                    if held.is_empty() {
                        self.aliases.remove(selector);
                    }
                }
            }
        }
    }

    fn insert_agent(&mut self, agent: SpiffeId, selectors: SelectorSet) {
        if agent.trust_domain() != &self.trust_domain {
            return;
        }
        let agent = agent.sharing(&self.trust_domain);
        for selector in &selectors {
            self.agents_by_selector.entry(selector.clone()).or_default().insert(agent.clone());
        }
        self.agents.insert(agent, selectors);
    }

    fn remove_agent(&mut self, agent: &SpiffeId) {
        let Some(selectors) = self.agents.remove(agent) else {
            return;
        };
        for selector in &selectors {
            if let Some(agents) = self.agents_by_selector.get_mut(selector) {
                agents.remove(agent);
                if agents.is_empty() {
                    self.agents_by_selector.remove(selector);
                }
            }
        }
    }

    /// Adds the agents that have, or through an alias may have, this entry or what hangs on it.
    fn find_concerned(&self, id: &EntryId, concerned: &mut Concerned) {
        let Some(entry) = self.slots.get(id) else {
            return;
        };
        self.climb(entry, concerned);
    }

    fn climb(&self, entry: &Arc<Entry>, concerned: &mut Concerned) {
        let mut entries = vec![entry];
        while let Some(entry) = entries.pop() {
            let parent = &entry.parent_id;
            if *parent == self.server {
                if concerned.aliases.insert(entry.selectors.clone()) {
                    self.add_agents_with(&entry.selectors, &mut concerned.agents);
                }
                continue;
            }
            if !concerned.parents.insert(parent.clone()) {
                continue;
            }
            // An agent need not be known here to ask for its entries.
            if parent.is_agent() || self.agents.contains_key(parent) {
                concerned.agents.insert(parent.clone());
            }
            entries.extend(self.slots.issuing(parent));
        }
    }

    fn add_agents_with(&self, selectors: &SelectorSet, into: &mut HashSet<SpiffeId>) {
        let none = HashSet::new();
        let holders = |selector| self.agents_by_selector.get(selector).unwrap_or(&none);
        let Some(fewest) = selectors.iter().map(holders).min_by_key(|agents| agents.len()) else {
            return;
        };
        let has_all = |agent: &&SpiffeId| {
            self.agents.get(*agent).is_some_and(|held| selectors.is_subset_of(held))
        };
        into.extend(fewest.iter().filter(has_all).cloned());
    }
}

/// Whom a row of changes concerns, and what was looked at already.
#[derive(Default)]
struct Concerned {
    agents: HashSet<SpiffeId>,
    parents: HashSet<SpiffeId>,
    aliases: HashSet<SelectorSet>,
}

#[cfg(test)]
mod tests;
