//! Copying a store into another one, of the same kind or not, while servers use the first.
//!
//! A pass goes through everything, some at a time, and writes what the target lacks to be as the
//! source is; the first pass writes all, each later one what has changed since. So a copy that was
//! interrupted, whenever and however, just goes on, and what is written to the source meanwhile is
//! seen by a later pass. Until the last pass the target is marked: no server opens it.
//!
//! For the last pass the source's writers are held; then both have the same contents. The source is
//! closed before they go on, so what it acknowledged is in the target, and what came later was
//! refused. Only then may servers open the target.

use signet_identity::{AttestedNode, Entry};
use signet_pki::{digest::Sha256, random};

pub use crate::port::{Copying, Difference, HeldWriters, Reached, Record, RecordKind, Row};
use crate::{EntryFilter, NodeFilter, PageRequest, Store, StoreError};

/// How many rows are compared, and written, at a time.
const AT_ONCE: u32 = 1_000;
/// How often everything is gone through before the last pass, at most.
const PASSES: u32 = 10;

/// Why a copy was not finished. What was copied so far stays, and a later copy goes on with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// What is read back is not what was written.
    #[error("the {} that were written are not those that were read: do not use the copy", .0.name())]
    Different(RecordKind),
    /// The random generator failed.
    #[error(transparent)]
    Random(#[from] random::RandomError),
    /// A store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How far a pass has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which pass of this process, from 1; `None` for the last one, during which nobody else writes.
    pub pass: Option<u32>,
    /// What is being copied.
    pub kind: RecordKind,
    /// How many of them were compared.
    pub done: u64,
    /// How many there were when it began.
    pub of: u64,
    /// How many rows were written or deleted.
    pub written: u64,
}

/// What both stores hold of one kind, as it was read from each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// What it is.
    pub kind: RecordKind,
    /// How many are in the source, and in the target.
    pub rows: [u64; 2],
    /// SHA-256 over them in their order, lower-case hex, of the source and of the target.
    pub sha256: [String; 2],
}

/// Reads what `store` holds, for counts and checksums: both are those of this store.
///
/// # Errors
/// [`StoreError`] when it cannot be read.
pub async fn look(store: &Store) -> Result<Vec<Copied>, StoreError> {
    let mut found = Vec::new();
    for kind in RecordKind::ALL {
        let mut sum = Sum::new();
        let mut after = 0;
        loop {
            let rows = read(store, kind, after, i64::MAX).await?;
            rows.iter().for_each(|(_, record)| sum.add(record));
            match rows.last().filter(|_| kind.is_numbered() && is_full(&rows)) {
                Some((last, _)) => after = *last,
                None => break,
            }
        }
        let (rows, sha256) = sum.finish();
        found.push(Copied { kind, rows: [rows; 2], sha256: [sha256.clone(), sha256] });
    }
    Ok(found)
}

/// A copy that has begun.
#[derive(Debug)]
pub struct Copy<'s> {
    source: &'s Store,
    target: &'s Store,
    run: String,
    reached: Reached,
}

impl<'s> Copy<'s> {
    /// Begins to copy `source`, which is called `name`, into `target`, or goes on with it. From now
    /// on no other process fills the target.
    ///
    /// # Errors
    /// [`CopyError`], also when the target holds anything and is no unfinished copy.
    pub async fn begin(
        source: &'s Store,
        target: &'s Store,
        name: &str,
    ) -> Result<Self, CopyError> {
        let run = random::uuid_v4()?;
        let reached = target.begin_copy(name, &run).await?;
        Ok(Self { source, target, run, reached })
    }

    /// Where an interrupted first pass goes on.
    pub fn reached(&self) -> Reached {
        self.reached
    }

