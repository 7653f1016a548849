//! Join tokens.

use signet_identity::JoinToken;

use crate::{CreateEntryOutcome, CreateOutcome, NewEntry, Store, StoreError};

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

impl Store {
    /// Stores a fresh token and, when given, the entry that stands for its agent, in one
    /// transaction. When the token exists nothing is stored.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn create_join_token(
        &self,
        _token: JoinToken,
        _entry: Option<NewEntry>,
        _now: i64,
    ) -> Result<CreateOutcome<Option<CreateEntryOutcome>>, StoreError> {
        todo!()
    }

    /// Spends a token: at most one key ever can. `csr_key_hash` is SHA-256 over the CSR's
    /// SubjectPublicKeyInfo. When this returns [`SpendOutcome::Spent`] the binding is on disk.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn spend_join_token(
        &self,
        _token: &str,
        _csr_key_hash: [u8; 32],
        _now: i64,
    ) -> Result<SpendOutcome, StoreError> {
        todo!()
    }

    /// A token as stored, spent or not.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn join_token(&self, _token: &str) -> Result<Option<JoinToken>, StoreError> {
        todo!()
    }

    /// Deletes tokens that expired before `expired_before`; returns how many.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn prune_join_tokens(&self, _expired_before: i64) -> Result<u64, StoreError> {
        todo!()
    }
}
