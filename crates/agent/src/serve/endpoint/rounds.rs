//! Rounds, in which the work of every user has its turn.
//!
//! One thread answers everybody. A user who sends ten thousand requests at once would have it work
//! through all of them before it looks at anything else. So what belongs to a user, connections and
//! calls, is polled a few times in a round, and the rest waits for the next one. Between rounds
//! everything else that is ready runs, and new connections and requests are seen. Where nobody else
//! has work, rounds follow each other at once.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use hyper::rt::Executor;

/// How often the work of one user is polled in a round.
const POLLS: usize = 8;

/// The rounds of an endpoint. Clones share them.
#[derive(Debug)]
pub struct Rounds<K>(Arc<Mutex<State<K>>>);

#[derive(Debug)]
struct State<K> {
    /// The number of the next work.
    next: u64,
    /// What each user had in this round, and what waits for the next ones.
    users: HashMap<K, User>,
    /// Whether somebody begins the next round.
    runs: bool,
}

#[derive(Debug, Default)]
struct User {
    polls: usize,
    /// By number, so that work that is woken by something else meanwhile waits once.
    waiting: HashMap<u64, Waker>,
    order: VecDeque<u64>,
}

impl<K: Copy + Eq + Hash + Send + 'static> Rounds<K> {
    /// Rounds in which nobody has work.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { next: 0, users: HashMap::new(), runs: false })))
    }

    /// Work of `user`, which has its turns.
    pub fn of<F>(&self, user: K, work: F) -> Work<K, F> {
        let number = {
            let mut state = self.lock();
            state.next += 1;
            state.next
        };
        Work { rounds: self.clone(), user, number, work: Box::pin(work), had_to_wait: false }
    }

    /// What spawns work of `user`.
    pub fn executor(&self, user: K) -> Spawner<K> {
        Spawner { rounds: self.clone(), user }
    }

    /// Whether work of `user` may be polled in this round; else it is woken in a later one.
    fn enter(&self, user: K, number: u64, waker: &Waker, had_to_wait: bool) -> bool {
        let mut state = self.lock();
        let State { users, runs, .. } = &mut *state;
        let of = users.entry(user).or_default();
        let may = of.polls < POLLS;
        if may {
            of.polls += 1;
            of.waiting.remove(&number);
        } else if of.waiting.insert(number, waker.clone()).is_none() {
            match had_to_wait {
                // Work that came later must not keep it waiting for ever.
                true => of.order.push_front(number),
                false => of.order.push_back(number),
            }
        }
        if !std::mem::replace(runs, true) {
            drop(state);
            let rounds = self.clone();
            tokio::spawn(async move {
                loop {
                    // Everything that is ready now runs first.
                    tokio::task::yield_now().await;
                    if !rounds.begin() {
                        return;
                    }
                }
            });
        }
        may
    }

    /// Begins a round; false when nobody waits for one.
    fn begin(&self) -> bool {
        let mut woken = Vec::new();
        let mut state = self.lock();
        state.users.retain(|_, user| {
            user.polls = 0;
            let before = woken.len();
            while woken.len() - before < POLLS
                && let Some(number) = user.order.pop_front()
            {
                woken.extend(user.waiting.remove(&number));
            }
            woken.len() > before
        });
        state.runs = !state.users.is_empty();
        let runs = state.runs;
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        runs
    }

    /// Forgets work that is given up.
    fn leave(&self, user: K, number: u64) {
        if let Some(user) = self.lock().users.get_mut(&user) {
            user.waiting.remove(&number);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Clone for Rounds<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Work that has its turns.
#[derive(Debug)]
pub struct Work<K: Copy + Eq + Hash + Send + 'static, F> {
    rounds: Rounds<K>,
    user: K,
    number: u64,
    work: Pin<Box<F>>,
    had_to_wait: bool,
}

impl<K: Copy + Eq + Hash + Send + Unpin + 'static, F: Future> Work<K, F> {
    /// The work itself.
    pub fn get_mut(&mut self) -> Pin<&mut F> {
        self.work.as_mut()
    }
}

impl<K: Copy + Eq + Hash + Send + Unpin + 'static, F: Future> Future for Work<K, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.had_to_wait = !this.rounds.enter(this.user, this.number, cx.waker(), this.had_to_wait);
        if this.had_to_wait {
            return Poll::Pending;
        }
        this.work.as_mut().poll(cx)
    }
}

impl<K: Copy + Eq + Hash + Send + 'static, F> Drop for Work<K, F> {
    fn drop(&mut self) {
        if self.had_to_wait {
            self.rounds.leave(self.user, self.number);
        }
    }
}

/// Spawns work of a user.
#[derive(Clone, Debug)]
pub struct Spawner<K> {
    rounds: Rounds<K>,
    user: K,
}

impl<K, F> Executor<F> for Spawner<K>
where
    K: Copy + Eq + Hash + Send + Unpin + 'static,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, work: F) {
        tokio::spawn(self.rounds.of(self.user, work));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn thousands_of_tasks_of_one_user_delay_another_one_by_a_few() {
        let rounds = Rounds::new();
        let done = Arc::new(AtomicUsize::new(0));
        let flood = rounds.executor(1);
        for _ in 0..10_000 {
            let done = Arc::clone(&done);
            flood.execute(async move {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        // Those are queued now, each for its first poll.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let before = done.load(Ordering::Relaxed);
        for _ in 0..5 {
            let other = tokio::spawn(rounds.of(2, async {}));
            other.await.unwrap();
        }
        let meanwhile = done.load(Ordering::Relaxed) - before;
        assert!(meanwhile <= 20 * POLLS, "{meanwhile} of the flood came first");
        while done.load(Ordering::Relaxed) < 10_000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn work_that_is_polled_often_ends_and_leaves_nothing_behind() {
        let rounds = Rounds::new();
        let works: Vec<_> = (0..3)
            .map(|user| {
                tokio::spawn(rounds.of(user, async {
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                }))
            })
            .collect();
        for work in works {
            work.await.unwrap();
        }
        while rounds.lock().runs {
            tokio::task::yield_now().await;
        }
        assert!(rounds.lock().users.is_empty());
    }
}
