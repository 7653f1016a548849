//! A map with a bound that forgets what was used least recently.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
};

/// A map of at most `capacity` entries; a further insert pushes out the least recently used one.
///
/// Lookup is one hash, every use one step in an ordered map. Not shared by itself: put it behind a
/// mutex.
pub struct BoundedLru<K, V> {
    capacity: usize,
    tick: u64,
    entries: HashMap<K, Slot<V>>,
    by_use: BTreeMap<u64, K>,
}

struct Slot<V> {
    used: u64,
    value: V,
}

impl<K: Clone + Eq + Hash, V> BoundedLru<K, V> {
    /// An empty map of at most `capacity` entries (at least one).
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { capacity, tick: 0, entries: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// How many entries it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The most entries it will hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Looks an entry up and marks it as used now.
    pub fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let slot = self.entries.get_mut(key)?;
        self.tick += 1;
        if let Some(key) = self.by_use.remove(&slot.used) {
            slot.used = self.tick;
            self.by_use.insert(self.tick, key);
        }
        Some(&mut slot.value)
    }

    /// Looks an entry up without marking it as used.
    pub fn peek<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.get(key).map(|slot| &slot.value)
    }

    /// Stores an entry as used now. Returns what had to go for it: the key's previous value or the
    /// least recently used entry.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        let old = self.remove(&key).map(|value| (key.clone(), value));
        let pushed_out = if self.entries.len() >= self.capacity { self.pop_oldest() } else { None };
        self.tick += 1;
        self.by_use.insert(self.tick, key.clone());
        self.entries.insert(key, Slot { used: self.tick, value });
        old.or(pushed_out)
    }

    /// Takes an entry out.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let slot = self.entries.remove(key)?;
        self.by_use.remove(&slot.used);
        Some(slot.value)
    }

    /// Takes the least recently used entry out.
    pub fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.by_use.pop_first()?;
        let slot = self.entries.remove(&key)?;
        Some((key, slot.value))
    }

    /// Keeps only the entries for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        let by_use = &mut self.by_use;
        self.entries.retain(|key, slot| {
            let kept = keep(key, &mut slot.value);
            if !kept {
                by_use.remove(&slot.used);
            }
            kept
        });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_use.clear();
    }

    /// All entries, the least recently used first.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.by_use.values().filter_map(|key| self.entries.get(key).map(|slot| (key, &slot.value)))
    }
}

impl<K, V> fmt::Debug for BoundedLru<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        write!(f, "BoundedLru({} of {})", self.entries.len(), self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_used_least_recently() {
        let mut map = BoundedLru::new(2);
        assert_eq!(map.insert("a", 1), None);
        assert_eq!(map.insert("b", 2), None);
        assert_eq!(map.get("a"), Some(&mut 1));
        assert_eq!(map.insert("c", 3), Some(("b", 2)));
        assert_eq!(map.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(), [("a", 1), ("c", 3)]);
        assert_eq!(map.insert("a", 9), Some(("a", 1)));
        assert_eq!(map.peek("a"), Some(&9));
        assert_eq!(map.pop_oldest(), Some(("c", 3)));
    }

    #[test]
    fn stays_within_its_bound_and_consistent() {
        let mut map = BoundedLru::new(100);
        for n in 0..10_000_u32 {
            map.insert(n % 313, n);
            map.get(&(n % 17));
            if n % 5 == 0 {
                map.remove(&(n % 29));
            }
            assert!(map.len() <= 100);
            assert_eq!(map.entries.len(), map.by_use.len());
        }
        map.retain(|key, _| key % 2 == 0);
        assert!(map.iter().all(|(key, _)| key % 2 == 0));
        assert_eq!(map.entries.len(), map.by_use.len());
        map.clear();
        assert!(map.is_empty());
    }

    #[test]
    fn debug_shows_no_values() {
        let mut map = BoundedLru::new(0);
        map.insert("key", "secret");
        assert_eq!(format!("{map:?}"), "BoundedLru(1 of 1)");
    }
}
