//! `signet-server migrate`: moving a trust domain from SPIRE here, and back, and from one kind of
//! database to another.
//!
//! What was there before is never changed; what is new is written beside its place and then put
//! into it. The CA journal and the keys go along, so agents and workloads go on with the SVIDs
//! they have: nobody attests again.

mod copy;
mod database;
mod from_spire;
mod journal;
mod keys;
mod report;
mod to_spire;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use signet_base::SystemClock;
use signet_daemon::{cli::Output, program::Program};
use signet_identity::Bundle;
use signet_time::UnixTime;

use crate::{
    config::Config,
    offline::{self, ConfigFlags},
    plugins::key_manager::{self, KeyManager},
};

pub use report::Report;

use database::Database;

/// Flags of `signet-server migrate`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    about = "Move a trust domain from SPIRE to Signet, or back, or to another database",
    long_about = "Move a trust domain from SPIRE to Signet, or back, or to another database.\n\n\
        All servers must be stopped. With -from-spire, the registration database of SPIRE 1.15 \
        (SQLite or PostgreSQL) is imported into the store that the configuration file names, which \
        must not hold anything yet, and the keys are copied to its key manager. With -to-spire, a \
        database for SPIRE is written. Nothing that exists is changed; what was written is read back \
        and compared. A database is a file, or a connection string of PostgreSQL.\n\n\
        With -from-store, another store of Signet is copied into the one of the configuration file. \
        Whatever interrupts it, the same command goes on with it, and no server opens the copy before \
        it is finished. With -online the servers on the old store go on meanwhile, and most is copied \
        before they are stopped; without it the rest is copied, everything is compared by count and \
        checksum, and the old store is closed: it takes no more changes, so that none is lost."
)]
pub struct MigrateFlags {
    /// SPIRE's database to import
    #[arg(
        long = "from-spire",
        alias = "fromSpire",
        value_name = "DB",
        required_unless_present_any = ["to_spire", "from_store", "reopen"]
    )]
    pub from_spire: Option<String>,
    /// Database to write for SPIRE; must not exist, or hold no tables of SPIRE's
    #[arg(long = "to-spire", alias = "toSpire", value_name = "DB", conflicts_with = "from_spire")]
    pub to_spire: Option<String>,
    /// Store of Signet to copy into the one of the configuration file
    #[arg(
        long = "from-store",
        alias = "fromStore",
        value_name = "DB",
        conflicts_with_all = ["from_spire", "to_spire"]
    )]
    pub from_store: Option<String>,
    /// With -from-store: copy while servers use that store, and do not finish
    #[arg(long = "online", requires = "from_store")]
    pub online: bool,
    /// Let servers use the store of the configuration file again, which was copied with -from-store.
    /// What the copy got since is not in it
    #[arg(long = "reopen", conflicts_with_all = ["from_spire", "to_spire", "from_store"])]
    pub reopen: bool,
    /// Signet's configuration file: trust domain, store and key manager are taken from it
    #[arg(long = "config", value_name = "FILE", default_value = "conf/server/server.conf")]
    pub config: PathBuf,
    /// Replace $NAME and ${NAME} in the configuration file by environment variables
    #[arg(long = "expandEnv")]
    pub expand_env: bool,
    /// SPIRE's keys.json: where it is (-from-spire) or is to be written (-to-spire). Without it
    /// the two share the file that keys_path names
    #[arg(long = "keys", value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long = "dryRun", alias = "dry-run")]
    pub dry_run: bool,
    /// Leave out rows that cannot be carried over, instead of refusing
    #[arg(long = "skipInvalid", alias = "skip-invalid")]
    pub skip_invalid: bool,
    /// Form of what is printed
    #[arg(long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Output,
}

