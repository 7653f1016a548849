//! Join tokens.

use async_trait::async_trait;
use signet_identity::{AttestedNode, JoinToken};
use signet_time::UnixTime;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    CreateEntryOutcome, CreateOutcome, JoinTokens, NewEntry, Operation, StoreError,
    TokenAttestation,
    sqlite::{SqliteStore, entries, fault::Fault, nodes::rows, tx::Tx},
};

#[async_trait]
impl JoinTokens for SqliteStore {
    async fn create_join_token(
        &self,
        token: JoinToken,
        entry: Option<NewEntry>,
        now: UnixTime,
    ) -> Result<CreateOutcome<Option<CreateEntryOutcome>>, StoreError> {
        let (token, entry) = (&token, entry.as_slice());
        self.write(Operation::CREATE_TOKEN, now, move |mut tx| async move {
            insert(&mut tx, token).await?;
            let done = async {
                let outcome = match entry {
                    [] => None,
                    entry => entries::write::create(&mut tx, entry).await?.pop(),
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

    async fn attest_with_token(
        &self,
        token: &str,
        csr_key_hash: [u8; 32],
        node: AttestedNode,
        now: UnixTime,
    ) -> Result<TokenAttestation, StoreError> {
        let node = &node;
        self.write(Operation::SPEND_TOKEN, now, move |mut tx| async move {
            let text = "UPDATE join_tokens SET spent_by = ? WHERE token = ? AND expires_at >= ? \
                        AND spent_by IS NULL RETURNING 1";
            tx.later(text).await?.bind(csr_key_hash.to_vec()).bind(token).bind(now.seconds());
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
            rows::put(&mut tx, old.as_ref(), &AttestedNode { agent_version, ..node.clone() })
                .await?;
            tx.commit().await?;
            Ok(TokenAttestation::Attested)
        })
        .await
    }

    async fn join_token(&self, token: &str) -> Result<Option<JoinToken>, StoreError> {
        self.reading(Operation::READ_TOKEN, async {
            let mut conn = self.reader().await?;
            get(&mut conn, token).await
        })
        .await
    }

    async fn join_tokens(&self) -> Result<Vec<JoinToken>, StoreError> {
        self.reading(Operation::LIST_TOKENS, async {
            let mut conn = self.reader().await?;
            let rows =
                sqlx::query("SELECT token, expires_at, spent_by FROM join_tokens ORDER BY token")
                    .fetch_all(&mut *conn)
                    .await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    async fn prune_join_tokens(&self, expired_before: UnixTime) -> Result<u64, StoreError> {
        self.write(Operation::PRUNE_TOKENS, expired_before, move |mut tx| async move {
            let done = sqlx::query("DELETE FROM join_tokens WHERE expires_at < ?")
                .bind(expired_before.seconds())
                .execute(tx.conn().await?)
                .await?;
            tx.commit().await?;
            Ok(done.rows_affected())
        })
        .await
    }
}

/// Stores a token; the transaction fails if it exists.
pub(crate) async fn insert(tx: &mut Tx, token: &JoinToken) -> Result<(), Fault> {
    let text = "INSERT INTO join_tokens (token, expires_at, spent_by) VALUES (?, ?, ?)";
    tx.later(text)
        .await?
        .bind(token.token.as_str())
        .bind(token.expires_at.seconds())
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
    Ok(JoinToken {
        token: row.try_get(0)?,
        expires_at: UnixTime::from_seconds(row.try_get(1)?),
        spent_by,
    })
}
