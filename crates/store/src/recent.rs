//! The newest changes, in memory.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Change, ChangeKind, FeedPosition};

/// How many changes are remembered with what they made.
const MAX_RECENT: usize = 1_000;

/// The newest changes that this process made, so that whoever follows the feed at its heels need
/// not read back what was just written.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    epoch: Option<Arc<str>>,
    /// By revision. Those between them are of other processes, or are told of in a moment.
    changes: BTreeMap<u64, Change>,
}

impl Recent {
    pub(crate) fn push(&mut self, epoch: &Arc<str>, changes: impl IntoIterator<Item = Change>) {
        if self.epoch.as_ref() != Some(epoch) {
            self.epoch = Some(Arc::clone(epoch));
            self.changes.clear();
        }
        for change in changes {
            self.changes.insert(change.revision, change);
            if self.changes.len() > MAX_RECENT {
                self.changes.pop_first();
            }
        }
    }

    /// Forgets what the feed has dropped.
    pub(crate) fn forget(&mut self, last_dropped: u64) {
        self.changes = self.changes.split_off(&last_dropped.saturating_add(1));
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
        let (after, last) = (position.revision, newest.revision);
        let wanted = usize::try_from(last.checked_sub(after)?).ok()?;
        if wanted == 0 || wanted > self.changes.len() {
            return None;
        }
        let found = self.changes.range(after + 1..=last);
        (found.clone().count() == wanted)
            .then(|| found.take(limit as usize).map(|(_, change)| change.clone()).collect())
    }
}

/// How a kind is stored.
pub(crate) fn number(kind: ChangeKind) -> i64 {
    match kind {
        ChangeKind::Entry => 1,
        ChangeKind::Node => 2,
        ChangeKind::Bundle => 3,
        ChangeKind::Federation => 4,
        ChangeKind::Tenancy => 5,
    }
}

/// What [`number`] wrote.
pub(crate) fn kind(number: i64) -> Option<ChangeKind> {
    match number {
        1 => Some(ChangeKind::Entry),
        2 => Some(ChangeKind::Node),
        3 => Some(ChangeKind::Bundle),
        4 => Some(ChangeKind::Federation),
        5 => Some(ChangeKind::Tenancy),
        _ => None,
    }
}
