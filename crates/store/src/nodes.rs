//! Attested nodes.

use signet_identity::{AttestedNode, MatchBehavior, SelectorSet, SpiffeId};

use crate::{Page, PageRequest, Store, StoreError};

/// Which nodes are wanted; all conditions hold together. The default accepts every node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFilter {
    /// This attestation type; an empty text is no condition.
    pub attestation_type: Option<String>,
    /// Banned or not.
    pub banned: Option<bool>,
    /// May attest again or not.
    pub can_reattest: Option<bool>,
    /// The SVID expires before this time, Unix seconds.
    pub expires_before: Option<i64>,
    /// Node selectors compared so.
    pub selectors: Option<(SelectorSet, MatchBehavior)>,
}

impl Store {
    /// Creates the node or replaces it, selectors included.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn put_node(&self, _node: AttestedNode, _now: i64) -> Result<(), StoreError> {
        todo!()
    }

    /// Changes a node within the transaction, to what is stored then. `change` answers whether
    /// it changed anything; when it did not, nothing is written. Returns the node after that
    /// and whether it was changed, or `None` when there is no such node.
    ///
    /// The SPIFFE ID cannot be changed.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn update_node(
        &self,
        _id: &SpiffeId,
        _now: i64,
        _change: impl FnOnce(&mut AttestedNode) -> bool + Send,
    ) -> Result<Option<(AttestedNode, bool)>, StoreError> {
        todo!()
    }

    /// Deletes a node with its selectors, and, for a join-token node, the entry that stood for
    /// the token's agent ID (one selector, `spiffe_id:<agent ID>`). Other entries parented to it
    /// stay. Returns what was deleted, if it was there.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn delete_node(
        &self,
        _id: &SpiffeId,
        _now: i64,
    ) -> Result<Option<AttestedNode>, StoreError> {
        todo!()
    }

    /// Deletes nodes whose SVID (the newest one) expired before `expired_before`, at most
    /// `limit`, never banned ones, and those that cannot attest again only when
    /// `also_non_reattestable`. Returns their IDs.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn prune_nodes(
        &self,
        _expired_before: i64,
        _also_non_reattestable: bool,
        _limit: u32,
        _now: i64,
    ) -> Result<Vec<SpiffeId>, StoreError> {
        todo!()
    }

    /// One node.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn node(&self, _id: &SpiffeId) -> Result<Option<AttestedNode>, StoreError> {
        todo!()
    }

    /// A page of the nodes that pass `filter`, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn list_nodes(
        &self,
        _filter: &NodeFilter,
        _page: PageRequest,
    ) -> Result<Page<AttestedNode>, StoreError> {
        todo!()
    }

    /// How many nodes pass `filter`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn count_nodes(&self, _filter: &NodeFilter) -> Result<u64, StoreError> {
        todo!()
    }
}
