//! SPIRE's database on PostgreSQL (schema version 25, SPIRE 1.15), read and written.

use std::collections::HashMap;

use signet_identity::{AttestedNode, Entry, JoinToken, SpiffeId, TrustDomain};
use signet_time::UnixTime;
use tokio::time::Instant;
use tokio_postgres::Row;

use super::{
    CODE_VERSION, SCHEMA_VERSION, SpireContents, SpireError, blobs,
    read::{draft, relationship, set},
    wire::Malformed,
};
use crate::{
    Contents,
    postgres::{ConnectionString, Fault, Query, once, params},
};

/// SPIRE's tables, empty.
const TABLES: &str = include_str!("../../migrations/spire/25_postgres.sql");
/// How long all of it may take.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(3600);
/// How many rows one statement writes.
const ROWS: usize = 2_000;

fn damaged(what: &str) -> impl Fn(Malformed) -> Fault + '_ {
    move |error| Fault::corrupt(what, error)
}

fn named(database: &str, fault: Fault) -> SpireError {
    match fault {
        Fault::Corrupt(why) => SpireError::Corrupt { path: database.into(), why },
        other => {
            let why = match other.while_doing("using it") {
                crate::StoreError::Unavailable { why, .. } => why,
                error => signet_base::chain(&error),
            };
            SpireError::Postgres { database: database.to_owned(), why }
        }
    }
}

async fn connect(to: &ConnectionString) -> Result<Query, SpireError> {
    let database = to.to_string();
    let deadline = Instant::now() + LONGEST;
    once(to, deadline).await.map_err(|why| SpireError::Postgres { database, why })
}

/// Reads a SPIRE database, without changing it. SPIRE should not be running.
///
/// # Errors
/// [`SpireError`]. Single rows that cannot be carried over are no error: they are listed in
/// [`SpireContents::skipped`].
pub async fn read_postgres(from: &ConnectionString) -> Result<SpireContents, SpireError> {
    let database = from.to_string();
    let mut query = connect(from).await?;
    let fault = |fault| named(&database, fault);
    if !is_there(&query).await.map_err(fault)? {
        return Err(SpireError::NotSpire(database.into()));
    }
    // One snapshot, in case somebody does write.
    query.set_in_transaction(true);
    query.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(fault)?;
    let (found, code_version) = version(&query).await.map_err(fault)?;
    if found != SCHEMA_VERSION {
        return Err(SpireError::Version { path: database.into(), found, code_version });
    }
    let mut reader = Reader { query, skipped: Vec::new() };
    let mut contents = reader.all().await.map_err(fault)?;
    contents.code_version = code_version;
    contents.skipped = reader.skipped;
    Ok(contents)
}

async fn is_there(query: &Query) -> Result<bool, Fault> {
    let text = "SELECT to_regclass('registered_entries') IS NOT NULL \
                AND to_regclass('migrations') IS NOT NULL";
    Ok(query.one(text, &[]).await?.try_get(0)?)
}

async fn version(query: &Query) -> Result<(i64, String), Fault> {
    let text = "SELECT coalesce(version, 0)::bigint, coalesce(code_version, '') \
                FROM migrations ORDER BY id LIMIT 1";
    match query.first(text, &[]).await? {
        Some(row) => Ok((row.try_get(0)?, row.try_get(1)?)),
        None => Ok((0, String::new())),
    }
}

struct Reader {
    query: Query,
    skipped: Vec<String>,
}

impl Reader {
    async fn all(&mut self) -> Result<SpireContents, Fault> {
        let mut found = SpireContents::default();
        self.bundles(&mut found.contents).await?;
        self.entries(&mut found.contents).await?;
        self.nodes(&mut found.contents).await?;
        self.federations(&mut found.contents).await?;
        let text = "SELECT token, coalesce(expiry, 0) FROM join_tokens ORDER BY id";
        for row in self.query.all(text, &[]).await? {
            found.contents.join_tokens.push(JoinToken {
                token: row.try_get(0)?,
                expires_at: UnixTime::from_seconds(row.try_get(1)?),
                spent_by: None,
            });
        }
        let text = "SELECT coalesce(active_x509_authority_id, ''), coalesce(data, ''), id::bigint \
                    FROM ca_journals ORDER BY id";
        for row in self.query.all(text, &[]).await? {
            let what = format!("CA journal {}", row.try_get::<_, i64>(2)?);
            let journal = blobs::read_journal(row.try_get(0)?, row.try_get(1)?);
            found.journals.push(journal.map_err(damaged(&what))?);
        }
        Ok(found)
    }

