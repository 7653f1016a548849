//! Where lines go.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::LogError;

/// Standard output or a file that can be opened anew. A line is written by one call.
pub(super) struct Output {
    path: Option<PathBuf>,
    sink: Mutex<Box<dyn Write + Send>>,
    lost: AtomicU64,
}

impl Output {
    pub(super) fn open(path: Option<&Path>) -> Result<Self, LogError> {
        let sink: Box<dyn Write + Send> = match path {
            Some(path) => Box::new(open(path)?),
            None => Box::new(io::stdout()),
        };
        Ok(Self { path: path.map(Path::to_owned), ..Self::writer(sink) })
    }

    pub(super) fn writer(sink: Box<dyn Write + Send>) -> Self {
        Self { path: None, sink: Mutex::new(sink), lost: AtomicU64::new(0) }
    }

    pub(super) fn reopen(&self) -> Result<(), LogError> {
        if let Some(path) = &self.path {
            let file = open(path)?;
            *self.sink() = Box::new(file);
        }
        Ok(())
    }

    /// A full disk or a closed pipe costs lines, not the program.
    pub(super) fn write(&self, line: &str) {
        let mut sink = self.sink();
        if sink.write_all(line.as_bytes()).and_then(|()| sink.flush()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn lost_lines(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn sink(&self) -> std::sync::MutexGuard<'_, Box<dyn Write + Send>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Output").field(&self.path).finish()
    }
}

fn open(path: &Path) -> Result<File, LogError> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    opened.map_err(|source| LogError::Open { path: path.to_owned(), source })
}
