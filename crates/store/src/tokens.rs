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
pub enum SpendOutcome {
    /// The token is now bound to this key.
    Spent,
    /// The token was bound to this key before and has not expired: a lost reply is repeated.
    SpentBefore,
    /// The token is bound to another key.
    SpentByAnother,
    /// The token has expired.
    Expired,
    /// No such token.
    Unknown,
}

/// What came of [`Store::attest_with_token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAttestation {
    /// The agent is recorded.
    Attested,
    /// The agent is banned.
    Banned,
    /// The token is not to be had: why.
    Refused(SpendOutcome),
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
            if !insert(&mut tx, &token).await? {
                return Ok(CreateOutcome::Exists);
            }
            let outcome = match entry {
                Some(entry) => entries::write::create(&mut tx, vec![entry]).await?.pop(),
                None => None,
            };
            tx.commit().await?;
            Ok(CreateOutcome::Created(outcome))
        })
        .await
    }

    /// Spends a token: at most one key ever can. `csr_key_hash` is SHA-256 over the CSR's
    /// SubjectPublicKeyInfo. When this returns [`SpendOutcome::Spent`] the binding is on disk.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn spend_join_token(
        &self,
        token: &str,
        csr_key_hash: [u8; 32],
        now: i64,
    ) -> Result<SpendOutcome, StoreError> {
        doing("spending a join token", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let outcome = spend(&mut tx, token, csr_key_hash, now).await?;
            if outcome == SpendOutcome::Spent {
                tx.commit().await?;
            }
            Ok(outcome)
        })
        .await
    }

    /// Spends a token and records the agent that it attests, in one transaction. A node that is
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
            match spend(&mut tx, token, csr_key_hash, now).await? {
                SpendOutcome::Spent | SpendOutcome::SpentBefore => {}
                refused => return Ok(TokenAttestation::Refused(refused)),
            }
            let old = rows::get(tx.conn().await?, &node.spiffe_id).await?;
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

/// Binds a token to a key if it is free, and says how it stood. Leaves the transaction open.
async fn spend(
    tx: &mut Tx<'_>,
    token: &str,
    csr_key_hash: [u8; 32],
    now: i64,
) -> Result<SpendOutcome, Fault> {
    let done = sqlx::query(
        "UPDATE join_tokens SET spent_by = ? \
         WHERE token = ? AND expires_at >= ? AND spent_by IS NULL",
    )
    .bind(csr_key_hash.to_vec())
    .bind(token)
    .bind(now)
    .execute(tx.conn().await?)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(SpendOutcome::Spent);
    }
    Ok(match get(tx.conn().await?, token).await? {
        None => SpendOutcome::Unknown,
        Some(found) if found.expires_at < now => SpendOutcome::Expired,
        Some(found) if found.spent_by == Some(csr_key_hash) => SpendOutcome::SpentBefore,
        Some(_) => SpendOutcome::SpentByAnother,
    })
}

/// Stores a token unless it exists; answers whether it did.
pub(crate) async fn insert(tx: &mut Tx<'_>, token: &JoinToken) -> Result<bool, Fault> {
    let done = sqlx::query(
        "INSERT INTO join_tokens (token, expires_at, spent_by) VALUES (?, ?, ?) \
         ON CONFLICT (token) DO NOTHING",
    )
    .bind(&token.token)
    .bind(token.expires_at)
    .bind(token.spent_by.map(|hash| hash.to_vec()))
    .execute(tx.conn().await?)
    .await?;
    Ok(done.rows_affected() > 0)
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
