//! Promises about entries.

use signet_identity::{Entry, EntryError, EntrySpec, MatchBehavior};
use signet_time::UnixTime;

use super::{Database, Fixture, bundle, draft, full_draft, id, new, set};
use crate::{CreateEntryOutcome, EntryFilter, EntryUpdate, PageRequest, UpdateEntryOutcome};

pub async fn every_field_of_an_entry_survives_a_restart(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    fixture
        .store
        .set_bundles(vec![bundle("a.test"), bundle("b.test")], UnixTime::from_seconds(1))
        .await
        .unwrap();
    let created = fixture.create("full", full_draft()).await;
    assert_eq!((created.revision_number, created.created_at.seconds()), (0, 1));
    let mut stored = draft("other", "parent", &["a:b"]);
    stored.store_svid = true;
    stored.hint = "a \"hint\" \u{1e}\u{1f}\n\\ \u{e4}".to_owned();
    let other = fixture.create("other", stored).await;
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.store.entry(&id("full")).await.unwrap(), Some(created.clone()));
    assert_eq!(created.spec, full_draft());
    assert_eq!(fixture.store.entry(&id("other")).await.unwrap(), Some(other.clone()));
    assert_eq!(fixture.store.entry(&id("none")).await.unwrap(), None);
    let listed = fixture.store.list_entries(&EntryFilter::default(), PageRequest::all()).await;
    assert_eq!(listed.unwrap().items, [created.clone(), other.clone()]);
    let mut read = Vec::new();
    let since = fixture.store.committed().await.unwrap();
    fixture.store.read_entries(&since, |entries| read.extend(entries)).await.unwrap();
    assert_eq!(read, [created, other]);
}

pub async fn a_batch_has_one_outcome_for_each_and_one_transaction(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let there = fixture.create("there", draft("a", "p", &["x:1", "x:2"])).await;
    let mut federated = draft("f", "p", &["x:1"]);
    federated.federates_with = vec!["nobody.test".parse().unwrap()];
    let before = fixture.store.revision();
    let batch = vec![
        new("new1", draft("b", "p", &["x:1"])),
        new("similar", draft("a", "p", &["x:2", "x:1", "x:1"])),
        new("there", draft("c", "p", &["x:1"])),
        new("new1", draft("d", "p", &["x:1"])),
        new("again", draft("b", "p", &["x:1"])),
        new("federated", federated),
        new("new2", draft("a", "p", &["x:1"])),
        new("new3", draft("a", "q", &["x:1", "x:2"])),
    ];
    let outcomes = fixture.store.create_entries(batch, UnixTime::from_seconds(5)).await.unwrap();
    let named: Vec<String> = outcomes
        .iter()
        .map(|outcome| match outcome {
            CreateEntryOutcome::Created(entry) => format!("created {}", entry.id),
            CreateEntryOutcome::Similar(entry) => format!("similar {}", entry.id),
            CreateEntryOutcome::IdTaken => "taken".into(),
            CreateEntryOutcome::UnknownBundle(name) => format!("unknown {name}"),
        })
        .collect();
    assert_eq!(
        named,
        [
            "created new1",
            "similar there",
            "taken",
            "taken",
            "similar new1",
            "unknown nobody.test",
            "created new2",
            "created new3"
        ]
    );
    assert_eq!(outcomes[1], CreateEntryOutcome::Similar(there));
    assert_eq!(fixture.store.revision(), before + 3);
    assert_eq!(fixture.store.count_entries(&EntryFilter::default()).await.unwrap(), 4);
}

