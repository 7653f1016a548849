//! `DataStore "sql"`.

mod iam;
mod postgres;

use std::{path::PathBuf, sync::Arc, time::Duration};

use percent_encoding::percent_decode_str;
use signet_config::{Block, Count, Kind};
use signet_store::{Observer, OpenError, Store, StoreOptions};

pub use postgres::PostgresStore;

/// `DataStore`.
pub(super) const KIND: Kind<DataStore> = Kind {
    name: "DataStore",
    noun: "data store",
    count: Count::One,
    plugins: &[("sql", sql)],
    absent: &[],
};

/// What the configuration says about a store outside of its plugin.
#[derive(Clone, Copy, Debug)]
pub struct StoreRules {
    /// `prune_events_older_than`: how long changes stay in the change feed.
    pub changes_max_age: Duration,
    /// Whether entries may federate with trust domains of which there is no bundle.
    pub unknown_bundles: bool,
}

/// The registration store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataStore {
    /// `sql` with `database_type = "postgres"`, or with a block `aws_postgres`.
    Postgres(Box<PostgresStore>),
    /// `sql` with `database_type = "sqlite3"`.
    Sqlite(SqliteStore),
}

impl DataStore {
    /// The same kind of store for messages: where it is.
    pub fn describe(&self) -> String {
        match self {
            Self::Postgres(postgres) => format!("the PostgreSQL database {}", postgres.database),
            Self::Sqlite(SqliteStore { path: Some(path), .. }) => path.display().to_string(),
            Self::Sqlite(SqliteStore { path: None, .. }) => "a database in memory".to_owned(),
        }
    }

    /// Opens it for the server itself; `observer` is told of its operations.
    ///
    /// # Errors
    /// [`OpenError`] when the database cannot be reached, is damaged, in use, of another program, or
    /// of a version this one does not know.
    pub async fn open(
        &self,
        rules: StoreRules,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Store, OpenError> {
        let changes_max_age = i64::try_from(rules.changes_max_age.as_secs()).unwrap_or(i64::MAX);
        match self {
            Self::Postgres(postgres) => {
                let mut options = postgres.options();
                options.changes_max_age = changes_max_age;
                options.unknown_bundles = rules.unknown_bundles;
                options.observer = observer;
                Store::open_postgres(options).await
            }
            Self::Sqlite(sqlite) => {
                let mut options = match &sqlite.path {
                    Some(path) => StoreOptions::file(path),
                    None => StoreOptions::memory(),
                };
                options.exclusive = true;
                options.disable_migration = sqlite.disable_migration;
                options.unknown_bundles = rules.unknown_bundles;
                options.readers = sqlite.max_open_conns.min(options.readers);
                options.changes_max_age = changes_max_age;
                options.observer = observer;
                Store::open(options).await
            }
        }
    }
}

/// An SQLite database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteStore {
    /// The database file that `connection_string` names; none is a database in memory.
    pub path: Option<PathBuf>,
    /// `max_open_conns`, default 100: the most connections to the file; one of them writes. The
    /// store opens a few at most.
    pub max_open_conns: u32,
    /// `disable_migration`, default false: refuse to start rather than change the schema.
    pub disable_migration: bool,
}

/// Reads `DataStore "sql"`.
fn sql(block: &Block<'_>) -> Option<DataStore> {
    block.refuse("log_sql", "statements are logged with log_level = \"trace\"");
    if block.holds_block("database_type") {
        let declared = block.labelled("database_type");
        return match declared.as_slice() {
            [(name, aws)] if name == "aws_postgres" => postgres::aws(block, aws),
            _ => {
                let names: Vec<_> = declared.iter().map(|(name, _)| name.as_str()).collect();
                refuse_database(block, &names.join(", "));
                None
            }
        };
    }
    match block.required_text("database_type").as_deref() {
        Some("sqlite3") | None => sqlite(block),
        Some("postgres") => postgres::plain(block),
        Some(other) => {
            refuse_database(block, other);
            None
        }
    }
}

fn sqlite(block: &Block<'_>) -> Option<DataStore> {
    let connection = block.required_text("connection_string");
    const ONE_FILE: &str = "it has no effect with sqlite3, which is one local file";
    for key in ["root_ca_path", "client_cert_path", "client_key_path"] {
        block.refuse(key, "it belongs to MySQL, which is not supported; sqlite3 is a local file");
    }
    for key in ["ro_connection_string", "listen_connection_string", "conn_max_lifetime"] {
        if block.text(key).is_some() {
            block.warn(key, ONE_FILE);
        }
    }
    if block.integer::<i64>("max_idle_conns").is_some() {
        block.warn("max_idle_conns", ONE_FILE);
    }
    let max_open_conns = block.integer::<u32>("max_open_conns").filter(|most| *most > 0);
    let disable_migration = block.flag("disable_migration");
    match sqlite_path(&connection?) {
        Ok((path, ignored)) => {
            for parameter in ignored {
                let sentence = format!("the parameter {parameter:?} has no effect");
                block.warn("connection_string", sentence);
            }
            Some(DataStore::Sqlite(SqliteStore {
                path,
                max_open_conns: max_open_conns.unwrap_or(100),
                disable_migration,
            }))
        }
        Err(sentence) => {
            block.error("connection_string", sentence);
            None
        }
    }
}

