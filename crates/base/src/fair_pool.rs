//! Slow work that outsiders cause, on a few threads of its own: each share gets as much as any
//! other, and none gets all.
//!
//! Tokio's blocking threads are the wrong place for such work: they are taken in order of arrival,
//! cannot be taken back, and are the same on which the programs write their state.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// How long a thread without work waits before it ends.
const IDLE: Duration = Duration::from_secs(5);
/// How long one step may take before its thread counts as stuck, in a file system that does not
/// answer for example, and another takes its place.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// How many threads may be stuck, of all shares and of one.
const MAX_STUCK: usize = 16;
const MAX_STUCK_OF_ONE: usize = 4;

/// How much a [`FairPool`] does at once and keeps waiting.
#[derive(Clone, Copy, Debug)]
pub struct FairPoolLimits {
    /// Threads, at least two: one share may have all but one of them.
    pub threads: usize,
    /// Pieces of work of one share that take turns; others of that share wait until one of these
    /// has ended. Bounds what work in progress holds, open files for example.
    pub started: usize,
    /// Pieces of work of one share that may wait.
    pub waiting: usize,
    /// Pieces of work of all shares that may wait. One more takes the place of the last one of the
    /// share that has most.
    pub waiting_in_all: usize,
}

/// Why work was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FairPoolError {
    /// More is waiting than may: of this share or in all.
    #[error("too much work of this kind is waiting")]
    Full,
    /// The work panicked or gave way to other work, the pool is gone, or no thread can be started.
    #[error("the work was not finished")]
    Stopped,
}

/// Threads that are shared fairly. Work comes in steps, and a thread takes a step of each share in
/// turn. Threads are started when there is work, and end when there is none.
pub struct FairPool(Arc<Inner>);

struct Inner {
    name: &'static str,
    limits: FairPoolLimits,
    stuck_after: Duration,
    state: Mutex<State>,
    work_came: Condvar,
}

#[derive(Default)]
struct State {
    /// Shares that have work which no thread is at, in turn.
    turns: VecDeque<u64>,
    shares: BTreeMap<u64, Share>,
    waiting: usize,
    /// What each thread is at, and since when.
    running: BTreeMap<u64, (u64, Instant)>,
    threads: usize,
    idle: usize,
    next_thread: u64,
    closed: bool,
}

#[derive(Default)]
struct Share {
    /// Work between two steps.
    started: VecDeque<Job>,
    /// Work before its first step.
    waiting: VecDeque<Job>,
    running: usize,
}

impl Share {
    fn is_empty(&self) -> bool {
        self.started.is_empty() && self.waiting.is_empty() && self.running == 0
    }

    fn next(&mut self, most: usize) -> Option<(Job, bool)> {
        if self.started.len() + self.running < most
            && let Some(job) = self.waiting.pop_front()
        {
            return Some((job, true));
        }
        self.started.pop_front().map(|job| (job, false))
    }
}

/// Runs a step; breaks when nothing is left to do, or nobody waits for it any more.
type Job = Box<dyn FnMut() -> ControlFlow<()> + Send>;

impl FairPool {
    /// A pool whose threads are called `name`. None is started yet.
    pub fn new(name: &'static str, limits: FairPoolLimits) -> Self {
        Self::with_patience(name, limits, STUCK_AFTER)
    }

    fn with_patience(name: &'static str, limits: FairPoolLimits, stuck_after: Duration) -> Self {
        let limits = FairPoolLimits {
            threads: limits.threads.max(2),
            started: limits.started.max(1),
            ..limits
        };
        Self(Arc::new(Inner {
            name,
            limits,
            stuck_after,
            state: Mutex::default(),
            work_came: Condvar::new(),
        }))
    }

    /// Does work for a share (a user, say): `step` is called until it breaks, from one thread at a
    /// time, and should take about a millisecond. Dropping the future ends the work at its next
    /// step.
    ///
    /// # Errors
    /// [`FairPoolError`] when there is no room for the work, or its thread fails.
    pub async fn run<T: Send + 'static>(
        &self,
        share: u64,
        mut step: impl FnMut() -> ControlFlow<T> + Send + 'static,
    ) -> Result<T, FairPoolError> {
        let (answer, done) = oneshot::channel();
        let mut answer = Some(answer);
        let job = move || {
            if answer.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return ControlFlow::Break(());
            }
            step().map_break(|result| {
                if let Some(answer) = answer.take() {
                    // Nobody may be waiting any more.
                    drop(answer.send(result));
                }
            })
        };
        self.submit(share, Box::new(job))?;
        done.await.map_err(|_| FairPoolError::Stopped)
    }

    /// As [`FairPool::run`], for work that is one step.
    ///
    /// # Errors
    /// [`FairPoolError`] when too much work waits already, or the pool has stopped.
    pub async fn run_once<T: Send + 'static>(
        &self,
        share: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FairPoolError> {
        let mut work = Some(work);
        // A step that broke is not called again.
        let done = self.run(share, move || ControlFlow::Break(work.take().map(|work| work())));
        done.await?.ok_or(FairPoolError::Stopped)
    }

    fn submit(&self, share: u64, job: Job) -> Result<(), FairPoolError> {
        let limits = self.0.limits;
        let mut state = self.0.lock();
        if state.shares.get(&share).is_some_and(|of_it| of_it.waiting.len() >= limits.waiting) {
            return Err(FairPoolError::Full);
        }
        if state.waiting >= limits.waiting_in_all && !state.make_room(share) {
            return Err(FairPoolError::Full);
        }
        let of_it = state.shares.entry(share).or_default();
        of_it.waiting.push_back(job);
        state.waiting += 1;
        if !state.turns.contains(&share) {
            state.turns.push_back(share);
        }
        let stuck = state.stuck(self.0.stuck_after);
        let able = state.threads.saturating_sub(stuck);
        if state.idle < state.waiting && able < limits.threads && stuck < MAX_STUCK {
            self.start_thread(&mut state)?;
        }
        drop(state);
        self.0.work_came.notify_one();
        Ok(())
    }

    fn start_thread(&self, state: &mut State) -> Result<(), FairPoolError> {
        let inner = Arc::clone(&self.0);
        let number = state.next_thread;
        state.next_thread += 1;
        state.threads += 1;
        let started = thread::Builder::new().name(self.0.name.to_owned()).spawn(move || {
            Thread { inner: &inner, number }.run();
        });
        let Err(error) = started else { return Ok(()) };
        state.threads -= 1;
        if state.threads > 0 {
            // The others will come to it.
            return Ok(());
        }
        tracing::error!(%error, name = self.0.name, "Cannot start a thread");
        state.clear();
        Err(FairPoolError::Stopped)
    }
}

