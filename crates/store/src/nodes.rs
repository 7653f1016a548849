//! Attested nodes.

use signet_identity::{AttestedNode, Entry, MatchBehavior, Selector, SelectorSet, SpiffeId};

use crate::{
    Page, PageRequest, Store, StoreError, entries,
    fault::{Fault, doing},
    listing::{self, Plan},
    store::Tx,
    terms,
};

pub(crate) mod rows;

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

    fn wanted_type(&self) -> Option<&str> {
        self.attestation_type.as_deref().filter(|name| !name.is_empty())
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        if let Some(name) = self.wanted_type() {
            plan.and(terms::attestation_type(name));
        }
        if self.banned == Some(true) {
            plan.and(terms::banned());
        }
        if let Some((selectors, behavior)) = &self.selectors {
            plan.compare_selectors(*behavior, selectors);
        }
        plan
    }
}

impl Store {
    /// Creates the node or replaces it, selectors included.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn put_node(&self, node: AttestedNode, now: i64) -> Result<(), StoreError> {
        doing("writing an attested node", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let old = rows::get(tx.conn().await?, &node.spiffe_id).await?;
            rows::put(&mut tx, old.as_ref(), &node).await?;
            tx.commit().await
        })
        .await
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
        id: &SpiffeId,
        now: i64,
        change: impl FnOnce(&mut AttestedNode) -> bool + Send,
    ) -> Result<Option<(AttestedNode, bool)>, StoreError> {
        doing("updating an attested node", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let Some(old) = rows::get(tx.conn().await?, id).await? else {
                return Ok(None);
            };
            let mut node = old.1.clone();
            if !change(&mut node) {
                return Ok(Some((old.1, false)));
            }
            node.spiffe_id = id.clone();
            rows::put(&mut tx, Some(&old), &node).await?;
            tx.commit().await?;
            Ok(Some((node, true)))
        })
        .await
    }

    /// Deletes a node with its selectors, and, for a join-token node, the entry that stood for
    /// the token's agent ID (one selector, `spiffe_id:<agent ID>`). Other entries parented to it
    /// stay. Returns what was deleted, if it was there.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn delete_node(
        &self,
        id: &SpiffeId,
        now: i64,
    ) -> Result<Option<AttestedNode>, StoreError> {
        doing("deleting an attested node", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let Some(found) = rows::get(tx.conn().await?, id).await? else {
                return Ok(None);
            };
            if found.1.attestation_type == "join_token" {
                delete_token_entries(&mut tx, id).await?;
            }
            rows::delete(&mut tx, &found).await?;
            tx.commit().await?;
            Ok(Some(found.1))
        })
        .await
    }

    /// Deletes nodes whose SVID (the newest one) expired before `expired_before`, at most
    /// `limit`, never banned ones, and those that cannot attest again only when
    /// `also_non_reattestable`. Returns their IDs.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn prune_nodes(
        &self,
        expired_before: i64,
        also_non_reattestable: bool,
        limit: u32,
        now: i64,
    ) -> Result<Vec<SpiffeId>, StoreError> {
        doing("pruning attested nodes", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
            let expired =
                rows::expired(tx.conn().await?, expired_before, also_non_reattestable, limit);
            let expired = expired.await?;
            for found in &expired {
                if found.1.attestation_type == "join_token" {
                    delete_token_entries(&mut tx, &found.1.spiffe_id).await?;
                }
                rows::delete(&mut tx, found).await?;
            }
            tx.commit().await?;
            Ok(expired.into_iter().map(|(_, node)| node.spiffe_id).collect())
        })
        .await
    }

    /// One node.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn node(&self, id: &SpiffeId) -> Result<Option<AttestedNode>, StoreError> {
        doing("reading an attested node", async {
            let mut conn = self.read().await?;
            Ok(rows::get(&mut conn, id).await?.map(|(_, node)| node))
        })
        .await
    }

    /// A page of the nodes that pass `filter`, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn list_nodes(
        &self,
        filter: &NodeFilter,
        page: PageRequest,
    ) -> Result<Page<AttestedNode>, StoreError> {
        doing("listing attested nodes", async {
            let mut conn = self.read().await?;
            listing::list(&mut conn, filter.plan(), page, |node| filter.accepts(node)).await
        })
        .await
    }

    /// How many nodes pass `filter`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError> {
        doing("counting attested nodes", async {
            let mut conn = self.read().await?;
            if *filter == NodeFilter::default() {
                return rows::count(&mut conn).await;
            }
            listing::count(&mut conn, filter.plan(), |node| filter.accepts(node)).await
        })
        .await
    }
}

/// Deletes the entries that a join token's agent ID was given with: parented to the agent, with
/// the one selector `spiffe_id:<agent ID>`.
async fn delete_token_entries(tx: &mut Tx<'_>, agent: &SpiffeId) -> Result<(), Fault> {
    // The token with it: whoever holds its key could otherwise attest again until it expires.
    if let Some((_, token)) = agent.path().rsplit_once('/') {
        sqlx::query("DELETE FROM join_tokens WHERE token = ? AND spent_by IS NOT NULL")
            .bind(token)
            .execute(tx.conn().await?)
            .await?;
    }
    let mut plan = Plan::default();
    plan.and(terms::parent(agent));
    let Ok(selector) = Selector::new("spiffe_id", &agent.to_string()) else {
        return Ok(());
    };
    plan.and(terms::selector(&selector));
    let page = PageRequest::all();
    let found = listing::list(tx.conn().await?, plan, page, |entry: &Entry| {
        entry.parent_id == *agent && entry.selectors.as_slice() == std::slice::from_ref(&selector)
    });
    let ids: Vec<_> = found.await?.items.into_iter().map(|entry| entry.id).collect();
    let found = entries::rows::by_entry_ids(tx.conn().await?, &ids).await?;
    entries::write::delete(tx, &found).await
}
