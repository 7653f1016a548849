//! Writing a SPIRE database: to a file beside its place, then into its place.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use signet_identity::{AttestedNode, Entry, SpiffeId, TrustDomain};
use signet_time::UnixTime;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{CODE_VERSION, SCHEMA_VERSION, SpireContents, SpireError, blobs, schema};
use crate::sqlite::{fault::Fault, open::create_private, sql};

/// A time column of so many Unix seconds, as SPIRE writes it.
const TIME: &str = "datetime(?, 'unixepoch') || '+00:00'";

/// Writes a new SPIRE database file; mode 0600. Join tokens that were spent here are left out.
/// On failure the file is not there.
///
/// # Errors
/// [`SpireError`], also when the file exists already.
pub async fn write(path: &Path, contents: &SpireContents, now: UnixTime) -> Result<(), SpireError> {
    if path.exists() {
        return Err(SpireError::Exists(path.to_owned()));
    }
    let unfinished = Unfinished::beside(path);
    let io = |source| SpireError::Io { path: path.to_owned(), source };
    create_private(&unfinished.0).map_err(io)?;
    fill(&unfinished.0, contents, now).await.map_err(|fault| schema::named(path, fault))?;
    std::fs::File::open(&unfinished.0).and_then(|file| file.sync_all()).map_err(io)?;
    std::fs::rename(&unfinished.0, path).map_err(io)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    std::fs::File::open(directory).and_then(|file| file.sync_all()).map_err(io)
}

/// A file that is removed when it goes out of scope, unless it was renamed.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.unfinished", std::process::id()));
        let unfinished = Self(name.into());
        unfinished.remove();
        unfinished
    }

    fn remove(&self) {
        for suffix in ["", "-journal"] {
            let mut name = self.0.as_os_str().to_owned();
            name.push(suffix);
            _ = std::fs::remove_file(name);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.remove();
    }
}

async fn fill(path: &Path, contents: &SpireContents, now: UnixTime) -> Result<(), Fault> {
    let options = SqliteConnectOptions::new().filename(path);
    let mut conn = SqliteConnection::connect_with(&options).await?;
    let mut tx = conn.begin().await?;
    sqlx::raw_sql(schema::TABLES).execute(&mut *tx).await?;
    let mut writer = Writer { conn: &mut tx, now };
    writer.migration().await?;
    let bundles = writer.bundles(contents).await?;
    writer.entries(&contents.contents.entries, &bundles).await?;
    for node in &contents.contents.nodes {
        writer.node(node).await?;
    }
    writer.rest(contents).await?;
    tx.commit().await?;
    conn.close().await?;
    Ok(())
}

struct Writer<'c> {
    conn: &'c mut SqliteConnection,
    now: UnixTime,
}

