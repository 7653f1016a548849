//! Everything at once, for moving house.

use signet_time::UnixTime;

use super::{
    bundles, entries, fault::Fault, federation, nodes, store::PostgresStore, tenants, tokens,
    tx::Lock,
};
use crate::{
    Bundles, ChangeKind, ChangedTo, Contents, Entries, EntryFilter, Federations, JoinTokens,
    NodeFilter, Nodes, Operation, PageRequest, StoreError, Tenants,
};

/// How many entries one statement of an import takes together.
const ENTRIES_AT_ONCE: usize = 2_000;

impl PostgresStore {
    pub(super) async fn read_everything(&self) -> Result<Contents, StoreError> {
        let all = PageRequest::all();
        Ok(Contents {
            entries: self.list_entries(&EntryFilter::default(), all).await?.items,
            bundles: self.list_bundles(all).await?.items,
            nodes: self.list_nodes(&NodeFilter::default(), all).await?.items,
            federations: self.list_federations(all).await?.items,
            join_tokens: self.join_tokens().await?,
            assignments: self.assignments().await?,
        })
    }

    pub(super) async fn write_everything(
        &self,
        contents: &Contents,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.write(Operation::IMPORT, now, Lock::Registrations, move |mut tx| async move {
            let text = "SELECT 1 FROM signet_entries UNION ALL SELECT 1 FROM signet_bundles \
                        UNION ALL SELECT 1 FROM signet_nodes UNION ALL \
                        SELECT 1 FROM signet_federations UNION ALL \
                        SELECT 1 FROM signet_join_tokens LIMIT 1";
            if tx.query.first(text, &[]).await?.is_some() {
                return Err(Fault::NotEmpty);
            }
            for bundle in &contents.bundles {
                bundles::rows::put(&mut tx, None, bundle).await?;
            }
            for relationship in &contents.federations {
                federation::put(&mut tx, relationship).await?;
            }
            for node in &contents.nodes {
                nodes::rows::put(&mut tx, node).await?;
            }
            for token in &contents.join_tokens {
                tokens::insert(&tx.query, token).await?;
            }
            for said in &contents.assignments {
                tenants::put(&mut tx, said).await?;
            }
            let mut row = 1;
            for some in contents.entries.chunks(ENTRIES_AT_ONCE) {
                let rows: Vec<_> = (row..).zip(some.iter().cloned()).collect();
                row += rows.len() as i64;
                entries::write::insert(&tx, &rows).await?;
            }
            for entry in &contents.entries {
                tx.changed(ChangeKind::Entry, entry.id.as_str(), ChangedTo::Unread);
            }
            tx.commit().await
        })
        .await
    }
}
