//! Knowing what the server holds.

use std::collections::HashSet;

use tokio::time::Instant;

use super::{Engine, Running};
use crate::{
    ownership::Owner,
    reconciler::Current,
    server::{Changes, Held, ServerError},
};

/// Where this controller stands in the server's history.
#[derive(Clone, Debug)]
pub(super) enum Position {
    /// Nothing is known: everything has to be listed.
    Unknown,
    /// Everything up to here; changes are pushed.
    At {
        /// Which history.
        feed_id: String,
        /// The newest revision that was acted on.
        revision: u64,
        /// When to look even though nothing was pushed.
        due: Instant,
    },
    /// Everything as of the last list; the server has no push.
    Listed {
        /// When to list again.
        due: Instant,
    },
}

/// What a look at the server found.
#[derive(Debug)]
pub(super) enum Found {
    /// Everything.
    All(Vec<Held>, Position),
    /// What has changed.
    Changes(Changes),
}

/// How often a server that pushes is asked for changes all the same.
const SAFETY: std::time::Duration = std::time::Duration::from_secs(300);

/// How long to wait before asking again a server that had nothing to tell.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

impl Position {
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    pub(super) fn due(&self) -> Instant {
        match self {
            // Asked for as soon as it may be.
            Self::Unknown => Instant::now() + SAFETY,
            Self::At { due, .. } | Self::Listed { due } => *due,
        }
    }
}

impl Engine {
    /// Whether the server has to be looked at now.
    pub(super) fn look_is_due(&self, position: &Position) -> bool {
        let now = Instant::now();
        match position {
            Position::Unknown => true,
            Position::Listed { due } => *due <= now,
            Position::At { feed_id, revision, due } => {
                let latest = self.notices.borrow();
                let news = latest
                    .as_ref()
                    .is_some_and(|notice| notice.feed_id != *feed_id || notice.entries > *revision);
                news || *due <= now
            }
        }
    }

    /// Looks: for changes where the server can tell them, else at everything.
    pub(super) fn look(
        &self,
        position: &Position,
    ) -> impl Future<Output = Result<Found, ServerError>> + Send + use<> {
        let server = self.server.clone();
        let interval = self.interval;
        let lists = self.metrics.lists.clone();
        let position = position.clone();
        async move {
            if let Position::At { feed_id, revision, .. } = &position {
                match server.changes(feed_id, *revision).await? {
                    Changes::Resync { .. } | Changes::Unsupported => {}
                    changes => return Ok(Found::Changes(changes)),
                }
            }
            // Where the history stands is asked before the list: what changes meanwhile comes
            // with the changes.
            let start = match position {
                Position::Listed { .. } => Changes::Unsupported,
                _ => server.changes("", 0).await?,
            };
            let timer = lists.start(&[]);
            let held = server.list_entries().await?;
            timer.done("OK");
            let now = Instant::now();
            let position = match start {
                Changes::Resync { feed_id, revision } => {
                    Position::At { feed_id, revision, due: now + SAFETY }
                }
                Changes::Since { .. } | Changes::Unsupported => {
                    Position::Listed { due: now + interval }
                }
            };
            Ok(Found::All(held, position))
        }
    }

    /// Takes in what was found.
    pub(super) fn found(&mut self, found: Found, running: &mut Running) {
        match found {
            Found::All(held, position) => {
                let first = !running.position.is_known();
                let mut ids = HashSet::with_capacity(held.len());
                for one in held {
                    ids.insert(one.id.clone());
                    self.holds(one);
                }
                self.cluster.reconciler.saw_all(&ids);
                running.position = position;
                if first {
                    tracing::info!(
                        entries = ids.len(),
                        ours = self.cluster.reconciler.held(),
                        pushed = matches!(running.position, Position::At { .. }),
                        "Listed the server's entries"
                    );
                }
            }
            Found::Changes(Changes::Since { revision, more, entries }) => {
                self.metrics.changes.add(&[], entries.len() as u64);
                for (id, now) in entries {
                    match now {
                        Some(held) => self.holds(held),
                        None => self.cluster.reconciler.gone(&id),
                    }
                }
                if let Position::At { revision: at, due, .. } = &mut running.position {
                    if *at == revision {
                        // The notice is ahead of what the server can tell: not so fast.
                        running.not_before = Instant::now() + PAUSE;
                    }
                    *at = revision;
                    *due = if more { Instant::now() } else { Instant::now() + SAFETY };
                }
            }
            Found::Changes(_) => running.position = Position::Unknown,
        }
    }

    /// Notes an entry of the server.
    pub(super) fn holds(&mut self, held: Held) {
        match self.ownership.of(held.id.as_str()) {
            Owner::Ours => {
                let Held { id, key, body, join_token } = held;
                self.cluster.reconciler.saw(key, Current { id, body, join_token });
            }
            Owner::Former => self.cluster.reconciler.saw_unwanted(held.id),
            Owner::Other => {}
        }
    }
}
