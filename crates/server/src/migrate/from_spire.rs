//! From SPIRE.

use std::path::{Path, PathBuf};

use signet_authority::journal::Journal;
use signet_daemon::process::DirLock;
use signet_store::{
    Contents,
    spire::{self, SpireContents},
};
use signet_time::UnixTime;

use super::{
    MigrateError, MigrateFlags, Report, check_trust_domain, copy, database::Database, disk_keys,
    journal, keys::Keys, remote_keys,
};
use crate::{config::Config, plugins::key_manager, ports::UNCLAIMED_JOURNAL, server_id};

/// Imports SPIRE's database, its CA journal and its keys.
pub(super) async fn import(
    config: &Config,
    flags: &MigrateFlags,
    from: &Database,
    now: UnixTime,
) -> Result<Report, MigrateError> {
    let to = Database::configured(config)?;
    let same = match (to.file(), from.file()) {
        (Some(to), Some(from)) => same_file(to, from),
        _ => false,
    };
    if same {
        return Err(MigrateError::Usage(format!(
            "connection_string in {} names SPIRE's own database: name another file, which will be \
             created",
            config.file.display()
        )));
    }
    let runs = match from.file().filter(|path| path.is_file()) {
        Some(path) => spire::is_open(path)
            .map_err(|source| MigrateError::Io { path: path.to_owned(), source })?,
        None => false,
    };
    let database = &from.name();
    if runs && !flags.dry_run {
        return Err(MigrateError::SpireRuns(database.to_owned()));
    }
    let found = from.read_spire().await?;
    if !found.skipped.is_empty() && !flags.skip_invalid {
        return Err(MigrateError::Skipped(found.skipped));
    }
    check_trust_domain(config, database, &found.contents.bundles)?;
    if let Some(path) = to.file().filter(|path| path.exists()) {
        return Err(MigrateError::Exists {
            path: path.to_owned(),
            hint: "a migration fills a new store; move this one away or name another file in \
                   connection_string",
        });
    }
    let mut report = Report::new(database.to_owned(), to.name(), &found.contents, flags.dry_run);
    report.checksum = Some(copy::checksum(&found.contents));
    report.skipped.clone_from(&found.skipped);
    if runs {
        report.notes.push(format!(
            "{} is open in another process: stop SPIRE's server before the migration, which \
             refuses otherwise",
            database.display()
        ));
    }

    let source = match (&flags.keys, disk_keys(config)) {
        (Some(path), _) => Some(path),
        (None, Some(disk)) => Some(&disk.keys_path),
        (None, None) => None,
    };
    let keys = source.map(|path| Keys::of_spire(path)).transpose()?;
    let remote = remote_keys(config).await?;
    let ids = match (&keys, &remote) {
        (Some(keys), _) => keys.subject_key_ids()?,
        (None, Some(remote)) => remote.iter().map(|(_, id)| id.clone()).collect(),
        (None, None) => Vec::new(),
    };
    let journal = choose_journal(&found, &ids, &mut report);
    if let Some(journal) = &journal {
        report.authorities(journal);
    }
    let copy = match (remote, &keys) {
        (Some(remote), None) => {
            let plugin = config.plugins.key_manager.name;
            report.notes.push(format!(
                "{} keys stay where they are, in the key manager {plugin:?}",
                remote.len()
            ));
            false
        }
        _ => keys_to_copy(config, source, keys.as_ref(), &mut report)?,
    };
    if flags.dry_run {
        return Ok(report);
    }

    let _lock = DirLock::acquire(&config.data_dir, "signet-server.lock")?;
    if let (true, Some(keys), Some(disk)) = (copy, &keys, disk_keys(config)) {
        keys.add_to(&key_manager::open_disk(disk)?).await?;
    }
    let contents = &found.contents;
    match &to {
        Database::File(path) => {
            let unfinished = Unfinished::beside(path);
            let beside = Database::File(unfinished.0.clone());
            fill(&beside, contents, journal.as_ref(), UNCLAIMED_JOURNAL, now).await?;
            unfinished
                .rename(path)
                .map_err(|source| MigrateError::Io { path: path.clone(), source })?;
        }
        Database::Postgres(_) => {
            // Others may share the database: the journal is this server's from the beginning.
            let id = server_id::own(&config.data_dir)?;
            fill(&to, contents, journal.as_ref(), &id, now).await?;
        }
    }
    Ok(report)
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// The journal of the server whose keys these are, as SPIRE itself would choose it.
fn choose_journal(found: &SpireContents, ids: &[String], report: &mut Report) -> Option<Journal> {
    let mine = found.journals.iter().find(|it| ids.contains(&it.active_x509_authority_id));
    let Some(mine) = mine else {
        report.notes.push(
            "no CA journal belongs to the keys: the server will make new authorities. Agents and \
             workloads go on, because the old ones stay in the bundle"
                .to_owned(),
        );
        return None;
    };
    let others = found.journals.len() - 1;
    if others > 0 {
        report.notes.push(format!("{others} CA journals of other servers are not carried over"));
    }
    let (journal, left_out) = journal::from_spire(mine);
    report.notes.extend(left_out);
    Some(journal)
}

/// Whether the keys are to be written to the configured key manager.
fn keys_to_copy(
    config: &Config,
    source: Option<&PathBuf>,
    keys: Option<&Keys>,
    report: &mut Report,
) -> Result<bool, MigrateError> {
    let (Some(source), Some(keys)) = (source, keys) else {
        report.notes.push(
            "the configured key manager is \"memory\": the server will make new authorities"
                .to_owned(),
        );
        return Ok(false);
    };
    if keys.is_empty() {
        report.notes.push(format!("there are no keys in {}", source.display()));
        return Ok(false);
    }
    report.keys = keys.names();
    let Some(disk) = disk_keys(config) else {
        report.notes.push(
            "the configured key manager takes no keys: they are not carried over, and the server \
             will make new authorities"
                .to_owned(),
        );
        report.keys.clear();
        return Ok(false);
    };
    if same_file(source, &disk.keys_path) {
        if disk.seal.is_some() {
            report.notes.push(format!(
                "the server will seal {} when it starts: SPIRE can then no longer read it",
                disk.keys_path.display()
            ));
        }
        return Ok(false);
    }
    if disk.keys_path.exists() && !Keys::configured(disk)?.same_as(keys) {
        return Err(MigrateError::Exists {
            path: disk.keys_path.clone(),
            hint: "it holds other keys; move it away or name another file in keys_path",
        });
    }
    report.keys_to = Some(disk.keys_path.clone());
    Ok(true)
}

/// Fills a store that is empty, and reads it back. The journal is the one of `server`.
async fn fill(
    database: &Database,
    contents: &Contents,
    journal: Option<&Journal>,
    server: &str,
    now: UnixTime,
) -> Result<(), MigrateError> {
    let store = database.open().await?;
    let filled = async {
        store.import(contents, now).await?;
        if let Some(journal) = journal {
            store.put_journal(server, &journal.encode()?, now).await?;
        }
        copy::compare(&store, contents, database).await
    };
    let filled = filled.await;
    store.close().await;
    filled
}

/// A database that is removed, with what SQLite puts beside it, unless it was renamed.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.unfinished", std::process::id()));
        let unfinished = Self(name.into());
        unfinished.remove();
        unfinished
    }

    fn rename(&self, to: &Path) -> std::io::Result<()> {
        let mut log = self.0.as_os_str().to_owned();
        log.push("-wal");
        if Path::new(&log).exists() {
            return Err(std::io::Error::other("the database was not closed cleanly"));
        }
        std::fs::File::open(&self.0)?.sync_all()?;
        std::fs::rename(&self.0, to)?;
        let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty());
        std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut name = self.0.as_os_str().to_owned();
            name.push(suffix);
            // Best effort: mostly there is nothing to remove.
            drop(std::fs::remove_file(name));
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.remove();
    }
}
