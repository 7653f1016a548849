//! Proofs that were used.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    fmt,
    sync::{Mutex, PoisonError},
};

use signet_time::UnixTime;

use crate::digest::Sha256;

type Hash = [u8; 32];

/// Remembers proofs until they are of no use any more, within bounds: so many in all, and a part of
/// those for one sender, so that none fills the memory that is for all. Forgetting one early would
/// let it be used again, so what does not fit is refused.
pub struct Replays {
    capacity: usize,
    of_one: usize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    ids: HashSet<Hash>,
    /// What is forgotten next: until when, whose, which.
    order: BinaryHeap<Reverse<(UnixTime, Hash, Hash)>>,
    senders: HashMap<Hash, usize>,
}

/// There is no room to remember another proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many proofs are in use to tell which were used before")]
pub struct TooManyProofs;

impl Replays {
    /// Remembers at most `capacity` proofs (at least one), and an eighth of them for one sender.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { capacity, of_one: (capacity / 8).max(1), seen: Mutex::default() }
    }

    /// Takes the proof `id` of `sender`, which could be used until `until`. False when
    /// it was taken before.
    ///
    /// # Errors
    /// [`TooManyProofs`] when no more can be remembered: the proof must be refused.
    pub fn take(
        &self,
        sender: &str,
        id: &str,
        until: UnixTime,
        now: UnixTime,
    ) -> Result<bool, TooManyProofs> {
        let whose = hash(&[sender]);
        let id = hash(&[sender, id]);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget(now);
        if seen.ids.contains(&id) {
            return Ok(false);
        }
        let used = seen.senders.get(&whose).copied().unwrap_or_default();
        if seen.ids.len() >= self.capacity || used >= self.of_one {
            return Err(TooManyProofs);
        }
        seen.ids.insert(id);
        seen.order.push(Reverse((until, whose, id)));
        seen.senders.insert(whose, used + 1);
        Ok(true)
    }

    /// How many proofs are remembered.
    pub fn len(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).ids.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Seen {
    fn forget(&mut self, now: UnixTime) {
        while let Some(Reverse((until, _, _))) = self.order.peek()
            && *until < now
            && let Some(Reverse((_, whose, id))) = self.order.pop()
        {
            self.ids.remove(&id);
            if let Some(count) = self.senders.get_mut(&whose) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.senders.remove(&whose);
                }
            }
        }
    }
}

impl fmt::Debug for Replays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replays({} of {})", self.len(), self.capacity)
    }
}

/// Each part is led by its length: no two lists read the same.
fn hash(parts: &[&str]) -> Hash {
    let mut sum = Sha256::new();
    for part in parts {
        sum.update(&(part.len() as u64).to_be_bytes());
        sum.update(part.as_bytes());
    }
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    #[test]
    fn a_proof_is_taken_once_and_forgotten_when_it_is_of_no_use_any_more() {
        let replays = Replays::new(100);
        assert_eq!(replays.take("a", "1", at(10), at(0)), Ok(true));
        assert_eq!(replays.take("a", "1", at(10), at(10)), Ok(false));
        assert_eq!(replays.take("b", "1", at(10), at(10)), Ok(true), "another sender's");
        assert_eq!(replays.take("a", "2", at(30), at(11)), Ok(true));
        assert_eq!(replays.len(), 1);
        assert_eq!(replays.take("a", "2", at(30), at(11)), Ok(false));
    }

    #[test]
    fn a_sender_fills_its_own_part_only_and_nothing_is_forgotten_early() {
        let replays = Replays::new(16);
        for n in 0..2 {
            assert_eq!(replays.take("a", &n.to_string(), at(100), at(0)), Ok(true));
        }
        assert_eq!(replays.take("a", "more", at(100), at(0)), Err(TooManyProofs));
        for n in 0..14 {
            assert_eq!(replays.take(&format!("s{n}"), "1", at(50), at(0)), Ok(true));
        }
        assert_eq!(replays.take("late", "1", at(100), at(0)), Err(TooManyProofs));
        assert_eq!(replays.take("a", "0", at(100), at(0)), Ok(false));
        assert_eq!(replays.take("late", "1", at(100), at(51)), Ok(true));
        assert_eq!(replays.take("a", "0", at(100), at(101)), Ok(true));
    }
}
