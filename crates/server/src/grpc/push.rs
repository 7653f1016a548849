//! `signet.api.push.v1.Push`: tells clients at once that something they may read has changed.

use std::{collections::HashMap, pin::Pin, time::Duration};

use signet_api::{
    convert::entry_to_pb,
    pb::signet::api::push::v1::{self as pb, push_server},
};
use signet_base::{Jitter, Tasks};
use signet_identity::EntryId;
use signet_store::{Change, ChangeKind, Changes, FeedPosition};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::shared::store_failed;
use crate::{
    cache::Revisions,
    caller::{Caller, Peer, Role},
    context::Context,
    gate::authorize_agent,
};

/// How long a stream lives: clients come back, and find another server if there are several.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);
/// Within which part of [`MAX_AGE`] streams end, so that they do not all come back at once.
const AGE_SPREAD: f64 = 0.2;

/// How many changes are looked at for one answer: entries are small, and an answer must be too.
const CHANGES: u32 = 200;

/// The push service.
#[derive(Clone, Debug)]
pub struct PushService {
    context: Context,
    tasks: Tasks,
}

impl PushService {
    /// The service of this server; streams end with `tasks`.
    pub fn new(context: Context, tasks: Tasks) -> Self {
        Self { context, tasks }
    }

    /// As a service for the router.
    pub fn into_server(self) -> push_server::PushServer<Self> {
        push_server::PushServer::new(self)
    }

    /// Whether an agent may still be told things: it may have been banned, evicted or have
    /// renewed since its stream began.
    async fn may_go_on(&self, caller: &Caller) -> Result<(), Status> {
        let (Role::Agent, Peer::Remote(remote)) = (&caller.role, &caller.peer) else {
            return Ok(());
        };
        let Some(svid) = &remote.svid else { return Ok(()) };
        authorize_agent(&self.context, svid).await.map_err(|refusal| match refusal.reason {
            Some(reason) => signet_api::status::permission_denied(refusal.log, reason),
            None => Status::unavailable(refusal.log),
        })
    }
}

#[tonic::async_trait]
impl push_server::Push for PushService {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<pb::Notice, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = Caller::of(&request)?;
        let agent = match caller.role {
            Role::Agent => Some(caller.agent_id()?.clone()),
            _ => None,
        };
        let cache = &self.context.cache;
        let mut revisions = cache.subscribe(agent.as_ref());
        let mut everything = cache.subscribe(None);
        let (notices, stream) = mpsc::channel(1);
        let service = self.clone();
        self.tasks.spawn("push", async move {
            let end = Instant::now() + Jitter::new().spread(MAX_AGE, AGE_SPREAD);
            let mut agents_seen = everything.borrow_and_update().agents;
            loop {
                let now = *revisions.borrow_and_update();
                let notice = notice(&service.context.cache.feed_id(), now);
                if notices.send(Ok(notice)).await.is_err() {
                    return;
                }
                // Until something concerns this client; a change of any agent is a reason to look
                // whether this one is still welcome.
                loop {
                    let ended = tokio::select! {
                        () = service.tasks.token().cancelled() => "the server is stopping",
                        () = tokio::time::sleep_until(end) => "the stream has reached its age",
                        () = notices.closed() => return,
                        changed = revisions.changed() => match changed {
                            Ok(()) => match service.may_go_on(&caller).await {
                                Ok(()) => break,
                                Err(status) => {
                                    let _ = notices.send(Err(status)).await;
                                    return;
                                }
                            },
                            Err(_) => "the server is stopping",
                        },
                        changed = everything.changed(), if agent.is_some() => {
                            let agents = everything.borrow_and_update().agents;
                            let may_have_changed = changed.is_ok() && agents != agents_seen;
                            agents_seen = agents;
                            if may_have_changed
                                && let Err(status) = service.may_go_on(&caller).await
                            {
                                let _ = notices.send(Err(status)).await;
                                return;
                            }
                            continue;
                        }
                    };
                    let _ = notices.send(Err(Status::unavailable(ended))).await;
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_entry_changes(
        &self,
        request: Request<pb::ListEntryChangesRequest>,
    ) -> Result<Response<pb::ListEntryChangesResponse>, Status> {
        const FAILED: &str = "failed to list changes of entries";
        let request = request.into_inner();
        let store = &self.context.store;
        let after = request.after_revision;
        let since = FeedPosition { epoch: request.feed_id.into(), revision: after };
        let changes = store.changes_since(&since, CHANGES).await;
        let changes = match changes.map_err(|error| store_failed(FAILED, &error))? {
            Changes::Since(changes) => changes,
            // What changes after that place comes with the next answer.
            Changes::Gone { now } => {
                return Ok(Response::new(pb::ListEntryChangesResponse {
                    feed_id: now.epoch.to_string(),
                    resync: true,
                    revision: now.revision,
                    ..Default::default()
                }));
            }
        };
        let more = changes.len() >= CHANGES as usize;
        let revision = changes.last().map_or(after, |change| change.revision);
        let ids = changed_entries(changes);
        let entries = store.entries(&ids).await;
        let entries = entries.map_err(|error| store_failed(FAILED, &error))?;
        let mut entries: HashMap<_, _> =
            entries.into_iter().map(|entry| (entry.id.clone(), entry)).collect();
        let changes = ids.into_iter().map(|id| pb::EntryChange {
            entry: entries.remove(&id).map(|entry| entry_to_pb(&entry, None)),
            id: id.to_string(),
        });
        Ok(Response::new(pb::ListEntryChangesResponse {
            feed_id: since.epoch.to_string(),
            resync: false,
            revision,
            more,
            changes: changes.collect(),
        }))
    }
}

/// The entries among what has changed, each once.
fn changed_entries(changes: Vec<Change>) -> Vec<EntryId> {
    let mut ids: Vec<EntryId> = changes
        .into_iter()
        .filter(|change| change.kind == ChangeKind::Entry)
        .filter_map(|change| change.key.parse().ok())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn notice(feed_id: &str, revisions: Revisions) -> pb::Notice {
    pb::Notice {
        feed_id: feed_id.to_owned(),
        entries_revision: revisions.entries,
        bundles_revision: revisions.bundles,
        relationships_revision: revisions.relationships,
        agents_revision: revisions.agents,
    }
}
