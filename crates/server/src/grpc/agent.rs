//! `spire.api.server.agent.v1.Agent`: attested agents and join tokens.

mod attest;
mod filter;

use std::pin::Pin;

use signet_api::{
    convert::{agent_id_from_pb, agent_to_pb, workload_id_from_pb},
    pb::spire::api::{
        server::agent::v1::{self as pb, agent_server},
        types,
    },
    status::{self, Reason},
};
use signet_identity::{EntryDraft, JoinToken, Selector, SpiffeId};
use signet_pki::{random, x509::Csr};
use signet_store::{CreateOutcome, NewEntry};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    shared::{count, next_token, page, store_failed},
    svid::{bad_csr, sign_failed, x509_to_pb},
};
use crate::{attestors::Attestors, audit::Audit, caller::Caller, context::Context, limits::Limit};

/// The longest agent version that is stored, bytes.
const MAX_VERSION_LEN: usize = 255;
/// The longest join token that is created, bytes: it becomes part of a SPIFFE ID.
const MAX_TOKEN_LEN: usize = signet_attest::node::join_token::MAX_TOKEN;

/// The agent service.
#[derive(Clone, Debug)]
pub struct AgentService {
    context: Context,
    attestors: Attestors,
}

impl AgentService {
    /// The service of this server.
    pub fn new(context: Context, attestors: Attestors) -> Self {
        Self { context, attestors }
    }

    /// As a service for the router.
    pub fn into_server(self) -> agent_server::AgentServer<Self> {
        agent_server::AgentServer::new(self)
    }

    fn agent_id(&self, id: Option<&types::Spiffeid>, audit: &Audit) -> Result<SpiffeId, Status> {
        let id = agent_id_from_pb(&self.context.trust_domain, id)
            .map_err(|error| status::wrap(Code::InvalidArgument, "invalid agent ID", error))?;
        audit.field("spiffe_id", &id);
        Ok(id)
    }

    /// The agent ID of a join token.
    fn join_token_id(&self, token: &str) -> Result<SpiffeId, Status> {
        let path = format!("/spire/agent/join_token/{token}");
        SpiffeId::new(self.context.trust_domain.clone(), &path)
            .map_err(|error| status::wrap(Code::Internal, "failed to create join token ID", error))
    }
}

