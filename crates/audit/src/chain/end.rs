//! Where a log ends.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    FILE_PREFIX, FILE_SUFFIX,
    error::ChainError,
    line::{self, Hash},
    read,
};

/// The last whole record of a log.
pub(super) struct End {
    pub(super) path: PathBuf,
    /// Where it ends in the file.
    pub(super) len: u64,
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

impl End {
    /// How much of a file's end is looked at first, bytes.
    const TAIL: u64 = 256 * 1024;

    pub(super) fn find(directory: &Path) -> Result<Option<Self>, ChainError> {
        for (_, path) in read::files(directory)?.into_iter().rev() {
            let failed = |source| ChainError::File { doing: "reading", path: path.clone(), source };
            if let Some(end) = Self::of_file(&path).map_err(failed)? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    fn of_file(path: &Path) -> io::Result<Option<Self>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let start = len.saturating_sub(Self::TAIL);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(Self::TAIL).read_to_end(&mut tail)?;
        // What has no end is what was being written.
        let Some(last) = tail.iter().rposition(|byte| *byte == b'\n') else {
            return match len {
                0 => Ok(None),
                _ if start == 0 => Ok(None),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "its end is no record")),
            };
        };
        let whole = tail.get(..last).unwrap_or_default();
        let line = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let parsed = line::parse(line)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its end is no record"))?;
        Ok(Some(Self {
            path: path.to_owned(),
            len: start + last as u64 + 1,
            seq: parsed.record.seq,
            hash: parsed.hash,
        }))
    }
}

/// The file whose first record has this number.
pub(super) fn file_of(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{FILE_PREFIX}{first:020}{FILE_SUFFIX}"))
}

/// Opens it, or makes it.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).open(path)
}
