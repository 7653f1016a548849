//! Wall clocks that jump, for single programs.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::dir::TestDir;

/// The wall clock of all programs that are started with its environment. Nothing else of their time
/// changes: timers go on as they do when a laptop wakes up or an operator sets the clock.
///
/// It is libfaketime, which stands between a program and the C library.
#[derive(Debug)]
pub struct WallClock {
    dir: Arc<TestDir>,
    library: PathBuf,
    ahead: Cell<i64>,
}

impl WallClock {
    /// A clock that is right so far. An error says what is missing.
    pub fn new(dir: &Arc<TestDir>) -> Result<Self, String> {
        let library = library().ok_or("libfaketime is missing (Debian package faketime)")?;
        let clock = Self { dir: dir.clone(), library, ahead: Cell::new(0) };
        clock.set(0);
        Ok(clock)
    }

    /// What a program needs in its environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let file = self.file().display().to_string();
        let library = self.library.display().to_string();
        [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            // Seconds until a jump is seen.
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Moves the clock by so many seconds, back if they are negative.
    pub fn jump(&self, seconds: i64) {
        self.set(self.ahead.get() + seconds);
    }

    /// What the clock shows, Unix seconds.
    pub fn unix(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX) + self.ahead.get()
    }

    fn file(&self) -> PathBuf {
        self.dir.join("wall-clock")
    }

    fn set(&self, ahead: i64) {
        self.ahead.set(ahead);
        // Never half a file.
        let new = self.dir.write("wall-clock.new", format!("{ahead:+}\n"));
        fs::rename(new, self.file()).expect("the file of the clock");
    }
}

impl Drop for WallClock {
    /// Removes what libfaketime leaves behind for programs that were killed.
    fn drop(&mut self) {
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(pid) = name.strip_prefix("faketime_shm_") else { continue };
            if !Path::new("/proc").join(pid).exists() {
                let _ = fs::remove_file(entry.path());
                let _ = fs::remove_file(format!("/dev/shm/sem.faketime_sem_{pid}"));
            }
        }
    }
}

/// The library, in the place of its architecture.
fn library() -> Option<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(Into::into).into();
    dirs.extend(fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|e| e.path()));
    dirs.iter().map(|dir| dir.join("faketime/libfaketime.so.1")).find(|file| file.is_file())
}