    /// Goes through everything until a pass has nothing to write, or until it is no use to go on,
    /// because as much changes during a pass as during the one before. Answers how many rows the last
    /// pass wrote.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn catch_up(&mut self, tell: &mut dyn FnMut(Progress)) -> Result<u64, CopyError> {
        let mut before = u64::MAX;
        for pass in 1..=PASSES {
            let (written, _) = self.pass(Some(pass), tell).await?;
            self.reached = None;
            if written == 0 || (pass > 1 && written >= before) {
                return Ok(written);
            }
            before = written;
        }
        Ok(before)
    }

    /// Holds the source's writers, copies what is still missing, compares everything, closes the
    /// source and opens the target for servers. `moved_to` is what the target is called.
    ///
    /// # Errors
    /// [`CopyError`]; then the target is no store yet, and the source is closed only if all had been
    /// copied.
    pub async fn finish(
        mut self,
        moved_to: &str,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Copied>, CopyError> {
        let held = self.source.hold_writers().await?;
        self.reached = None;
        let (_, copied) = self.pass(None, tell).await?;
        for kind in &copied {
            if kind.rows[0] != kind.rows[1] || kind.sha256[0] != kind.sha256[1] {
                return Err(CopyError::Different(kind.kind));
            }
        }
        held.close_store(moved_to).await?;
        self.target.end_copy(&self.run).await?;
        Ok(copied)
    }

    /// Goes through everything once. Answers how many rows were written, and, for the last pass, what
    /// both hold.
    async fn pass(
        &self,
        pass: Option<u32>,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<(u64, Vec<Copied>), CopyError> {
        let mut all_written = 0;
        let mut copied = Vec::new();
        let mut from = self.reached;
        for kind in RecordKind::ALL {
            let mut after = 0;
            if kind.is_numbered()
                && let Some((there, row)) = from
            {
                if there != kind {
                    continue;
                }
                after = row;
                from = None;
            }
            let of = count(self.source, kind).await?;
            // What an earlier process has written, if it goes on.
            let done = if after > 0 { count(self.target, kind).await? } else { 0 };
            let mut progress = Progress { pass, kind, done, of, written: 0 };
            let mut sums = [Sum::new(), Sum::new()];
            tell(progress);
            loop {
                let part = self.part(kind, after).await?;
                let written = part.written();
                let mut target = part.target;
                if written > 0 {
                    let reached = (pass == Some(1)).then_some(part.last);
                    let Diff { gone, new } = part.diff;
                    self.put(Difference { kind, gone, new, reached }).await?;
                    if pass.is_none() {
                        target = read(self.target, kind, after, part.last).await?;
                    }
                }
                progress.done += part.source.len() as u64;
                progress.written += written;
                if pass.is_none() {
                    let [source_sum, target_sum] = &mut sums;
                    part.source.iter().for_each(|(_, record)| source_sum.add(record));
                    target.iter().for_each(|(_, record)| target_sum.add(record));
                }
                tell(progress);
                after = part.last;
                if part.is_last {
                    break;
                }
            }
            all_written += progress.written;
            if pass.is_none() {
                let [(source_rows, source_sum), (target_rows, target_sum)] = sums.map(Sum::finish);
                let (rows, sha256) = ([source_rows, target_rows], [source_sum, target_sum]);
                copied.push(Copied { kind, rows, sha256 });
            }
        }
        Ok((all_written, copied))
    }

    async fn put(&self, difference: Difference) -> Result<(), StoreError> {
        self.target.put_difference(&self.run, &difference).await
    }

    /// The next rows of both, after row `after`.
    async fn part(&self, kind: RecordKind, after: i64) -> Result<Part, StoreError> {
        let (mut source, mut target) = tokio::try_join!(
            read(self.source, kind, after, i64::MAX),
            read(self.target, kind, after, i64::MAX)
        )?;
        if !kind.is_numbered() {
            let diff = match source == target {
                true => Diff::default(),
                // All of them, in their order.
                false => Diff { gone: target.clone(), new: source.clone() },
            };
            return Ok(Part { source, target, diff, last: i64::MAX, is_last: true });
        }
        // Up to where both were read.
        let read_to = |rows: &[Row]| match rows.last() {
            Some((last, _)) if is_full(rows) => *last,
            _ => i64::MAX,
        };
        let last = read_to(&source).min(read_to(&target));
        source.retain(|(row, _)| *row <= last);
        target.retain(|(row, _)| *row <= last);
        let diff = Diff::between(&source, &target);
        Ok(Part { source, target, diff, last, is_last: last == i64::MAX })
    }
}

/// A part of both stores.
struct Part {
    source: Vec<Row>,
    target: Vec<Row>,
    diff: Diff,
    /// The last row ID it may have.
    last: i64,
    is_last: bool,
}

impl Part {
    /// How many rows are to be written or deleted.
    fn written(&self) -> u64 {
        self.diff.gone.len().max(self.diff.new.len()) as u64
    }
}

/// Rows to delete and rows to write.
#[derive(Default)]
struct Diff {
    gone: Vec<Row>,
    new: Vec<Row>,
}

impl Diff {
    /// What makes `target` into `source`; both by row ID.
    fn between(source: &[Row], target: &[Row]) -> Self {
        let mut diff = Self::default();
        let mut there = target.iter().peekable();
        for row in source {
            while let Some(gone) = there.next_if(|it| it.0 < row.0) {
                diff.gone.push(gone.clone());
            }
            match there.next_if(|it| it.0 == row.0) {
                Some(same) if same.1 == row.1 => {}
                Some(other) => {
                    diff.gone.push(other.clone());
                    diff.new.push(row.clone());
                }
                None => diff.new.push(row.clone()),
            }
        }
        diff.gone.extend(there.cloned());
        diff
    }
}

async fn count(store: &Store, kind: RecordKind) -> Result<u64, StoreError> {
    match kind {
        RecordKind::Entries => store.count_entries(&EntryFilter::default()).await,
        RecordKind::Nodes => store.count_nodes(&NodeFilter::default()).await,
        _ => Ok(read(store, kind, 0, i64::MAX).await?.len() as u64),
    }
}

fn is_full(rows: &[Row]) -> bool {
    rows.len() >= AT_ONCE as usize
}

/// Rows of one kind: of entries and nodes some, after row `after` up to row `last`; of the others
/// all.
async fn read(
    store: &Store,
    kind: RecordKind,
    after: i64,
    last: i64,
) -> Result<Vec<Row>, StoreError> {
    fn listed<T>(items: Vec<T>, record: impl Fn(T) -> Record) -> Vec<Row> {
        (1..).zip(items.into_iter().map(record)).collect()
    }
    let all = PageRequest::all();
    Ok(match kind {
        RecordKind::Entries | RecordKind::Nodes => {
            store.numbered(kind, after, last, AT_ONCE).await?
        }
        RecordKind::Bundles => listed(store.list_bundles(all).await?.items, Record::Bundle),
        RecordKind::Federations => {
            listed(store.list_federations(all).await?.items, Record::Federation)
        }
        RecordKind::JoinTokens => listed(store.join_tokens().await?, Record::JoinToken),
        RecordKind::Assignments => listed(store.assignments().await?, Record::Assignment),
        RecordKind::Journals => {
            listed(store.journals().await?, |(server, data)| Record::Journal { server, data })
        }
        RecordKind::Servers => listed(store.servers().await?, Record::Server),
    })
}

/// A count and a checksum.
struct Sum {
    rows: u64,
    digest: Sha256,
}

impl Sum {
    fn new() -> Self {
        Self { rows: 0, digest: Sha256::new() }
    }

    fn add(&mut self, record: &Record) {
        self.rows += 1;
        match record {
            // The token itself prints as a secret.
            Record::JoinToken(token) => {
                let (text, expires_at) = (&token.token, token.expires_at.seconds());
                self.line(format_args!("{text} {expires_at} {:?}", token.spent_by));
            }
            Record::Journal { server, data } => {
                self.line(format_args!("{server} {}", data.len()));
                self.digest.update(data);
            }
            other => self.line(format_args!("{other:?}")),
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.digest.update(format!("{text}\n").as_bytes());
    }

    fn finish(self) -> (u64, String) {
        (self.rows, self.digest.finish().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The entries among rows.
pub(crate) fn entries_of(rows: &[Row]) -> Vec<(i64, Entry)> {
    let entry = |(row, record): &Row| match record {
        Record::Entry(entry) => Some((*row, entry.clone())),
        _ => None,
    };
    rows.iter().filter_map(entry).collect()
}

/// The nodes among rows.
pub(crate) fn nodes_of(rows: &[Row]) -> Vec<(i64, AttestedNode)> {
    let node = |(row, record): &Row| match record {
        Record::Node(node) => Some((*row, node.clone())),
        _ => None,
    };
    rows.iter().filter_map(node).collect()
}

const ENTRIES: &str = "entries";
const NODES: &str = "nodes";

/// How far a first pass has come, as it is stored.
pub(crate) fn write_reached(kind: RecordKind, row: i64) -> String {
    match kind {
        RecordKind::Entries => format!("{ENTRIES} {row}"),
        RecordKind::Nodes => format!("{NODES} {row}"),
        _ => String::new(),
    }
}

/// Reads what [`write_reached`] wrote; what it did not write is no place.
pub(crate) fn read_reached(text: &str) -> Reached {
    let (kind, row) = text.split_once(' ')?;
    let kind = match kind {
        ENTRIES => RecordKind::Entries,
        NODES => RecordKind::Nodes,
        _ => return None,
    };
    Some((kind, row.parse().ok()?))
}
