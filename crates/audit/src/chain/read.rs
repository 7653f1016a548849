//! Reading a log.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::{
    FILE_PREFIX, FILE_SUFFIX,
    line::{self, Parsed, Recorded},
};

/// The longest line that is read, bytes.
const MAX_LINE: usize = 1 << 20;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A line is no record.
    #[error("{}: line {line}: not a record", .path.display())]
    NotARecord {
        /// In which file.
        path: PathBuf,
        /// Where, from 1.
        line: u64,
    },
    /// A file cannot be read.
    #[error("reading {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The files of a log with the numbers of their first records, oldest first.
///
/// # Errors
/// [`LogError::Read`].
pub(super) fn files(directory: &Path) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let failed = |source| LogError::Read { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix(FILE_PREFIX).and_then(|it| it.strip_suffix(FILE_SUFFIX));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The lines of one file; each with its number, and whether it has its end.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
}

/// One line.
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) has_end: bool,
}

impl Lines {
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        let failed = |source| LogError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), reader: BufReader::new(file), number: 0 })
    }

    pub(super) fn next(&mut self) -> Result<Option<Line>, LogError> {
        let failed = |source| LogError::Read { path: self.path.clone(), source };
        let mut bytes = Vec::new();
        let mut limited = io::Read::take(&mut self.reader, MAX_LINE as u64 + 1);
        let read = limited.read_until(b'\n', &mut bytes).map_err(failed)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let has_end = bytes.last() == Some(&b'\n');
        if has_end {
            bytes.pop();
        } else if bytes.len() > MAX_LINE {
            return Err(LogError::NotARecord { path: self.path.clone(), line: self.number });
        }
        Ok(Some(Line { number: self.number, bytes, has_end }))
    }
}

/// Hands every record of a log to `take`, oldest first, until it answers `false`. Hashes are not
/// looked at: see [`super::verify`].
///
/// # Errors
/// [`LogError`]; what is before the place was handed over.
pub fn records(directory: &Path, mut take: impl FnMut(Recorded) -> bool) -> Result<(), LogError> {
    for (_, path) in files(directory)? {
        let mut lines = Lines::open(&path)?;
        while let Some(line) = lines.next()? {
            match line::parse(&line.bytes) {
                Some(Parsed { record, .. }) => {
                    if !take(record) {
                        return Ok(());
                    }
                }
                // The line that is being written.
                None if !line.has_end => {}
                None => return Err(LogError::NotARecord { path, line: line.number }),
            }
        }
    }
    Ok(())
}
