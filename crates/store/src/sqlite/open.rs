//! Opening a database: what is it, and is its schema up to date?

use std::{
    fs::TryLockError,
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use signet_base::LockedFile;
use sqlx::{
    Connection, Row, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    CopyRole, FeedPosition, OpenError, StoreOptions,
    options::{Location, judge_copy},
    sqlite::{
        fault::{Code, Fault},
        position,
    },
};

/// The migrations, in order; the schema version is how many were applied.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../migrations/sqlite/0002_feed.sql"),
    include_str!("../../migrations/sqlite/0003_servers.sql"),
    include_str!("../../migrations/sqlite/0004_tenants.sql"),
    include_str!("../../migrations/sqlite/0005_copying.sql"),
];

/// Pages in the log before it is copied into the database file (16 MiB): a batch of entries
/// touches a few hundred pages, and each copying costs two more syncs.
const CHECKPOINT_PAGES: u32 = 4_096;

pub(crate) struct Opened {
    /// Held as long as an exclusive store is open.
    pub(crate) lock: Option<FileLock>,
    pub(crate) writer: SqliteConnection,
    pub(crate) readers: Option<SqlitePool>,
    pub(crate) position: FeedPosition,
}

pub(crate) async fn open(options: &StoreOptions) -> Result<Opened, OpenError> {
    let path = match &options.location {
        Location::File(path) => path.clone(),
        Location::Memory => PathBuf::from(":memory:"),
    };
    let sqlite = |source| sqlite_error(&path, source);
    let mut lock = None;
    let connect = match &options.location {
        Location::Memory => SqliteConnectOptions::new().in_memory(true),
        Location::File(file) => {
            inspect(file).await?;
            if options.exclusive {
                lock = Some(FileLock::take(file)?);
            }
            create_private(file).map_err(|error| sqlite(sqlx::Error::Io(error)))?;
            SqliteConnectOptions::new()
                .filename(file)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
        }
    }
    .busy_timeout(options.busy_timeout)
    .foreign_keys(true)
    .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string());

    let mut writer = SqliteConnection::connect_with(&connect).await.map_err(sqlite)?;
    migrate(&mut writer, &path, options.disable_migration).await?;
    must_be_usable(&mut writer, &path, options.copying).await?;
    let position = position(&mut writer, lock.as_mut()).await;
    let position = position.map_err(|fault| fault_error(&path, fault))?;
    let readers = match options.location {
        Location::Memory => None,
        Location::File(_) => Some(
            SqlitePoolOptions::new().max_connections(options.readers.max(1)).connect_lazy_with(
                connect.pragma("query_only", "ON").pragma("cache_size", "-1024"),
            ),
        ),
    };
    Ok(Opened { lock, writer, readers, position })
}

/// Looks at an existing file without changing a byte of it.
async fn inspect(path: &Path) -> Result<(), OpenError> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() > 0 => {}
        Ok(meta) if meta.is_dir() => {
            return Err(sqlite_error(
                path,
                sqlx::Error::Io(std::io::ErrorKind::IsADirectory.into()),
            ));
        }
        _ => return Ok(()),
    }
    match tables(path).await {
        Ok(tables) => judge(path, &tables),
        Err(source) => Err(sqlite_error(path, source)),
    }
}

/// The names of the tables in a file, read without changing a byte of it.
pub(crate) async fn tables(path: &Path) -> Result<Vec<String>, sqlx::Error> {
    let mut conn = SqliteConnection::connect_with(&read_only(path)).await?;
    let rows = sqlx::query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        .fetch_all(&mut conn)
        .await?;
    let names = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>();
    conn.close().await?;
    names
}

/// How to read a file without touching it: without a log beside it, no lock and no shared
/// memory are needed.
pub(crate) fn read_only(path: &Path) -> SqliteConnectOptions {
    let no_log = std::fs::metadata(beside(path, "-wal")).map_or(true, |meta| meta.len() == 0);
    SqliteConnectOptions::new().filename(path).read_only(true).immutable(no_log)
}

pub(crate) fn judge(path: &Path, tables: &[String]) -> Result<(), OpenError> {
    let has = |name: &str| tables.iter().any(|table| table == name);
    if has("signet_schema") {
        return Ok(());
    }
    if has("registered_entries") || has("attested_node_entries") {
        return Err(OpenError::Spire { path: path.to_owned() });
    }
    match tables.iter().find(|name| !name.starts_with("sqlite_")) {
        Some(table) => Err(OpenError::Foreign { path: path.to_owned(), table: table.clone() }),
        None => Ok(()),
    }
}

/// A server uses no copy that was not finished, and nothing that was copied elsewhere.
async fn must_be_usable(
    conn: &mut SqliteConnection,
    path: &Path,
    role: Option<CopyRole>,
) -> Result<(), OpenError> {
    let sqlite = |source| sqlite_error(path, source);
    let row = sqlx::query(
        "SELECT moved_to, (SELECT source FROM copying WHERE id = 1) FROM feed WHERE id = 1",
    )
    .fetch_one(conn)
    .await
    .map_err(sqlite)?;
    let (moved_to, source) = (row.try_get(0).map_err(sqlite)?, row.try_get(1).map_err(sqlite)?);
    judge_copy(role, path.to_owned(), source, moved_to)
}

