//! One call to the server at a time, and what comes of it.

use std::{fmt, pin::Pin};

use signet_identity::EntryId;
use signet_pki::random;
use tokio::time::Instant;
use tonic::Code;

use super::{Engine, Running, sync::Found, sync::Position};
use crate::{
    fingerprint::EntryKey,
    ownership::Owner,
    reconciler::{EntryReconciler, Work},
    server::{NewEntry, Outcome, ServerError, UpdatedEntry},
};

/// Why an entry is not sent that was declared a moment ago.
const NOT_RENDERED: &str = "it renders to something else now";

/// What a batch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Delete,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Update => "update",
        }
    }
}

/// An entry of a batch: which, and its ID where it has one.
pub(super) type Item = (Option<EntryKey>, Option<EntryId>);

/// What a call brought.
pub(super) enum Done {
    Looked(Result<Found, ServerError>),
    Wrote(Operation, Vec<Item>, Result<Vec<Outcome>, ServerError>),
}

type Calling<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A call under way.
pub(super) enum InFlight {
    Looking(Calling<Result<Found, ServerError>>),
    Writing(Operation, Vec<Item>, Calling<Result<Vec<Outcome>, ServerError>>),
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Looking(_) => f.write_str("Looking"),
            Self::Writing(operation, items, _) => write!(f, "{operation:?}({})", items.len()),
        }
    }
}

impl InFlight {
    /// Waits for the call, and takes it away; for ever where there is none.
    pub(super) async fn done(slot: &mut Option<Self>) -> Done {
        let done = match slot {
            None => std::future::pending().await,
            Some(Self::Looking(call)) => Done::Looked(call.await),
            Some(Self::Writing(operation, items, call)) => {
                let result = call.await;
                Done::Wrote(*operation, std::mem::take(items), result)
            }
        };
        *slot = None;
        done
    }

    /// It will not be waited for: what it was to write is to be looked at again.
    pub(super) fn give_back(self, reconciler: &mut EntryReconciler) {
        if let Self::Writing(_, items, _) = self {
            for (key, id) in items {
                give_back(reconciler, key, id);
            }
        }
    }
}

fn give_back(reconciler: &mut EntryReconciler, key: Option<EntryKey>, id: Option<EntryId>) {
    match (key, id) {
        (Some(key), _) => reconciler.again(key),
        (None, Some(id)) => reconciler.saw_unwanted(id),
        (None, None) => {}
    }
}

impl Engine {
    /// The next call, if there is one to make.
    pub(super) fn next_call(&mut self, running: &mut Running) -> Option<InFlight> {
        let now = Instant::now();
        let left = self.lead.borrow().left(now)?;
        if running.not_before > now {
            return None;
        }
        if self.look_is_due(&running.position) {
            return Some(InFlight::Looking(Box::pin(self.look(&running.position))));
        }
        if !running.position.is_known() || !self.is_complete() {
            return None;
        }
        loop {
            let server = self.server.clone();
            let call = match self.cluster.reconciler.take(now)? {
                Work::Delete(batch) => {
                    let ids: Vec<EntryId> = batch.iter().map(|(_, id)| id.clone()).collect();
                    let items = batch.into_iter().map(|(key, id)| (key, Some(id))).collect();
                    InFlight::Writing(
                        Operation::Delete,
                        items,
                        Box::pin(async move { server.delete_entries(&ids, left).await }),
                    )
                }
                Work::Create(batch) => {
                    let mut items = Vec::with_capacity(batch.len());
                    let mut entries = Vec::with_capacity(batch.len());
                    for (key, declared) in batch {
                        let Some(draft) = self.cluster.draft(key, &declared) else {
                            self.cluster.reconciler.refused(key, NOT_RENDERED, now);
                            continue;
                        };
                        let id = match self.fresh_id() {
                            Ok(id) => id,
                            Err(error) => {
                                tracing::error!(%error, "Cannot make an entry ID");
                                self.cluster.reconciler.refused(key, &error.to_string(), now);
                                continue;
                            }
                        };
                        items.push((Some(key), None));
                        entries.push(NewEntry { id, draft });
                    }
                    if items.is_empty() {
                        continue;
                    }
                    InFlight::Writing(
                        Operation::Create,
                        items,
                        Box::pin(async move { server.create_entries(&entries, left).await }),
                    )
                }
                Work::Update(batch) => {
                    let mut items = Vec::with_capacity(batch.len());
                    let mut entries = Vec::with_capacity(batch.len());
                    for (key, id, declared) in batch {
                        let Some(draft) = self.cluster.draft(key, &declared) else {
                            self.cluster.reconciler.refused(key, NOT_RENDERED, now);
                            continue;
                        };
                        items.push((Some(key), Some(id.clone())));
                        entries.push(UpdatedEntry { id, draft });
                    }
                    if items.is_empty() {
                        continue;
                    }
                    InFlight::Writing(
                        Operation::Update,
                        items,
                        Box::pin(async move { server.update_entries(&entries, left).await }),
                    )
                }
            };
            return Some(self.measured(call));
        }
    }

    /// The ID of a new entry, where the configuration asks for one of ours.
    fn fresh_id(&self) -> Result<Option<String>, random::RandomError> {
        if self.ownership.prefix.is_empty() {
            return Ok(None);
        }
        Ok(Some(format!("{}{}", self.ownership.prefix, random::uuid_v4()?)))
    }

