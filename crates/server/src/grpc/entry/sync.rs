//! `SyncAuthorizedEntries`: what an agent does not have yet, in pages.
//!
//! Few entries go out whole in one message. Of many, only the revisions go out, page by page;
//! the agent then names those it wants, and gets them page by page, as often as it asks.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::stream;
use prost::Message as _;
use signet_api::{
    MAX_MESSAGE_SIZE,
    convert::entry_to_pb,
    pb::spire::api::{server::entry::v1 as pb, types::EntryMask},
};
use signet_identity::Entry;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

/// The most entries (or revisions) in one message: SPIRE's number.
const PAGE_LEN: usize = 500;

/// A page is also cut before it grows beyond this, bytes, so that it stays below what a receiver
/// takes.
const PAGE_BYTES: usize = MAX_MESSAGE_SIZE / 2;

/// How long the agent may take to ask for more, or to say that it has what it wants.
const NEXT_REQUEST: Duration = Duration::from_secs(60);

/// Reads the first request and answers with the responses to it and to all that follow.
///
/// # Errors
/// `InvalidArgument` when the first request asks for IDs or masks the revision number; the
/// status of the request stream when that failed.
pub(super) async fn respond<R>(
    mut requests: R,
    mut entries: Vec<Arc<Entry>>,
) -> Result<impl Stream<Item = Result<pb::SyncAuthorizedEntriesResponse, Status>> + Send, Status>
where
    R: Stream<Item = Result<pb::SyncAuthorizedEntriesRequest, Status>> + Send + Unpin,
{
    let first = timeout(NEXT_REQUEST, requests.next()).await;
    let first = first
        .map_err(|_| Status::deadline_exceeded("no request was sent"))?
        .ok_or_else(|| Status::invalid_argument("no request was sent"))??;
    if !first.ids.is_empty() {
        return Err(Status::invalid_argument("specifying IDs on initial request is not supported"));
    }
    let mask = first.output_mask;
    if mask.is_some_and(|mask| !mask.revision_number) {
        return Err(Status::invalid_argument("revision number cannot be masked"));
    }
    entries.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let step = match whole(&entries, mask.as_ref()) {
        Some(response) => Step::Last(response),
        None => Step::Revisions(0),
    };
    let sync = Sync { requests, entries, mask, step };
    Ok(stream::unfold(sync, |mut sync| async move {
        let response = sync.next().await?;
        Some((response, sync))
    }))
}

struct Sync<R> {
    requests: R,
    /// Sorted by ID.
    entries: Vec<Arc<Entry>>,
    mask: Option<EntryMask>,
    step: Step,
}

enum Step {
    /// One message, and that is all.
    Last(pb::SyncAuthorizedEntriesResponse),
    /// Revisions from this index on.
    Revisions(usize),
    /// Waiting for the IDs that the agent wants.
    Ask,
    /// These entries, by index, are still to be sent.
    Entries(VecDeque<usize>),
    /// Nothing more.
    Done,
}

impl<R> Sync<R>
where
    R: Stream<Item = Result<pb::SyncAuthorizedEntriesRequest, Status>> + Send + Unpin,
{
    async fn next(&mut self) -> Option<Result<pb::SyncAuthorizedEntriesResponse, Status>> {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Last(response) => Some(Ok(response)),
            Step::Revisions(from) => {
                let to = from.saturating_add(PAGE_LEN).min(self.entries.len());
                let more = to < self.entries.len();
                self.step = if more { Step::Revisions(to) } else { Step::Ask };
                let page = self.entries.get(from..to).unwrap_or_default();
                let entry_revisions = page.iter().map(|entry| revision(entry)).collect();
                Some(Ok(pb::SyncAuthorizedEntriesResponse {
                    entry_revisions,
                    more,
                    ..Default::default()
                }))
            }
            Step::Ask => match timeout(NEXT_REQUEST, self.requests.next()).await {
                // Both are how an agent says that it has what it wants.
                Ok(None) => None,
                Ok(Some(Err(status))) if status.code() == tonic::Code::Cancelled => None,
                Ok(Some(Err(status))) => Some(Err(status)),
                Ok(Some(Ok(request))) => {
                    let page = self.page(self.find(request.ids));
                    Some(Ok(page))
                }
                Err(_) => Some(Err(Status::deadline_exceeded("no further request was sent"))),
            },
            Step::Entries(wanted) => Some(Ok(self.page(wanted))),
            Step::Done => None,
        }
    }

    /// The indices of `ids`; unknown ones are skipped.
    fn find(&self, mut ids: Vec<String>) -> VecDeque<usize> {
        ids.sort_unstable();
        ids.dedup();
        ids.iter()
            .filter_map(|id| self.entries.binary_search_by(|e| e.id.as_str().cmp(id)).ok())
            .collect()
    }

    /// Takes as many of `wanted` as fit a page.
    fn page(&mut self, mut wanted: VecDeque<usize>) -> pb::SyncAuthorizedEntriesResponse {
        let mut response = pb::SyncAuthorizedEntriesResponse::default();
        let mut bytes = 0;
        while let Some(index) = wanted.front() {
            let Some(entry) = self.entries.get(*index) else { break };
            let entry = entry_to_pb(entry, self.mask.as_ref());
            bytes += entry.encoded_len();
            let fits = response.entries.len() < PAGE_LEN && bytes <= PAGE_BYTES;
            if !fits && !response.entries.is_empty() {
                break;
            }
            wanted.pop_front();
            response.entries.push(entry);
        }
        response.more = !wanted.is_empty();
        self.step = if response.more { Step::Entries(wanted) } else { Step::Ask };
        response
    }
}

