//! The names under which a store's work is counted and timed.

use std::{fmt, time::Duration};

use crate::StoreError;

/// What a store was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    noun: &'static str,
    verb: &'static str,
    doing: &'static str,
}

impl Operation {
    const fn new(noun: &'static str, verb: &'static str, doing: &'static str) -> Self {
        Self { noun, verb, doing }
    }

    /// What it is about, as SPIRE's metric `datastore.<noun>.<verb>` has it, for example
    /// `registration_entry`. The feed, which SPIRE has not, is `feed`.
    pub fn noun(self) -> &'static str {
        self.noun
    }

    /// What is done to it, as SPIRE's metric has it, for example `create`.
    pub fn verb(self) -> &'static str {
        self.verb
    }

    /// The same for people, for example "creating entries": the beginning of an error's text.
    pub fn doing(self) -> &'static str {
        self.doing
    }
}

/// Is told of every operation of a store when it has ended. Called from the task that asked, so
/// it must be quick.
pub trait Observer: fmt::Debug + Send + Sync {
    /// `operation` took `elapsed` in all (waiting for its turn included), in so many `tries`
    /// (0 when it never began), and ended so. An operation whose caller gave up is not told of.
    fn ended(
        &self,
        operation: Operation,
        elapsed: Duration,
        tries: u32,
        outcome: Result<(), &StoreError>,
    );
}

macro_rules! operations {
    ($($name:ident: $noun:literal, $verb:literal, $doing:literal;)*) => {
        impl Operation {
            $(#[doc = concat!("`datastore.", $noun, ".", $verb, "`: ", $doing, ".")]
            pub const $name: Self = Self::new($noun, $verb, $doing);)*

            /// Every operation there is.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

operations! {
    CHANGE_BUNDLE: "bundle", "append", "changing a bundle";
    COUNT_BUNDLES: "bundle", "count", "counting bundles";
    CREATE_BUNDLES: "bundle", "create", "creating bundles";
    DELETE_BUNDLES: "bundle", "delete", "deleting bundles";
    READ_BUNDLE: "bundle", "fetch", "reading a bundle";
    LIST_BUNDLES: "bundle", "list", "listing bundles";
    SET_BUNDLES: "bundle", "set", "setting bundles";
    UPDATE_BUNDLES: "bundle", "update", "updating bundles";

    READ_JOURNAL: "ca_journal", "fetch", "reading the CA journal";
    LIST_JOURNALS: "ca_journal", "list", "listing the CA journals";
    WRITE_JOURNAL: "ca_journal", "set", "writing the CA journal";

    CREATE_FEDERATIONS: "federation_relationship", "create", "creating federation relationships";
    DELETE_FEDERATIONS: "federation_relationship", "delete", "deleting federation relationships";
    READ_FEDERATION: "federation_relationship", "fetch", "reading a federation relationship";
    LIST_FEDERATIONS: "federation_relationship", "list", "listing federation relationships";
    UPDATE_FEDERATIONS: "federation_relationship", "update", "updating federation relationships";

    READ_POSITION: "feed", "fetch", "reading the revision of the change feed";
    READ_FEED: "feed", "list", "reading the change feed";
    PRUNE_FEED: "feed", "prune", "pruning the change feed";

    CREATE_TOKEN: "join_token", "create", "creating a join token";
    SPEND_TOKEN: "join_token", "delete", "attesting with a join token";
    READ_TOKEN: "join_token", "fetch", "reading a join token";
    LIST_TOKENS: "join_token", "list", "listing join tokens";
    PRUNE_TOKENS: "join_token", "prune", "pruning join tokens";

    COUNT_NODES: "node", "count", "counting attested nodes";
    CREATE_NODE: "node", "create", "writing an attested node";
    DELETE_NODE: "node", "delete", "deleting an attested node";
    READ_NODE: "node", "fetch", "reading an attested node";
    LIST_NODES: "node", "list", "listing attested nodes";
    PRUNE_NODES: "node", "prune", "pruning attested nodes";
    UPDATE_NODE: "node", "update", "updating an attested node";

    COUNT_ENTRIES: "registration_entry", "count", "counting entries";
    CREATE_ENTRIES: "registration_entry", "create", "creating entries";
    DELETE_ENTRIES: "registration_entry", "delete", "deleting entries";
    READ_ENTRIES: "registration_entry", "fetch", "reading entries";
    LIST_ENTRIES: "registration_entry", "list", "listing entries";
    PRUNE_ENTRIES: "registration_entry", "prune", "pruning entries";
    UPDATE_ENTRIES: "registration_entry", "update", "updating entries";

    TAKE_LEASE: "lease", "take", "taking a lease";
    LIST_SERVERS: "server", "list", "listing the servers";
    WRITE_SERVER: "server", "set", "writing about a server";
    ASSIGN_TENANTS: "tenant", "set", "writing about tenants";
    READ_TENANTS: "tenant", "fetch", "reading about tenants";

    PING: "store", "ping", "checking the database";
    EXPORT: "store", "export", "exporting";
    IMPORT: "store", "import", "importing";
    COPY: "store", "copy", "copying a store";
}
