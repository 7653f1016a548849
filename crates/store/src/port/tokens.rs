//! Join tokens.

use async_trait::async_trait;
use signet_identity::{AttestedNode, JoinToken};
use signet_time::UnixTime;

use crate::{CreateEntryOutcome, CreateOutcome, NewEntry, StoreError};

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

/// Join tokens.
#[async_trait]
pub trait JoinTokens: Send + Sync {
    /// Stores a fresh token and, when given, the entry that stands for its agent, in one
    /// transaction. When the token exists nothing is stored.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn create_join_token(
        &self,
        token: JoinToken,
        entry: Option<NewEntry>,
        now: UnixTime,
    ) -> Result<CreateOutcome<Option<CreateEntryOutcome>>, StoreError>;

    /// Spends a token, which at most one key ever can, and records the agent that it attests, in
    /// one transaction. `csr_key_hash` is SHA-256 over the CSR's SubjectPublicKeyInfo. A node that
    /// is there keeps its agent version; one that is banned stays banned, and the token unspent.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn attest_with_token(
        &self,
        token: &str,
        csr_key_hash: [u8; 32],
        node: AttestedNode,
        now: UnixTime,
    ) -> Result<TokenAttestation, StoreError>;

    /// A token as stored, spent or not.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn join_token(&self, token: &str) -> Result<Option<JoinToken>, StoreError>;

    /// Every token, spent or not, by value.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn join_tokens(&self) -> Result<Vec<JoinToken>, StoreError>;

    /// Deletes tokens that expired before `expired_before` (Unix seconds); returns how many.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn prune_join_tokens(&self, expired_before: UnixTime) -> Result<u64, StoreError>;
}
