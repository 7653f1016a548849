//! Fetching the entries this agent is authorised for: by revision where the server can, else all.

use std::{collections::BTreeSet, sync::Arc};

use signet_api::{
    convert,
    pb::spire::api::{
        server::entry::v1::{
            GetAuthorizedEntriesRequest, SyncAuthorizedEntriesRequest,
            SyncAuthorizedEntriesResponse, entry_client::EntryClient,
        },
        types::{self, EntryMask},
    },
};
use signet_identity::{EntryError, EntryId, TrustDomain};
use signet_time::UnixTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{ClientError, MAX_ANSWER, RPC_TIMEOUT, ServerClient};
use crate::{
    entry::{AgentEntry, EntryMap},
    request_id,
};

const SYNC: &str = "SyncAuthorizedEntries";
/// More entries than this are refused: no node has as many.
const MAX_ENTRIES: usize = 1_000_000;

/// How entries are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMethod {
    /// `GetAuthorizedEntries`: all of them, each time.
    Get,
    /// `SyncAuthorizedEntries`: only what changed, where there are many.
    Sync,
}

/// The entries as they are now. Those that did not change are the same `Arc`s as before.
#[derive(Clone, Debug, Default)]
pub struct EntrySync {
    /// All entries.
    pub entries: EntryMap,
    /// What changed.
    pub stats: SyncStats,
}

/// What one sync found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// How many entries there are.
    pub total: usize,
    /// How many were not known.
    pub missing: usize,
    /// How many were known in another revision.
    pub stale: usize,
    /// How many are gone.
    pub dropped: usize,
}

impl ServerClient {
    /// Fetches the entries, given those `known`.
    ///
    /// # Errors
    /// [`ClientError`]; an answer cut short is an error, never taken for a removal.
    pub async fn entries(
        &self,
        method: SyncMethod,
        known: &EntryMap,
    ) -> Result<EntrySync, ClientError> {
        match method {
            SyncMethod::Sync => self.call(SYNC, RPC_TIMEOUT, |channel| sync(channel, known)).await,
            SyncMethod::Get => {
                self.call("GetAuthorizedEntries", RPC_TIMEOUT, |channel| get(channel, known)).await
            }
        }
    }
}

/// The fields an agent needs.
fn output_mask() -> EntryMask {
    EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        additional_attributes: true,
        created_at: true,
        ..EntryMask::default()
    }
}

async fn get(channel: Channel, known: &EntryMap) -> Result<EntrySync, Status> {
    let request = GetAuthorizedEntriesRequest { output_mask: Some(output_mask()) };
    let answer =
        client(channel).get_authorized_entries(request_id::named(request)).await?.into_inner();
    let mut next = Collector::new(known);
    next.entries(answer.entries)?;
    Ok(next.finish())
}

async fn sync(channel: Channel, known: &EntryMap) -> Result<EntrySync, Status> {
    let (requests, receiver) = mpsc::channel(2);
    let closed = || Status::internal("the server ended the stream early");
    let first = SyncAuthorizedEntriesRequest { output_mask: Some(output_mask()), ids: Vec::new() };
    requests.send(first).await.map_err(|_| closed())?;
    let mut answers = client(channel)
        .sync_authorized_entries(request_id::named(ReceiverStream::new(receiver)))
        .await?
        .into_inner();

    let mut next = Collector::new(known);
    let mut page = receive(&mut answers).await?;
    if page.entry_revisions.is_empty() {
        // Few entries (or none at all): they came whole.
        next.entries(page.entries)?;
        return Ok(next.finish());
    }
    let page_len = page.entry_revisions.len();
    let mut wanted = BTreeSet::new();
    loop {
        if !page.entries.is_empty() {
            return Err(Status::internal("entries came where revisions were due"));
        }
        for revision in &page.entry_revisions {
            if let Some(id) = next.revision(
                &revision.id,
                revision.revision_number,
                UnixTime::from_seconds(revision.created_at),
            ) {
                wanted.insert(id);
            }
        }
        next.check_len()?;
        if !page.more {
            break;
        }
        page = receive(&mut answers).await?;
    }
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    for ids in wanted.chunks(page_len) {
        let request = SyncAuthorizedEntriesRequest { output_mask: None, ids: ids.to_vec() };
        requests.send(request).await.map_err(|_| closed())?;
        loop {
            let page = receive(&mut answers).await?;
            if !page.entry_revisions.is_empty() {
                return Err(Status::internal("revisions came where entries were due"));
            }
            next.entries(page.entries)?;
            if !page.more {
                break;
            }
        }
    }
    Ok(next.finish())
}

fn client(channel: Channel) -> EntryClient<Channel> {
    EntryClient::new(channel).max_decoding_message_size(MAX_ANSWER)
}

async fn receive(
    answers: &mut Streaming<SyncAuthorizedEntriesResponse>,
) -> Result<SyncAuthorizedEntriesResponse, Status> {
    let answer = answers.message().await?;
    answer.ok_or_else(|| Status::internal("the server ended the stream early"))
}

/// Builds the next set of entries from what is known and what comes.
struct Collector<'a> {
    known: &'a EntryMap,
    next: EntryMap,
    stats: SyncStats,
}

impl<'a> Collector<'a> {
    fn new(known: &'a EntryMap) -> Self {
        Self { known, next: EntryMap::new(), stats: SyncStats::default() }
    }

