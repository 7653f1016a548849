//! Backup and restore of an SQLite database file.
//!
//! A backup is an SQLite database of its own, without a log beside it, and holds the whole store:
//! entries, agents, bundles, federation relationships, join tokens, CA journals and the change
//! feed. It holds no private keys, but join tokens that are valid: it is readable for its owner
//! only.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    FeedPosition, OpenError,
    sqlite::{
        fault::Fault,
        open::{self, FileLock, beside, sqlite_error},
        position,
    },
};

/// How long to wait for a lock of a server that runs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The copy is not sound.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// What was copied.
        path: PathBuf,
        /// What SQLite found.
        why: String,
    },
    /// What is to be written is there already.
    #[error("{0} exists already: nothing is overwritten")]
    Exists(PathBuf),
    /// A file cannot be put into its place.
    #[error("writing {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// There is no such file.
    #[error("there is no database {0}")]
    Missing(PathBuf),
    /// A database cannot be opened, is in use, or is none of ours.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many registration entries.
    pub entries: u64,
    /// How many attested agents.
    pub nodes: u64,
    /// How many bundles, the own one included.
    pub bundles: u64,
    /// Where the change feed stands.
    pub position: FeedPosition,
}

/// Copies the database `from`, also while a server runs on it, into the file `to`, which must not
/// exist. The copy is one state of the database, checked and on disk when this returns.
///
/// # Errors
/// [`BackupError`]; then `to` does not exist.
pub async fn back_up(from: &Path, to: &Path) -> Result<Summary, BackupError> {
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    check_ours(from).await?;
    // A running server has a log, and reading that takes writing to the memory shared with it.
    let options =
        SqliteConnectOptions::new().filename(from).create_if_missing(false).busy_timeout(PATIENCE);
    let unfinished = Unfinished::beside(to)?;
    copy(from, options, &unfinished.0).await?;
    let summary = check(&unfinished.0).await?;
    unfinished.place(to, false)?;
    Ok(summary)
}

/// What came of [`restore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What was restored.
    pub summary: Summary,
    /// Where the database is that was there before (its log, if it had one, is beside it).
    pub before: Option<PathBuf>,
}

/// Puts a copy of the backup `from` in the place of the database `to`, on which no server may
/// run. A database that is there, sound or not, is kept under another name; its log goes with it,
/// so that nothing of it is replayed over the backup. The change feed gets a new history, so that
/// everybody who follows it reads everything anew.
///
/// # Errors
/// [`BackupError`]; then `to` is as it was.
pub async fn restore(from: &Path, to: &Path) -> Result<Restored, BackupError> {
    check_ours(from).await?;
    let _lock = FileLock::take(to)?;
    let unfinished = Unfinished::beside(to)?;
    copy(from, open::read_only(from), &unfinished.0).await?;
    check(&unfinished.0).await?;
    renew(&unfinished.0).await?;
    let summary = check(&unfinished.0).await?;
    let before = put_aside(to)?;
    unfinished.place(to, true)?;
    Ok(Restored { summary, before })
}

/// Puts the file `path` aside under a name that is free, and answers with that name; `None` when
/// there is no such file. It stays under its own name too.
///
/// # Errors
/// [`BackupError::Io`].
pub fn keep_aside(path: &Path) -> Result<Option<PathBuf>, BackupError> {
    if !path.exists() {
        return Ok(None);
    }
    let mut number = 1_u32;
    loop {
        let aside = beside(path, &format!(".before-restore-{number}"));
        if aside.symlink_metadata().is_err() {
            link_or_copy(path, &aside)?;
            return Ok(Some(aside));
        }
        number += 1;
    }
}

async fn check_ours(path: &Path) -> Result<(), BackupError> {
    if !path.is_file() {
        return Err(BackupError::Missing(path.to_owned()));
    }
    let tables = open::tables(path).await.map_err(|error| sqlite_error(path, error))?;
    open::judge(path, &tables)?;
    if !tables.iter().any(|table| table == "signet_schema") {
        return Err(BackupError::Damaged { path: path.to_owned(), why: "it is empty".to_owned() });
    }
    Ok(())
}

async fn copy(from: &Path, options: SqliteConnectOptions, to: &Path) -> Result<(), BackupError> {
    let sqlite = |error| sqlite_error(from, error);
    let Some(name) = to.to_str() else {
        let source = std::io::Error::other("the path is not UTF-8");
        return Err(BackupError::Io { path: to.to_owned(), source });
    };
    let mut conn = SqliteConnection::connect_with(&options).await.map_err(sqlite)?;
    sqlx::query("VACUUM INTO ?").bind(name).execute(&mut conn).await.map_err(sqlite)?;
    conn.close().await.map_err(sqlite)?;
    Ok(())
}

