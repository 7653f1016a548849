//! The last callers that got no identity, for whoever asks why when the process is gone.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use signet_identity::{Selector, SelectorSet};
use signet_time::UnixTime;

/// How many refusals are remembered.
const MAX_REFUSALS: usize = 64;
/// How many selectors of each are remembered.
const MAX_SELECTORS: usize = 256;

/// A caller that no entry matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its pid.
    pub pid: i32,
    /// When it was refused, Unix seconds.
    pub at: UnixTime,
    /// What it was attested to be.
    pub selectors: SelectorSet,
}

/// The last refusals, one for each pid.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<VecDeque<Refused>>);

impl Refusals {
    /// Remembers that the process `pid` with `selectors` was refused at `now`, Unix seconds.
    pub fn note(&self, pid: i32, selectors: &SelectorSet, now: UnixTime) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|refused| refused.pid != pid);
        if all.len() >= MAX_REFUSALS {
            all.pop_front();
        }
        let selectors = if selectors.len() > MAX_SELECTORS {
            selectors
                .iter()
                .take(MAX_SELECTORS)
                .cloned()
                .collect::<Vec<Selector>>()
                .into_iter()
                .collect()
        } else {
            selectors.clone()
        };
        all.push_back(Refused { pid, at: now, selectors });
    }

    /// The last refusal of the process that had this pid.
    pub fn of(&self, pid: i32) -> Option<Refused> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|refused| refused.pid == pid).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selectors(count: usize) -> SelectorSet {
        (0..count).map(|n| format!("a:{n}").parse::<Selector>().unwrap()).collect()
    }

    #[test]
    fn the_last_refusal_of_a_process_is_remembered() {
        let refusals = Refusals::default();
        refusals.note(7, &selectors(1), UnixTime::from_seconds(10));
        refusals.note(7, &selectors(2), UnixTime::from_seconds(20));
        let last = refusals.of(7).unwrap();
        assert_eq!((last.at.seconds(), last.selectors.len()), (20, 2));
        assert!(refusals.of(8).is_none());
    }

    #[test]
    fn however_many_are_refused_few_are_remembered() {
        let refusals = Refusals::default();
        let pids = i32::try_from(MAX_REFUSALS).unwrap() + 5;
        for pid in 1..=pids {
            refusals.note(pid, &selectors(MAX_SELECTORS + 5), UnixTime::from_seconds(1));
        }
        assert_eq!((1..=pids).filter(|pid| refusals.of(*pid).is_some()).count(), MAX_REFUSALS);
        let last = refusals.of(pids).unwrap();
        assert_eq!(last.selectors.len(), MAX_SELECTORS);
        assert!(refusals.of(1).is_none(), "the oldest go first");
    }
}
