//! A copy of a store is as the store, whatever is written meanwhile and however often it is
//! interrupted; nobody uses half a copy, and nothing that was acknowledged is missing in a whole one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;

use common::{bundle, draft, full_draft, id, new, node};
use signet_identity::{Entry, FederationRelationship, JoinToken, MatchBehavior, tenant::*};
use signet_store::{
    Contents, CopyRole, CreateEntryOutcome, EntryFilter, EntryUpdate, NodeFilter, OpenError,
    PageRequest, RecordKind, ServerRecord, Store, StoreError, StoreOptions,
    conformance::set,
    copying::{Copied, Copy, CopyError, Progress},
    postgres::{ConnectionString, PostgresOptions, ThisProcess},
};
use signet_testkit::{Postgres, skip};
use signet_time::UnixTime;

const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);

/// Where a store is.
enum Place {
    File(tempfile::TempDir),
    Postgres(String),
}

impl Place {
    fn file() -> Option<Self> {
        Some(Self::File(tempfile::tempdir().unwrap()))
    }

    fn postgres() -> Option<Self> {
        let server = Postgres::shared()?;
        Some(Self::Postgres(server.dsn(&server.database())))
    }

    async fn try_open(&self, role: Option<CopyRole>) -> Result<Store, OpenError> {
        match self {
            Self::File(dir) => {
                let mut options = StoreOptions::file(dir.path().join("s.db"));
                options.copying = role;
                // More than a test machine ever needs.
                options.busy_timeout = std::time::Duration::from_secs(60);
                Store::open(options).await
            }
            Self::Postgres(dsn) => {
                let database = ConnectionString::parse(dsn, &ThisProcess).unwrap();
                let mut options = PostgresOptions::new(database);
                options.copying = role;
                options.patience = std::time::Duration::from_secs(60);
                Store::open_postgres(options).await
            }
        }
    }

    /// As a server does.
    async fn open(&self) -> Store {
        self.try_open(None).await.unwrap()
    }

    /// As whoever copies it does.
    async fn source(&self) -> Store {
        self.try_open(Some(CopyRole::Source)).await.unwrap()
    }

    /// As whoever fills it does.
    async fn target(&self) -> Store {
        self.try_open(Some(CopyRole::Target)).await.unwrap()
    }
}

/// A test of each promise in each direction.
macro_rules! directions {
    ($($direction:ident: $from:ident => $to:ident),* $(,)?; $promises:tt) => {
        $(directions! { @one $direction $from $to $promises })*
    };
    (@one $direction:ident $from:ident $to:ident [$($promise:ident),* $(,)?]) => {
        mod $direction {
            use super::*;

            $(
                #[tokio::test]
                async fn $promise() {
                    let (Some(from), Some(to)) = (Place::$from(), Place::$to()) else {
                        skip!("PostgreSQL is not installed")
                    };
                    super::$promise(&from, &to).await;
                }
            )*
        }
    };
}

directions! {
    from_sqlite_to_sqlite: file => file,
    from_sqlite_to_postgresql: file => postgres,
    from_postgresql_to_sqlite: postgres => file,
    from_postgresql_to_postgresql: postgres => postgres;
    [
        everything_is_copied_in_its_order_and_found_again,
        what_is_written_during_a_copy_is_in_it,
        an_interrupted_copy_is_no_store_and_goes_on,
        of_two_that_copy_the_later_one_goes_on,
        a_write_is_either_copied_or_refused,
        what_holds_anything_is_not_filled,
    ]
}

/// Entries `from..to`, under ten parents.
async fn add_entries(store: &Store, numbers: std::ops::Range<u32>) {
    let numbers: Vec<u32> = numbers.collect();
    for some in numbers.chunks(500) {
        let of = |n: &u32| {
            new(&format!("e{n}"), draft(&format!("w{n}"), &format!("p{}", n % 10), &["x:1"]))
        };
        store.create_entries(some.iter().map(of).collect(), NOW).await.unwrap();
    }
}

