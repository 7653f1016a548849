//! Which entries are wanted, which are there, and what is to be done about the difference.
//!
//! Pure: it is told what resources declare and what the server holds, and answers with batches of
//! work. An entry is known here by its [`EntryKey`]; several resources may declare the same one,
//! and the server may hold several.
//!
//! **Order.** What is new is created before what it takes the place of is deleted: between the two
//! a workload has both identities, and at no moment none. A deletion therefore waits for the
//! creations that were asked for together with it or before, until the server has answered each of
//! them once; a creation that it refuses holds up nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use signet_base::Backoff;
use signet_identity::EntryId;
use tokio::time::Instant;

use crate::fingerprint::{EntryBody, EntryKey};

/// Which resource declares something: a number that the cluster state gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// Which pod it is declared for, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(pub u32);

/// One resource's word that an entry should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Whose.
    pub source: SourceId,
    /// For which pod.
    pub pod: Option<PodId>,
    /// What the entry should say.
    pub body: EntryBody,
}

/// An entry that the server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// Its ID.
    pub id: EntryId,
    /// What it says.
    pub body: EntryBody,
    /// The entry of a join token: never deleted here.
    pub join_token: bool,
}

/// How far the entries of a resource are, as its status shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// Entries that are this resource's to set.
    pub to_set: usize,
    /// Entries that another resource sets.
    pub masked: usize,
    /// Entries of `to_set` that the server refused.
    pub failures: usize,
    /// Entries of `to_set` that are on the server as they should be.
    pub set: usize,
}

/// What to do next; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Create the entries that these declare.
    Create(Vec<(EntryKey, Declared)>),
    /// Delete these; without a key those that have to go whatever they say.
    Delete(Vec<(Option<EntryKey>, EntryId)>),
    /// Make these say what is declared.
    Update(Vec<(EntryKey, EntryId, Declared)>),
}

#[derive(Debug, Default)]
struct State {
    declared: Vec<Declared>,
    current: Vec<Current>,
    /// Why the server refused what is declared, in its words.
    refusal: Option<Box<str>>,
}

#[derive(Debug)]
struct Retry {
    backoff: Backoff,
    at: Option<Instant>,
    alone: bool,
}

/// The most that is kept of the server's words, characters.
const MAX_REFUSAL: usize = 300;
/// How many entries go into one call, as in spire-controller-manager.
pub const CREATE_BATCH: usize = 50;
/// How many entries go into one call.
pub const DELETE_BATCH: usize = 200;
/// How long to wait before an entry that was refused is tried again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The entries that are wanted, those that the server holds, and the queue of work between them.
#[derive(Debug, Default)]
pub struct EntryReconciler {
    states: HashMap<EntryKey, State>,
    /// Where an entry of the server is.
    ids: HashMap<EntryId, EntryKey>,
    /// Entries of a former prefix: to be deleted whatever they say.
    unwanted: HashSet<EntryId>,
    /// Who goes first among those that declare the same entry: the smaller.
    ranks: HashMap<SourceId, u64>,
    counts: HashMap<SourceId, EntryCounts>,
    /// Resources whose counts have changed.
    touched: HashSet<SourceId>,
    /// What was refused, by the resource that sets it.
    refusals: BTreeMap<(SourceId, EntryKey), Box<str>>,
    /// Keys to look at, in order of arrival.
    queue: VecDeque<EntryKey>,
    queued: HashSet<EntryKey>,
    retries: HashMap<EntryKey, Retry>,
    /// Counts the times that the queue was sorted: what was asked for together has one number.
    generation: u64,
    /// What was looked at and found to need work; creations and deletions by generation.
    creates: VecDeque<(u64, EntryKey)>,
    updates: VecDeque<EntryKey>,
    deletes: VecDeque<(u64, EntryKey)>,
    /// What is in one of the three.
    placed: HashSet<EntryKey>,
    /// Creations that the server was asked for and has not answered: deletions wait for them.
    unanswered: HashSet<EntryKey>,
    /// Creations whose call failed; they have deletions wait no second time.
    failed_once: HashSet<EntryKey>,
    /// When unwanted entries may be tried again.
    unwanted_after: Option<Instant>,
}

/// What is to be done for one key.
enum Action {
    Nothing,
    Create(Declared),
    Update(EntryId, Declared),
    Delete(EntryId),
}