impl Drop for FairPool {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.clear();
        drop(state);
        self.0.work_came.notify_all();
    }
}

impl fmt::Debug for FairPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairPool").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How many threads have been at one step for longer than they should.
    fn stuck(&self, after: Duration) -> usize {
        self.running.values().filter(|(_, since)| since.elapsed() >= after).count()
    }

    /// Lets go of the last piece of work of the share that has most waiting, unless that is
    /// `share` itself.
    fn make_room(&mut self, share: u64) -> bool {
        let most = self.shares.iter_mut().max_by_key(|(_, of_it)| of_it.waiting.len());
        let Some((_, of_it)) = most.filter(|(largest, _)| **largest != share) else { return false };
        let dropped = of_it.waiting.pop_back().is_some();
        self.waiting -= usize::from(dropped);
        dropped
    }

    /// The next piece of work, of the first share in turn that may have another thread.
    fn take(&mut self, limits: &FairPoolLimits, stuck_after: Duration) -> Option<(u64, Job)> {
        for _ in 0..self.turns.len() {
            let share = self.turns.pop_front()?;
            let (mut busy, mut stuck) = (0, 0);
            for (_, since) in self.running.values().filter(|(other, _)| *other == share) {
                if since.elapsed() < stuck_after { busy += 1 } else { stuck += 1 }
            }
            let may = busy < limits.threads - 1 && stuck < MAX_STUCK_OF_ONE;
            let Some(of_it) = self.shares.get_mut(&share) else { continue };
            let found = if may { of_it.next(limits.started) } else { None };
            if !of_it.started.is_empty() || !of_it.waiting.is_empty() {
                self.turns.push_back(share);
            }
            if let Some((job, is_new)) = found {
                of_it.running += 1;
                self.waiting -= usize::from(is_new);
                return Some((share, job));
            }
        }
        None
    }

    /// A thread is done with a step of `share`; the job is given back if it has another.
    fn give_back(&mut self, share: u64, job: Option<Job>) {
        let Some(of_it) = self.shares.get_mut(&share) else { return };
        of_it.running = of_it.running.saturating_sub(1);
        of_it.started.extend(job);
        if of_it.is_empty() {
            self.shares.remove(&share);
        } else if (!of_it.started.is_empty() || !of_it.waiting.is_empty())
            && !self.turns.contains(&share)
        {
            self.turns.push_back(share);
        }
    }

    fn clear(&mut self) {
        self.turns.clear();
        self.shares.clear();
        self.waiting = 0;
    }
}

/// One thread of a pool. Counts as ended however it ends.
struct Thread<'i> {
    inner: &'i Inner,
    number: u64,
}

impl Thread<'_> {
    fn run(&self) {
        let Inner { limits, stuck_after, .. } = self.inner;
        let mut state = self.inner.lock();
        loop {
            if state.closed {
                return;
            }
            let Some((share, mut job)) = state.take(limits, *stuck_after) else {
                state.idle += 1;
                let waited = self.inner.work_came.wait_timeout(state, IDLE);
                let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = again;
                state.idle -= 1;
                if timeout.timed_out() && state.turns.is_empty() {
                    return;
                }
                continue;
            };
            state.running.insert(self.number, (share, Instant::now()));
            drop(state);
            // Whoever waits for work that panicked learns of it as the work is dropped.
            let flow = catch_unwind(AssertUnwindSafe(&mut job));
            let left = matches!(flow, Ok(ControlFlow::Continue(()))).then_some(job);
            state = self.inner.lock();
            state.running.remove(&self.number);
            // Had it been stuck, others have taken its place.
            let stuck = state.stuck(*stuck_after);
            state.give_back(share, left);
            if state.threads.saturating_sub(stuck) > limits.threads {
                return;
            }
        }
    }
}

impl Drop for Thread<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.threads = state.threads.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests;
