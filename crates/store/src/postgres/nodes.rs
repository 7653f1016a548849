//! Attested nodes.

use async_trait::async_trait;
use signet_identity::{AttestedNode, Entry, Selector, SpiffeId};
use signet_time::UnixTime;

use super::{
    entries,
    fault::Fault,
    listing::{self, Plan},
    sql::params,
    store::PostgresStore,
    tx::{Lock, Tx},
};
use crate::{NodeChange, NodeFilter, Nodes, Operation, Page, PageRequest, StoreError, terms};

pub(super) mod rows;

/// What the indexes can answer of a filter.
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
impl Nodes for PostgresStore {
    async fn put_node(&self, node: AttestedNode, now: UnixTime) -> Result<(), StoreError> {
        let node = &node;
        self.write(Operation::CREATE_NODE, now, Lock::Rows, move |mut tx| async move {
            rows::put(&mut tx, node).await?;
            tx.commit().await
        })
        .await
    }

    async fn create_node(&self, node: AttestedNode, now: UnixTime) -> Result<bool, StoreError> {
        let node = &node;
        self.write(Operation::CREATE_NODE, now, Lock::Rows, move |mut tx| async move {
            if !rows::create(&mut tx, node).await? {
                tx.leave().await?;
                return Ok(false);
            }
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
        self.write(Operation::UPDATE_NODE, now, Lock::Rows, move |mut tx| async move {
            let Some((_, old)) = rows::locked(&tx.query, id).await? else {
                tx.leave().await?;
                return Ok(None);
            };
            let mut node = old.clone();
            if !change(&mut node) {
                tx.leave().await?;
                return Ok(Some((old, false)));
            }
            node.spiffe_id = id.clone();
            rows::put(&mut tx, &node).await?;
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
        self.write(Operation::DELETE_NODE, now, Lock::Registrations, move |mut tx| async move {
            let Some((row, node)) = rows::locked(&tx.query, id).await? else {
                tx.leave().await?;
                return Ok(None);
            };
            if node.attestation_type == "join_token" {
                delete_token_entries(&mut tx, id).await?;
            }
            rows::delete(&mut tx, row, &node).await?;
            tx.commit().await?;
            Ok(Some(node))
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
        self.write(Operation::PRUNE_NODES, now, Lock::Registrations, move |mut tx| async move {
            let expired = rows::expired(&tx.query, expired_before, also_non_reattestable, limit);
            let expired = expired.await?;
            for (row, node) in &expired {
                if node.attestation_type == "join_token" {
                    delete_token_entries(&mut tx, &node.spiffe_id).await?;
                }
                rows::delete(&mut tx, *row, node).await?;
            }
            tx.commit().await?;
            Ok(expired.into_iter().map(|(_, node)| node.spiffe_id).collect())
        })
        .await
    }

    async fn node(&self, id: &SpiffeId) -> Result<Option<AttestedNode>, StoreError> {
        self.reading(Operation::READ_NODE, |query| async move {
            Ok(rows::get(&query, id).await?.map(|(_, node)| node))
        })
        .await
    }

    async fn list_nodes(
        &self,
        filter: &NodeFilter,
        page: PageRequest,
    ) -> Result<Page<AttestedNode>, StoreError> {
        self.reading(Operation::LIST_NODES, |query| async move {
            listing::list(&query, plan(filter), page, |node| filter.accepts(node)).await
        })
        .await
    }

    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError> {
        self.reading(Operation::COUNT_NODES, |query| async move {
            if *filter == NodeFilter::default() {
                return listing::count_all::<AttestedNode>(&query).await;
            }
            listing::count(&query, plan(filter), |node| filter.accepts(node)).await
        })
        .await
    }
}

/// Deletes the entries that a join token's agent ID was given with: parented to the agent, with
/// the one selector `spiffe_id:<agent ID>`.
async fn delete_token_entries(tx: &mut Tx, agent: &SpiffeId) -> Result<(), Fault> {
    // The token with it: whoever holds its key could otherwise attest again until it expires.
    if let Some((_, token)) = agent.path().rsplit_once('/') {
        tx.query
            .execute(
                "DELETE FROM signet_join_tokens WHERE token = $1 AND spent_by IS NOT NULL",
                params![token => TEXT],
            )
            .await?;
    }
    let Ok(selector) = Selector::new("spiffe_id", &agent.to_string()) else {
        return Ok(());
    };
    let mut found = listing::select::<Entry>(
        &tx.query,
        "parent_term = $1 AND terms @> $2 ORDER BY id",
        params![terms::parent(agent) => INT8, vec![terms::selector(&selector)] => INT8_ARRAY],
    )
    .await?;
    found.retain(|(_, entry)| {
        entry.parent_id == *agent && entry.selectors.as_slice() == std::slice::from_ref(&selector)
    });
    entries::write::delete(tx, &found).await
}
