//! Measures the store: `cargo run --release -p signet-store --example bench -- [ENTRIES [PLACE]]`.
//! PLACE is a directory for an SQLite file, or the URL of an empty PostgreSQL database.
//!
//! Prints one JSON line for each measure.

use std::time::Instant;

use signet_identity::{AuthorizedIndex, EntrySpec, IndexChange, MatchBehavior, SelectorSet};
use signet_store::{
    EntryFilter, NewEntry, PageRequest, Store, StoreOptions,
    postgres::{ConnectionString, PostgresOptions, ThisProcess},
};
use signet_time::UnixTime;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let existing: usize = match std::env::args().nth(1) {
        Some(count) => count.parse()?,
        None => 50_000,
    };
    let place = std::env::args().nth(2);
    let dir = match &place {
        Some(path) if !path.starts_with("postgres") => tempfile::tempdir_in(path)?,
        _ => tempfile::tempdir()?,
    };
    let store = match place.filter(|place| place.starts_with("postgres")) {
        Some(url) => {
            let database = ConnectionString::parse(&url, &ThisProcess)?;
            Store::open_postgres(PostgresOptions::new(database)).await?
        }
        None => Store::open(StoreOptions::file(dir.path().join("bench.db"))).await?,
    };
    create(&store, 0, existing, 500, "fill").await?;
    create(&store, existing, 5_000, 50, "create, batches of 50").await?;
    create(&store, existing + 5_000, 10_000, 500, "create, batches of 500").await?;
    create(&store, existing + 15_000, 200, 1, "create one by one").await?;

    let started = Started::now();
    let mut after = Some(0);
    let mut read = 0;
    while let Some(row) = after {
        let page = PageRequest { after: Some(row), size: Some(1_000) };
        let page = store.list_entries(&EntryFilter::default(), page).await?;
        read += page.items.len();
        after = page.next;
    }
    report("read all", read, started);

    let before = rss_kib();
    let started = Started::now();
    let mut index = AuthorizedIndex::new("example.org".parse()?);
    let mut after = Some(0);
    while let Some(row) = after {
        let page = PageRequest { after: Some(row), size: Some(1_000) };
        let page = store.list_entries(&EntryFilter::default(), page).await?;
        page.items.into_iter().for_each(|entry| index.load(IndexChange::Entry(entry)));
        after = page.next;
    }
    report("load the index of authorised entries", index.len(), started);
    let grown = rss_kib().saturating_sub(before);
    println!("{{\"measure\":\"rss_kib of the index\",\"value\":{grown}}}");
    let agent = "spiffe://example.org/spire/agent/join_token/a".parse()?;
    let started = Started::now();
    let found = index.authorized(&agent).len();
    report("authorised for one agent", found, started);
    let one = id(existing / 2)?;
    let started = Started::now();
    let found = (0..10_000).filter(|_| index.entry_for_agent(&agent, &one).is_some()).count();
    report("one entry for one agent", found, started);
    drop(index);

    let filter = EntryFilter {
        selectors: Some((selectors(7)?, MatchBehavior::Superset)),
        parent_id: Some("spiffe://example.org/spire/agent/join_token/a".parse()?),
        ..EntryFilter::default()
    };
    let started = Started::now();
    let found = store.list_entries(&filter, PageRequest::all()).await?.items.len();
    report("list by a rare selector", found, started);
    let filter = EntryFilter { selectors: None, ..filter };
    let started = Started::now();
    let found = store.count_entries(&filter).await?;
    report("count by a common parent", usize::try_from(found)?, started);
    println!("{{\"measure\":\"rss_kib\",\"value\":{}}}", rss_kib());

    let ids = (0..5_000).map(id).collect::<Result<Vec<_>, _>>()?;
    let started = Started::now();
    for ids in ids.chunks(50) {
        store.delete_entries(ids.to_vec(), UnixTime::EPOCH).await?;
    }
    report("delete, batches of 50", ids.len(), started);
    store.close().await;
    Ok(())
}

async fn create(
    store: &Store,
    first: usize,
    count: usize,
    batch: usize,
    what: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let started = Started::now();
    let mut at = first;
    while at < first + count {
        let entries = (at..at + batch).map(entry).collect::<Result<Vec<_>, _>>()?;
        store.create_entries(entries, UnixTime::from_seconds(1_700_000_000)).await?;
        at += batch;
    }
    report(what, count, started);
    Ok(())
}

fn entry(number: usize) -> Result<NewEntry, Box<dyn std::error::Error>> {
    let draft = EntrySpec::new(
        format!("spiffe://example.org/workload/{number}").parse()?,
        "spiffe://example.org/spire/agent/join_token/a".parse()?,
        selectors(if number % 10 == 7 { number } else { 0 })?,
    );
    Ok(NewEntry { id: id(number)?, draft })
}

fn selectors(number: usize) -> Result<SelectorSet, Box<dyn std::error::Error>> {
    Ok([format!("unix:uid:{number}").parse()?].into_iter().collect())
}

/// As long as a UUID and the same each time; sorted by time, as the server makes them, unless
/// RANDOM_IDS is set.
fn id(number: usize) -> Result<signet_identity::EntryId, signet_identity::EntryError> {
    let a = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ (a >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let first = if std::env::var_os("RANDOM_IDS").is_some() { b >> 32 } else { number as u64 };
    format!(
        "{first:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        b & 0xffff,
        a >> 52,
        b >> 52,
        a & 0xffff_ffff_ffff
    )
    .parse()
}

fn report(measure: &str, count: usize, started: Started) {
    let seconds = started.at.elapsed().as_secs_f64();
    let rate = count as f64 / seconds;
    let cpu = (cpu_seconds() - started.cpu) * 1e6 / count as f64;
    println!(
        "{{\"measure\":\"{measure}\",\"count\":{count},\"seconds\":{seconds:.4},\
         \"per_second\":{rate:.0},\"cpu_us_each\":{cpu:.1}}}"
    );
}

/// When a measure began, and how much CPU the process had used.
struct Started {
    at: Instant,
    cpu: f64,
}

impl Started {
    fn now() -> Self {
        Self { at: Instant::now(), cpu: cpu_seconds() }
    }
}

/// User and system time of the whole process, in steps of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}
