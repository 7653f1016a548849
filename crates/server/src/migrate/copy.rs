//! From one store of ours to another: SQLite to PostgreSQL, and back, while servers use the first.

use std::collections::HashMap;

use signet_daemon::process::DirLock;
use signet_pki::digest::Sha256;
use signet_store::{
    Contents, OpenError, PageRequest, RecordKind, Store, StoreError,
    copying::{self, Copy, CopyError, Progress},
};

use super::{
    MigrateError, MigrateFlags, Report, check_trust_domain,
    database::{Access, Database},
    report::Copied,
};
use crate::config::Config;

/// Keeps others from copying into the configured store, beside the lock of the server.
const LOCK: &str = "signet-migrate.lock";

/// Copies everything, the CA journals of all servers included, into the configured store, which
/// must be empty or a copy that is not finished. Unless servers are to go on with the source, that
/// one is closed in the end, and the copy is a store.
pub(super) async fn copy(
    config: &Config,
    flags: &MigrateFlags,
    from: &Database,
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
    let mut locks = Vec::new();
    if !flags.dry_run {
        if !flags.online {
            locks.push(DirLock::acquire(&config.data_dir, "signet-server.lock")?);
        }
        locks.push(DirLock::acquire(&config.data_dir, LOCK)?);
    }
    let access = if flags.online || flags.dry_run { Access::Beside } else { Access::Alone };
    let source = from.open_source(access).await.map_err(|error| told(error, from))?;
    let copied = copy_from(&source, config, flags, [from, &to]).await;
    source.close().await;
    copied
}

/// Why the source cannot be opened, with what to do.
fn told(error: OpenError, from: &Database) -> MigrateError {
    match error {
        OpenError::InUse { .. } => MigrateError::SourceRuns(from.name()),
        OpenError::Outdated { found, known, .. } => {
            MigrateError::OldSource { path: from.name(), found, known }
        }
        other => MigrateError::Open(other),
    }
}

async fn copy_from(
    source: &Store,
    config: &Config,
    flags: &MigrateFlags,
    [from, to]: [&Database; 2],
) -> Result<Report, MigrateError> {
    let bundles = source.list_bundles(PageRequest::all()).await?.items;
    check_trust_domain(config, &from.name(), &bundles)?;
    let mut report = Report::new(from.name(), to.name(), &Contents::default(), flags.dry_run);
    if flags.dry_run {
        report.copied(copying::look(source).await?.into_iter().map(Copied::from).collect());
        return Ok(report);
    }
    let target = to.open_target().await?;
    let copied = copy_into(source, &target, flags, [from, to], &mut report).await;
    target.close().await;
    copied.map(|()| report)
}

async fn copy_into(
    source: &Store,
    target: &Store,
    flags: &MigrateFlags,
    [from, to]: [&Database; 2],
    report: &mut Report,
) -> Result<(), MigrateError> {
    let mut lines = Lines::default();
    let begun = Copy::begin(source, target, &from.to_string()).await;
    let mut copy = begun.map_err(|error| match error {
        CopyError::Store(StoreError::NotEmpty { .. }) => MigrateError::Exists {
            path: to.name(),
            hint: "a copy fills a store that holds nothing: name another one in connection_string",
        },
        error => error.into(),
    })?;
    if let Some((kind, row)) = copy.reached() {
        lines.say(&format!("The copy goes on: {} after row {row}", kind.name()));
    }
    let mut left = 0;
    // A store that is this process's alone does not change meanwhile.
    if flags.online || source.is_shared() {
        left = copy.catch_up(&mut |progress| lines.tell(progress)).await?;
    }
    if flags.online {
        report.unfinished = true;
        report.copied(lines.counts());
        report.notes.push(format!(
            "the last look at everything found {left} rows to write. No server uses {to} yet: stop \
             those on {from}, and run the command again without -online, which copies what is \
             missing, compares everything and closes {from}"
        ));
        return Ok(());
    }
    let copied = copy.finish(&to.to_string(), &mut |progress| lines.tell(progress)).await?;
    report.copied(copied.into_iter().map(Copied::from).collect());
    report.notes.push(format!(
        "{from} takes no more changes, and no server opens it. `migrate -reopen` takes that back"
    ));
    Ok(())
}

/// Lets servers use the configured store again, which was copied elsewhere.
pub(super) async fn reopen(config: &Config) -> Result<String, MigrateError> {
    let database = Database::configured(config)?;
    if let Some(path) = database.file()
        && !path.is_file()
    {
        return Err(MigrateError::Usage(format!("-reopen: there is no {}", path.display())));
    }
    let store = database.open_source(Access::Alone).await?;
    let reopened = store.reopen().await;
    store.close().await;
    Ok(match reopened? {
        true => format!("{database} takes changes again\n"),
        false => format!("{database} was not closed\n"),
    })
}

/// Progress on standard error: a line for each kind and pass at its beginning, and whenever another
/// twentieth was done.
#[derive(Default)]
struct Lines {
    last: Option<Progress>,
    counts: HashMap<RecordKind, u64>,
}

impl Lines {
    fn tell(&mut self, now: Progress) {
        self.counts.insert(now.kind, now.done);
        let step = |progress: &Progress| match progress.of {
            0 => 0,
            of => progress.done.saturating_mul(20) / of,
        };
        let same = self.last.filter(|last| last.pass == now.pass && last.kind == now.kind);
        let is_news = match &same {
            // What there is none of is not worth a line.
            None => now.of > 0,
            Some(last) => step(last) != step(&now),
        };
        if same.is_none() || is_news {
            self.last = Some(now);
        }
        if !is_news {
            return;
        }
        let pass = match now.pass {
            Some(pass) => format!("pass {pass}"),
            None => "last pass".to_owned(),
        };
        let Progress { kind, done, of, written, .. } = now;
        self.say(&format!("{pass}: {} {done} of {of}, {written} written", kind.name()));
    }

    fn say(&self, line: &str) {
        eprintln!("{line}");
    }

    /// How many of each kind were looked at last.
    fn counts(&self) -> Vec<Copied> {
        let of = |kind: RecordKind| Copied {
            kind: kind.name(),
            rows: self.counts.get(&kind).copied().unwrap_or(0),
            sha256: None,
        };
        RecordKind::ALL.into_iter().map(of).collect()
    }
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