/// Why a migration was not done. Nothing was changed, unless the text says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// What was written is not what is read back.
    #[error("what was written to {place} is not what was read: do not use it")]
    Different {
        /// Where.
        place: PathBuf,
    },
    /// A store could not be copied to its end.
    #[error("copying the store: run the same command again, which goes on where it stopped")]
    Copy(#[from] signet_store::copying::CopyError),
    /// What is to be written is there already.
    #[error("{path} exists already: {hint}")]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// A file could not be put into its place.
    #[error("writing {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The CA journal cannot be read.
    #[error("reading the CA journal")]
    Journal(#[from] signet_authority::journal::JournalError),
    /// A key file cannot be read or written.
    #[error(transparent)]
    Keys(#[from] signet_pki::key_manager::KeyManagerError),
    /// The key manager of the configuration cannot be opened.
    #[error(transparent)]
    KeyManager(#[from] crate::plugins::PluginError),
    /// A server runs on the data directory.
    #[error("the server must be stopped first")]
    Running(#[from] signet_daemon::process::LockError),
    /// The store that is to be copied has an older schema, and a server may run on it.
    #[error(
        "the database {path} has schema version {found}, and this version copies {known}: start its \
         server with this version once, or stop it and copy without -online"
    )]
    OldSource {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The one needed.
        known: i64,
    },
    /// Which journal is the server's own cannot be found out.
    #[error(transparent)]
    ServerId(#[from] crate::server_id::ServerIdError),
    /// The store of the configuration cannot be opened.
    #[error(transparent)]
    Open(#[from] signet_store::OpenError),
    /// Rows cannot be carried over.
    #[error("{} rows cannot be carried over (-skipInvalid leaves them out):\n  {}", .0.len(), .0.join("\n  "))]
    Skipped(Vec<String>),
    /// A process has SPIRE's database open.
    #[error(
        "{0} is open in another process: stop SPIRE's server first, for what it still issues and \
         registers would be missing here"
    )]
    SpireRuns(PathBuf),
    /// A server runs on the store that is to be copied.
    #[error("{0} is in use by a server: stop it, or copy ahead while it runs with -online")]
    SourceRuns(PathBuf),
    /// SPIRE's database cannot be read or written.
    #[error(transparent)]
    Spire(#[from] signet_store::spire::SpireError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] signet_store::StoreError),
    /// The database is of another trust domain.
    #[error("{path} has no bundle of the configured trust domain {wanted}, but of {found}")]
    TrustDomain {
        /// The database.
        path: PathBuf,
        /// What the configuration says.
        wanted: String,
        /// Whose bundles there are.
        found: String,
    },
    /// The flags and the configuration do not fit together.
    #[error("{0}")]
    Usage(String),
}

/// Runs the command and prints what came of it.
pub fn run(program: Program, flags: &MigrateFlags) -> ExitCode {
    let config = ConfigFlags { config: flags.config.clone(), expand_env: flags.expand_env };
    let now = SystemClock::shared().unix();
    let work = async |config: &Config| {
        if flags.reopen {
            return copy::reopen(config).await;
        }
        let report = migrate(config, flags, now).await?;
        Ok(match flags.output {
            Output::Pretty => report.to_string(),
            Output::Json => format!("{}\n", report.json()),
        })
    };
    offline::run(program, &config, work, |error| matches!(error, MigrateError::Usage(_)))
}

/// Does what the flags say. `now` is Unix seconds.
///
/// # Errors
/// [`MigrateError`]; then nothing was changed, but that keys may have been copied already.
pub async fn migrate(
    config: &Config,
    flags: &MigrateFlags,
    now: UnixTime,
) -> Result<Report, MigrateError> {
    match (&flags.from_spire, &flags.to_spire, &flags.from_store) {
        (Some(database), None, None) => {
            from_spire::import(config, flags, &Database::parse("from-spire", database)?, now).await
        }
        (None, Some(database), None) => {
            to_spire::export(config, flags, &Database::parse("to-spire", database)?, now).await
        }
        (None, None, Some(store)) => {
            copy::copy(config, flags, &Database::parse("from-store", store)?).await
        }
        _ => Err(MigrateError::Usage(
            "give one of -from-spire, -to-spire and -from-store".to_owned(),
        )),
    }
}

fn check_trust_domain(
    config: &Config,
    database: &Path,
    bundles: &[Bundle],
) -> Result<(), MigrateError> {
    if bundles.is_empty() || bundles.iter().any(|it| it.trust_domain == config.trust_domain) {
        return Ok(());
    }
    let names: Vec<&str> = bundles.iter().map(|bundle| bundle.trust_domain.as_str()).collect();
    Err(MigrateError::TrustDomain {
        path: database.to_owned(),
        wanted: config.trust_domain.to_string(),
        found: names.join(", "),
    })
}

/// The keys that are elsewhere, where the configuration says so: names and subject key IDs.
async fn remote_keys(config: &Config) -> Result<Option<Vec<(String, String)>>, MigrateError> {
    let clock: signet_base::SharedClock = std::sync::Arc::new(signet_base::SystemClock);
    Ok(key_manager::remote_keys(&config.plugins.key_manager, &config.trust_domain, &clock).await?)
}

/// The settings of the disk key manager, if that is the one.
fn disk_keys(config: &Config) -> Option<&crate::plugins::key_manager::DiskKeys> {
    match &*config.plugins.key_manager {
        KeyManager::Disk(disk) => Some(disk),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