pub async fn an_update_bumps_the_revision_and_moves_the_entry_in_every_index(
    database: &dyn Database,
) {
    let fixture = Fixture::new(database).await;
    fixture.create("e", draft("a", "p", &["x:1"])).await;
    let update = |id_: &str, change: fn(&mut EntrySpec) -> Result<(), EntryError>| {
        EntryUpdate::new(id(id_), change)
    };
    let outcomes = fixture
        .store
        .update_entries(
            vec![
                update("e", |_| Ok(())),
                update("none", |_| Ok(())),
                update("e", |_| Err(EntryError::NoSelectors)),
                update("e", |draft| {
                    draft.federates_with = vec!["nobody.test".parse().unwrap()];
                    Ok(())
                }),
                update("e", |draft| {
                    draft.spiffe_id = "spiffe://td/b".parse().unwrap();
                    draft.selectors = set(&["x:2"]);
                    draft.hint = "h".into();
                    Ok(())
                }),
            ],
            UnixTime::from_seconds(9),
        )
        .await
        .unwrap();
    assert!(
        matches!(&outcomes[0], UpdateEntryOutcome::Updated(entry) if entry.revision_number == 1)
    );
    assert_eq!(outcomes[1], UpdateEntryOutcome::NotFound);
    assert_eq!(outcomes[2], UpdateEntryOutcome::Refused(EntryError::NoSelectors));
    assert!(matches!(&outcomes[3], UpdateEntryOutcome::UnknownBundle(_)));
    let UpdateEntryOutcome::Updated(entry) = &outcomes[4] else { panic!("{outcomes:?}") };
    assert_eq!((entry.revision_number, entry.created_at.seconds()), (2, 1));
    let count = async |filter: EntryFilter| fixture.store.count_entries(&filter).await.unwrap();
    let by_id = |path: &str| EntryFilter {
        spiffe_id: Some(format!("spiffe://td/{path}").parse().unwrap()),
        ..EntryFilter::default()
    };
    assert_eq!((count(by_id("a")).await, count(by_id("b")).await), (0, 1));
    // What it was is free again, what it is now is taken.
    let outcomes = fixture
        .store
        .create_entries(
            vec![new("f", draft("a", "p", &["x:1"])), new("g", draft("b", "p", &["x:2"]))],
            UnixTime::from_seconds(1),
        )
        .await
        .unwrap();
    assert!(matches!(outcomes[0], CreateEntryOutcome::Created(_)));
    assert!(matches!(outcomes[1], CreateEntryOutcome::Similar(_)));
}

pub async fn a_deleted_entry_is_returned_and_gone_from_every_index(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    let entry = fixture.create("e", draft("a", "p", &["x:1"])).await;
    let ids = vec![id("e"), id("none"), id("e")];
    let deleted = fixture.store.delete_entries(ids, UnixTime::from_seconds(2)).await.unwrap();
    assert_eq!(deleted, [Some(entry), None, None]);
    let filter =
        EntryFilter { parent_id: Some("spiffe://td/p".parse().unwrap()), ..Default::default() };
    assert_eq!(fixture.store.count_entries(&filter).await.unwrap(), 0);
    fixture.create("e", draft("a", "p", &["x:1"])).await;
}

