//! Attested nodes.

use async_trait::async_trait;
use signet_identity::{AttestedNode, Entry, Selector, SpiffeId};
use signet_time::UnixTime;

use crate::{
    NodeChange, NodeFilter, Nodes, Operation, Page, PageRequest, StoreError,
    sqlite::{
        SqliteStore, entries,
        fault::Fault,
        listing::{self, Plan},
        terms,
        tx::Tx,
    },
};

pub(crate) mod rows;

/// What the inverted index can answer of a filter.
fn plan(filter: &NodeFilter) -> Plan {
    let mut plan = Plan::default();
    if let Some(name) = filter.wanted_type() {
        plan.and(terms::attestation_type(name));
    }
    if filter.banned == Some(true) {
        plan.and(terms::banned());
    }
    if let Some((selectors, behavior)) = &filter.selectors {
        plan.compare_selectors(*behavior, selectors);
    }
    plan
}

#[async_trait]
impl Nodes for SqliteStore {
    async fn put_node(&self, node: AttestedNode, now: UnixTime) -> Result<(), StoreError> {
        let node = &node;
        self.write(Operation::CREATE_NODE, now, move |mut tx| async move {
            let old = rows::get(tx.conn().await?, &node.spiffe_id).await?;
            rows::put(&mut tx, old.as_ref(), node).await?;
            tx.commit().await
        })
        .await
    }

    async fn create_node(&self, node: AttestedNode, now: UnixTime) -> Result<bool, StoreError> {
        let node = &node;
        self.write(Operation::CREATE_NODE, now, move |mut tx| async move {
            if rows::get(tx.conn().await?, &node.spiffe_id).await?.is_some() {
                return Ok(false);
            }
            rows::put(&mut tx, None, node).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn rewrite_node(
        &self,
        id: &SpiffeId,
        now: UnixTime,
        change: &NodeChange<'_>,
    ) -> Result<Option<(AttestedNode, bool)>, StoreError> {
        self.write(Operation::UPDATE_NODE, now, move |mut tx| async move {
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

    async fn delete_node(
        &self,
        id: &SpiffeId,
        now: UnixTime,
    ) -> Result<Option<AttestedNode>, StoreError> {
        self.write(Operation::DELETE_NODE, now, move |mut tx| async move {
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

    async fn prune_nodes(
        &self,
        expired_before: UnixTime,
        also_non_reattestable: bool,
        limit: u32,
        now: UnixTime,
    ) -> Result<Vec<SpiffeId>, StoreError> {
        self.write(Operation::PRUNE_NODES, now, move |mut tx| async move {
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

    async fn node(&self, id: &SpiffeId) -> Result<Option<AttestedNode>, StoreError> {
        self.reading(Operation::READ_NODE, async {
            let mut conn = self.reader().await?;
            Ok(rows::get(&mut conn, id).await?.map(|(_, node)| node))
        })
        .await
    }

    async fn list_nodes(
        &self,
        filter: &NodeFilter,
        page: PageRequest,
    ) -> Result<Page<AttestedNode>, StoreError> {
        self.reading(Operation::LIST_NODES, async {
            let mut conn = self.reader().await?;
            listing::list(&mut conn, plan(filter), page, |node| filter.accepts(node)).await
        })
        .await
    }

    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError> {
        self.reading(Operation::COUNT_NODES, async {
            let mut conn = self.reader().await?;
            if *filter == NodeFilter::default() {
                return rows::count(&mut conn).await;
            }
            listing::count(&mut conn, plan(filter), |node| filter.accepts(node)).await
        })
        .await
    }
}

/// Deletes the entries that a join token's agent ID was given with: parented to the agent, with
/// the one selector `spiffe_id:<agent ID>`.
async fn delete_token_entries(tx: &mut Tx, agent: &SpiffeId) -> Result<(), Fault> {
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
