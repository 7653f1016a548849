//! Looking at everything in memory without standing in anybody's way.

use std::{collections::BinaryHeap, sync::Arc};

use signet_identity::{AuthorizedIndex, Entry, SpiffeId};
use signet_time::UnixTime;

use super::Cache;

/// How many places are looked at before the index is let go of: well below a millisecond.
const AT_ONCE: usize = 4_096;

impl Cache {
    /// Shows `look` every entry, from the place `from` on, with its place and the index, until it
    /// answers `false`. The index is let go of again and again, so that what waits for it never waits
    /// long; entries that come or go meanwhile may be met or not. Takes a tenth of a second for a
    /// million entries: not for threads that answer calls. `None` before they were read.
    pub fn walk(
        &self,
        from: usize,
        mut look: impl FnMut(usize, &Arc<Entry>, &AuthorizedIndex) -> bool,
    ) -> Option<()> {
        let mut from = from;
        loop {
            let goes_on = self.with_index(|index| {
                let all =
                    index.between(from, AT_ONCE).all(|(place, entry)| look(place, entry, index));
                from = from.saturating_add(AT_ONCE);
                all && from < index.places()
            })?;
            if !goes_on {
                return Some(());
            }
        }
    }

    /// The agents whose SVIDs expire next, those that have expired already and those that are banned
    /// left out: at most `most`, the soonest first.
    pub fn next_agents(&self, now: UnixTime, most: usize) -> Vec<(SpiffeId, UnixTime)> {
        let mirror = self.read();
        let mut soonest: BinaryHeap<(UnixTime, &SpiffeId)> = BinaryHeap::new();
        for (id, node) in mirror.iter().flat_map(|mirror| &mirror.nodes) {
            if node.serial_number.is_empty() || node.expires_at <= now {
                continue;
            }
            soonest.push((node.expires_at, id));
            if soonest.len() > most {
                soonest.pop();
            }
        }
        let soonest = soonest.into_sorted_vec();
        soonest.into_iter().map(|(at, id)| (id.clone(), at)).collect()
    }
}
