//! `spire.api.server.entry.v1.Entry`: registration entries.

mod filter;
mod sync;

use std::{pin::Pin, sync::Arc, time::UNIX_EPOCH};

use signet_api::{
    convert::{EntryChange, entry_from_pb, entry_to_pb},
    pb::spire::api::{
        server::entry::v1::{
            self as pb, batch_create_entry_response, batch_delete_entry_response,
            batch_update_entry_response, entry_server,
        },
        types,
    },
    status,
};
use signet_identity::{Entry, EntryId, TrustDomain};
use signet_store::{CreateEntryOutcome, EntryUpdate, NewEntry, UpdateEntryOutcome};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::shared::{Answer, Batch, count, next_token, page, store_failed};
use crate::{audit::Audit, caller::Caller, context::Context, entry_id};

/// The entry service.
#[derive(Clone, Debug)]
pub struct EntryService {
    context: Context,
}

impl EntryService {
    /// The service of a server.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// As a service for the router.
    pub fn into_server(self) -> entry_server::EntryServer<Self> {
        entry_server::EntryServer::new(self)
    }

    fn now(&self) -> i64 {
        self.context.clock.unix()
    }

    /// The entries of the calling agent, as of now.
    async fn authorized<T>(&self, request: &Request<T>) -> Result<Vec<Arc<Entry>>, Status> {
        let caller = Caller::of(request)?;
        let agent = caller.agent_id()?;
        self.context.cache.fresh().await?;
        Ok(self.context.cache.authorized(agent))
    }

    fn new_entry(&self, entry: &types::Entry) -> Result<NewEntry, types::Status> {
        let invalid =
            |what: &str, why: String| status::item(Code::InvalidArgument, format!("{what}: {why}"));
        let draft = entry_from_pb(&self.context.trust_domain, entry)
            .map_err(|error| invalid("failed to convert entry", error.to_string()))?;
        let id = match entry.id.as_str() {
            "" => self.fresh_id().parse(),
            given => given.parse(),
        };
        let id = id.map_err(|error: signet_identity::EntryError| {
            invalid("failed to create entry", error.to_string())
        })?;
        Ok(NewEntry { id, draft })
    }

    /// An ID for a new entry, after those of all older ones.
    fn fresh_id(&self) -> String {
        let since_epoch = self.context.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        entry_id::fresh(since_epoch).unwrap_or_else(|_| uuid::Uuid::new_v4().to_string())
    }

    fn update(
        &self,
        entry: &types::Entry,
        mask: Option<&types::EntryMask>,
    ) -> Result<EntryUpdate, types::Status> {
        let change =
            EntryChange::from_pb(&self.context.trust_domain, entry, mask).map_err(|error| {
                status::item(Code::InvalidArgument, format!("failed to convert entry: {error}"))
            })?;
        // What is no ID is the ID of no entry.
        let id: EntryId = entry.id.parse().map_err(|_| entry_missing())?;
        let trust_domain = self.context.trust_domain.clone();
        Ok(EntryUpdate::new(id, move |draft| {
            change.apply(draft);
            draft.check(&trust_domain)
        }))
    }
}

#[tonic::async_trait]
impl entry_server::Entry for EntryService {
    async fn count_entries(
        &self,
        request: Request<pb::CountEntriesRequest>,
    ) -> Result<Response<pb::CountEntriesResponse>, Status> {
        let audit = Audit::of(&request);
        let filter = filter::from_count(&self.context.trust_domain, request.get_ref(), &audit)?;
        let n = self.context.store.count_entries(&filter).await;
        let n = n.map_err(|error| store_failed("failed to count entries", &error))?;
        Ok(Response::new(pb::CountEntriesResponse { count: count(n) }))
    }

    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Result<Response<pb::ListEntriesResponse>, Status> {
        const FAILED: &str = "failed to list entries";
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let page = page(request.page_size, &request.page_token, FAILED)?;
        let filter = filter::from_list(&self.context.trust_domain, request, &audit)?;
        let listed = self.context.store.list_entries(&filter, page).await;
        let listed = listed.map_err(|error| store_failed(FAILED, &error))?;
        let mask = request.output_mask.as_ref();
        Ok(Response::new(pb::ListEntriesResponse {
            entries: listed.items.iter().map(|entry| entry_to_pb(entry, mask)).collect(),
            next_page_token: next_token(listed.next),
        }))
    }

