//! Back to SPIRE.

use std::path::Path;

use signet_authority::journal::Journal;
use signet_daemon::process::DirLock;
use signet_pki::{DiskKeyManager, key_manager::Sealing};
use signet_store::spire::SpireContents;
use signet_time::UnixTime;

use super::{
    MigrateError, MigrateFlags, Report, database::Database, disk_keys, journal, keys::Keys,
};
use crate::{config::Config, plugins::key_manager::KeyManager, server_id};

/// Writes a database for SPIRE, and its keys.
pub(super) async fn export(
    config: &Config,
    flags: &MigrateFlags,
    to: &Database,
    now: UnixTime,
) -> Result<Report, MigrateError> {
    let from = Database::configured(config)?;
    if from.file().is_some_and(|path| !path.exists()) {
        return Err(MigrateError::Usage(format!(
            "there is no store {from}, which connection_string in {} names",
            config.file.display()
        )));
    }
    if let Some(path) = to.file().filter(|path| path.exists()) {
        return Err(MigrateError::Exists {
            path: path.to_owned(),
            hint: "name a file that does not exist",
        });
    }
    let _lock = if flags.dry_run {
        None
    } else {
        Some(DirLock::acquire(&config.data_dir, "signet-server.lock")?)
    };
    let (contents, journal) = read(&from, &config.data_dir).await?;
    let mut report = Report::new(from.name(), to.name(), &contents, flags.dry_run);
    let spent = contents.join_tokens.len() - report.join_tokens;
    if spent > 0 {
        report.notes.push(format!("{spent} join tokens that were spent are left out"));
    }
    let journals = match &journal {
        Some(journal) => {
            report.authorities(journal);
            vec![journal::to_spire(journal)]
        }
        None => Vec::new(),
    };
    let keys = keys(config, flags, &mut report)?;
    if flags.dry_run {
        return Ok(report);
    }
    if let (Some(keys), Some(path)) = (keys, &report.keys_to) {
        keys.add_to(&DiskKeyManager::open(path, Sealing::Off)?).await?;
    }
    let contents = SpireContents { contents, journals, ..SpireContents::default() };
    to.write_spire(&contents, now).await?;
    Ok(report)
}

async fn read(
    from: &Database,
    data_dir: &Path,
) -> Result<(signet_store::Contents, Option<Journal>), MigrateError> {
    let store = from.open().await?;
    let read = async {
        let contents = store.export().await?;
        let journal = server_id::own_journal(&store, data_dir).await?;
        Ok((contents, journal.map(|data| Journal::decode(&data)).transpose()?))
    };
    let read = read.await;
    store.close().await;
    read
}

/// The keys to write, if any; where is in the report.
fn keys(
    config: &Config,
    flags: &MigrateFlags,
    report: &mut Report,
) -> Result<Option<Keys>, MigrateError> {
    let plugin = &config.plugins.key_manager;
    let Some(disk) = disk_keys(config) else {
        if !matches!(plugin.settings, KeyManager::Memory) {
            report.notes.push(format!(
                "the keys stay where they are: SPIRE's configuration needs the key manager {:?} with \
                 the same settings",
                plugin.name
            ));
            return Ok(None);
        }
        report.notes.push(
            "the configured key manager is \"memory\": SPIRE will make new authorities".to_owned(),
        );
        return Ok(None);
    };
    let keys = Keys::configured(disk)?;
    report.keys = keys.names();
    match &flags.keys {
        Some(path) if path.exists() && !Keys::of_spire(path)?.same_as(&keys) => {
            Err(MigrateError::Exists {
                path: path.clone(),
                hint: "it holds other keys; move it away or name another file with -keys",
            })
        }
        Some(path) => {
            report.keys_to = Some(path.clone());
            Ok(Some(keys))
        }
        None if disk.seal.is_some() => Err(MigrateError::Usage(format!(
            "{} is sealed, which SPIRE cannot read: name a file for its keys with -keys",
            disk.keys_path.display()
        ))),
        None => {
            report.notes.push(format!(
                "keys_path of SPIRE's configuration must name {}",
                disk.keys_path.display()
            ));
            Ok(None)
        }
    }
}