impl State {
    fn action(&self) -> Action {
        let (wanted, spare) = match (self.declared.first(), self.current.first()) {
            (None, _) => (Action::Nothing, self.current.as_slice()),
            (Some(declared), None) => (Action::Create(*declared), &[][..]),
            (Some(declared), Some(current)) => {
                let action = if declared.body == current.body {
                    Action::Nothing
                } else {
                    Action::Update(current.id.clone(), *declared)
                };
                (action, self.current.get(1..).unwrap_or_default())
            }
        };
        // What is too much goes first, for it may be in the way.
        match spare.iter().find(|current| !current.join_token) {
            Some(current) => Action::Delete(current.id.clone()),
            None => wanted,
        }
    }
}

impl EntryReconciler {
    /// One that knows of no entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets where `source` stands among those that declare the same entry. Call it before the
    /// source declares anything.
    pub fn rank(&mut self, source: SourceId, rank: u64) {
        self.ranks.insert(source, rank);
        self.counts.entry(source).or_default();
    }

    /// Forgets a source that declares nothing any more.
    pub fn forget(&mut self, source: SourceId) {
        self.ranks.remove(&source);
        self.counts.remove(&source);
        self.touched.remove(&source);
    }

    /// `declared.source` declares the entry `key` (again, perhaps with another body).
    pub fn declare(&mut self, key: EntryKey, declared: Declared) {
        self.change(key, |state, ranks| {
            state.declared.retain(|one| (one.source, one.pod) != (declared.source, declared.pod));
            state.declared.push(declared);
            state.declared.sort_by_key(|one| {
                (ranks.get(&one.source).copied().unwrap_or(u64::MAX), one.source, one.pod)
            });
        });
    }

    /// `source` does not declare the entry for `pod` any more.
    pub fn withdraw(&mut self, key: EntryKey, source: SourceId, pod: Option<PodId>) {
        self.change(key, |state, _| {
            state.declared.retain(|one| (one.source, one.pod) != (source, pod));
        });
    }

    /// The server holds this entry.
    pub fn saw(&mut self, key: EntryKey, current: Current) {
        if let Some(before) = self.ids.insert(current.id.clone(), key)
            && before != key
        {
            self.change(before, |state, _| state.current.retain(|one| one.id != current.id));
        }
        let same = self.states.get(&key).is_some_and(|state| state.current.contains(&current));
        if !same {
            self.change(key, |state, _| {
                match state.current.iter_mut().find(|one| one.id == current.id) {
                    Some(one) => *one = current,
                    None => state.current.push(current),
                }
            });
        }
    }

    /// The server holds an entry that has to go whatever it says.
    pub fn saw_unwanted(&mut self, id: EntryId) {
        self.unwanted.insert(id);
    }

    /// The server does not hold this entry (any more).
    pub fn gone(&mut self, id: &EntryId) {
        self.unwanted.remove(id);
        if let Some(key) = self.ids.remove(id) {
            self.change(key, |state, _| state.current.retain(|one| one.id != *id));
        }
    }

    /// The server holds exactly the entries of `there`, and no others.
    pub fn saw_all(&mut self, there: &HashSet<EntryId>) {
        let gone: Vec<EntryId> = self
            .ids
            .keys()
            .chain(&self.unwanted)
            .filter(|id| !there.contains(*id))
            .cloned()
            .collect();
        gone.iter().for_each(|id| self.gone(id));
    }

    /// How many entries of the server are known.
    pub fn held(&self) -> usize {
        self.ids.len()
    }

    /// The source that sets an entry.
    pub fn setter(&self, key: EntryKey) -> Option<SourceId> {
        Some(self.states.get(&key)?.declared.first()?.source)
    }

    /// What became of a source's entries.
    pub fn counts(&self, source: SourceId) -> EntryCounts {
        self.counts.get(&source).copied().unwrap_or_default()
    }

    /// The sources whose counts have changed since this was last asked.
    pub fn touched(&mut self) -> HashSet<SourceId> {
        std::mem::take(&mut self.touched)
    }

    /// Whether [`EntryReconciler::touched`] would name any.
    pub fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Why the server refuses an entry of a source, and which.
    pub fn refusal(&self, source: SourceId) -> Option<(EntryKey, &str)> {
        let mut of_source = self.refusals.range((source, EntryKey::MIN)..);
        let ((found, key), why) = of_source.next()?;
        (*found == source).then_some((*key, why))
    }

    /// The pod that an entry is declared for.
    pub fn pod_of(&self, key: EntryKey) -> Option<PodId> {
        self.states.get(&key)?.declared.first()?.pod
    }

