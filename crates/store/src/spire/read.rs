//! Reading a SPIRE database, without changing a byte of it.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use signet_identity::{
    AttestedNode, BundleEndpointProfile, Entry, EntrySpec, FederationRelationship, JoinToken,
    Selector, SpiffeId, TrustDomain,
};
use signet_time::UnixTime;
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteRow};

use super::{
    SCHEMA_VERSION, SpireContents, SpireError, blobs,
    schema::{damaged, named, rounded_seconds, seconds},
};
use crate::{
    Contents,
    sqlite::{fault::Fault, open, sql},
};

/// Reads a SPIRE database, without changing a byte of it. SPIRE should not be running.
///
/// # Errors
/// [`SpireError`]. Single rows that cannot be carried over are no error: they are listed in
/// [`SpireContents::skipped`].
pub async fn read(path: &Path) -> Result<SpireContents, SpireError> {
    if !path.is_file() {
        return Err(SpireError::Missing(path.to_owned()));
    }
    let fault = |fault| named(path, fault);
    let tables = open::tables(path).await.map_err(|error| fault(error.into()))?;
    let has = |name: &str| tables.iter().any(|table| table == name);
    if !has("registered_entries") || !has("migrations") {
        return Err(SpireError::NotSpire(path.to_owned()));
    }
    let connected = SqliteConnection::connect_with(&open::read_only(path)).await;
    let mut conn = connected.map_err(|error| fault(error.into()))?;
    let (found, code_version) = version(&mut conn).await.map_err(fault)?;
    if found != SCHEMA_VERSION {
        return Err(SpireError::Version { path: path.to_owned(), found, code_version });
    }
    let mut reader = Reader { conn, skipped: Vec::new() };
    let mut contents = reader.all().await.map_err(fault)?;
    contents.code_version = code_version;
    contents.skipped = reader.skipped;
    reader.conn.close().await.map_err(|error| fault(error.into()))?;
    Ok(contents)
}

async fn version(conn: &mut SqliteConnection) -> Result<(i64, String), Fault> {
    let row = sqlx::query(
        "SELECT coalesce(version, 0), coalesce(code_version, '') FROM migrations ORDER BY id LIMIT 1",
    )
    .fetch_optional(conn)
    .await?;
    match row {
        Some(row) => Ok((row.try_get(0)?, row.try_get(1)?)),
        None => Ok((0, String::new())),
    }
}

struct Reader {
    conn: SqliteConnection,
    skipped: Vec<String>,
}

impl Reader {
    async fn all(&mut self) -> Result<SpireContents, Fault> {
        // One snapshot, in case somebody does write.
        sqlx::query("BEGIN").execute(&mut self.conn).await?;
        let mut found = SpireContents::default();
        self.bundles(&mut found.contents).await?;
        self.entries(&mut found.contents).await?;
        self.nodes(&mut found.contents).await?;
        self.federations(&mut found.contents).await?;
        self.tokens(&mut found.contents).await?;
        let rows = sqlx::query(
            "SELECT coalesce(active_x509_authority_id, ''), coalesce(data, x''), id \
             FROM ca_journals ORDER BY id",
        )
        .fetch_all(&mut self.conn)
        .await?;
        for row in rows {
            let what = format!("CA journal {}", row.try_get::<i64, _>(2)?);
            let journal = blobs::read_journal(row.try_get(0)?, row.try_get(1)?);
            found.journals.push(journal.map_err(damaged(&what))?);
        }
        sqlx::query("ROLLBACK").execute(&mut self.conn).await?;
        Ok(found)
    }

    fn skip(&mut self, what: &str, why: impl std::fmt::Display) {
        self.skipped.push(format!("{what}: {why}"));
    }

    async fn bundles(&mut self, contents: &mut Contents) -> Result<(), Fault> {
        let rows = sqlx::query("SELECT trust_domain, coalesce(data, x'') FROM bundles ORDER BY id")
            .fetch_all(&mut self.conn)
            .await?;
        for row in rows {
            let name: String = row.try_get(0)?;
            let what = format!("bundle \"{name}\"");
            match TrustDomain::from_name_or_id(&name) {
                Ok(trust_domain) => {
                    let bundle = blobs::read_bundle(trust_domain, row.try_get(1)?);
                    contents.bundles.push(bundle.map_err(damaged(&what))?);
                }
                Err(error) => self.skip(&what, error),
            }
        }
        Ok(())
    }

