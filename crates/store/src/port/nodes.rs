//! Attested nodes.

use async_trait::async_trait;
use signet_identity::{AttestedNode, MatchBehavior, SelectorSet, SpiffeId};
use signet_time::UnixTime;

use crate::{Page, PageRequest, StoreError};

/// Changes a node within a transaction; answers whether that is to be written.
pub type NodeChange<'c> = dyn Fn(&mut AttestedNode) -> bool + Send + Sync + 'c;

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
    pub expires_before: Option<UnixTime>,
    /// Node selectors compared so.
    pub selectors: Option<(SelectorSet, MatchBehavior)>,
}

impl NodeFilter {
    /// Whether `node` passes.
    pub fn accepts(&self, node: &AttestedNode) -> bool {
        self.wanted_type().is_none_or(|wanted| wanted == node.attestation_type)
            && self.banned.is_none_or(|banned| banned == node.is_banned())
            && self.can_reattest.is_none_or(|can| can == node.can_reattest)
            && self.expires_before.is_none_or(|before| node.expires_at < before)
            && self.selectors.as_ref().is_none_or(|(filter, behavior)| {
                behavior.accepts(node.selectors.as_slice(), filter.as_slice())
            })
    }

    pub(crate) fn wanted_type(&self) -> Option<&str> {
        self.attestation_type.as_deref().filter(|name| !name.is_empty())
    }
}

/// Attested nodes.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Creates the node or replaces it, selectors included.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn put_node(&self, node: AttestedNode, now: UnixTime) -> Result<(), StoreError>;

    /// Creates the node, unless there is one of its SPIFFE ID: then the answer is `false`, and
    /// nothing is changed.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn create_node(&self, node: AttestedNode, now: UnixTime) -> Result<bool, StoreError>;

    /// Changes a node within the transaction, to what is stored then. When `change` answers
    /// `false`, nothing is written. Returns the node after that and whether it was changed, or
    /// `None` when there is no such node. The SPIFFE ID cannot be changed.
    ///
    /// [`crate::Store::update_node`] is this for closures that move what they hold.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn rewrite_node(
        &self,
        id: &SpiffeId,
        now: UnixTime,
        change: &NodeChange<'_>,
    ) -> Result<Option<(AttestedNode, bool)>, StoreError>;

    /// Deletes a node with its selectors, and, for a join-token node, the entry that stood for
    /// the token's agent ID (one selector, `spiffe_id:<agent ID>`). Other entries parented to it
    /// stay. Returns what was deleted, if it was there.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn delete_node(
        &self,
        id: &SpiffeId,
        now: UnixTime,
    ) -> Result<Option<AttestedNode>, StoreError>;

    /// Deletes nodes whose SVID (the newest one) expired before `expired_before`, at most
    /// `limit`, never banned ones, and those that cannot attest again only when
    /// `also_non_reattestable`. Returns their IDs.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    async fn prune_nodes(
        &self,
        expired_before: UnixTime,
        also_non_reattestable: bool,
        limit: u32,
        now: UnixTime,
    ) -> Result<Vec<SpiffeId>, StoreError>;

    /// One node.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn node(&self, id: &SpiffeId) -> Result<Option<AttestedNode>, StoreError>;

    /// A page of the nodes that pass `filter`, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn list_nodes(
        &self,
        filter: &NodeFilter,
        page: PageRequest,
    ) -> Result<Page<AttestedNode>, StoreError>;

    /// How many nodes pass `filter`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError>;
}