fn refuse_database(block: &Block<'_>, name: &str) {
    let sentence = match name {
        "mysql" | "aws_mysql" => "MySQL is not supported; use postgres or sqlite3",
        "aws_postgres" => "expected a block: database_type \"aws_postgres\" { region = \"…\" }",
        _ => "expected sqlite3, postgres or a block aws_postgres",
    };
    block.error("database_type", format_args!("found {name:?}: {sentence}"));
}

/// The file that a connection string names, none for a database in memory; and what in it has no
/// effect.
///
/// Two forms are known, as in SPIRE: a path, and a `file:` URI whose path may be percent-encoded.
/// Either may have a query.
fn sqlite_path(text: &str) -> Result<(Option<PathBuf>, Vec<&str>), String> {
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    if !fragment.is_empty() {
        return Err("`#` has no meaning here; write it as %23 in a file: URI".to_owned());
    }
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let mut memory = false;
    let mut ignored = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (name, value) {
            ("mode", "memory") => memory = true,
            // What a server always does.
            ("mode", "rwc" | "rw") | ("cache", "shared" | "private") => {}
            ("_foreign_keys" | "_fk", "ON" | "on" | "1" | "true") => {}
            ("_journal_mode" | "_journal", "WAL" | "wal") => {}
            // Those of SPIRE's driver: how it locks and waits, which the store decides itself.
            (name, _) if name.starts_with('_') => ignored.push(pair),
            _ => {
                return Err(format!("the parameter {pair:?} is not supported; leave it out"));
            }
        }
    }
    let path = match path.strip_prefix("file:") {
        Some(uri) => match uri.strip_prefix("//") {
            Some(rest) => {
                let (host, path) = rest
                    .split_at_checked(rest.find('/').unwrap_or(rest.len()))
                    .unwrap_or((rest, ""));
                if !(host.is_empty() || host == "localhost") {
                    return Err(format!("the database must be on this host, not on {host:?}"));
                }
                percent_decode(path)?
            }
            None => percent_decode(uri)?,
        },
        None if path.split('/').next().is_some_and(|first| first.contains(':')) => {
            return Err("expected a path or a file: URI".to_owned());
        }
        None => path.to_owned(),
    };
    if memory || path == ":memory:" {
        return Ok((None, ignored));
    }
    if path.is_empty() {
        return Err("it names no file".to_owned());
    }
    Ok((Some(path.into()), ignored))
}

fn percent_decode(text: &str) -> Result<String, String> {
    let is_whole = |escape: &str| matches!(escape.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(is_whole) {
        return Err("`%` is not followed by two hexadecimal digits".to_owned());
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(path) if !path.contains('\0') => Ok(path.into_owned()),
        _ => Err("the path is not UTF-8".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn connection_strings_of_spire_name_their_file() {
        for (text, wanted) in [
            ("data.db", Some("data.db")),
            ("./data.db", Some("./data.db")),
            ("/var/lib/data.db", Some("/var/lib/data.db")),
            ("file:data.db", Some("data.db")),
            ("file:/var/lib/data.db", Some("/var/lib/data.db")),
            ("file:///var/lib/my%20data.db?_journal_mode=WAL", Some("/var/lib/my data.db")),
            ("file://localhost/var/lib/data.db", Some("/var/lib/data.db")),
            ("data.db?_foreign_keys=ON", Some("data.db")),
            ("file:memdb?mode=memory&cache=shared", None),
            ("file::memory:", None),
        ] {
            let (path, ignored) = sqlite_path(text).unwrap();
            assert_eq!(path.as_deref(), wanted.map(Path::new), "{text}");
            assert!(ignored.is_empty(), "{text}: {ignored:?}");
        }
        let (path, ignored) =
            sqlite_path("d.db?_busy_timeout=5000&_journal_mode=WAL&_txlock=immediate").unwrap();
        assert_eq!(path.as_deref(), Some(Path::new("d.db")));
        assert_eq!(ignored, ["_busy_timeout=5000", "_txlock=immediate"]);
        for bad in ["postgres://h/db", ":memory:", "file:", "d.db?mode=ro", "file://h/d", "file:%f"]
        {
            assert!(sqlite_path(bad).is_err(), "{bad}");
        }
    }
}
