//! Everything at once, for moving house.

use signet_identity::{AttestedNode, Bundle, Entry, FederationRelationship, JoinToken};

use crate::{
    ChangeKind, ChangedTo, EntryFilter, NodeFilter, PageRequest, Store, StoreError, bundles,
    entries, fault::doing, federation, nodes, terms::Index, tokens,
};

/// How many entries one statement run of an import takes together.
const ENTRIES_AT_ONCE: usize = 5_000;

/// The whole registration data of a trust domain, but for the CA journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Registration entries.
    pub entries: Vec<Entry>,
    /// Bundles, the own one included.
    pub bundles: Vec<Bundle>,
    /// Attested nodes.
    pub nodes: Vec<AttestedNode>,
    /// Federation relationships.
    pub federations: Vec<FederationRelationship>,
    /// Join tokens.
    pub join_tokens: Vec<JoinToken>,
}

impl Store {
    /// Reads everything. Lists of entries and nodes in order of creation.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn export(&self) -> Result<Contents, StoreError> {
        let all = PageRequest::all();
        Ok(Contents {
            entries: self.list_entries(&EntryFilter::default(), all).await?.items,
            bundles: self.list_bundles(all).await?.items,
            nodes: self.list_nodes(&NodeFilter::default(), all).await?.items,
            federations: self.list_federations(all).await?.items,
            join_tokens: self.join_tokens().await?,
        })
    }

    /// Adds everything to an empty store in one transaction, as it is: IDs, revision numbers,
    /// times and sequence numbers are kept, and nothing is checked.
    ///
    /// # Errors
    /// [`StoreError`], also when the store is not empty; then nothing was added.
    pub async fn import(&self, contents: &Contents, now: i64) -> Result<(), StoreError> {
        doing("importing", async {
            let mut writer = self.lock().await?;
            let mut tx = writer.begin(now).await?;
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
