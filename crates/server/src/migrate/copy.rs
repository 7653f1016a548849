//! From one store of ours to another: SQLite to PostgreSQL, and back.

use signet_daemon::process::DirLock;
use signet_pki::digest::Sha256;
use signet_store::{Contents, Store};
use signet_time::UnixTime;

use super::{MigrateError, MigrateFlags, Report, database::Database};
use crate::config::Config;

/// Copies everything, the CA journals of all servers included, into the configured store, which
/// must be empty, in one transaction; then reads it back and compares.
pub(super) async fn copy(
    config: &Config,
    flags: &MigrateFlags,
    from: &Database,
    now: UnixTime,
) -> Result<Report, MigrateError> {
    let to = Database::configured(config)?;
    if from.to_string() == to.to_string() {
        return Err(MigrateError::Usage(format!(
            "connection_string in {} names the store that is to be copied: name the new one",
            config.file.display()
        )));
    }
    if let Some(path) = from.file()
        && !path.is_file()
    {
        return Err(MigrateError::Usage(format!("-from-store: there is no {}", path.display())));
    }
    let _lock = match flags.dry_run {
        true => None,
        false => Some(DirLock::acquire(&config.data_dir, "signet-server.lock")?),
    };
    let source = from.open().await?;
    let read = async { Ok::<_, MigrateError>((source.export().await?, source.journals().await?)) };
    let read = read.await;
    source.close().await;
    let (contents, journals) = read?;
    let mut report = Report::new(from.name(), to.name(), &contents, flags.dry_run);
    report.checksum = Some(checksum(&contents));
    report.notes.push(format!("{} CA journals", journals.len()));
    if flags.dry_run {
        return Ok(report);
    }
    let store = to.open().await?;
    let filled = async {
        store.import(&contents, now).await?;
        for (server, journal) in &journals {
            store.put_journal(server, journal, now).await?;
        }
        compare(&store, &contents, &to).await
    };
    let filled = filled.await;
    store.close().await;
    filled?;
    Ok(report)
}

/// Reads back what was written.
pub(super) async fn compare(
    store: &Store,
    contents: &Contents,
    database: &Database,
) -> Result<(), MigrateError> {
    if checksum(&store.export().await?) == checksum(contents) {
        return Ok(());
    }
    Err(MigrateError::Different { place: database.name() })
}

/// SHA-256 over everything in its order, lower-case hex.
pub(super) fn checksum(contents: &Contents) -> String {
    let mut digest = Sha256::new();
    let mut add = |text: String| digest.update(text.as_bytes());
    contents.entries.iter().for_each(|it| add(format!("{it:?}\n")));
    contents.bundles.iter().for_each(|it| add(format!("{it:?}\n")));
    contents.nodes.iter().for_each(|it| add(format!("{it:?}\n")));
    contents.federations.iter().for_each(|it| add(format!("{it:?}\n")));
    contents.assignments.iter().for_each(|it| add(format!("{it:?}\n")));
    for token in &contents.join_tokens {
        // The token itself prints as a secret.
        add(format!("{} {} {:?}\n", token.token, token.expires_at.seconds(), token.spent_by));
    }
    digest.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}
