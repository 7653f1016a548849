//! The newest changes, in memory.

use std::{collections::VecDeque, sync::Arc};

use crate::{Change, ChangeKind, FeedPosition};

/// How many changes are remembered with what they made.
const MAX_RECENT: usize = 1_000;

/// The newest changes that this process made, so that whoever follows the feed at its heels need
/// not read back what was just written.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    epoch: Option<Arc<str>>,
    changes: VecDeque<Change>,
}

impl Recent {
    /// Takes changes that follow the newest one, or else forgets those before them.
    pub(crate) fn push(&mut self, epoch: &Arc<str>, changes: impl IntoIterator<Item = Change>) {
        if self.epoch.as_ref() != Some(epoch) {
            self.epoch = Some(Arc::clone(epoch));
            self.changes.clear();
        }
        for change in changes {
            if self.changes.back().is_some_and(|last| last.revision + 1 != change.revision) {
                self.changes.clear();
            }
            if self.changes.len() == MAX_RECENT {
                self.changes.pop_front();
            }
            self.changes.push_back(change);
        }
    }

    /// Forgets what the feed has dropped.
    pub(crate) fn forget(&mut self, last_dropped: u64) {
        while self.changes.front().is_some_and(|change| change.revision <= last_dropped) {
            self.changes.pop_front();
        }
    }

    /// The changes after `position`, if all of them up to `newest` are remembered.
    pub(crate) fn since(
        &self,
        position: &FeedPosition,
        newest: &FeedPosition,
        limit: u32,
    ) -> Option<Vec<Change>> {
        if self.epoch.as_ref() != Some(&position.epoch) || newest.epoch != position.epoch {
            return None;
        }
        let first = self.changes.front()?.revision;
        let revision = position.revision;
        if self.changes.back()?.revision < newest.revision
            || revision >= newest.revision
            || revision + 1 < first
        {
            return None;
        }
        let skip = usize::try_from(revision + 1 - first).ok()?;
        Some(self.changes.iter().skip(skip).take(limit as usize).cloned().collect())
    }
}

/// How a kind is stored.
pub(crate) fn number(kind: ChangeKind) -> i64 {
    match kind {
        ChangeKind::Entry => 1,
        ChangeKind::Node => 2,
        ChangeKind::Bundle => 3,
        ChangeKind::Federation => 4,
    }
}

/// What [`number`] wrote.
pub(crate) fn kind(number: i64) -> Option<ChangeKind> {
    match number {
        1 => Some(ChangeKind::Entry),
        2 => Some(ChangeKind::Node),
        3 => Some(ChangeKind::Bundle),
        4 => Some(ChangeKind::Federation),
        _ => None,
    }
}
