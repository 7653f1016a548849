//! Entries by ID, by parent and by SPIFFE ID, in little memory: each is held once, the tables hold
//! slot numbers, and entries with something in common are linked to each other and share it.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use hashbrown::HashTable;

use crate::{Entry, EntryId, SelectorSet, SpiffeId};

/// The number of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

#[derive(Debug)]
struct Held {
    entry: Arc<Entry>,
    by_parent: Links,
    by_spiffe_id: Links,
    by_selectors: Links,
}

/// The neighbours in a ring of entries with the same key; an only one is its own neighbour.
#[derive(Clone, Copy, Debug)]
struct Links {
    next: Slot,
    previous: Slot,
}

/// By what entries are linked.
#[derive(Clone, Copy, Debug)]
enum By {
    Parent,
    SpiffeId,
    Selectors,
}

impl By {
    const ALL: [Self; 3] = [Self::Parent, Self::SpiffeId, Self::Selectors];

    fn key(self, entry: &Entry) -> Key<'_> {
        match self {
            Self::Parent => Key::Id(&entry.parent_id),
            Self::SpiffeId => Key::Id(&entry.spiffe_id),
            Self::Selectors => Key::Selectors(&entry.selectors),
        }
    }

    fn links(self, held: &Held) -> Links {
        match self {
            Self::Parent => held.by_parent,
            Self::SpiffeId => held.by_spiffe_id,
            Self::Selectors => held.by_selectors,
        }
    }

    fn links_mut(self, held: &mut Held) -> &mut Links {
        match self {
            Self::Parent => &mut held.by_parent,
            Self::SpiffeId => &mut held.by_spiffe_id,
            Self::Selectors => &mut held.by_selectors,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Key<'a> {
    Id(&'a SpiffeId),
    Selectors(&'a SelectorSet),
}

/// The entries.
#[derive(Debug, Default)]
pub(super) struct Slots {
    held: Vec<Option<Held>>,
    free: Vec<Slot>,
    by_id: HashTable<Slot>,
    rings: Rings,
    hasher: RandomState,
}

/// One entry of each ring.
#[derive(Debug, Default)]
struct Rings {
    by_parent: HashTable<Slot>,
    by_spiffe_id: HashTable<Slot>,
    by_selectors: HashTable<Slot>,
}

impl Rings {
    fn of(&self, by: By) -> &HashTable<Slot> {
        match by {
            By::Parent => &self.by_parent,
            By::SpiffeId => &self.by_spiffe_id,
            By::Selectors => &self.by_selectors,
        }
    }

    fn of_mut(&mut self, by: By) -> &mut HashTable<Slot> {
        match by {
            By::Parent => &mut self.by_parent,
            By::SpiffeId => &mut self.by_spiffe_id,
            By::Selectors => &mut self.by_selectors,
        }
    }
}

impl Slots {
    /// Makes room for so many more entries.
    pub(super) fn reserve(&mut self, more: usize) {
        let Self { held, by_id, rings, hasher, .. } = self;
        held.reserve(more);
        by_id.reserve(more, |slot| hash_id(hasher, held, *slot));
        // Most have a SPIFFE ID of their own, and many have selectors of their own.
        for by in [By::SpiffeId, By::Selectors] {
            rings.of_mut(by).reserve(more, |slot| hash_held(hasher, held, by, *slot));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        let is_it = |slot: &Slot| self.at(*slot).is_some_and(|entry| entry.id == *id);
        self.at(*self.by_id.find(self.hasher.hash_one(id), is_it)?)
    }

    pub(super) fn at(&self, slot: Slot) -> Option<&Arc<Entry>> {
        at(&self.held, slot)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.held.iter().flatten().map(|held| &held.entry)
    }

    /// How many places there are, the free ones among them.
    pub(super) fn places(&self) -> usize {
        self.held.len()
    }

    /// The entries at the places from `from` on, `most` places long, each with its place.
    pub(super) fn between(
        &self,
        from: usize,
        most: usize,
    ) -> impl Iterator<Item = (usize, &Arc<Entry>)> {
        let places = self.held.iter().enumerate().skip(from).take(most);
        places.filter_map(|(place, held)| Some((place, &held.as_ref()?.entry)))
    }

    pub(super) fn has_children(&self, parent: &SpiffeId) -> bool {
        let key = Key::Id(parent);
        self.find(By::Parent, key, hash_key(&self.hasher, key)).is_some()
    }

    pub(super) fn children(&self, parent: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        self.ring(By::Parent, parent)
    }

    /// The entries that issue this ID.
    pub(super) fn issuing(&self, id: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        self.ring(By::SpiffeId, id)
    }

    /// Takes an entry whose ID is not held.
    pub(super) fn insert(&mut self, mut entry: Entry) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.held.push(None);
            Slot(u32::try_from(self.held.len() - 1).unwrap_or(u32::MAX))
        });
        let places = By::ALL.map(|by| {
            let key = by.key(&entry);
            let hash = hash_key(&self.hasher, key);
            let other = self.find(by, key, hash);
            // Equal texts are held once.
            if let Some(other) = other.and_then(|slot| self.at(slot)) {
                match by {
                    By::Parent => entry.spec.parent_id = other.parent_id.clone(),
                    By::SpiffeId => entry.spec.spiffe_id = other.spiffe_id.clone(),
                    By::Selectors => entry.spec.selectors = other.selectors.clone(),
                }
            }
            (by, hash, other)
        });
        let alone = Links { next: slot, previous: slot };
        let id = self.hasher.hash_one(&entry.id);
        if let Some(place) = self.held.get_mut(slot.0 as usize) {
            *place = Some(Held {
                entry: Arc::new(entry),
                by_parent: alone,
                by_spiffe_id: alone,
                by_selectors: alone,
            });
        }
        let Self { held, by_id, hasher, .. } = self;
        by_id.insert_unique(id, slot, |slot| hash_id(hasher, held, *slot));
        for (by, hash, other) in places {
            self.link(by, hash, slot, other);
        }
        slot
    }

    pub(super) fn remove(&mut self, id: &EntryId) -> Option<(Slot, Arc<Entry>)> {
        let hash = self.hasher.hash_one(id);
        let Self { held, by_id, .. } = self;
        let is_it = |slot: &Slot| at(held, *slot).is_some_and(|entry| entry.id == *id);
        let slot = by_id.find_entry(hash, is_it).ok()?.remove().0;
        for by in By::ALL {
            self.unlink(by, slot);
        }
        let held = self.held.get_mut(slot.0 as usize)?.take()?;
        self.free.push(slot);
        Some((slot, held.entry))
    }

    /// One entry with this key.
    fn find(&self, by: By, key: Key<'_>, hash: u64) -> Option<Slot> {
        let has_it = |slot: &Slot| self.at(*slot).is_some_and(|entry| by.key(entry) == key);
        self.rings.of(by).find(hash, has_it).copied()
    }

    /// The entries with this ID as their parent, or as their own.
    fn ring(&self, by: By, id: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        let key = Key::Id(id);
        let first = self.find(by, key, hash_key(&self.hasher, key));
        let mut next = first;
        std::iter::from_fn(move || {
            let held = self.held.get(next?.0 as usize)?.as_ref()?;
            next = Some(by.links(held).next).filter(|slot| Some(*slot) != first);
            Some(&held.entry)
        })
    }

    /// Puts an entry into the ring of `other`, which has the same key; without one it is the first
    /// of a ring.
    fn link(&mut self, by: By, hash: u64, slot: Slot, other: Option<Slot>) {
        let Some(other) = other else {
            let Self { held, rings, hasher, .. } = self;
            let rehash = |slot: &Slot| hash_held(hasher, held, by, *slot);
            rings.of_mut(by).insert_unique(hash, slot, rehash);
            return;
        };
        let Some(links) = self.links_mut(by, other) else { return };
        let next = std::mem::replace(&mut links.next, slot);
        if let Some(links) = self.links_mut(by, next) {
            links.previous = slot;
        }
        if let Some(links) = self.links_mut(by, slot) {
            *links = Links { next, previous: other };
        }
    }

    /// Takes an entry out of its ring.
    fn unlink(&mut self, by: By, slot: Slot) {
        let Some(&mut Links { next, previous }) = self.links_mut(by, slot) else { return };
        let hash = hash_held(&self.hasher, &self.held, by, slot);
        if let Ok(mut first) = self.rings.of_mut(by).find_entry(hash, |first| *first == slot) {
            if next == slot {
                first.remove();
            } else {
                *first.get_mut() = next;
            }
        }
        if let Some(links) = self.links_mut(by, previous) {
            links.next = next;
        }
        if let Some(links) = self.links_mut(by, next) {
            links.previous = previous;
        }
    }

    fn links_mut(&mut self, by: By, slot: Slot) -> Option<&mut Links> {
        Some(by.links_mut(self.held.get_mut(slot.0 as usize)?.as_mut()?))
    }

    /// Whether nothing is held any more, not even what only finds entries.
    #[cfg(test)]
    pub(super) fn is_clean(&self) -> bool {
        let rings = By::ALL.iter().all(|by| self.rings.of(*by).is_empty());
        rings && self.by_id.is_empty() && self.held.len() == self.free.len()
    }
}

fn at(held: &[Option<Held>], slot: Slot) -> Option<&Arc<Entry>> {
    Some(&held.get(slot.0 as usize)?.as_ref()?.entry)
}

fn hash_id(hasher: &RandomState, held: &[Option<Held>], slot: Slot) -> u64 {
    at(held, slot).map_or(0, |entry| hasher.hash_one(&entry.id))
}

fn hash_held(hasher: &RandomState, held: &[Option<Held>], by: By, slot: Slot) -> u64 {
    at(held, slot).map_or(0, |entry| hash_key(hasher, by.key(entry)))
}

fn hash_key(hasher: &RandomState, key: Key<'_>) -> u64 {
    match key {
        // All are of one trust domain.
        Key::Id(id) => hasher.hash_one(id.path()),
        Key::Selectors(selectors) => hasher.hash_one(selectors),
    }
}
