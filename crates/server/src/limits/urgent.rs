//! Turns by urgency: when all are taken, who has the least time comes first.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

/// Lets a bounded number of calls work at a time, and a bounded number wait. Of those who wait the
/// most urgent comes first, and where too many would wait, the least urgent is turned away, even if
/// it came earlier. Clones share the turns.
#[derive(Clone)]
pub(super) struct UrgentQueue(Arc<Shared>);

struct Shared {
    /// How many turns there are at a time.
    total: usize,
    /// How many calls may wait.
    max_waiting: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    /// By urgency, then in the order in which they came.
    waiting: BTreeMap<(i64, u64), oneshot::Sender<Turn>>,
    came: u64,
}

/// There was no turn: others are more urgent, or it took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TurnedAway;

/// A turn; it lasts until it is dropped.
pub struct Turn(Arc<Shared>);

impl UrgentQueue {
    /// A queue of `total` turns at a time, for which at most `max_waiting` calls wait.
    pub(super) fn new(total: usize, max_waiting: usize) -> Self {
        Self(Arc::new(Shared { total: total.max(1), max_waiting, state: Mutex::default() }))
    }

    /// How many calls wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.lock().waiting.values().filter(|waiting| !waiting.is_closed()).count()
    }

    /// Waits for a turn for at most `patience`; a smaller `urgency` comes first, such as the time at
    /// which something ends.
    ///
    /// # Errors
    /// [`TurnedAway`].
    pub(super) async fn turn(&self, urgency: i64, patience: Duration) -> Result<Turn, TurnedAway> {
        let (key, waiting) = {
            let mut state = self.0.lock();
            if state.running < self.0.total {
                // Whoever waits was given a turn when one was free.
                state.running += 1;
                return Ok(Turn(Arc::clone(&self.0)));
            }
            if state.waiting.len() >= self.0.max_waiting {
                state.waiting.retain(|_, waiting| !waiting.is_closed());
            }
            if state.waiting.len() >= self.0.max_waiting {
                match state.waiting.last_entry() {
                    // Without its sender it is turned away.
                    Some(last) if last.key().0 > urgency => drop(last.remove()),
                    _ => return Err(TurnedAway),
                }
            }
            let key = (urgency, state.came);
            state.came += 1;
            let (turn, waiting) = oneshot::channel();
            state.waiting.insert(key, turn);
            (key, waiting)
        };
        match tokio::time::timeout(patience, waiting).await {
            Ok(turn) => turn.map_err(|_| TurnedAway),
            Err(_) => {
                self.0.lock().waiting.remove(&key);
                Err(TurnedAway)
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a turn back, and gives it to the most urgent that waits.
    fn end(self: &Arc<Self>) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        let mut given_up = Vec::new();
        while state.running < self.total
            && let Some((_, waiting)) = state.waiting.pop_first()
        {
            if waiting.is_closed() {
                continue;
            }
            state.running += 1;
            // Who gave up at this very moment gives the turn back, once the lock is free.
            given_up.extend(waiting.send(Turn(Arc::clone(self))).err());
        }
        drop(state);
        drop(given_up);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl fmt::Debug for UrgentQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UrgentQueue({} waiting)", self.waiting())
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Calls of these urgencies, in this order, and a receiver that hears whose turn it is.
    async fn calls(
        queue: &UrgentQueue,
        urgencies: &[i64],
    ) -> tokio::sync::mpsc::UnboundedReceiver<(i64, Result<(), TurnedAway>)> {
        let (tell, heard) = tokio::sync::mpsc::unbounded_channel();
        for urgency in urgencies.iter().copied() {
            let (queue, tell) = (queue.clone(), tell.clone());
            tokio::spawn(async move {
                let turn = queue.turn(urgency, PATIENCE).await;
                tell.send((urgency, turn.as_ref().map(|_| ()).map_err(|error| *error))).unwrap();
                // Work, so that the turns come one after the other.
                tokio::time::sleep(Duration::from_millis(1)).await;
            });
            tokio::task::yield_now().await;
        }
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_the_least_time_comes_before_those_who_came_earlier() {
        let queue = UrgentQueue::new(1, 10);
        let held = queue.turn(0, PATIENCE).await.unwrap();
        let mut heard = calls(&queue, &[300, 100, 200, 100]).await;
        assert_eq!(queue.waiting(), 4);
        drop(held);
        for urgency in [100, 100, 200, 300] {
            assert_eq!(heard.recv().await.unwrap(), (urgency, Ok(())));
        }
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_urgent_are_turned_away_where_too_many_wait() {
        let queue = UrgentQueue::new(1, 2);
        let held = queue.turn(0, PATIENCE).await.unwrap();
        let mut heard = calls(&queue, &[300, 200, 400, 100]).await;
        assert_eq!(heard.recv().await.unwrap(), (400, Err(TurnedAway)), "it found no place");
        assert_eq!(heard.recv().await.unwrap(), (300, Err(TurnedAway)), "it gave its place away");
        drop(held);
        assert_eq!(heard.recv().await.unwrap(), (100, Ok(())));
        assert_eq!(heard.recv().await.unwrap(), (200, Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_who_gives_up_takes_no_turn() {
        let queue = UrgentQueue::new(1, 10);
        let held = queue.turn(0, PATIENCE).await.unwrap();
        let mut heard = calls(&queue, &[5]).await;
        let gone = tokio::spawn({
            let queue = queue.clone();
            async move { queue.turn(1, PATIENCE * 100).await.map(drop) }
        });
        assert_eq!(heard.recv().await.unwrap(), (5, Err(TurnedAway)));
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert_eq!(queue.waiting(), 0);
        drop(held);
        drop(queue.turn(9, PATIENCE).await.unwrap());
        drop(queue.turn(9, PATIENCE).await.unwrap());
    }
}