impl Writer<'_> {
    async fn migration(&mut self) -> Result<(), Fault> {
        let text = format!(
            "INSERT INTO migrations (created_at, updated_at, version, code_version) \
             VALUES ({TIME}, {TIME}, ?, ?)"
        );
        let query = sql::query(text).bind(self.now.seconds()).bind(self.now.seconds());
        query.bind(SCHEMA_VERSION).bind(CODE_VERSION).execute(&mut *self.conn).await?;
        Ok(())
    }

    /// Answers under which number each bundle is stored.
    async fn bundles(
        &mut self,
        contents: &SpireContents,
    ) -> Result<HashMap<TrustDomain, i64>, Fault> {
        let mut numbers = HashMap::new();
        for bundle in &contents.contents.bundles {
            let text = format!(
                "INSERT INTO bundles (created_at, updated_at, trust_domain, data) \
                 VALUES ({TIME}, {TIME}, ?, ?)"
            );
            let done = sql::query(text)
                .bind(self.now.seconds())
                .bind(self.now.seconds())
                .bind(bundle.trust_domain.id_string())
                .bind(blobs::write_bundle(bundle))
                .execute(&mut *self.conn)
                .await?;
            numbers.insert(bundle.trust_domain.clone(), done.last_insert_rowid());
        }
        Ok(numbers)
    }

    async fn entries(
        &mut self,
        entries: &[Entry],
        bundles: &HashMap<TrustDomain, i64>,
    ) -> Result<(), Fault> {
        for entry in entries {
            let text = format!(
                "INSERT INTO registered_entries (created_at, updated_at, entry_id, spiffe_id, \
                 parent_id, ttl, admin, downstream, expiry, revision_number, store_svid, hint, \
                 jwt_svid_ttl, additional_attributes) \
                 VALUES ({TIME}, {TIME}, {})",
                sql::list(12)
            );
            let done = sql::query(text)
                .bind(entry.created_at.seconds())
                .bind(self.now.max(entry.created_at).seconds())
                .bind(entry.id.as_str().to_owned())
                .bind(entry.spiffe_id.to_string())
                .bind(entry.parent_id.to_string())
                .bind(entry.x509_svid_ttl)
                .bind(entry.admin)
                .bind(entry.downstream)
                .bind(entry.expires_at.seconds())
                .bind(entry.revision_number)
                .bind(entry.store_svid)
                .bind(entry.hint.clone())
                .bind(entry.jwt_svid_ttl)
                .bind(blobs::write_attributes(entry))
                .execute(&mut *self.conn)
                .await?;
            let number = done.last_insert_rowid();
            for selector in &entry.selectors {
                let text = format!(
                    "INSERT INTO selectors (created_at, updated_at, registered_entry_id, type, \
                     value) VALUES ({TIME}, {TIME}, ?, ?, ?)"
                );
                let query = sql::query(text)
                    .bind(entry.created_at.seconds())
                    .bind(entry.created_at.seconds());
                let query = query.bind(number).bind(selector.kind().to_owned());
                query.bind(selector.value().to_owned()).execute(&mut *self.conn).await?;
            }
            for name in &entry.dns_names {
                // SPIRE holds each name of an entry once.
                let text = format!(
                    "INSERT OR IGNORE INTO dns_names (created_at, updated_at, \
                     registered_entry_id, value) VALUES ({TIME}, {TIME}, ?, ?)"
                );
                let query = sql::query(text)
                    .bind(entry.created_at.seconds())
                    .bind(entry.created_at.seconds());
                query.bind(number).bind(name.clone()).execute(&mut *self.conn).await?;
            }
            for name in &entry.federates_with {
                let bundle = bundles.get(name).ok_or_else(|| {
                    Fault::Corrupt(format!(
                        "entry {} federates with {name}, which has no bundle",
                        entry.id
                    ))
                })?;
                sqlx::query(
                    "INSERT OR IGNORE INTO federated_registration_entries \
                     (bundle_id, registered_entry_id) VALUES (?, ?)",
                )
                .bind(*bundle)
                .bind(number)
                .execute(&mut *self.conn)
                .await?;
            }
        }
        Ok(())
    }

    async fn node(&mut self, node: &AttestedNode) -> Result<(), Fault> {
        let text = format!(
            "INSERT INTO attested_node_entries (created_at, updated_at, spiffe_id, data_type, \
             serial_number, expires_at, new_serial_number, new_expires_at, can_reattest, \
             agent_version) VALUES ({TIME}, {TIME}, ?, ?, ?, {TIME}, ?, {TIME}, ?, ?)"
        );
        sql::query(text)
            .bind(self.now.seconds())
            .bind(self.now.seconds())
            .bind(node.spiffe_id.to_string())
            .bind(node.attestation_type.clone())
            .bind(node.serial_number.clone())
            .bind(node.expires_at.seconds())
            .bind(node.new_serial_number.clone())
            .bind((node.new_expires_at != UnixTime::EPOCH).then_some(node.new_expires_at.seconds()))
            .bind(node.can_reattest)
            .bind(node.agent_version.clone())
            .execute(&mut *self.conn)
            .await?;
        for selector in &node.selectors {
            let text = format!(
                "INSERT INTO node_resolver_map_entries (created_at, updated_at, spiffe_id, type, \
                 value) VALUES ({TIME}, {TIME}, ?, ?, ?)"
            );
            let query = sql::query(text).bind(self.now.seconds()).bind(self.now.seconds());
            let query = query.bind(node.spiffe_id.to_string()).bind(selector.kind().to_owned());
            query.bind(selector.value().to_owned()).execute(&mut *self.conn).await?;
        }
        Ok(())
    }

    /// Federation relationships, join tokens, CA journals.
    async fn rest(&mut self, contents: &SpireContents) -> Result<(), Fault> {
        for relationship in &contents.contents.federations {
            let profile = relationship.profile.name();
            let endpoint = relationship.profile.endpoint_spiffe_id();
            let endpoint = endpoint.map(SpiffeId::to_string).unwrap_or_default();
            let text = format!(
                "INSERT INTO federated_trust_domains (created_at, updated_at, trust_domain, \
                 bundle_endpoint_url, bundle_endpoint_profile, endpoint_spiffe_id, implicit) \
                 VALUES ({TIME}, {TIME}, ?, ?, ?, ?, 0)"
            );
            sql::query(text)
                .bind(self.now.seconds())
                .bind(self.now.seconds())
                .bind(relationship.trust_domain.as_str().to_owned())
                .bind(relationship.bundle_endpoint_url.clone())
                .bind(profile)
                .bind(endpoint)
                .execute(&mut *self.conn)
                .await?;
        }
        let unspent = contents.contents.join_tokens.iter().filter(|it| it.spent_by.is_none());
        for token in unspent {
            let text = format!(
                "INSERT INTO join_tokens (created_at, updated_at, token, expiry) \
                 VALUES ({TIME}, {TIME}, ?, ?)"
            );
            let query = sql::query(text).bind(self.now.seconds()).bind(self.now.seconds());
            query
                .bind(token.token.clone())
                .bind(token.expires_at.seconds())
                .execute(&mut *self.conn)
                .await?;
        }
        for journal in &contents.journals {
            let text = format!(
                "INSERT INTO ca_journals (created_at, updated_at, data, \
                 active_x509_authority_id, active_jwt_authority_id) VALUES ({TIME}, {TIME}, ?, ?, '')"
            );
            let query = sql::query(text).bind(self.now.seconds()).bind(self.now.seconds());
            query
                .bind(blobs::write_journal(journal))
                .bind(journal.active_x509_authority_id.clone())
                .execute(&mut *self.conn)
                .await?;
        }
        Ok(())
    }
}