/// All entries in one message, if they fit.
fn whole(
    entries: &[Arc<Entry>],
    mask: Option<&EntryMask>,
) -> Option<pb::SyncAuthorizedEntriesResponse> {
    if entries.len() > PAGE_LEN {
        return None;
    }
    let entries = entries.iter().map(|entry| entry_to_pb(entry, mask)).collect();
    let response = pb::SyncAuthorizedEntriesResponse { entries, ..Default::default() };
    (response.encoded_len() <= PAGE_BYTES).then_some(response)
}

fn revision(entry: &Entry) -> pb::EntryRevision {
    pb::EntryRevision {
        id: entry.id.as_str().to_owned(),
        revision_number: entry.revision_number,
        created_at: entry.created_at.seconds(),
    }
}

#[cfg(test)]
mod tests {
    use signet_identity::EntrySpec;
    use signet_time::UnixTime;

    use super::*;

    fn entries(n: usize, hint: &str) -> Vec<Arc<Entry>> {
        (0..n)
            .map(|i| {
                let mut spec = EntrySpec::new(
                    "spiffe://td/w".parse().unwrap(),
                    "spiffe://td/n".parse().unwrap(),
                    ["a:b".parse().unwrap()].into_iter().collect(),
                );
                spec.hint = hint.to_owned();
                let id = format!("e{i:05}").parse().unwrap();
                Arc::new(Entry {
                    id,
                    spec,
                    revision_number: 3,
                    created_at: UnixTime::from_seconds(4),
                })
            })
            .rev()
            .collect()
    }

    type Request = Result<pb::SyncAuthorizedEntriesRequest, Status>;

    async fn talk(
        entries: Vec<Arc<Entry>>,
        requests: Vec<Request>,
    ) -> Result<Vec<pb::SyncAuthorizedEntriesResponse>, Status> {
        let responses = respond(tokio_stream::iter(requests), entries).await?;
        responses.collect::<Vec<_>>().await.into_iter().collect()
    }

    fn first() -> Request {
        Ok(pb::SyncAuthorizedEntriesRequest::default())
    }

    fn ids(all: impl IntoIterator<Item = usize>) -> Request {
        let ids = all.into_iter().map(|i| format!("e{i:05}")).collect();
        Ok(pb::SyncAuthorizedEntriesRequest { ids, ..Default::default() })
    }

    #[tokio::test]
    async fn few_entries_come_whole_and_the_stream_ends() {
        for n in [0, 1, PAGE_LEN] {
            let got = talk(entries(n, ""), vec![first(), ids([0])]).await.unwrap();
            assert_eq!(got.len(), 1);
            assert_eq!((got[0].entries.len(), got[0].more), (n, false));
            assert!(got[0].entry_revisions.is_empty());
        }
    }

    #[tokio::test]
    async fn of_many_entries_revisions_come_first_and_then_what_is_asked_for() {
        let wanted = (0..PAGE_LEN + 1).rev().chain([90_000]);
        let got = talk(entries(1201, ""), vec![first(), ids(wanted), ids([7]), ids([])]).await;
        let shape: Vec<_> = got
            .unwrap()
            .iter()
            .map(|page| (page.entry_revisions.len(), page.entries.len(), page.more))
            .collect();
        let expected = [
            (500, 0, true),
            (500, 0, true),
            (201, 0, false),
            (0, 500, true),
            (0, 1, false),
            (0, 1, false),
            (0, 0, false),
        ];
        assert_eq!(shape, expected);
    }

    #[tokio::test]
    async fn large_entries_make_smaller_pages() {
        let got = talk(entries(400, &"x".repeat(10_000)), vec![first(), ids(0..400)]);
        let got = got.await.unwrap();
        assert_eq!(got[0].entry_revisions.len(), 400);
        assert_eq!(got.iter().map(|page| page.entries.len()).sum::<usize>(), 400);
        assert!(got.len() > 2);
        assert!(got.iter().all(|page| page.encoded_len() < MAX_MESSAGE_SIZE));
    }

    #[tokio::test]
    async fn a_malformed_first_request_is_refused() {
        let masked = pb::SyncAuthorizedEntriesRequest {
            output_mask: Some(EntryMask { spiffe_id: true, ..Default::default() }),
            ids: Vec::new(),
        };
        for (requests, why) in [
            (vec![ids([1])], "specifying IDs on initial request is not supported"),
            (vec![Ok(masked)], "revision number cannot be masked"),
            (vec![], "no request was sent"),
        ] {
            let refused = talk(entries(1, ""), requests).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert_eq!(refused.message(), why);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_falls_silent_is_dropped() {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.send(first()).await.unwrap();
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let responses = respond(requests, entries(501, "")).await.unwrap();
        let got: Vec<_> = responses.collect().await;
        assert_eq!(got.len(), 3);
        assert_eq!(got[2].as_ref().unwrap_err().code(), tonic::Code::DeadlineExceeded);
        drop(sender);
    }
}
