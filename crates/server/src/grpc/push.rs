//! `signet.api.push.v1.Push`: tells clients at once that something they may read has changed.

use std::{pin::Pin, sync::Arc, time::Duration};

use signet_api::{
    convert::entry_to_pb,
    pb::signet::api::push::v1::{self as pb, push_server},
};
use signet_base::{Jitter, Tasks};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::shared::{serve, status};
use crate::{
    cache::{Cache, Revisions},
    context::Context,
    metrics::ServerMetrics,
    usecase::{
        authorization::{Action, AgentRefusal, Authorizer},
        entries::Entries,
        error::Error,
        principal::{Peer, Principal, Role},
    },
};

/// How long a stream lives: clients come back, and find another server if there are several.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);
/// Within which part of [`MAX_AGE`] streams end, so that they do not all come back at once.
const AGE_SPREAD: f64 = 0.2;

/// The push service.
#[derive(Clone, Debug)]
pub struct PushService {
    authorizer: Authorizer,
    cache: Arc<Cache>,
    entries: Entries,
    counted: ServerMetrics,
    tasks: Tasks,
}

impl PushService {
    /// The service of this server; streams end with `tasks`.
    pub fn new(authorizer: Authorizer, context: &Context, entries: Entries, tasks: Tasks) -> Self {
        let (cache, counted) = (Arc::clone(&context.parts.cache), context.parts.counted.clone());
        Self { authorizer, cache, entries, counted, tasks }
    }

    /// As a service for the router.
    pub fn into_server(self) -> push_server::PushServer<Self> {
        push_server::PushServer::new(self)
    }

    /// Whether an agent may still be told things: it may have been banned, evicted or have
    /// renewed since its stream began.
    async fn may_go_on(&self, principal: &Principal) -> Result<(), Status> {
        let (Role::Agent, Peer::Remote(remote)) = (&principal.role, &principal.peer) else {
            return Ok(());
        };
        let Some(svid) = &remote.svid else { return Ok(()) };
        self.authorizer.agent(svid).await.map_err(|AgentRefusal { denial, why, .. }| {
            status(&match denial {
                Some(denial) => Error::denied(why, denial),
                None => Error::unavailable(why),
            })
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
        let opened = serve(request, |call, _| async move {
            call.may(Action::WatchChanges)?;
            let agent = match call.principal.role {
                Role::Agent => Some(call.agent_id()?.clone()),
                _ => None,
            };
            Ok((call.principal, agent))
        });
        let (principal, agent) = opened.await?.into_inner();
        let mut revisions = self.cache.subscribe(agent.as_ref());
        let mut everything = self.cache.subscribe(None);
        let (notices, stream) = mpsc::channel(1);
        let service = self.clone();
        self.tasks.spawn("push", async move {
            let _open = service.counted.push_streams.hold(&[]);
            let end = Instant::now() + Jitter::new().spread(MAX_AGE, AGE_SPREAD);
            let mut agents_seen = everything.borrow_and_update().agents;
            loop {
                let now = *revisions.borrow_and_update();
                let notice = notice(&service.cache.feed_id(), now);
                if notices.send(Ok(notice)).await.is_err() {
                    return;
                }
                service.counted.push_notices.inc(&[]);
                // Until something concerns this client; a change of any agent is a reason to look
                // whether this one is still welcome.
                loop {
                    let ended = tokio::select! {
                        () = service.tasks.token().cancelled() => "the server is stopping",
                        () = tokio::time::sleep_until(end) => "the stream has reached its age",
                        () = notices.closed() => return,
                        changed = revisions.changed() => match changed {
                            Ok(()) => match service.may_go_on(&principal).await {
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
                                && let Err(status) = service.may_go_on(&principal).await
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
        serve(request, |call, request| async move {
            let (feed_id, after) = (&request.feed_id, request.after_revision);
            let changed = self.entries.changed(&call, feed_id, after).await?;
            let resync = changed.entries.is_none();
            let changes = changed.entries.into_iter().flatten().map(|(id, entry)| {
                let entry = entry.map(|entry| entry_to_pb(&entry, None));
                pb::EntryChange { id: id.to_string(), entry }
            });
            Ok(pb::ListEntryChangesResponse {
                feed_id: changed.feed_id,
                resync,
                revision: changed.revision,
                more: changed.more,
                changes: changes.collect(),
            })
        })
        .await
    }
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
