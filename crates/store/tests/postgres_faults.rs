//! PostgreSQL keeps what every store promises also where transactions are serializable, COMMIT
//! fails in every way there is, nobody can listen, and advisory locks do nothing: as with
//! CockroachDB, YugabyteDB, and a failover in progress.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "common/faults.rs"]
mod faults;

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use faults::{FAULTS, Fault};
use signet_store::{
    CreateEntryOutcome, EntryFilter, Store,
    conformance::{Database, Settings, draft, new},
    postgres::{ConnectionString, PostgresOptions, ThisProcess},
};
use signet_testkit::{Postgres, skip};
use signet_time::UnixTime;

/// A database of a test behind the proxy.
struct BehindFaults {
    dsn: String,
    faults: &'static [Option<Fault>],
}

impl BehindFaults {
    fn new(server: &Postgres, faults: &'static [Option<Fault>]) -> Self {
        let name = server.database();
        server.sql(
            "postgres",
            &format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"),
        );
        Self { dsn: server.dsn(&name), faults }
    }

    async fn options(&self) -> (PostgresOptions, Arc<std::sync::atomic::AtomicUsize>) {
        let port: u16 =
            self.dsn.split("port=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let (own, commits) = faults::before(port, self.faults).await;
        let dsn = self.dsn.replace(&format!("port={port}"), &format!("port={own}"));
        let mut options =
            PostgresOptions::new(ConnectionString::parse(&dsn, &ThisProcess).unwrap());
        options.patience = std::time::Duration::from_secs(120);
        (options, commits)
    }
}

#[async_trait]
impl Database for BehindFaults {
    async fn open(&self, settings: Settings) -> Store {
        let (mut options, _) = self.options().await;
        options.changes_max_age = settings.changes_max_age;
        options.changes_max_rows = settings.changes_max_rows;
        options.observer = settings.observer;
        Store::open_postgres(options).await.unwrap()
    }
}

// All but how often an operation was tried, and how many rows were pruned: a COMMIT without an answer
// is repeated where that does no harm, and finds nothing left to prune.
signet_store::conformance! {
    {
        let Some(server) = Postgres::shared() else { skip!("PostgreSQL is not installed") };
        BehindFaults::new(server, FAULTS)
    };
    bundles::another_key_of_a_known_id_is_appended_and_a_tainted_one_does_not_come_back,
    bundles::bundles_keep_their_order_and_grow_by_one_with_each_change,
    bundles::deleting_a_bundle_treats_its_entries_as_the_mode_says,
    bundles::setting_what_is_there_already_makes_no_change,
    entries::a_batch_has_one_outcome_for_each_and_one_transaction,
    entries::a_deleted_entry_is_returned_and_gone_from_every_index,
    entries::an_update_bumps_the_revision_and_moves_the_entry_in_every_index,
    entries::every_field_of_an_entry_survives_a_restart,
    entries::expired_entries_are_pruned_and_no_others,
    entries::lists_find_what_a_look_at_each_entry_finds,
    federations::federation_relationships_come_with_their_bundles,
    feed::a_caller_that_gives_up_leaves_nothing_half_done,
    feed::a_closed_store_says_so,
    feed::a_place_of_another_history_is_gone,
    feed::everything_that_was_exported_is_imported_as_it_was,
    feed::the_feed_has_no_gaps_and_every_subscriber_hears_of_the_newest,
    feed::what_another_process_committed_is_committed_for_all,
    feed::what_another_process_writes_is_in_the_feed_too,
    feed::writers_of_two_processes_lose_nothing_and_leave_no_gap,
    journals::the_journal_of_each_server_is_its_own,
    nodes::a_node_survives_a_restart_and_is_replaced_with_its_selectors,
    nodes::an_update_that_changes_nothing_writes_nothing,
    nodes::deleting_a_join_token_node_takes_its_own_entry_along_and_no_other,
    nodes::lists_of_nodes_find_what_a_look_at_each_finds,
    nodes::pruning_nodes_spares_the_banned_and_those_that_cannot_come_back,
    servers::a_lease_has_one_holder_until_it_ends,
    tokens::a_banned_agent_does_not_spend_its_token,
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_looked_up_and_not_repeated() {
    let Some(server) = Postgres::shared() else { skip!("PostgreSQL is not installed") };
    // The first one is the migration's.
    const LOST: &[Option<Fault>] =
        &[None, Some(Fault::CutAfter), Some(Fault::Done("40003")), Some(Fault::CutBefore), None];
    let database = BehindFaults::new(server, LOST);
    let (options, commits) = database.options().await;
    let store = Store::open_postgres(options).await.unwrap();
    for (name, tries) in [("cut", 1), ("told", 1), ("undone", 2)] {
        let before = commits.load(Ordering::Relaxed);
        let entry = new(name, draft(name, "p", &["x:1"]));
        let outcomes = store.create_entries(vec![entry], UnixTime::from_seconds(1)).await.unwrap();
        // Repeated, it would be there already.
        assert!(matches!(outcomes[0], CreateEntryOutcome::Created(_)), "{name}: {outcomes:?}");
        assert_eq!(commits.load(Ordering::Relaxed) - before, tries, "{name}");
    }
    assert_eq!(store.count_entries(&EntryFilter::default()).await.unwrap(), 3);
    assert_eq!(store.revision(), 3);
    assert_eq!(store.committed().await.unwrap().revision, 3);
}
