//! Everything at once, for moving house.

use signet_time::UnixTime;

use crate::{
    Bundles, ChangeKind, ChangedTo, Contents, Entries, EntryFilter, Federations, JoinTokens,
    NodeFilter, Nodes, Operation, PageRequest, StoreError, Tenants,
    sqlite::{
        SqliteStore, bundles, entries, fault::Fault, federation, index::Index, nodes, tenants,
        tokens,
    },
};

/// How many entries one statement run of an import takes together.
const ENTRIES_AT_ONCE: usize = 5_000;

impl SqliteStore {
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
        self.write(Operation::IMPORT, now, move |mut tx| async move {
            let filled = sqlx::query(
                "SELECT 1 FROM entries UNION ALL SELECT 1 FROM bundles UNION ALL \
                 SELECT 1 FROM nodes UNION ALL SELECT 1 FROM federations UNION ALL \
                 SELECT 1 FROM join_tokens LIMIT 1",
            );
            if filled.fetch_optional(tx.conn().await?).await?.is_some() {
                return Err(Fault::NotEmpty);
            }
            for bundle in &contents.bundles {
                bundles::rows::put(&mut tx, None, bundle).await?;
            }
            for relationship in &contents.federations {
                federation::put(&mut tx, relationship).await?;
            }
            for node in &contents.nodes {
                nodes::rows::put(&mut tx, None, node).await?;
            }
            for token in &contents.join_tokens {
                tokens::insert(&mut tx, token).await?;
            }
            for said in &contents.assignments {
                tenants::put(&mut tx, said).await?;
            }
            for some in contents.entries.chunks(ENTRIES_AT_ONCE) {
                let mut row = tx.new_rows(Index::Entries, some.len()).await?;
                let rows = some.iter().map(|entry| {
                    row += 1;
                    (row - 1, entry.clone())
                });
                entries::write::insert(&mut tx, &rows.collect::<Vec<_>>()).await?;
            }
            for entry in &contents.entries {
                tx.changed(ChangeKind::Entry, entry.id.as_str(), ChangedTo::Unread);
            }
            tx.commit().await
        })
        .await
    }
}
