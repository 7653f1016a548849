//! How long a server takes to load a store of many entries, and how much memory.
//!
//! `cargo run --release -p signet-store --example load -- FILE [ENTRIES]` makes FILE with that many
//! entries when it is not there, and then loads it as a starting server does.
#![allow(clippy::expect_used, reason = "a program for measuring, which may panic")]

use std::time::Instant;

use signet_identity::{AuthorizedIndex, Entry, EntrySpec, IndexChange, Selector, TrustDomain};
use signet_store::{Contents, EntryFilter, Store, StoreOptions};
use signet_time::UnixTime;

/// Entries under each parent.
const CHILDREN: u64 = 100;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let path = std::path::PathBuf::from(args.next().expect("a file"));
    let count: u64 = args.next().map_or(1_000_000, |text| text.parse().expect("a number"));
    let is_new = !path.exists();
    let store = Store::open(StoreOptions::file(&path)).await.expect("opening");
    if is_new {
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