/// Where the feed stands. An exclusive store goes on with the history that it left behind when it
/// was closed last; if the database is not as it left it (it crashed, or somebody put a copy in
/// its place), the history gets a new name, because revisions may be given a second time.
async fn position(
    writer: &mut SqliteConnection,
    lock: Option<&mut FileLock>,
) -> Result<FeedPosition, Fault> {
    let found = position::position(writer).await?;
    let Some(lock) = lock else { return Ok(found) };
    if lock.found_as_left(&found) {
        return Ok(found);
    }
    position::renew_epoch(writer).await?;
    position::position(writer).await
}

/// A file beside the database, locked: a lock on the database itself would get into SQLite's own.
/// While the store is closed it holds where the feed stood.
pub(crate) struct FileLock(LockedFile);

impl FileLock {
    /// The longest mark that is read, bytes.
    const LONGEST_MARK: u64 = 256;

    pub(crate) fn take(path: &Path) -> Result<Self, OpenError> {
        let io = |error| sqlite_error(path, sqlx::Error::Io(error));
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(beside(path, ".lock")).map_err(io)?;
        match LockedFile::take(file) {
            Ok(file) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }

    /// Whether the store was closed with the feed at `position`. Asked once: the mark is gone
    /// then.
    fn found_as_left(&mut self, position: &FeedPosition) -> bool {
        let mut mark = String::new();
        let read = (&*self.0).take(Self::LONGEST_MARK).read_to_string(&mut mark);
        let emptied = self.0.set_len(0).and_then(|()| self.0.rewind());
        read.is_ok() && emptied.is_ok() && mark == Self::mark(position)
    }

    /// Notes where the feed stands, for the next one who opens the store. Without the note the
    /// history gets a new name, which only costs readers time.
    pub(crate) fn leave(&mut self, position: &FeedPosition) {
        if let Err(error) = self.0.write_all(Self::mark(position).as_bytes()) {
            tracing::debug!(%error, "noting where the change feed stands");
        }
    }

    fn mark(position: &FeedPosition) -> String {
        format!("{} {}\n", position.epoch, position.revision)
    }
}

/// The path with `suffix` at its end.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The file holds join tokens: nobody else may read it, whatever the umask.
pub(crate) fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

pub(crate) async fn migrate(
    conn: &mut SqliteConnection,
    path: &Path,
    disabled: bool,
) -> Result<(), OpenError> {
    let sqlite = |source| sqlite_error(path, source);
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found = version(conn).await.map_err(sqlite)?;
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    if found == known {
        return Ok(());
    }
    if disabled && found > 0 {
        return Err(OpenError::Outdated { path: path.to_owned(), found, known });
    }
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(sqlite)?;
    // Another process may have been faster.
    let found = version(&mut tx).await.map_err(sqlite)?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        sqlx::raw_sql(*migration).execute(&mut *tx).await.map_err(sqlite)?;
    }
    sqlx::query("DELETE FROM signet_schema").execute(&mut *tx).await.map_err(sqlite)?;
    sqlx::query("INSERT INTO signet_schema (version) VALUES (?)")
        .bind(known)
        .execute(&mut *tx)
        .await
        .map_err(sqlite)?;
    tx.commit().await.map_err(sqlite)
}

/// The schema version; 0 for an empty database.
pub(crate) async fn version(conn: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let there = sqlx::query("SELECT 1 FROM sqlite_master WHERE name = 'signet_schema'")
        .fetch_optional(&mut *conn)
        .await?;
    if there.is_none() {
        return Ok(0);
    }
    let row = sqlx::query("SELECT coalesce(max(version), 0) FROM signet_schema")
        .fetch_one(&mut *conn)
        .await?;
    row.try_get(0)
}

pub(crate) fn sqlite_error(path: &Path, source: sqlx::Error) -> OpenError {
    let path = path.to_owned();
    match Code::of(&source) {
        Some(Code::Corrupt) => {
            let why = match &source {
                sqlx::Error::Database(error) => error.message().to_owned(),
                other => other.to_string(),
            };
            OpenError::Corrupt { path, why }
        }
        _ => OpenError::Sqlite { path, source },
    }
}

pub(crate) fn fault_error(path: &Path, fault: Fault) -> OpenError {
    match fault {
        // The last two do not happen while it is opened.
        Fault::Closed | Fault::Moved | Fault::TakenOver => {
            sqlite_error(path, sqlx::Error::PoolClosed)
        }
        Fault::NotEmpty => {
            sqlite_error(path, sqlx::Error::Io(std::io::ErrorKind::AlreadyExists.into()))
        }
        Fault::Corrupt(why) => OpenError::Corrupt { path: path.to_owned(), why },
        Fault::Sqlx(source) => sqlite_error(path, source),
    }
}
