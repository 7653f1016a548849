//! Turns by key: nobody waits for more than a turn or two of each other key.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Lets a bounded number of calls work at a time, and the others wait in one queue for each key.
/// The keys take turns: a key with thousands of calls delays another key's call by two of its own
/// at most, the one that works and the next one. Clones share the turns.
pub struct FairQueue<K: Clone + Eq + Hash>(Arc<Shared<K>>);

struct Shared<K: Clone + Eq + Hash> {
    /// How many turns there are at a time.
    total: usize,
    /// How many of them one key may have, so that others need not wait for it at all.
    each: usize,
    /// How many calls of one key may wait.
    max_waiting: usize,
    state: Mutex<State<K>>,
}

struct State<K: Clone + Eq + Hash> {
    running: usize,
    running_of: HashMap<K, usize>,
    waiting: HashMap<K, VecDeque<oneshot::Sender<Turn<K>>>>,
    /// The keys that wait, each once.
    order: VecDeque<K>,
}

/// Too many calls of this key wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many calls are waiting")]
pub struct QueueFull;

impl<K: Clone + Eq + Hash> FairQueue<K> {
    /// A queue of `total` turns at a time, of which a key has at most `each`; of each key at most
    /// `max_waiting` calls wait.
    pub fn new(total: usize, each: usize, max_waiting: usize) -> Self {
        let state = State {
            running: 0,
            running_of: HashMap::new(),
            waiting: HashMap::new(),
            order: VecDeque::new(),
        };
        let (total, each) = (total.max(1), each.max(1));
        Self(Arc::new(Shared { total, each, max_waiting, state: Mutex::new(state) }))
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.values().map(VecDeque::len).sum()
    }

    /// Waits for a turn, which lasts until what is returned is dropped.
    ///
    /// # Errors
    /// [`QueueFull`] at once.
    pub async fn turn(&self, key: K) -> Result<Turn<K>, QueueFull> {
        let waiting = {
            let mut state = self.0.lock();
            if state.may_run(&self.0, &key) && !state.waiting.contains_key(&key) {
                return Ok(Turn::begin(&self.0, &mut state, key));
            }
            let State { waiting, order, .. } = &mut *state;
            let queue = waiting.entry(key.clone()).or_insert_with(|| {
                order.push_back(key.clone());
                VecDeque::new()
            });
            // Those who gave up take no place; they are found at the latest here.
            if queue.len() >= self.0.max_waiting {
                queue.retain(|waiting| !waiting.is_closed());
            }
            if queue.len() >= self.0.max_waiting {
                return Err(QueueFull);
            }
            let (turn, waiting) = oneshot::channel();
            queue.push_back(turn);
            waiting
        };
        // A sender is dropped unused with the queue alone, which `self` keeps.
        waiting.await.map_err(|_| QueueFull)
    }
}

impl<K: Clone + Eq + Hash> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a turn back, and gives it to the next key that may have one.
    fn end(self: &Arc<Self>, key: &K) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        if let Some(running) = state.running_of.get_mut(key) {
            *running -= 1;
            if *running == 0 {
                state.running_of.remove(key);
            }
        }
        let mut given_up = Vec::new();
        while let Some((key, waiting)) = state.next(self) {
            if waiting.is_closed() {
                continue;
            }
            let turn = Turn::begin(self, &mut state, key);
            // Who gave up at this very moment gives the turn back, once the lock is free.
            given_up.extend(waiting.send(turn).err());
        }
        drop(state);
        drop(given_up);
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn may_run(&self, shared: &Shared<K>, key: &K) -> bool {
        self.running < shared.total
            && self.running_of.get(key).is_none_or(|running| *running < shared.each)
    }

    /// The first call of the key whose turn it is.
    fn next(&mut self, shared: &Shared<K>) -> Option<(K, oneshot::Sender<Turn<K>>)> {
        let at = self.order.iter().position(|key| self.may_run(shared, key))?;
        let key = self.order.remove(at)?;
        let queue = self.waiting.get_mut(&key)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&key);
        } else {
            self.order.push_back(key.clone());
        }
        first.map(|first| (key, first))
    }
}

impl<K: Clone + Eq + Hash> Clone for FairQueue<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for FairQueue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        write!(f, "FairQueue({} running, {} keys waiting)", state.running, state.order.len())
    }
}

/// A turn in a [`FairQueue`], which ends when this is dropped.
pub struct Turn<K: Clone + Eq + Hash> {
    shared: Arc<Shared<K>>,
    key: K,
}

impl<K: Clone + Eq + Hash> Turn<K> {
    fn begin(shared: &Arc<Shared<K>>, state: &mut State<K>, key: K) -> Self {
        state.running += 1;
        *state.running_of.entry(key.clone()).or_default() += 1;
        Self { shared: Arc::clone(shared), key }
    }
}

impl<K: Clone + Eq + Hash> Drop for Turn<K> {
    fn drop(&mut self) {
        self.shared.end(&self.key);
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for Turn<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{task::JoinSet, time::Instant};

    use super::*;

    const WORK: Duration = Duration::from_millis(10);

    /// Does `count` calls of `key` at once; how long the last one took.
    async fn flood(queue: &FairQueue<u32>, key: u32, count: usize) -> Duration {
        let mut calls = JoinSet::new();
        let begun = Instant::now();
        for _ in 0..count {
            let queue = queue.clone();
            calls.spawn(async move {
                let _turn = queue.turn(key).await.unwrap();
                tokio::time::sleep(WORK).await;
            });
        }
        while calls.join_next().await.is_some() {}
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_with_thousands_of_calls_delays_another_key_by_two_turns() {
        let queue = FairQueue::new(1, 1, 10_000);
        let (all, ()) = tokio::join!(flood(&queue, 1, 1_000), async {
            tokio::time::sleep(5 * WORK).await;
            for _ in 0..5 {
                let waited = Instant::now();
                let _turn = queue.turn(2).await.unwrap();
                assert!(waited.elapsed() <= 2 * WORK, "{:?}", waited.elapsed());
            }
        });
        assert_eq!(all, 1_000 * WORK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_never_has_all_turns() {
        let queue = FairQueue::new(4, 2, 100);
        let _held = (queue.turn(1).await.unwrap(), queue.turn(1).await.unwrap());
        assert!(tokio::time::timeout(WORK, queue.turn(1)).await.is_err());
        let _other = tokio::time::timeout(WORK, queue.turn(2)).await.unwrap().unwrap();
        let _third = tokio::time::timeout(WORK, queue.turn(3)).await.unwrap().unwrap();
        assert!(tokio::time::timeout(WORK, queue.turn(4)).await.is_err(), "all four are taken");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gave_up_costs_no_turn_and_no_place() {
        let queue = FairQueue::new(1, 1, 2);
        let held = queue.turn(1).await.unwrap();
        for _ in 0..10 {
            assert!(tokio::time::timeout(WORK, queue.turn(1)).await.is_err());
        }
        let had = async |key| queue.turn(key).await.is_ok();
        let (first, second, third, ()) = tokio::join!(had(1), had(2), had(1), async {
            assert_eq!(queue.turn(1).await.unwrap_err(), QueueFull);
            drop(held);
        });
        assert!(first && second && third);
        assert_eq!(queue.0.lock().running, 0);
        assert!(queue.0.lock().waiting.is_empty() && queue.0.lock().order.is_empty());
    }
}
