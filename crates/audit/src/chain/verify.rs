//! Whether a log is what was written.

use std::path::{Path, PathBuf};

use super::{
    HEAD_FILE, Head, HeadVerifier, LogError,
    line::{self, Hash, NOTHING, Parsed},
    read::{self, Lines},
};

/// What a log is held against, besides itself.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The key of its heads.
    pub key: HeadVerifier,
    /// Heads that were published elsewhere.
    pub published: Vec<Head>,
}

/// What was found to be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// A record's hash is not that of its text.
    #[error("{}: line {line}: record {seq} was altered", .path.display())]
    Altered {
        /// In which file.
        path: PathBuf,
        /// Where, from 1.
        line: u64,
        /// The number of the record.
        seq: u64,
    },
    /// The beginning is missing, and nothing in the log says that it was removed.
    #[error("the log begins with record {0}: what was before it is missing")]
    BeginningMissing(u64),
    /// A head is not signed by the key.
    #[error("the head for record {0} is not signed by the key")]
    ForgedHead(u64),
    /// A head says something else than the log.
    #[error("the signed head for record {0} does not fit the log: records were replaced")]
    HeadMismatch(u64),
    /// There is no signed head at all.
    #[error("the log has no signed head")]
    NoHead,
    /// A line is no record.
    #[error("{}: line {line}: not a record", .path.display())]
    NotARecord {
        /// In which file.
        path: PathBuf,
        /// Where, from 1.
        line: u64,
    },
    /// Records are missing, doubled or in another order.
    #[error("{}: line {line}: found record {found}, expected record {expected}: {what}",
        .path.display())]
    OutOfOrder {
        /// In which file.
        path: PathBuf,
        /// Where, from 1.
        line: u64,
        /// Which record is there.
        found: u64,
        /// Which should be.
        expected: u64,
        /// What that means.
        what: &'static str,
    },
    /// The log ends before a record that a signed head knows of.
    #[error(
        "the log ends with record {ends}, a signed head knows of record {head}: its end was cut off"
    )]
    Truncated {
        /// The last record.
        ends: u64,
        /// The record of the head.
        head: u64,
    },
    /// A record does not follow the one before it.
    #[error("{}: line {line}: record {seq} does not follow the one before it", .path.display())]
    Unchained {
        /// In which file.
        path: PathBuf,
        /// Where, from 1.
        line: u64,
        /// The number of the record.
        seq: u64,
    },
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many records there are.
    pub records: u64,
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// How many signed heads.
    pub heads: u64,
    /// The last record that a signed head covers.
    pub covered: u64,
    /// How many records were never written, by what the log says itself.
    pub lost: u64,
    /// What is wrong, in the order of the log; at most 100.
    pub broken: Vec<Broken>,
}

/// The most that is reported of what is wrong.
const MAX_BROKEN: usize = 100;

/// Checks a whole log.
///
/// # Errors
/// [`LogError`] when it cannot be read. What is wrong with it is in the report.
pub fn verify(directory: &Path, expected: &Expected) -> Result<Report, LogError> {
    let mut check = Check {
        expected,
        report: Report::default(),
        next: None,
        prev: NOTHING,
        removed: 0,
        published: Vec::new(),
    };
    for head in &expected.published {
        match expected.key.accepts(head) {
            true => check.published.push(head.clone()),
            false => check.broken(Broken::ForgedHead(head.seq)),
        }
    }
    for (_, path) in read::files(directory)? {
        let mut lines = Lines::open(&path)?;
        while let Some(line) = lines.next()? {
            match line::parse(&line.bytes).filter(|_| line.has_end) {
                Some(parsed) => check.record(&path, line.number, parsed),
                None => check.broken(Broken::NotARecord { path: path.clone(), line: line.number }),
            }
        }
    }
    let head = directory.join(HEAD_FILE);
    let newest = Head::read(&head).map_err(|source| LogError::Read { path: head, source })?;
    Ok(check.finish(newest))
}

struct Check<'a> {
    expected: &'a Expected,
    report: Report,
    /// The number of the next record.
    next: Option<u64>,
    prev: Hash,
    /// Up to which record the log says that it was removed.
    removed: u64,
    /// Those whose record has not come yet.
    published: Vec<Head>,
}

impl Check<'_> {
    fn broken(&mut self, broken: Broken) {
        if self.report.broken.len() < MAX_BROKEN {
            self.report.broken.push(broken);
        }
    }

    fn record(&mut self, path: &Path, line: u64, parsed: Parsed) {
        let Parsed { record, prev, hash, is_intact } = parsed;
        let seq = record.seq;
        match self.next {
            None => {
                self.report.first = seq;
                if seq == 1 && prev != NOTHING {
                    self.broken(Broken::Unchained { path: path.into(), line, seq });
                }
            }
            Some(expected) if expected != seq => {
                let what = match seq {
                    _ if seq + 1 == expected => "a record is there twice",
                    _ if seq < expected => "records are in another order",
                    _ => "records are missing",
                };
                let (path, found) = (path.into(), seq);
                self.broken(Broken::OutOfOrder { path, line, found, expected, what });
            }
            Some(_) if prev != self.prev => {
                self.broken(Broken::Unchained { path: path.into(), line, seq });
            }
            Some(_) => {}
        }
        if !is_intact {
            self.broken(Broken::Altered { path: path.into(), line, seq });
        }
        if let Some(head) = record.json.get("head") {
            match serde_json::from_value::<Head>(head.clone()) {
                Ok(head) if self.expected.key.accepts(&head) => {
                    self.report.heads += 1;
                    match head.seq + 1 == seq && head.hash() == Some(prev) {
                        true => self.report.covered = head.seq,
                        false => self.broken(Broken::HeadMismatch(head.seq)),
                    }
                }
                _ => self.broken(Broken::ForgedHead(seq)),
            }
        }
        let number = |name| record.json.get(name).and_then(serde_json::Value::as_u64);
        self.report.lost += number("lost").unwrap_or(0);
        self.removed = self.removed.max(number("removed_up_to").unwrap_or(0));
        let wrong: Vec<u64> = self
            .published
            .iter()
            .filter(|head| head.seq == seq && head.hash() != Some(hash))
            .map(|head| head.seq)
            .collect();
        self.published.retain(|head| head.seq != seq);
        wrong.into_iter().for_each(|seq| self.broken(Broken::HeadMismatch(seq)));
        (self.prev, self.next) = (hash, Some(seq + 1));
        self.report.records += 1;
        self.report.last = self.report.last.max(seq);
    }

    fn finish(mut self, newest: Option<Head>) -> Report {
        if self.report.first > 1 && self.removed + 1 < self.report.first {
            self.broken(Broken::BeginningMissing(self.report.first));
        }
        if self.report.heads == 0 {
            self.broken(Broken::NoHead);
        }
        let ends = self.report.last;
        let mut later: Vec<Head> = std::mem::take(&mut self.published);
        // The heads that are published cannot be older than the beginning of the log by right.
        later.retain(|head| head.seq > ends);
        later.extend(newest.filter(|head| head.seq > ends));
        if let Some(head) = later.iter().map(|head| head.seq).max() {
            self.broken(Broken::Truncated { ends, head });
        }
        self.report
    }
}
