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
};
use signet_identity::SpiffeId;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    shared::{count, next_token, page, serve},
    svid::x509_to_pb,
};
use crate::usecase::{agents::Agents, attestation::Attestation, error::Error};

/// The agent service.
#[derive(Clone, Debug)]
pub struct AgentService {
    agents: Agents,
    attestation: Attestation,
}

impl AgentService {
    /// The service of this server.
    pub fn new(agents: Agents, attestation: Attestation) -> Self {
        Self { agents, attestation }
    }

    /// As a service for the router.
    pub fn into_server(self) -> agent_server::AgentServer<Self> {
        agent_server::AgentServer::new(self)
    }

    fn agent_id(&self, id: Option<&types::Spiffeid>) -> Result<SpiffeId, Error> {
        agent_id_from_pb(self.agents.trust_domain(), id)
            .map_err(|error| Error::invalid("invalid agent ID").because(error))
    }
}

#[tonic::async_trait]
impl agent_server::Agent for AgentService {
    async fn count_agents(
        &self,
        request: Request<pb::CountAgentsRequest>,
    ) -> Result<Response<pb::CountAgentsResponse>, Status> {
        serve(request, |call, request| async move {
            let filter = request.filter.map(filter::Filter::from).unwrap_or_default();
            let filter = filter.checked("failed to count agents", |field| call.about(field))?;
            Ok(pb::CountAgentsResponse { count: count(self.agents.count(&call, &filter).await?) })
        })
        .await
    }

    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        serve(request, |call, request| async move {
            let filter = request.filter.map(filter::Filter::from).unwrap_or_default();
            let filter = filter.checked("failed to list agents", |field| call.about(field))?;
            let page = page(request.page_size, &request.page_token, "failed to list agents")?;
            let found = self.agents.list(&call, &filter, page).await?;
            let mask = request.output_mask.as_ref();
            Ok(pb::ListAgentsResponse {
                agents: found.items.iter().map(|node| agent_to_pb(node, mask)).collect(),
                next_page_token: next_token(found.next),
            })
        })
        .await
    }

    async fn get_agent(
        &self,
        request: Request<pb::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        serve(request, |call, request| async move {
            let id = self.agent_id(request.id.as_ref())?;
            let node = self.agents.get(&call, &id).await?;
            Ok(agent_to_pb(&node, request.output_mask.as_ref()))
        })
        .await
    }

    async fn delete_agent(
        &self,
        request: Request<pb::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        serve(request, |call, request| async move {
            let id = self.agent_id(request.id.as_ref())?;
            self.agents.delete(&call, &id).await
        })
        .await
    }

    async fn ban_agent(
        &self,
        request: Request<pb::BanAgentRequest>,
    ) -> Result<Response<()>, Status> {
        serve(request, |call, request| async move {
            let id = self.agent_id(request.id.as_ref())?;
            self.agents.ban(&call, &id).await
        })
        .await
    }

    type AttestAgentStream =
        Pin<Box<dyn Stream<Item = Result<pb::AttestAgentResponse, Status>> + Send>>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<pb::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        serve(request, |call, requests| async move {
            Ok(attest::stream(self.attestation.clone(), call, requests))
        })
        .await
    }

    async fn renew_agent(
        &self,
        request: Request<pb::RenewAgentRequest>,
    ) -> Result<Response<pb::RenewAgentResponse>, Status> {
        serve(request, |call, request| async move {
            let csr = request.params.as_ref().map(|params| &params.csr[..]);
            let issued = self.agents.renew(&call, csr).await?;
            Ok(pb::RenewAgentResponse { svid: Some(x509_to_pb(issued)) })
        })
        .await
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        serve(request, |call, request| async move {
            self.agents.check_token_ttl(&call, request.ttl)?;
            let trust_domain = self.agents.trust_domain();
            let alias = request.agent_id.as_ref().map(|id| {
                workload_id_from_pb(trust_domain, Some(id))
                    .map_err(|error| Error::invalid("invalid agent ID").because(error))
            });
            let (token, ttl) = (&request.token, request.ttl);
            let token =
                self.agents.create_join_token(&call, token, ttl, alias.transpose()?).await?;
            Ok(types::JoinToken { value: token.token, expires_at: token.expires_at.seconds() })
        })
        .await
    }

    async fn post_status(
        &self,
        request: Request<pb::PostStatusRequest>,
    ) -> Result<Response<pb::PostStatusResponse>, Status> {
        serve(request, |call, request| async move {
            self.agents.report_version(&call, request.agent_version).await?;
            Ok(pb::PostStatusResponse {})
        })
        .await
    }
}