/// Every filter, alone and in pairs, finds just what a look at each entry finds, in any paging.
pub async fn lists_find_what_a_look_at_each_entry_finds(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    fixture
        .store
        .set_bundles(vec![bundle("a.test"), bundle("b.test")], UnixTime::from_seconds(1))
        .await
        .unwrap();
    let mut all = Vec::new();
    for n in 0..240_u32 {
        let selectors: Vec<String> =
            (0..4).filter(|bit| n >> bit & 1 == 1).map(|bit| format!("x:{bit}")).collect();
        let mut selectors: Vec<&str> = selectors.iter().map(String::as_str).collect();
        selectors.push("x:all");
        let mut draft = draft(&format!("w{}", n % 7), &format!("p{}", n / 60), &selectors);
        draft.hint = if n % 5 == 0 { "five".into() } else { String::new() };
        draft.downstream = n % 9 == 0;
        draft.dns_names = vec![format!("n{n}.test")];
        for (name, every) in [("a.test", 2), ("b.test", 3)] {
            if n % every == 0 {
                draft.federates_with.push(name.parse().unwrap());
            }
        }
        let outcome = fixture
            .store
            .create_entries(vec![new(&format!("e{n}"), draft)], UnixTime::from_seconds(1))
            .await;
        if let CreateEntryOutcome::Created(entry) = outcome.unwrap().remove(0) {
            all.push(entry);
        }
    }
    assert!(all.len() > 150, "{}", all.len());
    let mut filters = vec![EntryFilter::default()];
    for path in ["w1", "w6", "none"] {
        let spiffe_id = Some(format!("spiffe://td/{path}").parse().unwrap());
        filters.push(EntryFilter { spiffe_id, ..Default::default() });
    }
    for path in ["p1", "none"] {
        let parent_id = Some(format!("spiffe://td/{path}").parse().unwrap());
        filters.push(EntryFilter { parent_id, ..Default::default() });
    }
    use MatchBehavior::{Any, Exact, Subset, Superset};
    for behavior in [Any, Exact, Subset, Superset] {
        for selectors in [&["x:1", "x:all"][..], &["x:0", "x:3"], &["x:all"], &["x:nothing"], &[]] {
            let selectors = Some((set(selectors), behavior));
            filters.push(EntryFilter { selectors, ..Default::default() });
        }
        for names in [&["a.test"][..], &["b.test", "a.test"], &["none.test"]] {
            let names = names.iter().map(|name| name.parse().unwrap()).collect();
            filters.push(EntryFilter {
                federates_with: Some((names, behavior)),
                ..Default::default()
            });
        }
    }
    for hint in ["five", "none", ""] {
        filters.push(EntryFilter { hint: Some(hint.into()), ..Default::default() });
    }
    for downstream in [true, false] {
        filters.push(EntryFilter { downstream: Some(downstream), ..Default::default() });
    }
    for (n, a) in filters.iter().enumerate() {
        // Each with itself and with two others: fields that both set keep the first's.
        for b in [a, &filters[(n * 7 + 3) % filters.len()], &filters[(n * 5 + 1) % filters.len()]] {
            let filter = EntryFilter {
                spiffe_id: a.spiffe_id.clone().or(b.spiffe_id.clone()),
                parent_id: a.parent_id.clone().or(b.parent_id.clone()),
                selectors: a.selectors.clone().or(b.selectors.clone()),
                federates_with: a.federates_with.clone().or(b.federates_with.clone()),
                hint: a.hint.clone().or(b.hint.clone()),
                downstream: a.downstream.or(b.downstream),
            };
            let expected: Vec<&Entry> = all.iter().filter(|entry| filter.accepts(entry)).collect();
            let page = fixture.store.list_entries(&filter, PageRequest::all()).await.unwrap();
            assert_eq!(page.items.iter().collect::<Vec<_>>(), expected, "{filter:?}");
            assert_eq!(page.next, None);
            let count = fixture.store.count_entries(&filter).await.unwrap();
            assert_eq!(count, expected.len() as u64, "{filter:?}");
            let mut paged = Vec::new();
            let mut request = PageRequest::first(7);
            loop {
                let page = fixture.store.list_entries(&filter, request).await.unwrap();
                assert!(page.items.len() <= 7);
                paged.extend(page.items);
                let Some(next) = page.next else { break };
                request.after = Some(next);
            }
            assert_eq!(paged.iter().collect::<Vec<_>>(), expected, "{filter:?}");
        }
    }
}

pub async fn expired_entries_are_pruned_and_no_others(database: &dyn Database) {
    let fixture = Fixture::new(database).await;
    for (name, expires_at) in [("never", 0), ("old", 10), ("older", 5), ("young", 20)] {
        let mut draft = draft(name, "p", &["x:1"]);
        draft.expires_at = UnixTime::from_seconds(expires_at);
        fixture.create(name, draft).await;
    }
    let pruned = fixture
        .store
        .prune_entries(UnixTime::from_seconds(20), 1, UnixTime::from_seconds(30))
        .await
        .unwrap();
    assert_eq!(pruned.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["older"]);
    let pruned = fixture
        .store
        .prune_entries(UnixTime::from_seconds(20), 100, UnixTime::from_seconds(30))
        .await
        .unwrap();
    assert_eq!(pruned.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["old"]);
    assert_eq!(fixture.store.count_entries(&EntryFilter::default()).await.unwrap(), 2);
}