    async fn get_entry(
        &self,
        request: Request<pb::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        let audit = Audit::of(&request);
        let request = request.get_ref();
        if request.id.is_empty() {
            return Err(Status::invalid_argument("missing ID"));
        }
        audit.field("entry_id", &request.id);
        let not_found = || Status::not_found("entry not found");
        let id: EntryId = request.id.parse().map_err(|_| not_found())?;
        let entry = self.context.store.entry(&id).await;
        let entry = entry.map_err(|error| store_failed("failed to fetch entry", &error))?;
        let entry = entry.ok_or_else(not_found)?;
        Ok(Response::new(entry_to_pb(&entry, request.output_mask.as_ref())))
    }

    async fn batch_create_entry(
        &self,
        request: Request<pb::BatchCreateEntryRequest>,
    ) -> Result<Response<pb::BatchCreateEntryResponse>, Status> {
        const FAILED: &str = "failed to create entry";
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let answers = Batch::read(&request.entries, |entry| self.new_entry(entry))
            .run(
                &self.context,
                FAILED,
                |entries| self.context.store.create_entries(entries, self.now()),
                |asked, outcome| match outcome {
                    CreateEntryOutcome::Created(entry) => (status::item_ok(), Some(entry)),
                    CreateEntryOutcome::Similar(entry) => {
                        let text = "similar entry already exists";
                        (status::item(Code::AlreadyExists, text), Some(entry))
                    }
                    CreateEntryOutcome::IdTaken => {
                        let text =
                            format!("{FAILED}: an entry with the ID \"{}\" exists", asked.id);
                        (status::item(Code::AlreadyExists, text), None)
                    }
                    CreateEntryOutcome::UnknownBundle(trust_domain) => {
                        (unknown_bundle(FAILED, &trust_domain), None)
                    }
                },
            )
            .await;
        let results = answers.map(|(asked, answer)| {
            let (status, entry) = report(&audit, asked, answer, request.output_mask.as_ref());
            batch_create_entry_response::Result { status, entry }
        });
        let results = results.collect();
        Ok(Response::new(pb::BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<pb::BatchUpdateEntryRequest>,
    ) -> Result<Response<pb::BatchUpdateEntryResponse>, Status> {
        const FAILED: &str = "failed to update entry";
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let input_mask = request.input_mask.as_ref();
        let answers = Batch::read(&request.entries, |entry| self.update(entry, input_mask))
            .run(
                &self.context,
                FAILED,
                |updates| self.context.store.update_entries(updates, self.now()),
                |_, outcome| match outcome {
                    UpdateEntryOutcome::Updated(entry) => (status::item_ok(), Some(entry)),
                    UpdateEntryOutcome::NotFound => (entry_missing(), None),
                    UpdateEntryOutcome::Refused(why) => {
                        let text = format!("{FAILED}: {why}");
                        (status::item(Code::InvalidArgument, text), None)
                    }
                    UpdateEntryOutcome::UnknownBundle(trust_domain) => {
                        (unknown_bundle(FAILED, &trust_domain), None)
                    }
                },
            )
            .await;
        let results = answers.map(|(asked, answer)| {
            let (status, entry) = report(&audit, asked, answer, request.output_mask.as_ref());
            batch_update_entry_response::Result { status, entry }
        });
        let results = results.collect();
        Ok(Response::new(pb::BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<pb::BatchDeleteEntryRequest>,
    ) -> Result<Response<pb::BatchDeleteEntryResponse>, Status> {
        const FAILED: &str = "failed to delete entry";
        let audit = Audit::of(&request);
        let not_found = || status::item(Code::NotFound, "entry not found");
        let read = |id: &String| match id.as_str() {
            "" => Err(status::item(Code::InvalidArgument, "missing entry ID")),
            id => id.parse().map_err(|_| not_found()),
        };
        let answers = Batch::<_, EntryId>::read(&request.get_ref().ids, read)
            .run(
                &self.context,
                FAILED,
                |ids| self.context.store.delete_entries(ids, self.now()),
                |_, outcome| match outcome {
                    Some(_) => (status::item_ok(), Some(())),
                    None => (not_found(), None),
                },
            )
            .await;
        let results = answers.map(|(id, (status, _))| {
            audit.item(Code::from(status.code), &status.message, &[("entry_id", id)]);
            batch_delete_entry_response::Result { status: Some(status), id: id.clone() }
        });
        let results = results.collect();
        Ok(Response::new(pb::BatchDeleteEntryResponse { results }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<pb::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<pb::GetAuthorizedEntriesResponse>, Status> {
        let entries = self.authorized(&request).await?;
        let mask = request.get_ref().output_mask.as_ref();
        let entries = entries.iter().map(|entry| entry_to_pb(entry, mask)).collect();
        Ok(Response::new(pb::GetAuthorizedEntriesResponse { entries }))
    }

    type SyncAuthorizedEntriesStream =
        Pin<Box<dyn Stream<Item = Result<pb::SyncAuthorizedEntriesResponse, Status>> + Send>>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<pb::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let entries = self.authorized(&request).await?;
        let responses = sync::respond(request.into_inner(), entries).await?;
        Ok(Response::new(Box::pin(responses)))
    }
}

fn entry_missing() -> types::Status {
    status::item(Code::NotFound, "failed to update entry")
}

fn unknown_bundle(what: &str, trust_domain: &TrustDomain) -> types::Status {
    let id = trust_domain.id_string();
    status::item(Code::Internal, format!("{what}: unable to find federated bundle \"{id}\""))
}

/// Records what came of one item, and puts it into the fields of its result.
fn report(
    audit: &Audit,
    asked: &types::Entry,
    (status, after): Answer<Entry>,
    mask: Option<&types::EntryMask>,
) -> (Option<types::Status>, Option<types::Entry>) {
    audit_entry(audit, &status, asked, after.as_ref());
    (Some(status), after.map(|entry| entry_to_pb(&entry, mask)))
}

/// Records what was asked for, and the ID that the store knows it by.
fn audit_entry(audit: &Audit, status: &types::Status, asked: &types::Entry, after: Option<&Entry>) {
    if !audit.is_on() {
        return;
    }
    let text = |id: Option<&types::Spiffeid>| {
        id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path)).unwrap_or_default()
    };
    let selectors: Vec<String> =
        asked.selectors.iter().map(|one| format!("{}:{}", one.r#type, one.value)).collect();
    let id = after.map_or(asked.id.as_str(), |entry| entry.id.as_str());
    audit.item(
        Code::from(status.code),
        &status.message,
        &[
            ("entry_id", &id),
            ("spiffe_id", &text(asked.spiffe_id.as_ref())),
            ("parent_id", &text(asked.parent_id.as_ref())),
            ("selectors", &selectors.join(",")),
            ("admin", &asked.admin),
            ("downstream", &asked.downstream),
            ("expires_at", &asked.expires_at),
            ("federates_with", &asked.federates_with.join(",")),
            ("dns_name", &asked.dns_names.join(",")),
            ("store_svid", &asked.store_svid),
            ("hint", &asked.hint),
            ("x509_svid_ttl", &asked.x509_svid_ttl),
            ("jwt_svid_ttl", &asked.jwt_svid_ttl),
        ],
    );
}