/// Whether SQLite finds nothing wrong, and what there is.
async fn check(path: &Path) -> Result<Summary, BackupError> {
    let checked = async {
        let mut conn = SqliteConnection::connect_with(&open::read_only(path)).await?;
        let mut found = Vec::new();
        for text in ["PRAGMA integrity_check(1)", "PRAGMA foreign_key_check"] {
            for row in sqlx::query(text).fetch_all(&mut conn).await? {
                let said: String = row.try_get(0)?;
                if said != "ok" {
                    found.push(said);
                }
            }
        }
        if let Some(why) = found.into_iter().next() {
            return Err(Fault::Corrupt(why));
        }
        let mut counts = [0_u64; 3];
        for (table, count) in ["entries", "nodes", "bundles"].into_iter().zip(&mut counts) {
            let text = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
            let row = sqlx::query(text).fetch_one(&mut conn).await?;
            *count = row.try_get::<i64, _>(0)?.cast_unsigned();
        }
        // A backup of version 0.1 has no row for the feed.
        let position = match open::version(&mut conn).await? {
            1 => {
                let newest = sqlx::query("SELECT coalesce(max(revision), 0) FROM changes");
                let revision: i64 = newest.fetch_one(&mut conn).await?.try_get(0)?;
                FeedPosition { epoch: "".into(), revision: revision.cast_unsigned() }
            }
            _ => position::position(&mut conn).await?,
        };
        conn.close().await?;
        let [entries, nodes, bundles] = counts;
        Ok(Summary { entries, nodes, bundles, position })
    };
    checked.await.map_err(|fault| match fault {
        Fault::Corrupt(why) => BackupError::Damaged { path: path.to_owned(), why },
        fault => BackupError::Open(open::fault_error(path, fault)),
    })
}

/// Brings the schema up to date and begins a new history.
async fn renew(path: &Path) -> Result<(), BackupError> {
    let sqlite = |error| sqlite_error(path, error);
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(true);
    let mut conn = SqliteConnection::connect_with(&options).await.map_err(sqlite)?;
    open::migrate(&mut conn, path, false).await?;
    position::renew_epoch(&mut conn).await.map_err(sqlite)?;
    conn.close().await.map_err(sqlite)?;
    Ok(())
}

/// Keeps the database and its log under another name, and takes the log away. The database stays
/// in its place too, so that there is one at every moment.
fn put_aside(path: &Path) -> Result<Option<PathBuf>, BackupError> {
    let aside = keep_aside(path)?;
    let log = beside(path, "-wal");
    if let Some(aside) = &aside
        && log.exists()
    {
        link_or_copy(&log, &beside(aside, "-wal"))?;
    }
    sync_directory(path)?;
    for suffix in ["-wal", "-shm", "-journal"] {
        let file = beside(path, suffix);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(BackupError::Io { path: file, source: error });
            }
            _ => {}
        }
    }
    sync_directory(path)?;
    Ok(aside)
}

fn link_or_copy(from: &Path, to: &Path) -> Result<(), BackupError> {
    let done = std::fs::hard_link(from, to).or_else(|_| std::fs::copy(from, to).map(drop));
    done.map_err(|source| BackupError::Io { path: to.to_owned(), source })
}

fn sync_directory(path: &Path) -> Result<(), BackupError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    std::fs::File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| BackupError::Io { path: parent.to_owned(), source })
}

/// A database that is removed unless it was put into its place.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(path: &Path) -> Result<Self, BackupError> {
        let unfinished = Self(beside(path, &format!(".{}.unfinished", std::process::id())));
        unfinished.remove();
        open::create_private(&unfinished.0)
            .map_err(|source| BackupError::Io { path: unfinished.0.clone(), source })?;
        Ok(unfinished)
    }

    /// Gives it its name, whole and durable.
    fn place(&self, to: &Path, replace: bool) -> Result<(), BackupError> {
        let io = |source| BackupError::Io { path: to.to_owned(), source };
        std::fs::File::open(&self.0).and_then(|file| file.sync_all()).map_err(io)?;
        if !replace {
            match std::fs::hard_link(&self.0, to) {
                Ok(()) => return sync_directory(to),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    return Err(BackupError::Exists(to.to_owned()));
                }
                // A file system without links.
                Err(_) if to.symlink_metadata().is_ok() => {
                    return Err(BackupError::Exists(to.to_owned()));
                }
                Err(_) => {}
            }
        }
        std::fs::rename(&self.0, to).map_err(io)?;
        sync_directory(to)
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            // Best effort: mostly there is nothing to remove.
            drop(std::fs::remove_file(beside(&self.0, suffix)));
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.remove();
    }
}