    /// The texts of a side table, by the number of the entry they belong to.
    async fn of_entries<T>(
        &mut self,
        text: String,
        read: impl Fn(&SqliteRow) -> Result<T, sqlx::Error>,
    ) -> Result<HashMap<i64, Vec<T>>, Fault> {
        let mut all: HashMap<i64, Vec<T>> = HashMap::new();
        for row in sql::query(text).fetch_all(&mut self.conn).await? {
            all.entry(row.try_get(0)?).or_default().push(read(&row)?);
        }
        Ok(all)
    }

    async fn entries(&mut self, contents: &mut Contents) -> Result<(), Fault> {
        let pair = |row: &SqliteRow| Ok((row.try_get(1)?, row.try_get(2)?));
        let selectors: HashMap<i64, Vec<(String, String)>> = self
            .of_entries(
                "SELECT registered_entry_id, type, value FROM selectors ORDER BY id".to_owned(),
                pair,
            )
            .await?;
        let dns_names: HashMap<i64, Vec<String>> = self
            .of_entries(
                "SELECT registered_entry_id, value FROM dns_names ORDER BY id".to_owned(),
                |row| row.try_get(1),
            )
            .await?;
        let federated: HashMap<i64, Vec<String>> = self
            .of_entries(
                "SELECT f.registered_entry_id, b.trust_domain \
                 FROM federated_registration_entries f JOIN bundles b ON b.id = f.bundle_id \
                 ORDER BY b.id"
                    .to_owned(),
                |row| row.try_get(1),
            )
            .await?;
        let text = format!(
            "SELECT id, entry_id, spiffe_id, parent_id, coalesce(ttl, 0), \
             coalesce(admin, 0), coalesce(downstream, 0), coalesce(expiry, 0), \
             coalesce(revision_number, 0), coalesce(store_svid, 0), coalesce(hint, ''), \
             coalesce(jwt_svid_ttl, 0), coalesce(additional_attributes, x''), \
             coalesce({}, 0) FROM registered_entries ORDER BY id",
            rounded_seconds("created_at")
        );
        for row in sql::query(text).fetch_all(&mut self.conn).await? {
            let number: i64 = row.try_get(0)?;
            let id: String = row.try_get(1)?;
            let what = format!("entry {id}");
            let ids: (String, String) = (row.try_get(2)?, row.try_get(3)?);
            let draft = draft(
                ids,
                selectors.get(&number).map_or(&[], Vec::as_slice),
                dns_names.get(&number).map_or(&[], Vec::as_slice),
                federated.get(&number).map_or(&[], Vec::as_slice),
            );
            let (id, mut draft) = match (id.parse(), draft) {
                (Ok(id), Ok(draft)) => (id, draft),
                (Err(error), _) => {
                    self.skip(&what, error);
                    continue;
                }
                (_, Err(why)) => {
                    self.skip(&what, why);
                    continue;
                }
            };
            draft.x509_svid_ttl = row.try_get(4)?;
            draft.admin = row.try_get(5)?;
            draft.downstream = row.try_get(6)?;
            draft.expires_at = UnixTime::from_seconds(row.try_get(7)?);
            draft.store_svid = row.try_get(9)?;
            draft.hint = row.try_get(10)?;
            draft.jwt_svid_ttl = row.try_get(11)?;
            blobs::read_attributes(row.try_get(12)?, &mut draft).map_err(damaged(&what))?;
            contents.entries.push(Entry {
                id,
                spec: draft,
                revision_number: row.try_get(8)?,
                created_at: UnixTime::from_seconds(row.try_get(13)?),
            });
        }
        Ok(())
    }

