//! Who may hold how many connections, or calls, of a listener.
//!
//! Whoever asks too often is held apart from everybody else by a key: the address, the user or the
//! identity. What is taken is limited for all together and for each key. When there is no room, what
//! has been idle for longest makes room: first what belongs to the same key, and when everything is
//! taken what belongs to the key that holds most. What is refused is refused at once, so that
//! nobody waits behind it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use signet_base::CancellationToken;
use tokio::{sync::Notify, time::Instant};

/// How often one who waits for room looks whether something has become idle meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How many places one key may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Each {
    /// So many.
    Fixed(usize),
    /// Fewer than are left free for all others: a half of all when it is alone. However many places
    /// are taken, whoever has none finds one.
    Share,
}

/// The limits of an [`Admission`].
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// How many places there are (at least one).
    pub total: usize,
    /// How many of them one key may take.
    pub each: Each,
    /// A place without an open call makes room after this time, when room is needed; `None` never.
    pub idle: Option<Duration>,
    /// So does one with open calls after this time since it was taken; `None` never.
    pub busy: Option<Duration>,
}

/// There is no room for this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many at once")]
pub struct Full;

/// Hands out places by key. Clones share them.
pub struct Admission<K>(Arc<Shared<K>>);

struct Shared<K> {
    caps: Caps,
    places: Mutex<Places<K>>,
    left: Notify,
}

struct Places<K> {
    next: u64,
    /// By number, hence in the order in which they were taken.
    taken: BTreeMap<u64, Place<K>>,
    counts: HashMap<K, usize>,
}

struct Place<K> {
    key: K,
    since: Instant,
    open_calls: usize,
    /// When the last call ended, or the place was taken.
    rested: Instant,
    closed: CancellationToken,
}

impl<K: Clone + Eq + Hash> Admission<K> {
    /// An admission with nobody in it.
    pub fn new(caps: Caps) -> Self {
        let places = Places { next: 0, taken: BTreeMap::new(), counts: HashMap::new() };
        Self(Arc::new(Shared { caps, places: Mutex::new(places), left: Notify::new() }))
    }

    /// Waits until there is room for one more, of whatever key.
    pub async fn room(&self) {
        loop {
            let left = self.0.left.notified();
            {
                let mut places = self.lock();
                if places.taken.len() < self.0.caps.total.max(1)
                    || self.make_room(&mut places, None)
                {
                    return;
                }
            }
            // What is idle becomes old enough with time alone.
            let _ = tokio::time::timeout(LOOK_AGAIN, left).await;
        }
    }

    /// Takes a place for `key`.
    ///
    /// # Errors
    /// [`Full`] when there is none.
    pub fn enter(&self, key: K) -> Result<Ticket<K>, Full> {
        let mut places = self.lock();
        self.admit(&mut places, &key)?;
        let now = Instant::now();
        let closed = CancellationToken::new();
        let id = places.next;
        places.next += 1;
        *places.counts.entry(key.clone()).or_default() += 1;
        let place = Place { key, since: now, open_calls: 0, rested: now, closed: closed.clone() };
        places.taken.insert(id, place);
        drop(places);
        Ok(Ticket { admission: self.clone(), id, closed })
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.lock().taken.len()
    }

    fn admit(&self, places: &mut Places<K>, key: &K) -> Result<(), Full> {
        let total = self.0.caps.total.max(1);
        if places.taken.len() >= total && !self.make_room(places, None) {
            return Err(Full);
        }
        let held = places.counts.get(key).copied().unwrap_or(0);
        let is_too_many = match self.0.caps.each {
            Each::Fixed(most) => held >= most.max(1),
            Each::Share => held >= total.saturating_sub(places.taken.len()),
        };
        // One who holds nothing is let in as long as there is room at all.
        if held > 0 && is_too_many && !self.make_room(places, Some(key)) {
            return Err(Full);
        }
        Ok(())
    }

    /// Closes the place that can best be spared, of this key or of the one that holds most.
    fn make_room(&self, places: &mut Places<K>, of: Option<&K>) -> bool {
        let Caps { idle, busy, .. } = self.0.caps;
        if idle.is_none() && busy.is_none() {
            return false;
        }
        let now = Instant::now();
        let heaviest = places.counts.values().copied().max().unwrap_or(0);
        let belongs = |place: &Place<K>| match of {
            Some(key) => place.key == *key,
            None => places.counts.get(&place.key) == Some(&heaviest),
        };
        let is_idle = |place: &Place<K>| {
            place.open_calls == 0 && idle.is_some_and(|after| now - place.rested >= after)
        };
        let is_old = |place: &Place<K>| busy.is_some_and(|after| now - place.since >= after);
        let resting = places
            .taken
            .iter()
            .filter(|(_, place)| belongs(place) && is_idle(place))
            .min_by_key(|(_, place)| place.rested);
        let oldest = || places.taken.iter().find(|(_, place)| belongs(place) && is_old(place));
        let Some(id) = resting.or_else(oldest).map(|(id, _)| *id) else { return false };
        if let Some(place) = places.remove(id) {
            place.closed.cancel();
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Places<K>> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Places<K> {
    fn remove(&mut self, id: u64) -> Option<Place<K>> {
        let place = self.taken.remove(&id)?;
        if let Some(count) = self.counts.get_mut(&place.key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&place.key);
            }
        }
        Some(place)
    }
}

impl<K> Clone for Admission<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> fmt::Debug for Admission<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission({:?})", self.0.caps)
    }
}