    fn skip(&mut self, what: &str, why: impl std::fmt::Display) {
        self.skipped.push(format!("{what}: {why}"));
    }

    async fn bundles(&mut self, contents: &mut Contents) -> Result<(), Fault> {
        let text = "SELECT trust_domain, coalesce(data, '') FROM bundles ORDER BY id";
        for row in self.query.all(text, &[]).await? {
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
        &self,
        text: &str,
        read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<HashMap<i64, Vec<T>>, Fault> {
        let mut all: HashMap<i64, Vec<T>> = HashMap::new();
        for row in self.query.all(text, &[]).await? {
            all.entry(row.try_get(0)?).or_default().push(read(&row)?);
        }
        Ok(all)
    }

    async fn entries(&mut self, contents: &mut Contents) -> Result<(), Fault> {
        let selectors: HashMap<i64, Vec<(String, String)>> = self
            .of_entries(
                "SELECT registered_entry_id::bigint, type, value FROM selectors \
                 WHERE registered_entry_id IS NOT NULL ORDER BY id",
                |row| Ok((row.try_get(1)?, row.try_get(2)?)),
            )
            .await?;
        let dns_names: HashMap<i64, Vec<String>> = self
            .of_entries(
                "SELECT registered_entry_id::bigint, value FROM dns_names \
                 WHERE registered_entry_id IS NOT NULL ORDER BY id",
                |row| row.try_get(1),
            )
            .await?;
        let federated: HashMap<i64, Vec<String>> = self
            .of_entries(
                "SELECT f.registered_entry_id::bigint, b.trust_domain \
                 FROM federated_registration_entries f JOIN bundles b ON b.id = f.bundle_id \
                 ORDER BY b.id",
                |row| row.try_get(1),
            )
            .await?;
        // Creation times are rounded to the nearest second, as SPIRE does.
        let text = "SELECT id::bigint, entry_id, spiffe_id, parent_id, coalesce(ttl, 0), \
             coalesce(admin, false), coalesce(downstream, false), coalesce(expiry, 0), \
             coalesce(revision_number, 0), coalesce(store_svid, false), coalesce(hint, ''), \
             coalesce(jwt_svid_ttl, 0), coalesce(additional_attributes, ''), \
             coalesce(floor(extract(epoch FROM created_at) + 0.5), 0)::bigint \
             FROM registered_entries ORDER BY id";
        for row in self.query.all(text, &[]).await? {
            let number: i64 = row.try_get(0)?;
            let id: String = row.try_get(1)?;
            let what = format!("entry {id}");
            let drafted = draft(
                (row.try_get(2)?, row.try_get(3)?),
                selectors.get(&number).map_or(&[], Vec::as_slice),
                dns_names.get(&number).map_or(&[], Vec::as_slice),
                federated.get(&number).map_or(&[], Vec::as_slice),
            );
            let (id, mut spec) = match (id.parse(), drafted) {
                (Ok(id), Ok(spec)) => (id, spec),
                (Err(error), _) => {
                    self.skip(&what, error);
                    continue;
                }
                (_, Err(why)) => {
                    self.skip(&what, why);
                    continue;
                }
            };
            spec.x509_svid_ttl = row.try_get(4)?;
            spec.admin = row.try_get(5)?;
            spec.downstream = row.try_get(6)?;
            spec.expires_at = UnixTime::from_seconds(row.try_get(7)?);
            spec.store_svid = row.try_get(9)?;
            spec.hint = row.try_get(10)?;
            spec.jwt_svid_ttl = row.try_get(11)?;
            blobs::read_attributes(row.try_get(12)?, &mut spec).map_err(damaged(&what))?;
            contents.entries.push(Entry {
                id,
                spec,
                revision_number: row.try_get(8)?,
                created_at: UnixTime::from_seconds(row.try_get(13)?),
            });
        }
        Ok(())
    }

    async fn nodes(&mut self, contents: &mut Contents) -> Result<(), Fault> {
        let mut selectors: HashMap<String, Vec<(String, String)>> = HashMap::new();
        let text = "SELECT spiffe_id, type, value FROM node_resolver_map_entries";
        for row in self.query.all(text, &[]).await? {
            let pair = (row.try_get(1)?, row.try_get(2)?);
            selectors.entry(row.try_get(0)?).or_default().push(pair);
        }
        let text = "SELECT spiffe_id, coalesce(data_type, ''), coalesce(serial_number, ''), \
             coalesce(floor(extract(epoch FROM expires_at)), 0)::bigint, \
             coalesce(new_serial_number, ''), \
             coalesce(floor(extract(epoch FROM new_expires_at)), 0)::bigint, \
             coalesce(can_reattest, false), coalesce(agent_version, '') \
             FROM attested_node_entries ORDER BY id";
        for row in self.query.all(text, &[]).await? {
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
        let text = "SELECT trust_domain, coalesce(bundle_endpoint_url, ''), \
             coalesce(bundle_endpoint_profile, ''), coalesce(endpoint_spiffe_id, '') \
             FROM federated_trust_domains ORDER BY id";
        for row in self.query.all(text, &[]).await? {
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
}

/// Makes SPIRE's tables and fills them, in one transaction. Join tokens that were spent here are
/// left out.
///
/// # Errors
/// [`SpireError`], also when the tables are there; then nothing was changed.
pub async fn write_postgres(
    to: &ConnectionString,
    contents: &SpireContents,
    now: UnixTime,
) -> Result<(), SpireError> {
    let database = to.to_string();
    let mut query = connect(to).await?;
    let fault = |fault| named(&database, fault);
    if is_there(&query).await.map_err(fault)? {
        return Err(SpireError::Exists(database.into()));
    }
    query.set_in_transaction(true);
    query.batch("BEGIN").await.map_err(fault)?;
    fill(&query, contents, now).await.map_err(fault)?;
    query.batch("COMMIT").await.map_err(fault)?;
    query.set_in_transaction(false);
    Ok(())
}

async fn fill(query: &Query, contents: &SpireContents, now: UnixTime) -> Result<(), Fault> {
    query.batch(TABLES).await?;
    query
        .execute(
            "INSERT INTO migrations (created_at, updated_at, version, code_version) \
             VALUES (to_timestamp($1::bigint), to_timestamp($1::bigint), $2::bigint, $3)",
            params![now.seconds() => INT8, SCHEMA_VERSION => INT8, CODE_VERSION => TEXT],
        )
        .await?;
    let mut bundles = HashMap::new();
    for (number, bundle) in (1_i64..).zip(&contents.contents.bundles) {
        query
            .execute(
                "INSERT INTO bundles (id, created_at, updated_at, trust_domain, data) VALUES \
                 ($1::bigint, to_timestamp($2::bigint), to_timestamp($2::bigint), $3, $4)",
                params![
                    number => INT8, now.seconds() => INT8, bundle.trust_domain.id_string() => TEXT,
                    blobs::write_bundle(bundle) => BYTEA,
                ],
            )
            .await?;
        bundles.insert(bundle.trust_domain.clone(), number);
    }
    entries(query, &contents.contents.entries, &bundles, now).await?;
    for some in contents.contents.nodes.chunks(ROWS) {
        nodes(query, some, now).await?;
    }
    rest(query, contents, now).await?;
    for table in ["bundles", "registered_entries"] {
        let text = format!(
            "SELECT setval(pg_get_serial_sequence('{table}', 'id'), \
             (SELECT coalesce(max(id), 0) + 1 FROM {table}), false)"
        );
        query.one(&text, &[]).await?;
    }
    Ok(())
}

async fn entries(
    query: &Query,
    entries: &[Entry],
    bundles: &HashMap<TrustDomain, i64>,
    now: UnixTime,
) -> Result<(), Fault> {
    let mut next = 1_i64;
    for some in entries.chunks(ROWS) {
        let first = next;
        next += some.len() as i64;
        let texts = |read: fn(&Entry) -> String| some.iter().map(read).collect::<Vec<_>>();
        let flags = |read: fn(&Entry) -> bool| some.iter().map(read).collect::<Vec<_>>();
        let numbers = |read: fn(&Entry) -> i64| some.iter().map(read).collect::<Vec<_>>();
        let attributes: Vec<Option<Vec<u8>>> =
            some.iter().map(|it| blobs::write_attributes(it)).collect();
        query
            .execute(
                "INSERT INTO registered_entries (id, created_at, updated_at, entry_id, spiffe_id, \
                 parent_id, ttl, admin, downstream, expiry, revision_number, store_svid, hint, \
                 jwt_svid_ttl, additional_attributes) \
                 SELECT $1 + r.n - 1, to_timestamp(r.created), \
                 to_timestamp(greatest(r.created, $2)), r.entry_id, r.spiffe_id, r.parent_id, \
                 r.ttl, r.admin, r.downstream, r.expiry, r.revision, r.store_svid, r.hint, \
                 r.jwt_ttl, r.attributes FROM unnest($3::bigint[], $4::text[], $5::text[], \
                 $6::text[], $7::bigint[], $8::bool[], $9::bool[], $10::bigint[], $11::bigint[], \
                 $12::bool[], $13::text[], $14::bigint[], $15::bytea[]) WITH ORDINALITY AS \
                 r(created, entry_id, spiffe_id, parent_id, ttl, admin, downstream, expiry, \
                 revision, store_svid, hint, jwt_ttl, attributes, n)",
                params![
                    first => INT8, now.seconds() => INT8,
                    numbers(|it| it.created_at.seconds()) => INT8_ARRAY,
                    texts(|it| it.id.as_str().to_owned()) => TEXT_ARRAY,
                    texts(|it| it.spiffe_id.to_string()) => TEXT_ARRAY,
                    texts(|it| it.parent_id.to_string()) => TEXT_ARRAY,
                    numbers(|it| it.x509_svid_ttl.into()) => INT8_ARRAY,
                    flags(|it| it.admin) => BOOL_ARRAY,
                    flags(|it| it.downstream) => BOOL_ARRAY,
                    numbers(|it| it.expires_at.seconds()) => INT8_ARRAY,
                    numbers(|it| it.revision_number) => INT8_ARRAY,
                    flags(|it| it.store_svid) => BOOL_ARRAY,
                    texts(|it| it.hint.clone()) => TEXT_ARRAY,
                    numbers(|it| it.jwt_svid_ttl.into()) => INT8_ARRAY,
                    attributes => BYTEA_ARRAY,
                ],
            )
            .await?;
        sides(query, some, first, bundles).await?;
    }
    Ok(())
}

/// Selectors, DNS names and federation of entries whose numbers begin with `first`.
async fn sides(
    query: &Query,
    entries: &[Entry],
    first: i64,
    bundles: &HashMap<TrustDomain, i64>,
) -> Result<(), Fault> {
    let mut selectors = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut names = (Vec::new(), Vec::new(), Vec::new());
    let mut federated = (Vec::new(), Vec::new());
    for (number, entry) in (first..).zip(entries) {
        for selector in &entry.selectors {
            selectors.0.push(number);
            selectors.1.push(selector.kind().to_owned());
            selectors.2.push(selector.value().to_owned());
            selectors.3.push(entry.created_at.seconds());
        }
        for name in &entry.dns_names {
            names.0.push(number);
            names.1.push(name.as_str());
            names.2.push(entry.created_at.seconds());
        }
        for name in &entry.federates_with {
            let bundle = bundles.get(name).ok_or_else(|| {
                let id = &entry.id;
                Fault::Corrupt(format!("entry {id} federates with {name}, which has no bundle"))
            })?;
            federated.0.push(*bundle);
            federated.1.push(number);
        }
    }
    query
        .execute(
            "INSERT INTO selectors (created_at, updated_at, registered_entry_id, type, value) \
             SELECT to_timestamp(r.at), to_timestamp(r.at), r.entry, r.type, r.value \
             FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[]) \
             AS r(entry, type, value, at)",
            params![
                selectors.0 => INT8_ARRAY, selectors.1 => TEXT_ARRAY, selectors.2 => TEXT_ARRAY,
                selectors.3 => INT8_ARRAY,
            ],
        )
        .await?;
    // SPIRE holds each name of an entry once.
    query
        .execute(
            "INSERT INTO dns_names (created_at, updated_at, registered_entry_id, value) \
             SELECT to_timestamp(r.at), to_timestamp(r.at), r.entry, r.value \
             FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS r(entry, value, at) \
             ON CONFLICT DO NOTHING",
            params![names.0 => INT8_ARRAY, names.1 => TEXT_ARRAY, names.2 => INT8_ARRAY],
        )
        .await?;
    query
        .execute(
            "INSERT INTO federated_registration_entries (bundle_id, registered_entry_id) \
             SELECT * FROM unnest($1::bigint[], $2::bigint[]) ON CONFLICT DO NOTHING",
            params![federated.0 => INT8_ARRAY, federated.1 => INT8_ARRAY],
        )
        .await?;
    Ok(())
}

async fn nodes(query: &Query, nodes: &[AttestedNode], now: UnixTime) -> Result<(), Fault> {
    for node in nodes {
        query
            .execute(
                "INSERT INTO attested_node_entries (created_at, updated_at, spiffe_id, data_type, \
                 serial_number, expires_at, new_serial_number, new_expires_at, can_reattest, \
                 agent_version) VALUES (to_timestamp($1::bigint), to_timestamp($1::bigint), $2, \
                 $3, $4, to_timestamp($5::bigint), $6, to_timestamp($7::bigint), $8, $9)",
                params![
                    now.seconds() => INT8, node.spiffe_id.to_string() => TEXT, node.attestation_type => TEXT,
                    node.serial_number => TEXT, node.expires_at.seconds() => INT8,
                    node.new_serial_number => TEXT,
                    (node.new_expires_at != UnixTime::EPOCH).then_some(node.new_expires_at.seconds()) => INT8,
                    node.can_reattest => BOOL, node.agent_version => TEXT,
                ],
            )
            .await?;
        for selector in &node.selectors {
            query
                .execute(
                    "INSERT INTO node_resolver_map_entries (created_at, updated_at, spiffe_id, \
                     type, value) VALUES (to_timestamp($1::bigint), to_timestamp($1::bigint), $2, \
                     $3, $4)",
                    params![
                        now.seconds() => INT8, node.spiffe_id.to_string() => TEXT,
                        selector.kind() => TEXT, selector.value() => TEXT,
                    ],
                )
                .await?;
        }
    }
    Ok(())
}

/// Federation relationships, join tokens, CA journals.
async fn rest(query: &Query, contents: &SpireContents, now: UnixTime) -> Result<(), Fault> {
    for relationship in &contents.contents.federations {
        let profile = relationship.profile.name();
        let endpoint = relationship.profile.endpoint_spiffe_id();
        let endpoint = endpoint.map(SpiffeId::to_string).unwrap_or_default();
        query
            .execute(
                "INSERT INTO federated_trust_domains (created_at, updated_at, trust_domain, \
                 bundle_endpoint_url, bundle_endpoint_profile, endpoint_spiffe_id, implicit) \
                 VALUES (to_timestamp($1::bigint), to_timestamp($1::bigint), $2, $3, $4, $5, false)",
                params![
                    now.seconds() => INT8, relationship.trust_domain.as_str() => TEXT,
                    relationship.bundle_endpoint_url => TEXT, profile => TEXT, endpoint => TEXT,
                ],
            )
            .await?;
    }
    for token in contents.contents.join_tokens.iter().filter(|it| it.spent_by.is_none()) {
        query
            .execute(
                "INSERT INTO join_tokens (created_at, updated_at, token, expiry) \
                 VALUES (to_timestamp($1::bigint), to_timestamp($1::bigint), $2, $3)",
                params![now.seconds() => INT8, token.token => TEXT, token.expires_at.seconds() => INT8],
            )
            .await?;
    }
    for journal in &contents.journals {
        query
            .execute(
                "INSERT INTO ca_journals (created_at, updated_at, data, active_x509_authority_id, \
                 active_jwt_authority_id) \
                 VALUES (to_timestamp($1::bigint), to_timestamp($1::bigint), $2, $3, '')",
                params![
                    now.seconds() => INT8, blobs::write_journal(journal) => BYTEA,
                    journal.active_x509_authority_id => TEXT,
                ],
            )
            .await?;
    }
    Ok(())
}
