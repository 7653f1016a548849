//! `spire.api.server.entry.v1.Entry`: registration entries.

mod filter;
mod sync;

use std::pin::Pin;

use signet_api::{
    convert::{EntryChange, entry_from_pb, entry_to_pb},
    pb::spire::api::{
        server::entry::v1::{
            self as pb, batch_create_entry_response, batch_delete_entry_response,
            batch_update_entry_response, entry_server,
        },
        types,
    },
};
use signet_audit::Field;
use signet_identity::{EntryError, EntryId};
use signet_store::NewEntry;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::shared::{Batch, count, item, next_token, page, serve};
use crate::usecase::{
    entries::{Created, Edit, Entries, similar},
    error::Error,
};

/// The entry service.
#[derive(Clone, Debug)]
pub struct EntryService {
    entries: Entries,
}

impl EntryService {
    /// The service of a server.
    pub fn new(entries: Entries) -> Self {
        Self { entries }
    }

    /// As a service for the router.
    pub fn into_server(self) -> entry_server::EntryServer<Self> {
        entry_server::EntryServer::new(self)
    }
}

/// An entry to create.
pub(super) fn new_entry(entries: &Entries, entry: &types::Entry) -> Result<NewEntry, Error> {
    let draft = entry_from_pb(entries.trust_domain(), entry)
        .map_err(|error| Error::invalid("failed to convert entry").because(error))?;
    let id = match entry.id.as_str() {
        "" => entries.fresh_id().parse(),
        given => given.parse(),
    };
    let id =
        id.map_err(|error: EntryError| Error::invalid("failed to create entry").because(error))?;
    Ok(NewEntry { id, draft })
}

/// A change of an entry, which leaves its tenant as it is.
pub(super) fn edit(
    entries: &Entries,
    entry: &types::Entry,
    mask: Option<&types::EntryMask>,
) -> Result<Edit, Error> {
    let change = EntryChange::from_pb(entries.trust_domain(), entry, mask)
        .map_err(|error| Error::invalid("failed to convert entry").because(error))?;
    // What is no ID is the ID of no entry.
    let id = entry.id.parse().map_err(|_| Error::not_found("failed to update entry"))?;
    Ok(Edit { id, change, tenant: None })
}

#[tonic::async_trait]
impl entry_server::Entry for EntryService {
    async fn count_entries(
        &self,
        request: Request<pb::CountEntriesRequest>,
    ) -> Result<Response<pb::CountEntriesResponse>, Status> {
        serve(request, |call, request| async move {
            let about = |field| call.about(field);
            let filter = filter::from_count(self.entries.trust_domain(), &request, about)?;
            let n = self.entries.count(&call, &filter).await?;
            Ok(pb::CountEntriesResponse { count: count(n) })
        })
        .await
    }

    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Result<Response<pb::ListEntriesResponse>, Status> {
        serve(request, |call, request| async move {
            let page = page(request.page_size, &request.page_token, "failed to list entries")?;
            let about = |field| call.about(field);
            let filter = filter::from_list(self.entries.trust_domain(), &request, about)?;
            let listed = self.entries.list(&call, &filter, page).await?;
            let mask = request.output_mask.as_ref();
            Ok(pb::ListEntriesResponse {
                entries: listed.items.iter().map(|entry| entry_to_pb(entry, mask)).collect(),
                next_page_token: next_token(listed.next),
            })
        })
        .await
    }

    async fn get_entry(
        &self,
        request: Request<pb::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        serve(request, |call, request| async move {
            if request.id.is_empty() {
                return Err(Error::invalid("missing ID"));
            }
            let entry = self.entries.get(&call, &request.id).await?;
            Ok(entry_to_pb(&entry, request.output_mask.as_ref()))
        })
        .await
    }

    async fn batch_create_entry(
        &self,
        request: Request<pb::BatchCreateEntryRequest>,
    ) -> Result<Response<pb::BatchCreateEntryResponse>, Status> {
        serve(request, |call, request| async move {
            let read = |entry| new_entry(&self.entries, entry);
            let mut batch = Batch::read(&call, &request.entries, read, about);
            let created = self.entries.create(&call, batch.take()).await;
            let mask = request.output_mask.as_ref();
            let results = batch.answers(created).map(|created| {
                let (result, entry) = match created {
                    Ok(Created::New(entry)) => (Ok(()), Some(entry)),
                    Ok(Created::Similar(entry)) => (Err(similar()), Some(entry)),
                    Err(error) => (Err(error), None),
                };
                let entry = entry.map(|entry| entry_to_pb(&entry, mask));
                batch_create_entry_response::Result { status: item(&result), entry }
            });
            Ok(pb::BatchCreateEntryResponse { results: results.collect() })
        })
        .await
    }

    async fn batch_update_entry(
        &self,
        request: Request<pb::BatchUpdateEntryRequest>,
    ) -> Result<Response<pb::BatchUpdateEntryResponse>, Status> {
        serve(request, |call, request| async move {
            let read = |entry| edit(&self.entries, entry, request.input_mask.as_ref());
            let mut batch = Batch::read(&call, &request.entries, read, about);
            let updated = self.entries.update(&call, batch.take()).await;
            let mask = request.output_mask.as_ref();
            let results = batch.answers(updated).map(|updated| {
                let status = item(&updated);
                let entry = updated.ok().map(|entry| entry_to_pb(&entry, mask));
                batch_update_entry_response::Result { status, entry }
            });
            Ok(pb::BatchUpdateEntryResponse { results: results.collect() })
        })
        .await
    }

    async fn batch_delete_entry(
        &self,
        request: Request<pb::BatchDeleteEntryRequest>,
    ) -> Result<Response<pb::BatchDeleteEntryResponse>, Status> {
        serve(request, |call, request| async move {
            let read = |id: &String| match id.as_str() {
                "" => Err(Error::invalid("missing entry ID")),
                id => id.parse::<EntryId>().map_err(|_| Error::not_found("entry not found")),
            };
            let about = |id: &String| Field::EntryId(id.clone());
            let mut batch = Batch::read(&call, &request.ids, read, about);
            let deleted = self.entries.delete(&call, batch.take()).await;
            let results = batch.answers(deleted).zip(&request.ids).map(|(deleted, id)| {
                batch_delete_entry_response::Result { status: item(&deleted), id: id.clone() }
            });
            Ok(pb::BatchDeleteEntryResponse { results: results.collect() })
        })
        .await
    }

    async fn get_authorized_entries(
        &self,
        request: Request<pb::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<pb::GetAuthorizedEntriesResponse>, Status> {
        serve(request, |call, request| async move {
            let entries = self.entries.authorized(&call).await?;
            let mask = request.output_mask.as_ref();
            let entries = entries.iter().map(|entry| entry_to_pb(entry, mask)).collect();
            Ok(pb::GetAuthorizedEntriesResponse { entries })
        })
        .await
    }

    type SyncAuthorizedEntriesStream =
        Pin<Box<dyn Stream<Item = Result<pb::SyncAuthorizedEntriesResponse, Status>> + Send>>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<pb::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let opened = serve(request, |call, requests| async move {
            Ok((self.entries.authorized(&call).await?, requests))
        });
        let (entries, requests) = opened.await?.into_inner();
        let responses = sync::respond(requests, entries).await?;
        Ok(Response::new(Box::pin(responses)))
    }
}

fn about(entry: &types::Entry) -> Field {
    Field::EntryId(entry.id.clone())
}