/// A place that is taken until this is dropped.
pub struct Ticket<K: Clone + Eq + Hash> {
    admission: Admission<K>,
    id: u64,
    closed: CancellationToken,
}

impl<K: Clone + Eq + Hash> Ticket<K> {
    /// Cancelled when the place has to make room for another one: the connection is to be closed.
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Says that a call is open, for as long as what is returned lives. A place with open calls is
    /// not idle.
    pub fn call(&self) -> Call<K> {
        if let Some(place) = self.admission.lock().taken.get_mut(&self.id) {
            place.open_calls += 1;
        }
        Call { admission: self.admission.clone(), id: self.id }
    }

    /// Since when no call is open; `None` while one is.
    pub fn idle_since(&self) -> Option<Instant> {
        let places = self.admission.lock();
        let place = places.taken.get(&self.id)?;
        (place.open_calls == 0).then_some(place.rested)
    }

    /// Makes the place count for another key, of whom more has been learnt.
    ///
    /// # Errors
    /// [`Full`] when there is no room for that key; the place is still taken.
    pub fn belongs_to(&self, key: K) -> Result<(), Full> {
        let mut places = self.admission.lock();
        let Some(place) = places.remove(self.id) else { return Err(Full) };
        let admitted = self.admission.admit(&mut places, &key);
        let key = if admitted.is_ok() { key } else { place.key };
        *places.counts.entry(key.clone()).or_default() += 1;
        places.taken.insert(self.id, Place { key, ..place });
        admitted
    }
}

impl<K: Clone + Eq + Hash> Drop for Ticket<K> {
    fn drop(&mut self) {
        self.admission.lock().remove(self.id);
        self.admission.0.left.notify_one();
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for Ticket<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.id)
    }
}

/// An open call of a [`Ticket`].
pub struct Call<K: Clone + Eq + Hash> {
    admission: Admission<K>,
    id: u64,
}

impl<K: Clone + Eq + Hash> Drop for Call<K> {
    fn drop(&mut self) {
        if let Some(place) = self.admission.lock().taken.get_mut(&self.id) {
            place.open_calls = place.open_calls.saturating_sub(1);
            place.rested = Instant::now();
        }
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for Call<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn caps(total: usize, each: Each) -> Caps {
        Caps { total, each, idle: Some(SECOND), busy: None }
    }

    fn enter_all(
        admission: &Admission<&'static str>,
        key: &'static str,
    ) -> Vec<Ticket<&'static str>> {
        std::iter::from_fn(|| admission.enter(key).ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_leaves_room_for_others_and_so_do_several() {
        let admission = Admission::new(caps(64, Each::Share));
        let one = enter_all(&admission, "one");
        assert_eq!(one.len(), 32);
        let other = enter_all(&admission, "other");
        assert_eq!(other.len(), 16);
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            assert!(admission.enter(key).is_ok(), "{key}");
        }
        drop(one);
        assert!(!enter_all(&admission, "other").is_empty(), "more was left free");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_idle_makes_room_for_its_own_key_and_what_is_busy_does_not() {
        let admission = Admission::new(caps(8, Each::Fixed(2)));
        let (idle, busy) = (admission.enter("a").unwrap(), admission.enter("a").unwrap());
        let call = busy.call();
        assert_eq!(admission.enter("a").unwrap_err(), Full, "both are too young");
        tokio::time::advance(SECOND).await;
        let third = admission.enter("a").unwrap();
        assert!(idle.closed().is_cancelled() && !busy.closed().is_cancelled());
        let _open = third.call();
        tokio::time::advance(SECOND).await;
        assert_eq!(admission.enter("a").unwrap_err(), Full);
        drop(call);
        assert!(busy.idle_since().is_some() && third.idle_since().is_none());
        assert_eq!(admission.enter("a").unwrap_err(), Full, "it has just ended");
        tokio::time::advance(SECOND).await;
        let _fourth = admission.enter("a").unwrap();
        assert!(busy.closed().is_cancelled());
        drop((idle, busy));
        assert_eq!(admission.taken(), 2, "a place is given back once");
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_is_taken_the_key_that_holds_most_makes_room() {
        let admission = Admission::new(Caps { busy: Some(3 * SECOND), ..caps(4, Each::Fixed(3)) });
        let few = admission.enter("few").unwrap();
        let many: Vec<_> = (0..3).map(|_| admission.enter("many").unwrap()).collect();
        let _calls: Vec<_> = many.iter().map(Ticket::call).collect();
        assert_eq!(admission.enter("new").unwrap_err(), Full);
        let waited = Instant::now();
        admission.room().await;
        assert_eq!(waited.elapsed().as_secs(), 3);
        let _new = admission.enter("new").unwrap();
        assert!(many[0].closed().is_cancelled() && !few.closed().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_there_as_soon_as_somebody_leaves() {
        let admission = Admission::new(Caps { idle: None, ..caps(1, Each::Share) });
        let only = admission.enter("a").unwrap();
        let begun = Instant::now();
        let ((), ()) = tokio::join!(admission.room(), async {
            tokio::task::yield_now().await;
            drop(only);
        });
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_can_pass_to_another_key() {
        let admission = Admission::new(caps(8, Each::Fixed(1)));
        let ticket = admission.enter("a").unwrap();
        let _b = admission.enter("b").unwrap();
        assert_eq!(ticket.belongs_to("b"), Err(Full));
        ticket.belongs_to("c").unwrap();
        assert!(admission.enter("a").is_ok() && admission.enter("c").is_err());
        drop(ticket);
        assert!(admission.enter("c").is_ok());
    }
}