/// Something of everything.
async fn fill(store: &Store) {
    store.set_bundles(vec![bundle("td"), bundle("b.test"), bundle("a.test")], NOW).await.unwrap();
    let relationship = FederationRelationship {
        trust_domain: "b.test".parse().unwrap(),
        bundle_endpoint_url: "https://b.test/bundle".into(),
        profile: signet_identity::BundleEndpointProfile::HttpsWeb,
    };
    store.create_federations(vec![(relationship, None)], NOW).await.unwrap();
    let tenant: Tenant = "red".parse().unwrap();
    let about = node("one").spiffe_id;
    for said in [
        Assignment::Tenant(tenant.clone(), TenantState::Suspended),
        Assignment::Agent(about, BTreeSet::from([tenant])),
    ] {
        store.assign(said, NOW).await.unwrap();
    }
    store.create_entries(vec![new("full", full_draft())], NOW).await.unwrap();
    add_entries(store, 0..2_300).await;
    let gone = (0..2_300).step_by(7).map(|n| id(&format!("e{n}"))).collect();
    store.delete_entries(gone, NOW).await.unwrap();
    let update = EntryUpdate::new(id("e1"), |draft| {
        draft.hint = "changed".into();
        Ok(())
    });
    store.update_entries(vec![update], NOW).await.unwrap();
    for name in ["one", "two", "gone", "banned"] {
        store.put_node(node(name), NOW).await.unwrap();
    }
    store.delete_node(&node("gone").spiffe_id, NOW).await.unwrap();
    let ban = |node: &mut signet_identity::AttestedNode| {
        node.serial_number.clear();
        true
    };
    store.update_node(&node("banned").spiffe_id, NOW, ban).await.unwrap();
    for (token, spent_by) in [("fresh", None), ("spent", Some([7; 32]))] {
        let token = JoinToken { token: token.into(), expires_at: NOW + 60, spent_by };
        store.create_join_token(token, None, NOW).await.unwrap();
    }
    for server in ["a", "b"] {
        store.put_journal(server, server.as_bytes(), NOW).await.unwrap();
        let record = ServerRecord {
            id: server.to_owned(),
            host: "host".to_owned(),
            version: "1".to_owned(),
            started_at: NOW,
            seen_at: NOW + 1,
            issued_until: NOW + 2,
            retired_at: UnixTime::EPOCH,
        };
        store.put_server(&record).await.unwrap();
    }
    store.retire_server("b", NOW + 3).await.unwrap();
}

type All = (Contents, Vec<(String, Vec<u8>)>, Vec<ServerRecord>);

async fn all(store: &Store) -> All {
    let mut contents = store.export().await.unwrap();
    contents.assignments.sort_by_key(|it| it.about().to_string());
    (contents, store.journals().await.unwrap(), store.servers().await.unwrap())
}

async fn finish(copy: Copy<'_>) -> Vec<Copied> {
    copy.finish("the new one", &mut |_| ()).await.unwrap()
}

async fn everything_is_copied_in_its_order_and_found_again(from: &Place, to: &Place) {
    let source = from.open().await;
    fill(&source).await;
    let (copied_from, target) = (from.source().await, to.target().await);
    let mut copy = Copy::begin(&copied_from, &target, "the old one").await.unwrap();
    let mut told = Vec::new();
    let written = copy.catch_up(&mut |progress| told.push(progress)).await.unwrap();
    assert_eq!(written, 0, "the second pass found nothing to write");
    let before = all(&source).await;
    let of = |kind: RecordKind, pass| {
        let of_it = |it: &&Progress| it.kind == kind && it.pass == Some(pass);
        *told.iter().rfind(of_it).unwrap()
    };
    let entries = before.0.entries.len() as u64;
    let last = of(RecordKind::Entries, 1);
    assert_eq!((last.done, last.of, last.written), (entries, entries, entries));
    assert_eq!(of(RecordKind::Nodes, 2).written, 0);

    let copied = finish(copy).await;
    assert_eq!(all(&target).await, before);
    let counts: Vec<(RecordKind, u64)> = copied.iter().map(|it| (it.kind, it.rows[0])).collect();
    assert_eq!(
        counts,
        [
            (RecordKind::Bundles, 3),
            (RecordKind::Federations, 1),
            (RecordKind::Assignments, 2),
            (RecordKind::Entries, entries),
            (RecordKind::Nodes, 3),
            (RecordKind::JoinTokens, 2),
            (RecordKind::Journals, 2),
            (RecordKind::Servers, 2),
        ]
    );
    assert!(copied.iter().all(|it| it.rows[0] == it.rows[1] && it.sha256[0] == it.sha256[1]));
    // What a store of the other kind says of itself is the same too.
    let looked = signet_store::copying::look(&target).await.unwrap();
    assert_eq!(looked, copied);

    // A server uses it: by its indexes, and after what is there.
    let target = to.open().await;
    let found = |filter: EntryFilter| {
        let target = target.clone();
        async move { target.list_entries(&filter, PageRequest::all()).await.unwrap().items }
    };
    let parent = Some("spiffe://td/p3".parse().unwrap());
    let children = found(EntryFilter { parent_id: parent, ..Default::default() }).await;
    let wanted: Vec<&Entry> =
        before.0.entries.iter().filter(|it| it.parent_id.path() == "/p3").collect();
    assert_eq!(children.iter().collect::<Vec<_>>(), wanted);
    let selectors = Some((set(&["k8s:ns:ä"]), MatchBehavior::Superset));
    let full = found(EntryFilter { selectors, ..Default::default() }).await;
    assert_eq!(full[0].spec, full_draft());
    let banned = NodeFilter { banned: Some(true), ..Default::default() };
    assert_eq!(target.count_nodes(&banned).await.unwrap(), 1);
    add_entries(&target, 5_000..5_002).await;
    target.put_node(node("late"), NOW).await.unwrap();
    let (contents, ..) = all(&target).await;
    assert_eq!(contents.entries.last().unwrap().id, id("e5001"));
    assert_eq!(contents.nodes.last().unwrap(), &node("late"));
    let outcome = target.create_entries(vec![new("x", full_draft())], NOW).await.unwrap();
    assert!(matches!(outcome[0], CreateEntryOutcome::Similar(_)));

    // Nobody uses the old one, unless told.
    let refused = from.try_open(None).await.unwrap_err();
    assert!(
        matches!(&refused, OpenError::Moved { moved_to, .. } if moved_to == "the new one"),
        "{refused}"
    );
    assert_eq!(all(&source).await, before, "it can still be read");
    assert!(copied_from.reopen().await.unwrap());
    assert!(!copied_from.reopen().await.unwrap());
    add_entries(&from.open().await, 5_000..5_001).await;
}

