//! What a migration did, or would do.

use std::{fmt, path::PathBuf};

use serde::Serialize;
use signet_authority::journal::{Journal, Status};
use signet_store::{Contents, RecordKind, copying};

/// What a migration did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Where everything comes from.
    pub from: PathBuf,
    /// The file that is written.
    pub to: PathBuf,
    /// How many registration entries.
    pub entries: usize,
    /// How many attested agents.
    pub agents: usize,
    /// How many trust bundles, the own one included.
    pub bundles: usize,
    /// How many federation relationships.
    pub federation_relationships: usize,
    /// How many join tokens.
    pub join_tokens: usize,
    /// The ID of the X.509 authority that signs; none when there is no journal.
    pub x509_authority: Option<String>,
    /// The ID of the JWT authority that signs.
    pub jwt_authority: Option<String>,
    /// The names of the private keys that come along.
    pub keys: Vec<String>,
    /// The key file that is written; none when the file stays the same.
    pub keys_to: Option<PathBuf>,
    /// Rows that were left out, each with the reason.
    pub skipped: Vec<String>,
    /// SHA-256 over all that was copied and read back; none when it was not.
    pub checksum: Option<String>,
    /// What was copied from another store of ours, all kinds; none when nothing was.
    pub copied: Vec<Copied>,
    /// Whether the copy is to go on later: no server opens it yet.
    pub unfinished: bool,
    /// What one should know.
    pub notes: Vec<String>,
}

impl Report {
    pub(super) fn new(from: PathBuf, to: PathBuf, contents: &Contents, dry_run: bool) -> Self {
        Self {
            dry_run,
            from,
            to,
            entries: contents.entries.len(),
            agents: contents.nodes.len(),
            bundles: contents.bundles.len(),
            federation_relationships: contents.federations.len(),
            join_tokens: contents.join_tokens.iter().filter(|it| it.spent_by.is_none()).count(),
            x509_authority: None,
            jwt_authority: None,
            keys: Vec::new(),
            keys_to: None,
            skipped: Vec::new(),
            checksum: None,
            copied: Vec::new(),
            unfinished: false,
            notes: Vec::new(),
        }
    }

    /// Takes over what was copied, also into the counts.
    pub(super) fn copied(&mut self, copied: Vec<Copied>) {
        for (kind, count) in [
            (RecordKind::Entries, &mut self.entries),
            (RecordKind::Nodes, &mut self.agents),
            (RecordKind::Bundles, &mut self.bundles),
            (RecordKind::Federations, &mut self.federation_relationships),
            (RecordKind::JoinTokens, &mut self.join_tokens),
        ] {
            let found = copied.iter().find(|it| it.kind == kind.name());
            *count = found.map_or(0, |it| usize::try_from(it.rows).unwrap_or(usize::MAX));
        }
        self.copied = copied;
    }

    /// What was copied, as lines.
    fn copy_lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Copied { kind, rows, sha256 } in &self.copied {
            write!(f, "{:<25}: {rows}", first_upper(kind))?;
            match sha256 {
                Some(sha256) => writeln!(f, ", SHA-256 {sha256}")?,
                None => writeln!(f)?,
            }
        }
        if !self.dry_run && !self.unfinished {
            writeln!(f, "Counts and checksums are those of both, read from each.")?;
        }
        Ok(())
    }

    /// What was moved from or to SPIRE, as lines.
    fn move_lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in [
            ("Registration entries", self.entries),
            ("Attested agents", self.agents),
            ("Trust bundles", self.bundles),
            ("Federation relationships", self.federation_relationships),
            ("Join tokens", self.join_tokens),
        ] {
            writeln!(f, "{what:<25}: {count}")?;
        }
        let none = "none, the server will make one".to_owned();
        let x509 = self.x509_authority.as_ref().unwrap_or(&none);
        writeln!(f, "{:<25}: {x509}", "X.509 authority")?;
        let jwt = self.jwt_authority.as_ref().unwrap_or(&none);
        writeln!(f, "{:<25}: {jwt}", "JWT authority")
    }

    pub(super) fn authorities(&mut self, journal: &Journal) {
        let x509 = journal.x509.iter().find(|record| record.status == Status::Active);
        self.x509_authority = x509.map(|record| record.authority_id.clone());
        let jwt = journal.jwt.iter().find(|record| record.status == Status::Active);
        self.jwt_authority = jwt.map(|record| record.key_id.clone());
    }

    /// The report as one line of JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What was copied of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Copied {
    /// What it is.
    pub kind: &'static str,
    /// How many.
    pub rows: u64,
    /// SHA-256 over them, lower-case hex; none where they were not compared in the end.
    pub sha256: Option<String>,
}

impl From<copying::Copied> for Copied {
    fn from(copied: copying::Copied) -> Self {
        let ([rows, _], [sha256, _]) = (copied.rows, copied.sha256);
        Self { kind: copied.kind.name(), rows, sha256: Some(sha256) }
    }
}

fn first_upper(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match (self.dry_run, self.unfinished) {
            (true, _) => "Would migrate",
            (false, true) => "Copied ahead",
            (false, false) => "Migrated",
        };
        writeln!(f, "{verb} {} to {}", self.from.display(), self.to.display())?;
        match self.copied.is_empty() {
            true => self.move_lines(f)?,
            false => self.copy_lines(f)?,
        }
        if !self.keys.is_empty() {
            write!(f, "{:<25}: {}", "Private keys", self.keys.join(", "))?;
            match &self.keys_to {
                Some(path) => writeln!(f, " -> {}", path.display())?,
                None => writeln!(f, " (the key file stays)")?,
            }
        }
        if let (Some(checksum), false) = (&self.checksum, self.dry_run) {
            writeln!(f, "{:<25}: {checksum} (read back and compared)", "SHA-256")?;
        }
        for row in &self.skipped {
            writeln!(f, "Left out: {row}")?;
        }
        for note in &self.notes {
            writeln!(f, "Note: {note}")?;
        }
        if self.dry_run {
            writeln!(f, "Dry run: nothing was written.")?;
        }
        Ok(())
    }
}
