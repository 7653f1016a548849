//! What a migration did, or would do.

use std::{fmt, path::PathBuf};

use serde::Serialize;
use signet_authority::journal::{Journal, Status};
use signet_store::Contents;

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
            notes: Vec::new(),
        }
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run { "Would migrate" } else { "Migrated" };
        writeln!(f, "{verb} {} to {}", self.from.display(), self.to.display())?;
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
        writeln!(f, "{:<25}: {jwt}", "JWT authority")?;
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
