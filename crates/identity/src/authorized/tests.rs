//! The index against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use signet_time::UnixTime;

use super::*;
use crate::EntrySpec;

/// IDs small enough to make chains, cycles and shared parents likely.
fn id(number: u8) -> SpiffeId {
    let path = match number {
        0 => "/spire/server".to_owned(),
        1..=3 => format!("/spire/agent/t/{number}"),
        _ => format!("/w/{number}"),
    };
    SpiffeId::new("td".parse().unwrap(), &path).unwrap()
}

fn set(bits: u8) -> SelectorSet {
    (0..4)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(|bit| Selector::new("t", &bit.to_string()).unwrap())
        .collect()
}

fn entry(number: u8, spiffe_id: u8, parent_id: u8, selectors: u8) -> Entry {
    Entry {
        id: format!("e{number}").parse().unwrap(),
        spec: EntrySpec::new(id(spiffe_id), id(parent_id), set(selectors)),
        revision_number: 0,
        created_at: UnixTime::EPOCH,
    }
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    agents: BTreeMap<SpiffeId, SelectorSet>,
}

impl Model {
    fn apply(&mut self, change: &IndexChange) {
        match change {
            IndexChange::Entry(entry) => {
                self.entries.insert(entry.id.to_string(), entry.clone());
            }
            IndexChange::EntryGone(id) => _ = self.entries.remove(id.as_str()),
            IndexChange::Node(agent, selectors) => {
                self.agents.insert(agent.clone(), selectors.clone());
            }
            IndexChange::NodeGone(agent) => _ = self.agents.remove(agent),
        }
    }

    fn authorized(&self, agent: &SpiffeId) -> BTreeSet<String> {
        let mut parents = BTreeSet::from([agent.clone()]);
        if let Some(selectors) = self.agents.get(agent) {
            for alias in self.entries.values() {
                if alias.parent_id.is_server()
                    && !alias.selectors.is_empty()
                    && alias.selectors.is_subset_of(selectors)
                {
                    parents.insert(alias.spiffe_id.clone());
                }
            }
        }
        let mut found = BTreeSet::new();
        loop {
            let before = (parents.len(), found.len());
            for entry in self.entries.values() {
                if !entry.parent_id.is_server() && parents.contains(&entry.parent_id) {
                    found.insert(entry.id.to_string());
                    parents.insert(entry.spiffe_id.clone());
                }
            }
            if before == (parents.len(), found.len()) {
                return found;
            }
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<IndexChange>> {
    let change = prop_oneof![
        6 => (0..12u8, 1..10u8, 0..10u8, 0..16u8)
            .prop_map(|(number, spiffe_id, parent, bits)| {
                IndexChange::Entry(entry(number, spiffe_id, parent, bits))
            }),
        2 => (0..12u8).prop_map(|number| IndexChange::EntryGone(format!("e{number}").parse().unwrap())),
        2 => (1..4u8, 0..16u8).prop_map(|(agent, bits)| IndexChange::Node(id(agent), set(bits))),
        1 => (1..4u8).prop_map(|agent| IndexChange::NodeGone(id(agent))),
    ];
    proptest::collection::vec(change, 0..60)
}

proptest! {
    #[test]
    fn answers_as_the_rule_says_and_names_everyone_concerned(changes in changes()) {
        let mut index = AuthorizedIndex::new("td".parse().unwrap());
        let mut model = Model::default();
        for change in changes {
            let before: Vec<_> = (1..4).map(|agent| model.authorized(&id(agent))).collect();
            let touched = match &change {
                IndexChange::Entry(entry) => Some(entry.id.to_string()),
                IndexChange::EntryGone(id) => Some(id.to_string()),
                _ => None,
            };
            model.apply(&change);
            let concerned = index.apply([change]);
            for agent in 1..4 {
                let agent_id = id(agent);
                let expected = model.authorized(&agent_id);
                let found = index.authorized(&agent_id);
                let ids: BTreeSet<String> = found.iter().map(|entry| entry.id.to_string()).collect();
                prop_assert_eq!(ids.len(), found.len(), "each once");
                prop_assert_eq!(&ids, &expected);
                let before = &before[usize::from(agent) - 1];
                let differs = *before != expected
                    || touched.as_ref().is_some_and(|id| expected.contains(id));
                prop_assert!(!differs || concerned.contains(&agent_id), "{} is concerned", agent_id);
                for number in 0..12 {
                    let entry: EntryId = format!("e{number}").parse().unwrap();
                    let single = index.entry_for_agent(&agent_id, &entry);
                    prop_assert_eq!(single.is_some(), expected.contains(entry.as_str()));
                }
            }
            prop_assert_eq!(index.len(), model.entries.len());
        }
    }
}

#[test]
fn foreign_entries_and_agents_are_ignored() {
    let mut index = AuthorizedIndex::new("other".parse().unwrap());
    index.load(IndexChange::Entry(entry(1, 5, 1, 1)));
    index.load(IndexChange::Node(id(1), set(1)));
    assert!(index.is_empty() && index.node_selectors(&id(1)).is_none());
    assert!(index.authorized(&id(1)).is_empty());
}

#[test]
fn an_entry_of_nobody_concerned_nudges_nobody_else() {
    let mut index = AuthorizedIndex::new("td".parse().unwrap());
    index.load(IndexChange::Node(id(1), set(1)));
    index.load(IndexChange::Node(id(2), set(2)));
    index.load(IndexChange::Entry(entry(1, 5, 0, 1)));
    let concerned = index.apply([IndexChange::Entry(entry(2, 6, 5, 4))]);
    assert_eq!(concerned, HashSet::from([id(1)]));
}

#[test]
fn equal_texts_are_held_once() {
    let mut index = AuthorizedIndex::new("td".parse().unwrap());
    index.load(IndexChange::Entry(entry(1, 5, 1, 3)));
    index.load(IndexChange::Entry(entry(2, 6, 1, 3)));
    let all: Vec<_> = index.entries().collect();
    assert!(std::ptr::eq(all[0].parent_id.path(), all[1].parent_id.path()));
    assert!(std::ptr::eq(all[0].selectors.as_slice(), all[1].selectors.as_slice()));
    index.load(IndexChange::EntryGone("e1".parse().unwrap()));
    index.load(IndexChange::EntryGone("e2".parse().unwrap()));
    assert!(index.slots.is_clean());
}
