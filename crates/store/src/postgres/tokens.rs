//! Join tokens.

use async_trait::async_trait;
use signet_identity::{AttestedNode, JoinToken};
use signet_time::UnixTime;
use tokio_postgres::Row;

use super::{
    entries,
    fault::Fault,
    nodes::rows,
    sql::{Query, params},
    store::PostgresStore,
    tx::Lock,
};
use crate::{
    CreateEntryOutcome, CreateOutcome, JoinTokens, NewEntry, Operation, StoreError,
    TokenAttestation,
};

#[async_trait]
impl JoinTokens for PostgresStore {
    async fn create_join_token(
        &self,
        token: JoinToken,
        entry: Option<NewEntry>,
        now: UnixTime,
    ) -> Result<CreateOutcome<Option<CreateEntryOutcome>>, StoreError> {
        let (token, entry) = (&token, entry.as_slice());
        let lock = if entry.is_empty() { Lock::Rows } else { Lock::Registrations };
        self.write(Operation::CREATE_TOKEN, now, lock, move |mut tx| async move {
            if !insert(&tx.query, token).await? {
                tx.leave().await?;
                return Ok(CreateOutcome::Exists);
            }
            let outcome = match entry {
                [] => None,
                entry => entries::write::create(&mut tx, entry).await?.pop(),
            };
            tx.commit().await?;
            Ok(CreateOutcome::Created(outcome))
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
        self.write(Operation::SPEND_TOKEN, now, Lock::Rows, move |mut tx| async move {
            let bound = tx
                .query
                .execute(
                    "UPDATE signet_join_tokens SET spent_by = $1 WHERE token = $2 \
                     AND expires_at >= $3 AND spent_by IS NULL",
                    params![csr_key_hash.as_slice() => BYTEA, token => TEXT, now.seconds() => INT8],
                )
                .await?;
            if bound == 0 {
                let answer = match get(&tx.query, token).await? {
                    None => Some(TokenAttestation::Unknown),
                    Some(found) if found.expires_at < now => Some(TokenAttestation::Expired),
                    Some(found) if found.spent_by == Some(csr_key_hash) => None,
                    Some(_) => Some(TokenAttestation::SpentByAnother),
                };
                if let Some(answer) = answer {
                    tx.leave().await?;
                    return Ok(answer);
                }
            }
            let old = rows::locked(&tx.query, &node.spiffe_id).await?;
            let agent_version = match old {
                Some((_, old)) if old.is_banned() => {
                    tx.leave().await?;
                    return Ok(TokenAttestation::Banned);
                }
                Some((_, old)) => old.agent_version,
                None => String::new(),
            };
            rows::put(&mut tx, &AttestedNode { agent_version, ..node.clone() }).await?;
            tx.commit().await?;
            Ok(TokenAttestation::Attested)
        })
        .await
    }

    async fn join_token(&self, token: &str) -> Result<Option<JoinToken>, StoreError> {
        self.reading(Operation::READ_TOKEN, |query| async move { get(&query, token).await }).await
    }

    async fn join_tokens(&self) -> Result<Vec<JoinToken>, StoreError> {
        self.reading(Operation::LIST_TOKENS, |query| async move {
            let text = "SELECT token, expires_at, spent_by FROM signet_join_tokens \
                        ORDER BY token COLLATE \"C\"";
            query.all(text, &[]).await?.iter().map(read).collect()
        })
        .await
    }

    async fn prune_join_tokens(&self, expired_before: UnixTime) -> Result<u64, StoreError> {
        let lock = Lock::Rows;
        self.write(Operation::PRUNE_TOKENS, expired_before, lock, move |tx| async move {
            let text = "DELETE FROM signet_join_tokens WHERE expires_at < $1";
            let done = tx.query.execute(text, params![expired_before.seconds() => INT8]).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }
}

/// Stores a token; `false` if it exists.
pub(super) async fn insert(query: &Query, token: &JoinToken) -> Result<bool, Fault> {
    let spent_by = token.spent_by.as_ref().map(|hash| hash.as_slice());
    let done = query
        .execute(
            "INSERT INTO signet_join_tokens (token, expires_at, spent_by) VALUES ($1, $2, $3) \
             ON CONFLICT (token) DO NOTHING",
            params![token.token => TEXT, token.expires_at.seconds() => INT8, spent_by => BYTEA],
        )
        .await?;
    Ok(done > 0)
}

async fn get(query: &Query, token: &str) -> Result<Option<JoinToken>, Fault> {
    let text = "SELECT token, expires_at, spent_by FROM signet_join_tokens WHERE token = $1";
    query.first(text, params![token => TEXT]).await?.as_ref().map(read).transpose()
}

fn read(row: &Row) -> Result<JoinToken, Fault> {
    let spent_by = match row.try_get::<_, Option<&[u8]>>(2)? {
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
