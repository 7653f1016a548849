//! Join tokens.

use signet_identity::{AttestedNode, JoinToken};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    CreateEntryOutcome, CreateOutcome, NewEntry, Store, StoreError, entries,
    fault::{Fault, doing},
    nodes::rows,
    store::Tx,
};

/// What came of presenting a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAttestation {
    /// The token is bound to this key (since now, or since before: a lost reply is repeated), and
    /// the agent is recorded.
    Attested,
    /// The agent is banned.
    Banned,
    /// The token is bound to another key.
    SpentByAnother,
    /// The token has expired.
    Expired,
    /// No such token.
    Unknown,
}

impl Store {
    /// Stores a fresh token and, when given, the entry that stands for its agent, in one
    /// transaction. When the token exists nothing is stored.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn create_join_token(
        &self,
        token: JoinToken,
        entry: Option<NewEntry>,
        now: i64,
    ) -> Result<CreateOutcome<Option<CreateEntryOutcome>>, StoreError> {
        doing("creating a join token", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            insert(&mut tx, &token).await?;
            let done = async {
                let outcome = match entry {
                    Some(entry) => entries::write::create(&mut tx, vec![entry]).await?.pop(),
                    None => None,
                };
                tx.commit().await?;
                Ok::<_, Fault>(outcome)
            };
            match done.await {
                Ok(outcome) => Ok(CreateOutcome::Created(outcome)),
                Err(fault) if fault.is_duplicate("join_tokens.token") => Ok(CreateOutcome::Exists),
                Err(fault) => Err(fault),
            }
        })
        .await
    }

    /// Spends a token, which at most one key ever can, and records the agent that it attests, in
    /// one transaction. `csr_key_hash` is SHA-256 over the CSR's SubjectPublicKeyInfo. A node that is
    /// there keeps its agent version; one that is banned stays banned, and the token unspent.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn attest_with_token(
        &self,
        token: &str,
        csr_key_hash: [u8; 32],
        node: AttestedNode,
        now: i64,
    ) -> Result<TokenAttestation, StoreError> {
        doing("attesting with a join token", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let text = "UPDATE join_tokens SET spent_by = ? WHERE token = ? AND expires_at >= ? \
                        AND spent_by IS NULL RETURNING 1";
            tx.later(text).await?.bind(csr_key_hash.to_vec()).bind(token).bind(now);
            tx.later(&rows::by_id()).await?.bind(node.spiffe_id.to_string());
            let [bound, old] = tx.last_two().await?;
            if bound.is_empty() {
                match get(tx.conn().await?, token).await? {
                    None => return Ok(TokenAttestation::Unknown),
                    Some(found) if found.expires_at < now => return Ok(TokenAttestation::Expired),
                    Some(found) if found.spent_by == Some(csr_key_hash) => {}
                    Some(_) => return Ok(TokenAttestation::SpentByAnother),
                }
            }
            let old = rows::read(&old)?;
            let agent_version = match &old {
                Some((_, old)) if old.is_banned() => return Ok(TokenAttestation::Banned),
                Some((_, old)) => old.agent_version.clone(),
                None => String::new(),
            };
            rows::put(&mut tx, old.as_ref(), &AttestedNode { agent_version, ..node }).await?;
            tx.commit().await?;
            Ok(TokenAttestation::Attested)
        })
        .await
    }

    /// A token as stored, spent or not.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn join_token(&self, token: &str) -> Result<Option<JoinToken>, StoreError> {
        doing("reading a join token", async {
            let mut conn = self.read().await?;
            get(&mut conn, token).await
        })
        .await
    }

    /// Every token, spent or not, by value.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn join_tokens(&self) -> Result<Vec<JoinToken>, StoreError> {
        doing("listing join tokens", async {
            let mut conn = self.read().await?;
            let rows = sqlx::query("SELECT token, expires_at, spent_by FROM join_tokens")
                .fetch_all(&mut *conn)
                .await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    /// Deletes tokens that expired before `expired_before`; returns how many.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn prune_join_tokens(&self, expired_before: i64) -> Result<u64, StoreError> {
        doing("pruning join tokens", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(expired_before).await?;
            let done = sqlx::query("DELETE FROM join_tokens WHERE expires_at < ?")
                .bind(expired_before)
                .execute(tx.conn().await?)
                .await?;
            tx.commit().await?;
            Ok(done.rows_affected())
        })
        .await
    }
}

/// Stores a token; the transaction fails if it exists.
pub(crate) async fn insert(tx: &mut Tx<'_>, token: &JoinToken) -> Result<(), Fault> {
    let text = "INSERT INTO join_tokens (token, expires_at, spent_by) VALUES (?, ?, ?)";
    tx.later(text)
        .await?
        .bind(token.token.as_str())
        .bind(token.expires_at)
        .bind(token.spent_by.map(|hash| hash.to_vec()));
    Ok(())
}

async fn get(conn: &mut SqliteConnection, token: &str) -> Result<Option<JoinToken>, Fault> {
    let row = sqlx::query("SELECT token, expires_at, spent_by FROM join_tokens WHERE token = ?")
        .bind(token)
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(read).transpose()
}

fn read(row: &SqliteRow) -> Result<JoinToken, Fault> {
    let spent_by = match row.try_get::<Option<&[u8]>, _>(2)? {
        Some(hash) => Some(
            hash.try_into()
                .map_err(|_| Fault::corrupt("join token", "spent by no SHA-256 hash"))?,
        ),
        None => None,
    };
    Ok(JoinToken { token: row.try_get(0)?, expires_at: row.try_get(1)?, spent_by })
}
