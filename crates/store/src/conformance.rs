//! What every store promises, as a test suite that each store runs in its own tests.
//!
//! A store implements [`Database`] and calls the macro `conformance!` in a test file; each
//! promise becomes a test of its own. The suite panics where a promise is broken: it is for tests
//! only, and behind the feature `conformance`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "a test suite: it may panic, and its functions are named after their promises"
)]

pub mod bundles;
pub mod entries;
pub mod federations;
pub mod feed;
pub mod journals;
pub mod nodes;
pub mod servers;
pub mod tenants;
pub mod tokens;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use signet_identity::{
    AttestedNode, Bundle, Entry, EntryId, EntrySpec, SelectorSet, X509Authority,
};
use signet_time::UnixTime;

use crate::{CreateEntryOutcome, NewEntry, Observer, Operation, Store, StoreError};

/// How a handle on the database of a test is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As [`crate::StoreOptions::changes_max_age`].
    pub changes_max_age: i64,
    /// As [`crate::StoreOptions::changes_max_rows`].
    pub changes_max_rows: u64,
    /// As [`crate::StoreOptions::observer`].
    pub observer: Option<Arc<dyn Observer>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { changes_max_age: 86_400, changes_max_rows: 200_000, observer: None }
    }
}

/// A database of its own for one test, empty at first.
#[async_trait]
pub trait Database: Send + Sync {
    /// Opens it, once more if it is open: each handle is as another process would have it.
    async fn open(&self, settings: Settings) -> Store;
}

/// Makes a test of each promise. The argument is an expression for a fresh [`Database`]; it is
/// evaluated for each test.
#[macro_export]
macro_rules! conformance {
    ($database:expr) => {
        $crate::conformance! {
            $database;
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
            feed::a_pruned_feed_says_so_and_keeps_its_newest_change,
            feed::everything_that_was_exported_is_imported_as_it_was,
            feed::every_operation_is_told_of_by_its_name,
            feed::the_feed_has_no_gaps_and_every_subscriber_hears_of_the_newest,
            feed::what_another_process_committed_is_committed_for_all,
            feed::what_another_process_writes_is_in_the_feed_too,
            feed::writers_of_two_processes_lose_nothing_and_leave_no_gap,
            journals::a_journal_is_given_to_another_server_only_if_it_has_none,
            journals::the_journal_of_each_server_is_its_own,
            nodes::a_node_survives_a_restart_and_is_replaced_with_its_selectors,
            nodes::an_update_that_changes_nothing_writes_nothing,
            nodes::deleting_a_join_token_node_takes_its_own_entry_along_and_no_other,
            nodes::lists_of_nodes_find_what_a_look_at_each_finds,
            nodes::of_two_that_create_a_node_one_does,
            nodes::pruning_nodes_spares_the_banned_and_those_that_cannot_come_back,
            servers::a_lease_has_one_holder_until_it_ends,
            servers::a_retired_server_is_forgotten_with_its_journal_and_only_then,
            tenants::an_entry_keeps_its_tenant_through_updates_and_restarts,
            tenants::what_is_said_about_tenants_is_kept_and_told_of,
            tokens::a_banned_agent_does_not_spend_its_token,
            tokens::a_token_is_spent_by_one_key_only_however_many_race,
        }
    };
    ($database:expr; $($module:ident :: $promise:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $promise() {
                let database = $database;
                $crate::conformance::$module::$promise(&database).await;
            }
        )*
    };
}

/// A database with a handle on it.
pub(crate) struct Fixture<'d> {
    database: &'d dyn Database,
    pub(crate) store: Store,
}

impl<'d> Fixture<'d> {
    pub(crate) async fn new(database: &'d dyn Database) -> Self {
        Self { database, store: database.open(Settings::default()).await }
    }

    pub(crate) async fn reopen(self) -> Self {
        self.store.close().await;
        Self::new(self.database).await
    }

    /// Creates one entry.
    pub(crate) async fn create(&self, id: &str, draft: EntrySpec) -> Entry {
        let outcomes = self
            .store
            .create_entries(vec![new(id, draft)], UnixTime::from_seconds(1))
            .await
            .unwrap();
        match outcomes.into_iter().next().unwrap() {
            CreateEntryOutcome::Created(entry) => entry,
            other => panic!("{other:?}"),
        }
    }
}

/// Writes down what it is told.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Vec<(Operation, u32, bool)>>);

impl Told {
    pub(crate) fn take(&self) -> Vec<(Operation, u32, bool)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Told {
    fn ended(
        &self,
        operation: Operation,
        _elapsed: std::time::Duration,
        tries: u32,
        outcome: Result<(), &StoreError>,
    ) {
        self.0.lock().unwrap().push((operation, tries, outcome.is_ok()));
    }
}

pub fn id(text: &str) -> EntryId {
    text.parse().unwrap()
}

pub fn new(entry_id: &str, draft: EntrySpec) -> NewEntry {
    NewEntry { id: id(entry_id), draft }
}

pub fn set(all: &[&str]) -> SelectorSet {
    all.iter().map(|text| text.parse().unwrap()).collect()
}

/// An entry `spiffe://td/<path>` under `spiffe://td/<parent>`.
pub fn draft(path: &str, parent: &str, selectors: &[&str]) -> EntrySpec {
    EntrySpec::new(
        format!("spiffe://td/{path}").parse().unwrap(),
        format!("spiffe://td/{parent}").parse().unwrap(),
        set(selectors),
    )
}

/// One with everything set.
pub fn full_draft() -> EntrySpec {
    let mut draft = draft("full", "parent", &["a:\"quoted\"\n", "k8s:ns:ä", "unix:uid:1"]);
    draft.x509_svid_ttl = 11;
    draft.jwt_svid_ttl = 12;
    draft.federates_with = vec!["b.test".parse().unwrap(), "a.test".parse().unwrap()];
    draft.admin = true;
    draft.downstream = true;
    draft.expires_at = UnixTime::from_seconds(13);
    draft.dns_names = vec!["z.test".into(), "a.test".into()];
    draft.hint = "hint \"x\"".into();
    draft.disable_x509_svid_prefetch = true;
    draft.jwt_svid_include_jti = true;
    draft
}

pub fn bundle(name: &str) -> Bundle {
    let mut bundle = Bundle::empty(name.parse().unwrap());
    bundle.x509_authorities.push(X509Authority { der: vec![1, 2, 3].into(), tainted: false });
    bundle.sequence_number = 7;
    bundle
}

pub fn node(name: &str) -> AttestedNode {
    AttestedNode {
        spiffe_id: format!("spiffe://td/spire/agent/t/{name}").parse().unwrap(),
        attestation_type: "t".into(),
        serial_number: "1".into(),
        expires_at: UnixTime::from_seconds(100),
        new_serial_number: String::new(),
        new_expires_at: UnixTime::EPOCH,
        selectors: set(&["t:zone:a"]),
        can_reattest: false,
        agent_version: "1.15.3".into(),
    }
}
