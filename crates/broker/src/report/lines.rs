//! Files of JSON lines, one line at a time.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The longest line that is read, bytes; OpenBao's own limit on a request is 32 MiB, and audit
/// records of secrets are short.
const MAX_LINE: u64 = 4 * 1024 * 1024;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
#[error("reading {}", path.display())]
pub(super) struct ReadError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// How many lines there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Those that hold an object.
    pub(super) records: u64,
    /// Others: no JSON, too long, cut off at the end.
    pub(super) skipped: u64,
}

/// Reads every line that is a JSON object. What is not, is counted and passed over: logs have lines
/// of other programs, and a last one that is being written.
pub(super) fn read(path: &Path, mut each: impl FnMut(&Value)) -> Result<Taken, ReadError> {
    let failed = |source| ReadError { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let (mut taken, mut line) = (Taken::default(), Vec::new());
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        if read == 0 {
            return Ok(taken);
        }
        let is_whole = line.ends_with(b"\n") || (read as u64) < MAX_LINE;
        if !is_whole {
            skip_line(&mut reader).map_err(failed)?;
        }
        match serde_json::from_slice::<Value>(&line) {
            Ok(record) if is_whole && record.is_object() => {
                taken.records += 1;
                each(&record);
            }
            _ if line.iter().all(u8::is_ascii_whitespace) => {}
            _ => taken.skipped += 1,
        }
    }
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (used, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if ended {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_records_are_counted_and_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let long = "x".repeat(usize::try_from(MAX_LINE).unwrap() + 10);
        let text =
            format!("{{\"a\":1}}\nplain\n\n[1]\n{{\"b\":\"{long}\"}}\n{{\"a\":2}}\n{{\"a\":");
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        let taken = read(&path, |record| found.push(record["a"].as_i64())).unwrap();
        assert_eq!(found, [Some(1), Some(2)]);
        assert_eq!(taken, Taken { records: 2, skipped: 4 });
        let missing = read(&dir.path().join("none"), |_| ()).unwrap_err();
        assert!(missing.to_string().contains("none"));
    }
}