    /// Tries everything that was refused again, now: what it was refused for may be over.
    pub fn retry_refused(&mut self) {
        let waiting = self.retries.iter_mut().filter(|(_, retry)| retry.at.is_some());
        let keys: Vec<EntryKey> = waiting
            .map(|(key, retry)| {
                retry.at = None;
                retry.backoff.reset();
                *key
            })
            .collect();
        keys.into_iter().for_each(|key| self.look(key));
    }

    /// Whether nothing is left to do, now or later.
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty()
            && self.creates.is_empty()
            && self.updates.is_empty()
            && self.deletes.is_empty()
            && self.unwanted.is_empty()
            && self.retries.is_empty()
    }

    /// How many entries wait to be written, about.
    pub fn backlog(&self) -> usize {
        self.queue.len()
            + self.creates.len()
            + self.updates.len()
            + self.deletes.len()
            + self.unwanted.len()
    }

    /// When the next entry that was refused may be tried again.
    pub fn next_retry(&self) -> Option<Instant> {
        let unwanted = self.unwanted_after.filter(|_| !self.unwanted.is_empty());
        self.retries.values().filter_map(|retry| retry.at).chain(unwanted).min()
    }

    /// What to do next. Every key in it has to be answered with [`EntryReconciler::done`],
    /// [`EntryReconciler::refused`], [`EntryReconciler::alone`] or [`EntryReconciler::again`].
    pub fn take(&mut self, now: Instant) -> Option<Work> {
        loop {
            self.sort_out(now);
            if let Some(work) = self.take_sorted(now) {
                return Some(work);
            }
            if self.queue.is_empty() {
                return None;
            }
        }
    }

    fn take_sorted(&mut self, now: Instant) -> Option<Work> {
        let mut delete = Vec::new();
        while delete.len() < DELETE_BATCH
            && let Some((generation, key)) = self.deletes.front().copied()
            && self.may_delete(generation)
        {
            self.deletes.pop_front();
            self.placed.remove(&key);
            match self.states.get(&key).map(State::action) {
                Some(Action::Delete(id)) => delete.push((Some(key), id)),
                _ => self.look(key),
            }
        }
        if self.unwanted_after.is_none_or(|at| at <= now) {
            let room = DELETE_BATCH.saturating_sub(delete.len());
            let ids: Vec<EntryId> = self.unwanted.iter().take(room).cloned().collect();
            for id in ids {
                self.unwanted.remove(&id);
                delete.push((None, id));
            }
        }
        if !delete.is_empty() {
            return Some(Work::Delete(delete));
        }
        let mut create = Vec::new();
        while create.len() < self.room(&create, self.creates.front().map(|(_, key)| key))
            && let Some((_, key)) = self.creates.pop_front()
        {
            self.placed.remove(&key);
            match self.states.get(&key).map(State::action) {
                Some(Action::Create(declared)) => {
                    self.unanswered.insert(key);
                    create.push((key, declared));
                }
                _ => self.look(key),
            }
        }
        if !create.is_empty() {
            return Some(Work::Create(create));
        }
        let mut update = Vec::new();
        while update.len() < self.room(&update, self.updates.front())
            && let Some(key) = self.updates.pop_front()
        {
            self.placed.remove(&key);
            match self.states.get(&key).map(State::action) {
                Some(Action::Update(id, declared)) => update.push((key, id, declared)),
                _ => self.look(key),
            }
        }
        if update.is_empty() { None } else { Some(Work::Update(update)) }
    }

    /// Work on `key` went well; what the server holds now was told by [`EntryReconciler::saw`] or
    /// [`EntryReconciler::gone`].
    pub fn done(&mut self, key: EntryKey) {
        self.retries.remove(&key);
        self.answered(key);
        self.change(key, |state, _| state.refusal = None);
    }

    /// The server refused to do what `key` needs, and says why: it is tried again later, at growing
    /// distances, or when what it depends on has changed.
    pub fn refused(&mut self, key: EntryKey, why: &str, now: Instant) {
        self.answered(key);
        let why: Box<str> = why.chars().filter(|c| !c.is_control()).take(MAX_REFUSAL).collect();
        self.change(key, |state, _| state.refusal = Some(why));
        self.later(key, now, false);
    }

    /// Work on `key` failed as part of a batch that failed as a whole: it is tried again, alone.
    pub fn alone(&mut self, key: EntryKey, now: Instant) {
        self.later(key, now, true);
    }

    /// Work on `key` did not take place: it is tried again when there is work to do.
    pub fn again(&mut self, key: EntryKey) {
        if self.unanswered.contains(&key) && !self.failed_once.insert(key) {
            self.unanswered.remove(&key);
        }
        self.look(key);
    }

    /// An entry that has to go could not be deleted: it is tried again later.
    pub fn unwanted_stays(&mut self, id: EntryId, now: Instant) {
        self.unwanted.insert(id);
        self.unwanted_after = Some(now + RETRY.0 * 10);
    }

    /// As many as may go into a batch that holds `taken` already.
    fn room<T>(&self, taken: &[T], next: Option<&EntryKey>) -> usize {
        let alone = next.and_then(|key| self.retries.get(key)).is_some_and(|retry| retry.alone);
        if alone { usize::from(taken.is_empty()) } else { CREATE_BATCH }
    }

    fn answered(&mut self, key: EntryKey) {
        self.unanswered.remove(&key);
        self.failed_once.remove(&key);
    }

    /// Whether nothing that was asked for together with a deletion of this generation, or before
    /// it, is still to be created.
    fn may_delete(&self, generation: u64) -> bool {
        let first = self.creates.front();
        self.unanswered.is_empty() && first.is_none_or(|(create, _)| *create > generation)
    }

    fn later(&mut self, key: EntryKey, now: Instant, alone: bool) {
        let retry = self.retries.entry(key).or_insert_with(|| Retry {
            backoff: Backoff::new(RETRY.0, RETRY.1).with_jitter(0.2),
            at: None,
            alone: false,
        });
        retry.alone |= alone;
        retry.at = Some(now + retry.backoff.next_delay());
    }

    /// Looks at every key that is due.
    fn sort_out(&mut self, now: Instant) {
        let due: Vec<EntryKey> = self
            .retries
            .iter_mut()
            .filter(|(_, retry)| retry.at.is_some_and(|at| at <= now))
            .map(|(key, retry)| {
                retry.at = None;
                *key
            })
            .collect();
        due.into_iter().for_each(|key| self.look(key));
        self.generation = self.generation.wrapping_add(1);
        while let Some(key) = self.queue.pop_front() {
            self.queued.remove(&key);
            let Some(state) = self.states.get(&key) else {
                self.retries.remove(&key);
                self.answered(key);
                continue;
            };
            let waits = self.retries.get(&key).is_some_and(|retry| retry.at.is_some());
            let action = state.action();
            if !matches!(action, Action::Create(_)) {
                self.answered(key);
            }
            match action {
                Action::Nothing => {
                    self.retries.remove(&key);
                }
                _ if waits || !self.placed.insert(key) => {}
                Action::Create(_) => self.creates.push_back((self.generation, key)),
                Action::Update(..) => self.updates.push_back(key),
                Action::Delete(_) => self.deletes.push_back((self.generation, key)),
            }
        }
    }

    fn look(&mut self, key: EntryKey) {
        if self.queued.insert(key) {
            self.queue.push_back(key);
        }
    }

    fn change(&mut self, key: EntryKey, change: impl FnOnce(&mut State, &HashMap<SourceId, u64>)) {
        let mut state = self.states.remove(&key).unwrap_or_default();
        self.count(key, &state, false);
        let before = state.declared.first().copied();
        change(&mut state, &self.ranks);
        if before != state.declared.first().copied() {
            // It was something else that was refused.
            state.refusal = None;
            self.retries.remove(&key);
        }
        self.count(key, &state, true);
        if !(state.declared.is_empty() && state.current.is_empty()) {
            self.states.insert(key, state);
        }
        self.look(key);
    }

    fn count(&mut self, key: EntryKey, state: &State, add: bool) {
        let is_set = match (state.declared.first(), state.current.first()) {
            (Some(declared), Some(current)) => declared.body == current.body,
            _ => false,
        };
        for (at, declared) in state.declared.iter().enumerate() {
            let counts = self.counts.entry(declared.source).or_default();
            let step = |count: &mut usize| {
                *count = if add { count.saturating_add(1) } else { count.saturating_sub(1) };
            };
            if at > 0 {
                step(&mut counts.masked);
            } else {
                step(&mut counts.to_set);
                if let Some(why) = &state.refusal {
                    step(&mut counts.failures);
                    if add {
                        self.refusals.insert((declared.source, key), why.clone());
                    } else {
                        self.refusals.remove(&(declared.source, key));
                    }
                }
                if is_set {
                    step(&mut counts.set);
                }
            }
            self.touched.insert(declared.source);
        }
    }
}

#[cfg(test)]
mod tests;
