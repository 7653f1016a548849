//! `datastore_*`: what the store did, how long it took and how it ended.

use std::{collections::HashMap, time::Duration};

use signet_daemon::metrics::{Calls, Counter, Metrics};
use signet_store::{Observer, Operation, StoreError};

/// Counts the operations of a store.
#[derive(Debug)]
pub struct StoreMetrics {
    calls: HashMap<Operation, Calls>,
    failures: Counter,
    retries: Counter,
}

impl StoreMetrics {
    /// Registers a call counter for every operation.
    pub fn new(metrics: &Metrics) -> Self {
        let calls = Operation::ALL.iter().map(|operation| {
            // SPIRE's names have a level more where selectors or events are meant; ours are the
            // same otherwise.
            let key = ["datastore", operation.noun(), operation.verb()];
            (*operation, metrics.calls(&key, "Operations of the registration store", &[]))
        });
        let retries = metrics.counter(
            &["datastore", "retries"],
            "Tries that were repeated because the database was busy or transactions collided",
            &[],
        );
        let failures = metrics.counter(
            &["datastore", "failures"],
            "Operations of the registration store that failed",
            &[],
        );
        Self { calls: calls.collect(), failures, retries }
    }
}

impl Observer for StoreMetrics {
    fn ended(
        &self,
        operation: Operation,
        elapsed: Duration,
        tries: u32,
        outcome: Result<(), &StoreError>,
    ) {
        if tries > 1 {
            self.retries.add(&[], u64::from(tries - 1));
        }
        if outcome.is_err() {
            self.failures.inc(&[]);
        }
        if let Some(calls) = self.calls.get(&operation) {
            calls.observe(&[], outcome.map_or_else(status, |()| "OK"), elapsed);
        }
    }
}

fn status(error: &StoreError) -> &'static str {
    match error {
        StoreError::Busy { .. } | StoreError::Closed { .. } => "Unavailable",
        StoreError::Full { .. } => "ResourceExhausted",
        StoreError::NotEmpty { .. } | StoreError::ReadOnly { .. } => "FailedPrecondition",
        StoreError::Corrupt { .. } => "DataLoss",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_under_spires_names_with_how_they_ended() {
        let metrics = Metrics::detached();
        let store = StoreMetrics::new(&metrics);
        let took = Duration::from_millis(2);
        store.ended(Operation::LIST_ENTRIES, took, 1, Ok(()));
        let busy = StoreError::Busy { doing: "listing entries" };
        store.ended(Operation::LIST_ENTRIES, took, 3, Err(&busy));
        let text = metrics.encode();
        for line in [
            "signet_datastore_registration_entry_list{status=\"OK\"} 1",
            "signet_datastore_registration_entry_list{status=\"Unavailable\"} 1",
            "signet_datastore_registration_entry_list_elapsed_time_sum{status=\"OK\"} 2.0",
            "signet_datastore_retries 2",
            "signet_datastore_failures 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }
}