    fn measured(&self, call: InFlight) -> InFlight {
        match call {
            InFlight::Writing(operation, items, call) => {
                let timer = self.metrics.writes.start(&[operation.name()]);
                InFlight::Writing(
                    operation,
                    items,
                    Box::pin(async move {
                        let result = call.await;
                        let code = match &result {
                            Ok(_) => Code::Ok,
                            Err(error) => error.code().unwrap_or(Code::Internal),
                        };
                        timer.done(signet_daemon::metrics::status_name(code.into()));
                        result
                    }),
                )
            }
            looking => looking,
        }
    }

    /// Acts on what a call brought.
    pub(super) fn settle(&mut self, done: Done, running: &mut Running) {
        match done {
            Done::Looked(Ok(found)) => {
                running.backoff.reset();
                self.found(found, running);
            }
            Done::Looked(Err(error)) => self.pause(running, &error),
            Done::Wrote(operation, items, Ok(outcomes)) => {
                running.backoff.reset();
                for ((key, id), outcome) in items.into_iter().zip(outcomes) {
                    self.outcome(operation, key, id, outcome, running);
                }
            }
            Done::Wrote(operation, items, Err(error)) => {
                let now = Instant::now();
                let several = items.len() > 1;
                for (key, id) in items {
                    match (key, id) {
                        // One bad entry must not hold up the others.
                        (Some(key), _) if error.blames_request() && several => {
                            self.cluster.reconciler.alone(key, now);
                        }
                        (Some(key), _) if error.blames_request() => {
                            self.cluster.reconciler.refused(key, &error.to_string(), now);
                        }
                        (key, id) => give_back(&mut self.cluster.reconciler, key, id),
                    }
                }
                // Whether it took place is not known.
                running.position = match running.position.clone() {
                    Position::Listed { .. } => Position::Listed { due: now },
                    Position::At { feed_id, revision, .. } => {
                        Position::At { feed_id, revision, due: now }
                    }
                    Position::Unknown => Position::Unknown,
                };
                tracing::warn!(operation = operation.name(), "A batch of entries failed");
                self.pause(running, &error);
            }
        }
    }

    fn pause(&self, running: &mut Running, error: &ServerError) {
        let delay = running.backoff.next_delay();
        running.not_before = Instant::now() + delay;
        running.tell_in_sync = true;
        tracing::error!(
            error = error as &dyn std::error::Error,
            retry_ms = delay.as_millis() as u64,
            "The server cannot be used; nothing is concluded from that"
        );
    }

    fn outcome(
        &mut self,
        operation: Operation,
        key: Option<EntryKey>,
        id: Option<EntryId>,
        outcome: Outcome,
        running: &mut Running,
    ) {
        let now = Instant::now();
        let Outcome { result, held } = outcome;
        let shown = held.as_ref().map(|held| held.id.clone()).or_else(|| id.clone());
        let shown = shown.map(|id| id.to_string()).unwrap_or_default();
        let done = match (operation, &result) {
            (_, Ok(())) => true,
            // Somebody else was faster.
            (Operation::Delete, Err(refusal)) => refusal.code == Code::NotFound,
            _ => false,
        };
        let word = if done { "done" } else { "refused" };
        self.metrics.written.inc(&[operation.name(), word]);
        if done {
            match (operation, held, id) {
                (Operation::Delete, _, Some(id)) => self.cluster.reconciler.gone(&id),
                (_, Some(held), _) => self.holds(held),
                // The server does not say what it holds now: it has to be asked.
                _ => running.position = Position::Unknown,
            }
            tracing::debug!(operation = operation.name(), entry_id = shown, "Wrote an entry");
            if let Some(key) = key {
                self.cluster.reconciler.done(key);
            }
            return;
        }
        let Err(refusal) = result else { return };
        match (operation, refusal.code, held) {
            // There is such an entry; if it is ours, it is brought in line.
            (Operation::Create, Code::AlreadyExists, Some(held))
                if self.ownership.of(held.id.as_str()) == Owner::Ours =>
            {
                self.holds(held);
                if let Some(key) = key {
                    self.cluster.reconciler.done(key);
                }
                return;
            }
            (Operation::Update, Code::NotFound, _) => {
                if let Some(id) = &id {
                    self.cluster.reconciler.gone(id);
                }
                if let Some(key) = key {
                    self.cluster.reconciler.done(key);
                }
                return;
            }
            _ => {}
        }
        tracing::error!(
            operation = operation.name(),
            entry_id = shown,
            resource = self.resource_of(key),
            code = ?refusal.code,
            error = refusal.message,
            "The server refused an entry"
        );
        match (key, id) {
            (Some(key), _) => self.cluster.reconciler.refused(key, &refusal.message, now),
            (None, Some(id)) => self.cluster.reconciler.unwanted_stays(id, now),
            (None, None) => {}
        }
    }

    fn resource_of(&self, key: Option<EntryKey>) -> &str {
        let source = key.and_then(|key| self.cluster.reconciler.setter(key));
        source.map(|source| self.cluster.source_name(source)).unwrap_or_default()
    }
}
