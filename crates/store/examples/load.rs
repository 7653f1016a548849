//! How long a server takes to load a store of many entries, and how much memory.
//!
//! `cargo run --release -p signet-store --example load -- PLACE [ENTRIES]` fills PLACE with that many
//! entries when it is empty, and otherwise loads it as a starting server does. PLACE is an SQLite
//! file, or the URL of a PostgreSQL database.
#![allow(clippy::expect_used, reason = "a program for measuring, which may panic")]

use std::time::Instant;

use signet_identity::{AuthorizedIndex, Entry, EntrySpec, IndexChange, Selector, TrustDomain};
use signet_store::{
    Contents, EntryFilter, Store, StoreOptions,
    postgres::{ConnectionString, PostgresOptions, ThisProcess},
};
use signet_time::UnixTime;

/// Entries under each parent.
const CHILDREN: u64 = 100;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let place = args.next().expect("a file, or the URL of a database");
    let count: u64 = args.next().map_or(1_000_000, |text| text.parse().expect("a number"));
    let store = if place.starts_with("postgres") {
        let database = ConnectionString::parse(&place, &ThisProcess).expect("a URL");
        let mut options = PostgresOptions::new(database);
        // It is filled in one transaction.
        options.patience = std::time::Duration::from_secs(1_800);
        Store::open_postgres(options).await.expect("opening")
    } else {
        Store::open(StoreOptions::file(&place)).await.expect("opening")
    };
    if store.count_entries(&EntryFilter::default()).await.expect("counting") == 0 {
        let begun = Instant::now();
        let entries = (0..count).map(entry).collect();
        let contents = Contents { entries, ..Contents::default() };
        store.import(&contents, UnixTime::from_seconds(1)).await.expect("importing");
        println!("made {count} entries in {:?}", begun.elapsed());
        store.close().await;
        return;
    }
    let begun = Instant::now();
    let trust_domain: TrustDomain = "example.org".parse().expect("a trust domain");
    let mut index = AuthorizedIndex::new(trust_domain);
    let count = store.count_entries(&EntryFilter::default()).await.expect("counting");
    index.reserve(usize::try_from(count).expect("a number"));
    let take = |entries: Vec<Entry>| {
        entries.into_iter().for_each(|entry| index.load(IndexChange::Entry(entry)));
    };
    store.read_entries(&store.known(), take).await.expect("reading");
    println!("loaded {} entries in {:?}", index.len(), begun.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|line| line.starts_with("Vm")).for_each(|line| println!("{line}"));
}

/// An entry such as a controller makes for a pod.
fn entry(n: u64) -> Entry {
    let id = |text: String| text.parse().expect("a SPIFFE ID");
    let selectors = [
        Selector::new("k8s", &format!("pod-uid:{:08x}-0000-4000-8000-{:012x}", n / 3, n * 7_919)),
        Selector::new("k8s", &format!("ns:namespace-{}", n % 200)),
    ];
    let selectors = selectors.into_iter().map(|selector| selector.expect("a selector")).collect();
    let spec = EntrySpec::new(
        id(format!("spiffe://example.org/ns/namespace-{}/sa/account-{n}", n % 200)),
        id(format!("spiffe://example.org/spire/agent/k8s_psat/cluster/node-{}", n / CHILDREN)),
        selectors,
    );
    let name = format!("ffffff01-9b76-8{:03x}-8000-{n:012x}", n % 0xfff);
    Entry {
        id: name.parse().expect("an ID"),
        spec,
        revision_number: 0,
        created_at: UnixTime::from_seconds(1),
    }
}
