//! Entries by ID, by parent and by SPIFFE ID, in little memory: each is held once, and the
//! lists hold slot numbers.

use std::{collections::HashMap, sync::Arc};

use crate::{Entry, EntryId, SpiffeId};

/// The number of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

#[derive(Debug)]
struct Held {
    entry: Arc<Entry>,
    /// Where the slot stands in the list of its parent's children.
    at_parent: u32,
    /// Where the slot stands in the list of its SPIFFE ID.
    at_spiffe_id: u32,
}

/// The entries.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Option<Held>>,
    free: Vec<Slot>,
    by_id: HashMap<EntryId, Slot>,
    by_parent: HashMap<SpiffeId, List>,
    by_spiffe_id: HashMap<SpiffeId, List>,
}

/// Slots; one needs no allocation.
#[derive(Debug)]
enum List {
    One([Slot; 1]),
    Many(Vec<Slot>),
}

impl List {
    fn as_slice(&self) -> &[Slot] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }

    /// Adds a slot; answers where it stands.
    fn push(&mut self, slot: Slot) -> u32 {
        match self {
            Self::One([first]) => {
                *self = Self::Many(vec![*first, slot]);
                1
            }
            Self::Many(many) => {
                many.push(slot);
                u32::try_from(many.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }
}

/// Which of the two kinds of list.
#[derive(Clone, Copy)]
enum By {
    Parent,
    SpiffeId,
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.at(*self.by_id.get(id)?)
    }

    pub(super) fn at(&self, slot: Slot) -> Option<&Arc<Entry>> {
        Some(&self.slots.get(slot.0 as usize)?.as_ref()?.entry)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.slots.iter().flatten().map(|held| &held.entry)
    }

    pub(super) fn has_children(&self, parent: &SpiffeId) -> bool {
        self.by_parent.contains_key(parent)
    }

    pub(super) fn children(&self, parent: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        self.listed(self.by_parent.get(parent))
    }

    /// The entries that issue this ID.
    pub(super) fn issuing(&self, id: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        self.listed(self.by_spiffe_id.get(id))
    }

    fn listed<'a>(&'a self, list: Option<&'a List>) -> impl Iterator<Item = &'a Arc<Entry>> {
        list.map_or(&[][..], List::as_slice).iter().filter_map(|slot| self.at(*slot))
    }

    /// Takes an entry whose ID is not held.
    pub(super) fn insert(&mut self, mut entry: Entry) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
        });
        // The text of a parent is held once.
        if let Some((parent, _)) = self.by_parent.get_key_value(&entry.parent_id) {
            entry.body.parent_id = parent.clone();
        }
        if let Some((id, _)) = self.by_spiffe_id.get_key_value(&entry.spiffe_id) {
            entry.body.spiffe_id = id.clone();
        }
        let at_parent = push(&mut self.by_parent, &entry.parent_id, slot);
        let at_spiffe_id = push(&mut self.by_spiffe_id, &entry.spiffe_id, slot);
        self.by_id.insert(entry.id.clone(), slot);
        if let Some(place) = self.slots.get_mut(slot.0 as usize) {
            *place = Some(Held { entry: Arc::new(entry), at_parent, at_spiffe_id });
        }
        slot
    }

    pub(super) fn remove(&mut self, id: &EntryId) -> Option<(Slot, Arc<Entry>)> {
        let slot = self.by_id.remove(id)?;
        let held = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.unlist(By::Parent, &held.entry.parent_id, held.at_parent);
        self.unlist(By::SpiffeId, &held.entry.spiffe_id, held.at_spiffe_id);
        self.free.push(slot);
        Some((slot, held.entry))
    }

    /// Takes a slot off a list; the last of the list takes its place.
    fn unlist(&mut self, by: By, key: &SpiffeId, position: u32) {
        let lists = match by {
            By::Parent => &mut self.by_parent,
            By::SpiffeId => &mut self.by_spiffe_id,
        };
        let position_in = position as usize;
        let moved = match lists.get_mut(key) {
            Some(List::Many(many)) if many.len() > 1 && position_in < many.len() => {
                many.swap_remove(position_in);
                many.get(position_in).copied()
            }
            _ => {
                lists.remove(key);
                None
            }
        };
        let moved = moved.and_then(|slot| self.slots.get_mut(slot.0 as usize)?.as_mut());
        if let Some(moved) = moved {
            match by {
                By::Parent => moved.at_parent = position,
                By::SpiffeId => moved.at_spiffe_id = position,
            }
        }
    }
}

fn push(lists: &mut HashMap<SpiffeId, List>, key: &SpiffeId, slot: Slot) -> u32 {
    match lists.get_mut(key) {
        Some(list) => list.push(slot),
        None => {
            lists.insert(key.clone(), List::One([slot]));
            0
        }
    }
}
