//! An audit log that shows when somebody has changed it: records in a chain of hashes, with signed
//! heads.
//!
//! A log is a directory of files named by the sequence number of their first record
//! (`audit-00000000000000000001.jsonl`). Each line is one record, a JSON object that begins with
//! its sequence number and the hash of the record before it, and ends with its own hash: SHA-256
//! over the line up to there. Now and then comes a *head*: a record that says, signed, which hash
//! the chain had reached. The newest head is also in `head.json`, so that a log that was cut off at
//! its end is found out; heads that were published elsewhere show that a whole log was swapped.
//!
//! Any program can write one: [`Chain`] is a [`crate::Sink`]. One thread writes, in batches; what
//! records something waits for nothing. What becomes of records that cannot be written is the
//! operator's to say: [`OnFailure`].

mod end;
mod error;
mod head;
mod line;
mod read;
mod verify;
mod writer;

use std::{path::PathBuf, time::Duration};

pub use error::ChainError;
pub use head::{Head, HeadKey, HeadVerifier};
pub use line::Recorded;
pub(crate) use line::{body, rfc3339};
pub use read::{LogError, records};
pub use verify::{Broken, Expected, Report, verify};
pub use writer::Chain;

/// What a file of a log is called before the number.
const FILE_PREFIX: &str = "audit-";
/// And after it.
const FILE_SUFFIX: &str = ".jsonl";
/// The newest head.
pub const HEAD_FILE: &str = "head.json";
/// The key that signs heads, unless another file is named.
pub const KEY_FILE: &str = "head.key";
/// The public half of it.
pub const PUBLIC_KEY_FILE: &str = "head.pub";
/// The longest record, bytes: what is longer loses its fields, and says so.
const MAX_RECORD: usize = 64 * 1024;

/// What becomes of the program when its records cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It goes on, and the log says how many records it lacks.
    Continue,
    /// It refuses what it would have to record, until the log can be written again.
    Stop,
}

/// How a log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainOptions {
    /// Where; made if it is not there.
    pub directory: PathBuf,
    /// The key that signs heads, made if it is not there; `None` for [`KEY_FILE`] in the directory.
    pub key_file: Option<PathBuf>,
    /// Where each head is appended as a line of JSON: on another disk, or where a collector reads.
    pub heads_file: Option<PathBuf>,
    /// A new file is begun when one would grow over this, bytes.
    pub max_file_bytes: u64,
    /// How many files are kept; 0 for all.
    pub keep_files: u32,
    /// How often a head is signed while there are new records.
    pub head_interval: Duration,
    /// How often what was written is forced to disk while there are new records.
    pub sync_interval: Duration,
    /// What becomes of the program when its records cannot be written.
    pub on_failure: OnFailure,
    /// How many records may wait to be written.
    pub max_waiting: usize,
}

impl ChainOptions {
    /// The usual options for a log in this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            key_file: None,
            heads_file: None,
            max_file_bytes: 64 << 20,
            keep_files: 0,
            head_interval: Duration::from_secs(60),
            sync_interval: Duration::from_secs(1),
            on_failure: OnFailure::Stop,
            max_waiting: 16 * 1024,
        }
    }
}
