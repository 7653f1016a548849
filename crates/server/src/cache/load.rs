//! Reading the store into memory, all of it or what a caller asks about.

use std::collections::{HashMap, HashSet};

use signet_identity::{
    AuthorizedIndex, IndexChange, MatchBehavior, SpiffeId, TrustDomain, tenant::Directory,
};
use signet_store::{EntryFilter, FeedPosition, NodeFilter, PageRequest, Store, StoreError};

use super::{About, Mirror, NodeRow};

/// How many nodes are read at a time.
const PAGE: u32 = 1000;
/// How many parents an agent may have entries under to be answered from the store: each costs a
/// query.
const MOST_PARENTS: usize = 1000;

/// Reads all entries and nodes; they reflect at least the place of the feed that is returned. What
/// was changed meanwhile may be among them, and comes again by the feed.
pub(super) async fn all(
    store: &Store,
    trust_domain: &TrustDomain,
) -> Result<(Mirror, FeedPosition), StoreError> {
    let position = store.committed().await?;
    let mut index = AuthorizedIndex::new(trust_domain.clone());
    let count = store.count_entries(&EntryFilter::default()).await?;
    index.reserve(usize::try_from(count).unwrap_or(0));
    store
        .read_entries(&position, |entries| {
            entries.into_iter().for_each(|entry| index.load(IndexChange::Entry(entry)));
        })
        .await?;
    let mut nodes = HashMap::new();
    let mut page = PageRequest::first(PAGE);
    loop {
        let read = store.list_nodes(&NodeFilter::default(), page).await?;
        for node in read.items {
            nodes.insert(node.spiffe_id.clone(), NodeRow::from(&node));
            index.load(IndexChange::Node(node.spiffe_id, node.selectors));
        }
        let Some(next) = read.next else { break };
        page.after = Some(next);
    }
    let mut directory = Directory::default();
    for said in store.assignments().await? {
        directory.apply(&said.about(), Some(said.clone()));
    }
    Ok((Mirror { index, nodes, directory }, position))
}

/// An index of what it takes to answer about one agent or ID, as of now; `None` when that is too
/// much to ask of the store.
pub(super) async fn part(
    store: &Store,
    trust_domain: &TrustDomain,
    about: About<'_>,
) -> Result<Option<AuthorizedIndex>, StoreError> {
    let mut part = AuthorizedIndex::new(trust_domain.clone());
    let mut parents = Vec::new();
    match about {
        About::Issuing(id) => {
            let filter = EntryFilter { spiffe_id: Some(id.clone()), ..EntryFilter::default() };
            add(&mut part, store, &filter).await?;
        }
        About::Agent(agent) => {
            parents.push(agent.clone());
            if let Some(node) = store.node(agent).await? {
                let aliases = EntryFilter {
                    parent_id: Some(SpiffeId::server(trust_domain.clone())),
                    selectors: Some((node.selectors.clone(), MatchBehavior::Subset)),
                    ..EntryFilter::default()
                };
                parents.extend(add(&mut part, store, &aliases).await?);
                part.load(IndexChange::Node(node.spiffe_id, node.selectors));
            }
        }
    }
    let mut seen = HashSet::new();
    while let Some(parent) = parents.pop() {
        if parent.is_server() || !seen.insert(parent.clone()) {
            continue;
        }
        if seen.len() > MOST_PARENTS {
            return Ok(None);
        }
        let children = EntryFilter { parent_id: Some(parent), ..EntryFilter::default() };
        parents.extend(add(&mut part, store, &children).await?);
    }
    Ok(Some(part))
}

/// Adds the entries that pass a filter; answers with their SPIFFE IDs.
async fn add(
    part: &mut AuthorizedIndex,
    store: &Store,
    filter: &EntryFilter,
) -> Result<Vec<SpiffeId>, StoreError> {
    let entries = store.list_entries(filter, PageRequest::all()).await?.items;
    let ids = entries.iter().map(|entry| entry.spiffe_id.clone()).collect();
    entries.into_iter().for_each(|entry| part.load(IndexChange::Entry(entry)));
    Ok(ids)
}