    async fn nodes(&mut self, contents: &mut Contents) -> Result<(), Fault> {
        let mut selectors: HashMap<String, Vec<(String, String)>> = HashMap::new();
        let rows = sqlx::query("SELECT spiffe_id, type, value FROM node_resolver_map_entries")
            .fetch_all(&mut self.conn)
            .await?;
        for row in rows {
            let pair = (row.try_get(1)?, row.try_get(2)?);
            selectors.entry(row.try_get(0)?).or_default().push(pair);
        }
        let text = format!(
            "SELECT spiffe_id, coalesce(data_type, ''), coalesce(serial_number, ''), \
             coalesce({}, 0), coalesce(new_serial_number, ''), coalesce({}, 0), \
             coalesce(can_reattest, 0), coalesce(agent_version, '') \
             FROM attested_node_entries ORDER BY id",
            seconds("expires_at"),
            seconds("new_expires_at")
        );
        for row in sql::query(text).fetch_all(&mut self.conn).await? {
            let id: String = row.try_get(0)?;
            let what = format!("attested node {id}");
            let none = Vec::new();
            let parsed = id.parse::<SpiffeId>().map_err(|error| error.to_string());
            let selectors = set(selectors.get(&id).unwrap_or(&none));
            let (spiffe_id, selectors) = match (parsed, selectors) {
                (Ok(id), Ok(selectors)) => (id, selectors),
                (Err(why), _) | (_, Err(why)) => {
                    self.skip(&what, why);
                    continue;
                }
            };
            contents.nodes.push(AttestedNode {
                spiffe_id,
                attestation_type: row.try_get(1)?,
                serial_number: row.try_get(2)?,
                expires_at: UnixTime::from_seconds(row.try_get(3)?),
                new_serial_number: row.try_get(4)?,
                new_expires_at: UnixTime::from_seconds(row.try_get(5)?),
                selectors,
                can_reattest: row.try_get(6)?,
                agent_version: row.try_get(7)?,
            });
        }
        Ok(())
    }

    async fn federations(&mut self, contents: &mut Contents) -> Result<(), Fault> {
        let rows = sqlx::query(
            "SELECT trust_domain, coalesce(bundle_endpoint_url, ''), \
             coalesce(bundle_endpoint_profile, ''), coalesce(endpoint_spiffe_id, '') \
             FROM federated_trust_domains ORDER BY id",
        )
        .fetch_all(&mut self.conn)
        .await?;
        for row in rows {
            let name: String = row.try_get(0)?;
            let what = format!("federation relationship \"{name}\"");
            let profile: String = row.try_get(2)?;
            let endpoint: String = row.try_get(3)?;
            match relationship(&name, row.try_get(1)?, &profile, &endpoint) {
                Ok(relationship) => contents.federations.push(relationship),
                Err(why) => self.skip(&what, why),
            }
        }
        Ok(())
    }

    async fn tokens(&mut self, contents: &mut Contents) -> Result<(), Fault> {
        let rows = sqlx::query("SELECT token, coalesce(expiry, 0) FROM join_tokens ORDER BY id")
            .fetch_all(&mut self.conn)
            .await?;
        for row in rows {
            contents.join_tokens.push(JoinToken {
                token: row.try_get(0)?,
                expires_at: UnixTime::from_seconds(row.try_get(1)?),
                spent_by: None,
            });
        }
        Ok(())
    }
}

pub(super) fn relationship(
    trust_domain: &str,
    bundle_endpoint_url: String,
    profile: &str,
    endpoint: &str,
) -> Result<FederationRelationship, String> {
    let trust_domain =
        TrustDomain::from_name_or_id(trust_domain).map_err(|error| error.to_string())?;
    let profile = match profile {
        "https_web" => BundleEndpointProfile::HttpsWeb,
        "https_spiffe" => {
            let endpoint_spiffe_id = endpoint
                .parse()
                .map_err(|error| format!("endpoint SPIFFE ID \"{endpoint}\": {error}"))?;
            BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id }
        }
        other => return Err(format!("unknown profile \"{other}\"")),
    };
    Ok(FederationRelationship { trust_domain, bundle_endpoint_url, profile })
}

pub(super) fn set(pairs: &[(String, String)]) -> Result<signet_identity::SelectorSet, String> {
    let selector = |(kind, value): &(String, String)| {
        Selector::new(kind, value).map_err(|error| format!("selector {kind}:{value}: {error}"))
    };
    pairs.iter().map(selector).collect()
}

pub(super) fn draft(
    (spiffe_id, parent_id): (String, String),
    selectors: &[(String, String)],
    dns_names: &[String],
    federated: &[String],
) -> Result<EntrySpec, String> {
    let id = |text: &str| {
        text.parse::<SpiffeId>().map_err(|error| format!("SPIFFE ID \"{text}\": {error}"))
    };
    let mut draft = EntrySpec::new(id(&spiffe_id)?, id(&parent_id)?, set(selectors)?);
    draft.dns_names = dns_names.to_vec();
    let mut seen = HashSet::new();
    for name in federated {
        let trust_domain = TrustDomain::from_name_or_id(name)
            .map_err(|error| format!("federates with \"{name}\": {error}"))?;
        if seen.insert(trust_domain.clone()) {
            draft.federates_with.push(trust_domain);
        }
    }
    Ok(draft)
}