async fn what_is_written_during_a_copy_is_in_it(from: &Place, to: &Place) {
    let source = from.open().await;
    fill(&source).await;
    let (copied_from, target) = (from.source().await, to.target().await);
    let mut copy = Copy::begin(&copied_from, &target, "the old one").await.unwrap();
    copy.catch_up(&mut |_| ()).await.unwrap();

    // A change at the beginning, a hole, the last row again with another entry, an ID on another
    // row; and something of the other kinds.
    let update = EntryUpdate::new(id("full"), |draft| {
        draft.hint = "later".into();
        Ok(())
    });
    source.update_entries(vec![update], NOW).await.unwrap();
    source.delete_entries(vec![id("e1001"), id("e2299")], NOW).await.unwrap();
    add_entries(&source, 2_299..2_400).await;
    source.delete_entries(vec![id("e2")], NOW).await.unwrap();
    add_entries(&source, 2..3).await;
    source.delete_node(&node("banned").spiffe_id, NOW).await.unwrap();
    source.put_node(node("banned"), NOW).await.unwrap();
    source.put_node(node("new"), NOW).await.unwrap();
    source.prune_join_tokens(NOW + 100).await.unwrap();
    source.put_journal("a", b"more", NOW).await.unwrap();
    source.append_bundle(bundle("c.test"), NOW).await.unwrap();
    assert!(copy.catch_up(&mut |_| ()).await.unwrap() < 2_000);
    assert_eq!(all(&target).await, all(&source).await);

    source.delete_entries(vec![id("e2"), id("full")], NOW).await.unwrap();
    let wanted = all(&source).await;
    finish(copy).await;
    assert_eq!(all(&to.open().await).await, wanted);
}

/// Copies until that many entries were written, and ends at once.
async fn interrupted(source: &Store, target: &Store, entries: u64) {
    let mut copy = Copy::begin(source, target, "the old one").await.unwrap();
    let (reached, at) = tokio::sync::oneshot::channel();
    let mut reached = Some(reached);
    let mut tell = |progress: Progress| {
        if progress.kind == RecordKind::Entries
            && progress.done >= entries
            && let Some(reached) = reached.take()
        {
            reached.send(()).unwrap();
        }
    };
    tokio::select! {
        biased;
        _ = at => {}
        done = copy.catch_up(&mut tell) => panic!("not interrupted: {done:?}"),
    }
}

async fn an_interrupted_copy_is_no_store_and_goes_on(from: &Place, to: &Place) {
    let source = from.source().await;
    fill(&source).await;
    for entries in [0, 1_000] {
        let target = to.target().await;
        interrupted(&source, &target, entries).await;
        target.close().await;
        let as_source = to.try_open(Some(CopyRole::Source)).await;
        assert!(matches!(as_source, Err(OpenError::Unfinished { .. })), "half a store");
        let refused = to.try_open(None).await.unwrap_err();
        assert!(
            matches!(&refused, OpenError::Unfinished { source_name, .. }
                if source_name == "the old one"),
            "{refused}"
        );
    }
    // Even where it had been, all is compared in the end.
    let update = EntryUpdate::new(id("full"), |draft| {
        draft.hint = "later".into();
        Ok(())
    });
    source.update_entries(vec![update], NOW).await.unwrap();
    let target = to.target().await;
    let elsewhere = Copy::begin(&source, &target, "another one").await.unwrap();
    assert_eq!(elsewhere.reached(), None, "what was copied of another one does not count");
    interrupted(&source, &target, 1_000).await;
    let mut copy = Copy::begin(&source, &target, "the old one").await.unwrap();
    let Some((RecordKind::Entries, row)) = copy.reached() else { panic!("{:?}", copy.reached()) };
    assert!(row >= 1_000, "{row}");
    let mut first = None;
    copy.catch_up(&mut |progress| _ = first.get_or_insert(progress)).await.unwrap();
    assert_eq!(first.unwrap().kind, RecordKind::Bundles);
    finish(copy).await;
    assert_eq!(all(&to.open().await).await, all(&source).await);
}

