//! What the tests share.
#![allow(dead_code, reason = "each test binary uses a part")]

use signet_identity::{
    AttestedNode, Bundle, Entry, EntryDraft, EntryId, SelectorSet, X509Authority,
};
use signet_store::{CreateEntryOutcome, NewEntry, Store, StoreOptions};

/// A store in a directory of its own.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Fixture {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions::file(dir.path().join("s.db"))).await.unwrap();
        Self { dir, store }
    }

    pub fn options(&self) -> StoreOptions {
        StoreOptions::file(self.dir.path().join("s.db"))
    }

    pub async fn reopen(self) -> Self {
        self.store.close().await;
        let store = Store::open(self.options()).await.unwrap();
        Self { dir: self.dir, store }
    }

    /// Creates one entry.
    pub async fn create(&self, id: &str, draft: EntryDraft) -> Entry {
        let outcomes = self.store.create_entries(vec![new(id, draft)], 1).await.unwrap();
        match outcomes.into_iter().next().unwrap() {
            CreateEntryOutcome::Created(entry) => entry,
            other => panic!("{other:?}"),
        }
    }
}

pub fn id(text: &str) -> EntryId {
    text.parse().unwrap()
}

pub fn new(entry_id: &str, draft: EntryDraft) -> NewEntry {
    NewEntry { id: id(entry_id), draft }
}

pub fn set(all: &[&str]) -> SelectorSet {
    all.iter().map(|text| text.parse().unwrap()).collect()
}

/// An entry `spiffe://td/<path>` under `spiffe://td/<parent>`.
pub fn draft(path: &str, parent: &str, selectors: &[&str]) -> EntryDraft {
    EntryDraft::new(
        format!("spiffe://td/{path}").parse().unwrap(),
        format!("spiffe://td/{parent}").parse().unwrap(),
        set(selectors),
    )
}

/// One with everything set.
pub fn full_draft() -> EntryDraft {
    let mut draft = draft("full", "parent", &["a:\"quoted\"\n", "k8s:ns:ä", "unix:uid:1"]);
    draft.x509_svid_ttl = 11;
    draft.jwt_svid_ttl = 12;
    draft.federates_with = vec!["b.test".parse().unwrap(), "a.test".parse().unwrap()];
    draft.admin = true;
    draft.downstream = true;
    draft.expires_at = 13;
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
        expires_at: 100,
        new_serial_number: String::new(),
        new_expires_at: 0,
        selectors: set(&["t:zone:a"]),
        can_reattest: false,
        agent_version: "1.15.3".into(),
    }
}