#[tonic::async_trait]
impl agent_server::Agent for AgentService {
    async fn count_agents(
        &self,
        request: Request<pb::CountAgentsRequest>,
    ) -> Result<Response<pb::CountAgentsResponse>, Status> {
        let audit = Audit::of(&request);
        let filter = request.into_inner().filter.map(filter::Filter::from).unwrap_or_default();
        let filter = filter.checked(&audit)?;
        let counted = self.context.store.count_nodes(&filter).await;
        let counted = counted.map_err(|error| store_failed("failed to count agents", &error))?;
        Ok(Response::new(pb::CountAgentsResponse { count: count(counted) }))
    }

    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        const WHAT: &str = "failed to list agents";
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let filter = request.filter.map(filter::Filter::from).unwrap_or_default();
        let filter = filter.checked(&audit)?;
        let page = page(request.page_size, &request.page_token, WHAT)?;
        let found = self.context.store.list_nodes(&filter, page).await;
        let found = found.map_err(|error| store_failed(WHAT, &error))?;
        let mask = request.output_mask.as_ref();
        Ok(Response::new(pb::ListAgentsResponse {
            agents: found.items.iter().map(|node| agent_to_pb(node, mask)).collect(),
            next_page_token: next_token(found.next),
        }))
    }

    async fn get_agent(
        &self,
        request: Request<pb::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let id = self.agent_id(request.id.as_ref(), &audit)?;
        let node = self.context.store.node(&id).await;
        let node = node.map_err(|error| store_failed("failed to fetch agent", &error))?;
        let node = node.ok_or_else(|| Status::not_found("agent not found"))?;
        Ok(Response::new(agent_to_pb(&node, request.output_mask.as_ref())))
    }

    async fn delete_agent(
        &self,
        request: Request<pb::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let audit = Audit::of(&request);
        let id = self.agent_id(request.into_inner().id.as_ref(), &audit)?;
        let deleted = self.context.store.delete_node(&id, self.context.clock.unix()).await;
        let deleted = deleted.map_err(|error| store_failed("failed to remove agent", &error))?;
        if deleted.is_none() {
            return Err(Status::not_found("agent not found"));
        }
        self.context.cache.fresh().await?;
        tracing::info!(spiffe_id = %id, "Agent deleted");
        Ok(Response::new(()))
    }

    async fn ban_agent(
        &self,
        request: Request<pb::BanAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let audit = Audit::of(&request);
        let id = self.agent_id(request.into_inner().id.as_ref(), &audit)?;
        let banned = self.context.store.update_node(&id, self.context.clock.unix(), |node| {
            if node.is_banned() {
                return false;
            }
            node.serial_number.clear();
            node.new_serial_number.clear();
            true
        });
        let banned = banned.await.map_err(|error| store_failed("failed to ban agent", &error))?;
        if banned.is_none() {
            return Err(Status::not_found("agent not found"));
        }
        self.context.cache.fresh().await?;
        tracing::info!(spiffe_id = %id, "Agent banned");
        Ok(Response::new(()))
    }

    type AttestAgentStream =
        Pin<Box<dyn Stream<Item = Result<pb::AttestAgentResponse, Status>> + Send>>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<pb::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let caller = Caller::of(&request)?;
        let audit = Audit::of(&request);
        Ok(Response::new(self.attest(caller, audit, request.into_inner())))
    }

    async fn renew_agent(
        &self,
        request: Request<pb::RenewAgentRequest>,
    ) -> Result<Response<pb::RenewAgentResponse>, Status> {
        let caller = Caller::of(&request)?;
        let audit = Audit::of(&request);
        self.context.limits.acquire(&caller, Limit::SignX509, 1, "renew agent").await?;
        let id = caller.agent_id()?;
        let store = &self.context.store;
        let node = store.node(id).await;
        let node = node.map_err(|error| store_failed("failed to fetch agent", &error))?;
        let node = node.ok_or_else(|| Status::not_found("agent not found"))?;
        if node.can_reattest {
            return Err(status::permission_denied(
                "agent must reattest instead of renew",
                Reason::AgentMustReattest,
            ));
        }
        let params = request.into_inner().params;
        let params = params.ok_or_else(|| Status::invalid_argument("params cannot be nil"))?;
        if params.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let public_key = Csr::verified_public_key(&params.csr).map_err(|error| bad_csr(&error))?;
        let signed = self.context.authority.sign_agent_x509(id, &public_key).await;
        let svid = signed.map_err(|error| sign_failed("failed to sign X509 SVID", &error))?;
        self.context.counted.signed_x509.inc(&[]);
        let (serial, not_after) = (svid.serial_number.clone(), svid.not_after);
        let updated = store.update_node(id, self.context.clock.unix(), move |node| {
            // Banned meanwhile: a new serial number would lift that.
            if node.is_banned() {
                return false;
            }
            node.new_serial_number = serial;
            node.new_expires_at = not_after;
            true
        });
        match updated.await.map_err(|error| store_failed("failed to update agent", &error))? {
            Some((_, true)) => {}
            Some((_, false)) => {
                return Err(status::permission_denied("agent is banned", Reason::AgentBanned));
            }
            None => return Err(Status::not_found("agent not found")),
        }
        audit.field("spiffe_id", id);
        audit.field("serial_num", &svid.serial_number);
        audit.field("expires_at", svid.not_after);
        tracing::info!(spiffe_id = %id, "Renewing agent SVID");
        Ok(Response::new(pb::RenewAgentResponse { svid: Some(x509_to_pb(id, svid)) }))
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        audit.field("ttl", request.ttl);
        if request.ttl < 1 {
            return Err(Status::invalid_argument("ttl is required, you must provide one"));
        }
        let trust_domain = &self.context.trust_domain;
        let agent_id = request.agent_id.as_ref().map(|id| {
            workload_id_from_pb(trust_domain, Some(id))
                .map_err(|error| status::wrap(Code::InvalidArgument, "invalid agent ID", error))
        });
        let agent_id = agent_id.transpose()?;
        let token = match request.token.as_str() {
            "" => random::uuid_v4().map_err(|error| {
                status::wrap(Code::Internal, "failed to generate token UUID", error)
            })?,
            token if token.len() > MAX_TOKEN_LEN => {
                return Err(Status::invalid_argument(format!(
                    "token is longer than {MAX_TOKEN_LEN} bytes"
                )));
            }
            token => token.to_owned(),
        };
        let parent = self.join_token_id(&token)?;
        let entry = match agent_id {
            None => None,
            Some(agent_id) => {
                audit.field("spiffe_id", &agent_id);
                let selector = Selector::new("spiffe_id", &parent.to_string())
                    .map_err(|error| Status::internal(error.to_string()))?;
                let id = random::uuid_v4().unwrap_or_default().parse().map_err(|error| {
                    status::wrap(Code::Internal, "failed to generate an entry ID", error)
                })?;
                let selectors = std::iter::once(selector).collect();
                Some(NewEntry { id, draft: EntryDraft::new(agent_id, parent, selectors) })
            }
        };
        let now = self.context.clock.unix();
        let expires_at = now.saturating_add(i64::from(request.ttl));
        let stored = JoinToken { token: token.clone(), expires_at, spent_by: None };
        let created = self.context.store.create_join_token(stored, entry, now).await;
        match created.map_err(|error| store_failed("failed to create token", &error))? {
            CreateOutcome::Created(_) => {}
            CreateOutcome::Exists => {
                return Err(Status::internal("failed to create token: token already exists"));
            }
        }
        self.context.cache.fresh().await?;
        Ok(Response::new(types::JoinToken { value: token, expires_at }))
    }

    async fn post_status(
        &self,
        request: Request<pb::PostStatusRequest>,
    ) -> Result<Response<pb::PostStatusResponse>, Status> {
        let caller = Caller::of(&request)?;
        let audit = Audit::of(&request);
        self.context.limits.acquire(&caller, Limit::Status, 1, "post status").await?;
        let id = caller.agent_id()?;
        let version = request.into_inner().agent_version;
        audit.field("spiffe_id", id);
        if version.len() > MAX_VERSION_LEN {
            return Err(Status::invalid_argument("agent version is too long (max 255 characters)"));
        }
        if !version.is_empty() {
            audit.field("agent_version", &version);
            let updated =
                self.context.store.update_node(id, self.context.clock.unix(), move |node| {
                    let changed = node.agent_version != version;
                    node.agent_version = version;
                    changed
                });
            let updated = updated.await;
            if updated.map_err(|error| store_failed("failed to update agent", &error))?.is_none() {
                return Err(Status::not_found("agent not found"));
            }
        }
        Ok(Response::new(pb::PostStatusResponse {}))
    }
}