async fn of_two_that_copy_the_later_one_goes_on(from: &Place, to: &Place) {
    let source = from.source().await;
    fill(&source).await;
    let target = to.target().await;
    let mut early = Copy::begin(&source, &target, "the old one").await.unwrap();
    let late = Copy::begin(&source, &target, "the old one").await.unwrap();
    let refused = early.catch_up(&mut |_| ()).await.unwrap_err();
    assert!(matches!(refused, CopyError::Store(StoreError::TakenOver { .. })), "{refused}");
    let refused = early.finish("x", &mut |_| ()).await.unwrap_err();
    assert!(matches!(refused, CopyError::Store(StoreError::TakenOver { .. })), "{refused}");
    // That left the source as it was.
    add_entries(&source, 5_000..5_001).await;
    finish(late).await;
    assert_eq!(all(&to.open().await).await, all(&source).await);
}

async fn a_write_is_either_copied_or_refused(from: &Place, to: &Place) {
    let source = from.source().await;
    let target = to.target().await;
    let servers = [from.open().await, from.open().await];
    let mut copy = Copy::begin(&source, &target, "the old one").await.unwrap();
    copy.catch_up(&mut |_| ()).await.unwrap();
    // Each goes on until it is refused, with what the feed tells of and with what it does not.
    let writers = servers.map(|server| {
        tokio::spawn(async move {
            let name = format!("{:p}", &raw const server);
            let mut acknowledged = Vec::new();
            for number in 0..100_000 {
                let key = format!("{name}-{number}");
                let entry = new(&key, draft(&key, "p", &["x:1"]));
                match server.create_entries(vec![entry], NOW).await {
                    Ok(_) => acknowledged.push(key.clone()),
                    Err(refused) => return (acknowledged, refused),
                }
                let (token, at) = (key.clone(), NOW + 60);
                let token = JoinToken { token, expires_at: at, spent_by: None };
                if let Err(refused) = server.create_join_token(token, None, NOW).await {
                    return (acknowledged, refused);
                }
                acknowledged.push(format!("token {key}"));
            }
            panic!("never refused")
        })
    });
    while source.count_entries(&EntryFilter::default()).await.unwrap() < 20 {
        tokio::task::yield_now().await;
    }
    finish(copy).await;
    let (contents, ..) = all(&to.open().await).await;
    let mut there: Vec<String> =
        contents.entries.iter().map(|entry| entry.id.as_str().to_owned()).collect();
    there.extend(contents.join_tokens.iter().map(|token| format!("token {}", token.token)));
    there.sort();
    let mut all_acknowledged = Vec::new();
    for writer in writers {
        let (acknowledged, refused) = writer.await.unwrap();
        assert!(matches!(&refused, StoreError::Unavailable { .. }), "{refused}");
        assert!(refused.to_string().contains("copied to another one"), "{refused}");
        all_acknowledged.extend(acknowledged);
    }
    all_acknowledged.sort();
    assert_eq!(there, all_acknowledged);

    // Journals and servers are refused as well.
    let source = from.source().await;
    assert!(source.put_journal("a", b"late", NOW).await.is_err());
    assert!(source.put_server(&ServerRecord::default()).await.is_err());
    assert!(source.reopen().await.unwrap());
    source.put_journal("a", b"late", NOW).await.unwrap();

    // Writers that were only held go on.
    let held = source.hold_writers().await.unwrap();
    drop(held);
    from.open().await.put_journal("a", b"later", NOW).await.unwrap();
}

async fn what_holds_anything_is_not_filled(from: &Place, to: &Place) {
    let source = from.source().await;
    fill(&source).await;
    let target = to.open().await;
    target.put_journal("a", b"mine", NOW).await.unwrap();
    let before = all(&target).await;
    let target = to.target().await;
    let refused = Copy::begin(&source, &target, "x").await.unwrap_err();
    assert!(matches!(refused, CopyError::Store(StoreError::NotEmpty { .. })), "{refused}");
    assert_eq!(all(&target).await, before);
    to.open().await;
}
