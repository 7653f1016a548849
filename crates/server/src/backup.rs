//! `signet-server backup` and `restore`: the database, and on request the keys.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use signet_daemon::{
    process::{DirLock, LockError},
    program::Program,
};
use signet_store::backup::{self, BackupError, Summary};

use crate::{
    config::Config,
    offline::{self, ConfigFlags},
    plugins::{data_store::DataStore, key_manager::KeyManager},
};

/// Flags of `signet-server backup`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    about = "Copy the registration database, also while the server runs",
    long_about = "Copy the registration database, also while the server runs.\n\n\
        The copy is one state of the database, checked, and readable for its owner only. It holds \
        entries, agents, bundles, federation relationships, join tokens and the CA journal, and no \
        private keys: those are copied with -keys. Nothing is overwritten."
)]
pub struct BackupFlags {
    /// File to write; must not exist
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Also copy the file of the key manager (keys_path) to this file, sealed or not as it is
    #[arg(long = "keys", value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Where the database and the keys are.
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// Flags of `signet-server restore`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    about = "Put a backup in the place of the registration database",
    long_about = "Put a backup in the place of the registration database.\n\n\
        The server must be stopped. The backup is checked first. The database that is there is \
        kept under another name, which is printed; its write-ahead log goes with it. Agents, \
        controllers and other readers read everything anew."
)]
pub struct RestoreFlags {
    /// Backup to restore
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Also put this copy of the keys in the place of the key manager's file (keys_path)
    #[arg(long = "keys", value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Where the database and the keys go.
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The database cannot be copied or put into its place.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A file of keys cannot be copied.
    #[error("copying the keys to {path}")]
    Keys {
        /// The file to write.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// A server runs on the data directory.
    #[error("the server must be stopped first")]
    Running(#[from] LockError),
    /// The flags and the configuration do not fit together.
    #[error("{0}")]
    Usage(String),
}

/// Runs `backup` and prints what came of it.
pub fn run_backup(program: Program, flags: &BackupFlags) -> ExitCode {
    let work = async |config: &Config| back_up(config, flags).await;
    offline::run(program, &flags.config, work, is_usage)
}

/// Runs `restore` and prints what came of it.
pub fn run_restore(program: Program, flags: &RestoreFlags) -> ExitCode {
    let work = async |config: &Config| restore(config, flags).await;
    offline::run(program, &flags.config, work, is_usage)
}

fn is_usage(error: &CommandError) -> bool {
    matches!(error, CommandError::Usage(_))
}

/// Copies the database, then the keys: whatever key the copied journal names was there before.
///
/// # Errors
/// [`CommandError`]; a database that was copied already stays.
pub async fn back_up(config: &Config, flags: &BackupFlags) -> Result<String, CommandError> {
    let database = database(config)?;
    let keys = match &flags.keys {
        Some(to) => Some((keys_path(config)?, to)),
        None => None,
    };
    if let Some((_, to)) = keys
        && to.symlink_metadata().is_ok()
    {
        return Err(BackupError::Exists(to.clone()).into());
    }
    let summary = backup::back_up(database, &flags.file).await?;
    let mut said = format!("Backed up {} to {}\n", database.display(), flags.file.display());
    said.push_str(&holds(&summary));
    match keys {
        Some((from, to)) => {
            copy_keys(from, to)?;
            said.push_str(&format!("Copied the keys in {} to {}\n", from.display(), to.display()));
        }
        None => said.push_str("The keys are not in it: keep a copy of them too (-keys)\n"),
    }
    Ok(said)
}

/// Puts the keys into their place, then the database.
///
/// # Errors
/// [`CommandError`]; then the database is as it was. Keys that were there are kept under another
/// name.
pub async fn restore(config: &Config, flags: &RestoreFlags) -> Result<String, CommandError> {
    let database = database(config)?;
    let keys = match &flags.keys {
        Some(from) => Some((from, keys_path(config)?)),
        None => None,
    };
    let _lock = DirLock::acquire(&config.data_dir, "signet-server.lock")?;
    let mut said = String::new();
    if let Some((from, to)) = keys {
        if !from.is_file() {
            return Err(CommandError::Usage(format!("there are no keys {}", from.display())));
        }
        let before = backup::keep_aside(to)?;
        let unfinished = to.with_extension("unfinished");
        drop(std::fs::remove_file(&unfinished));
        copy_keys(from, &unfinished)?;
        std::fs::rename(&unfinished, to)
            .map_err(|source| CommandError::Keys { path: to.clone(), source })?;
        said.push_str(&format!("Restored the keys in {}\n", to.display()));
        said.push_str(&kept(before.as_deref()));
    }
    let restored = backup::restore(&flags.file, database).await?;
    said.push_str(&format!("Restored {} from {}\n", database.display(), flags.file.display()));
    said.push_str(&kept(restored.before.as_deref()));
    said.push_str(&holds(&restored.summary));
    Ok(said)
}

fn holds(summary: &Summary) -> String {
    format!(
        "It holds {} entries, {} agents and {} bundles\n",
        summary.entries, summary.nodes, summary.bundles
    )
}

fn kept(before: Option<&Path>) -> String {
    let kept = |path: &Path| format!("What was there before is in {}\n", path.display());
    before.map(kept).unwrap_or_default()
}

fn database(config: &Config) -> Result<&PathBuf, CommandError> {
    let sqlite = match &config.plugins.data_store.settings {
        DataStore::Sqlite(sqlite) => sqlite,
        DataStore::Postgres(postgres) => {
            return Err(CommandError::Usage(format!(
                "{} is a PostgreSQL database: copy it with pg_dump, or as its operator does, and \
                 put it back with pg_restore",
                postgres.database
            )));
        }
    };
    sqlite.path.as_ref().ok_or_else(|| {
        CommandError::Usage(format!(
            "connection_string in {} names a database in memory, which ends with the server",
            config.file.display()
        ))
    })
}

fn keys_path(config: &Config) -> Result<&PathBuf, CommandError> {
    match &*config.plugins.key_manager {
        KeyManager::Disk(disk) => Ok(&disk.keys_path),
        KeyManager::Memory => Err(CommandError::Usage(
            "-keys: the key manager \"memory\" keeps its keys nowhere".to_owned(),
        )),
        remote => Err(CommandError::Usage(format!(
            "-keys: the key manager {:?} does not give its keys out; they are backed up there",
            remote.name()
        ))),
    }
}

/// Copies a file of keys into a new one for the owner only.
fn copy_keys(from: &Path, to: &Path) -> Result<(), CommandError> {
    let copy = || {
        let keys = zeroize::Zeroizing::new(std::fs::read(from)?);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(to)?;
        file.write_all(&keys)?;
        file.sync_all()
    };
    copy().map_err(|source| CommandError::Keys { path: to.to_owned(), source })
}