    /// Takes a revision; returns the ID when the entry itself is needed.
    fn revision(&mut self, id: &str, revision: i64, created_at: UnixTime) -> Option<EntryId> {
        let Ok(parsed) = id.parse::<EntryId>() else {
            tracing::warn!(entry_id = %id, "Received malformed entry revision from the server");
            return None;
        };
        match self.known.get(&parsed) {
            Some(entry) => {
                // Until its new content comes, the entry stays as it was.
                self.next.insert(parsed.clone(), Arc::clone(entry));
                is_stale(entry, revision, created_at).then_some(parsed)
            }
            None => Some(parsed),
        }
    }

    fn entries(&mut self, entries: Vec<types::Entry>) -> Result<(), Status> {
        for entry in entries {
            let entry = match entry_from_pb(&entry) {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::warn!(
                        entry_id = %entry.id,
                        error = %error,
                        "Received malformed entry from the server; are the server and agent \
                         versions compatible?"
                    );
                    continue;
                }
            };
            let id = entry.id.clone();
            let entry = match self.known.get(&id) {
                Some(known) if **known == entry => Arc::clone(known),
                Some(known) => {
                    if is_stale(known, entry.revision_number, entry.created_at) {
                        self.stats.stale += 1;
                    }
                    Arc::new(entry)
                }
                None => {
                    self.stats.missing += 1;
                    Arc::new(entry)
                }
            };
            self.next.insert(id, entry);
        }
        self.check_len()
    }

    fn check_len(&self) -> Result<(), Status> {
        if self.next.len() > MAX_ENTRIES {
            return Err(Status::resource_exhausted(format!("more than {MAX_ENTRIES} entries")));
        }
        Ok(())
    }

    fn finish(mut self) -> EntrySync {
        self.stats.total = self.next.len();
        self.stats.dropped = self.known.keys().filter(|id| !self.next.contains_key(*id)).count();
        EntrySync { entries: self.next, stats: self.stats }
    }
}

fn is_stale(known: &AgentEntry, revision: i64, created_at: UnixTime) -> bool {
    known.revision_number != revision
        || (created_at != UnixTime::EPOCH && known.created_at != created_at)
}

/// Reads what a server sends to an agent: ID, SPIFFE ID and selectors are required.
fn entry_from_pb(entry: &types::Entry) -> Result<AgentEntry, convert::ConvertError> {
    let selectors = convert::selectors_from_pb(&entry.selectors)?;
    if selectors.is_empty() {
        return Err(EntryError::NoSelectors.into());
    }
    let attributes = entry.additional_attributes.unwrap_or_default();
    Ok(AgentEntry {
        id: entry.id.parse::<EntryId>()?,
        spiffe_id: convert::id_from_pb(entry.spiffe_id.as_ref())?,
        selectors,
        federates_with: entry
            .federates_with
            .iter()
            .filter_map(|name| match TrustDomain::from_name_or_id(name) {
                Ok(trust_domain) => Some(trust_domain),
                Err(error) => {
                    tracing::warn!(
                        trust_domain_id = %name,
                        error = %error,
                        "Invalid federated trust domain"
                    );
                    None
                }
            })
            .collect(),
        admin: entry.admin,
        downstream: entry.downstream,
        store_svid: entry.store_svid,
        hint: entry.hint.as_str().into(),
        created_at: UnixTime::from_seconds(entry.created_at),
        revision_number: entry.revision_number,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;

    fn message(id: &str, revision_number: i64) -> types::Entry {
        types::Entry {
            id: id.into(),
            spiffe_id: Some(types::Spiffeid { trust_domain: "td".into(), path: format!("/{id}") }),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:1".into() }],
            created_at: 1,
            revision_number,
            ..types::Entry::default()
        }
    }

    fn known() -> EntryMap {
        ["a", "b", "c"]
            .iter()
            .map(|id| (id.parse().unwrap(), Arc::new(entry(id, &["unix:uid:1"]))))
            .collect()
    }

    #[test]
    fn unchanged_entries_keep_their_place_in_memory() {
        let known = known();
        let mut next = Collector::new(&known);
        next.entries(vec![message("a", 0), message("b", 1), message("d", 0)]).unwrap();
        let done = next.finish();
        let id = |text: &str| text.parse::<EntryId>().unwrap();
        assert!(Arc::ptr_eq(&done.entries[&id("a")], &known[&id("a")]));
        assert_eq!(done.entries[&id("b")].revision_number, 1);
        assert_eq!(done.stats, SyncStats { total: 3, missing: 1, stale: 1, dropped: 1 });
    }

    #[test]
    fn only_missing_and_stale_entries_are_asked_for() {
        let known = known();
        let mut next = Collector::new(&known);
        assert!(next.revision("a", 0, UnixTime::from_seconds(1)).is_none());
        assert!(
            next.revision("a", 0, UnixTime::EPOCH).is_none(),
            "a creation time of 0 says nothing"
        );
        assert!(next.revision("b", 2, UnixTime::from_seconds(1)).is_some());
        assert!(
            next.revision("c", 0, UnixTime::from_seconds(9)).is_some(),
            "made anew under the same ID"
        );
        assert!(next.revision("d", 0, UnixTime::from_seconds(1)).is_some());
        assert!(next.revision("not an id", 0, UnixTime::from_seconds(1)).is_none());
        assert_eq!(next.finish().entries.len(), 3);
    }

    #[test]
    fn malformed_entries_are_left_out() {
        let known = EntryMap::new();
        let mut next = Collector::new(&known);
        let broken = [
            types::Entry { id: String::new(), ..message("a", 0) },
            types::Entry { spiffe_id: None, ..message("a", 0) },
            types::Entry { selectors: Vec::new(), ..message("a", 0) },
        ];
        next.entries(broken.to_vec()).unwrap();
        assert!(next.finish().entries.is_empty());
    }
}
