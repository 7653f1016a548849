//! `signet.api.server.explain.v1.Explain`: why a workload behind an agent gets what it gets.

use std::sync::Arc;

use signet_api::{
    convert::{agent_id_from_pb, id_to_pb, selectors_from_pb, selectors_to_pb},
    pb::signet::api::server::explain::v1::{
        self as pb,
        explain_entries_response::{AgentState, Alias, Match},
        explain_server,
    },
};
use signet_base::SharedClock;
use signet_identity::{
    AuthorizedIndex, SelectorSet, SpiffeId, TrustDomain,
    explain::{AgentExplanation, Candidate, NearMiss},
    tenant::Judge,
};
use tonic::{Request, Response, Status};

use super::shared::serve;
use crate::{
    cache::Cache,
    context::Context,
    usecase::{error::Error, explain::Explain},
};

/// How many aliases are listed: those that apply first.
const MAX_ALIASES: usize = 20;
/// How many steps from the agent to an entry are followed.
const MAX_DEPTH: usize = 16;

/// The explain service: for local and admin callers, never for agents.
#[derive(Clone)]
pub struct ExplainService {
    trust_domain: TrustDomain,
    cache: Arc<Cache>,
    clock: SharedClock,
    explain: Explain,
}

impl ExplainService {
    /// The service of this server.
    pub fn new(context: &Context, explain: Explain) -> Self {
        Self {
            trust_domain: context.parts.trust_domain.clone(),
            cache: Arc::clone(&context.parts.cache),
            clock: Arc::clone(&context.parts.clock),
            explain,
        }
    }

    /// As a service for the router.
    pub fn into_server(self) -> explain_server::ExplainServer<Self> {
        explain_server::ExplainServer::new(self)
    }

    fn agent_state(&self, agent: &SpiffeId) -> AgentState {
        match self.cache.node(agent) {
            None => AgentState::Unknown,
            Some(row) if row.serial_number.is_empty() => AgentState::Banned,
            Some(row) if row.expires_at < self.clock.unix() => AgentState::Expired,
            Some(_) => AgentState::Active,
        }
    }
}

#[tonic::async_trait]
impl explain_server::Explain for ExplainService {
    async fn explain_entries(
        &self,
        request: Request<pb::ExplainEntriesRequest>,
    ) -> Result<Response<pb::ExplainEntriesResponse>, Status> {
        serve(request, |call, request| async move {
            let agent = agent_id_from_pb(&self.trust_domain, request.agent_id.as_ref())
                .map_err(|error| Error::invalid("invalid agent ID").because(error))?;
            let found = selectors_from_pb(&request.selectors)
                .map_err(|error| Error::invalid("failed to parse selectors").because(error))?;
            let (whom, seer) = (agent.clone(), call.clone());
            let told = self.explain.explain(&call, &agent, &found, move |index, told, judge| {
                let mut response = explained(index, &whom, told);
                if let Some(judge) = judge {
                    judged(judge, &whom, &mut response);
                }
                let seen = |id: &str| {
                    let entry = id.parse().ok().and_then(|id| index.entry(&id));
                    entry.is_some_and(|entry| seer.sees(entry))
                };
                response.aliases.retain(|alias| seen(&alias.entry_id));
                response
            });
            let mut response = told.await?;
            let agent_state = self.agent_state(&agent);
            response.agent_state = agent_state.into();
            Ok(response)
        })
        .await
    }
}

impl std::fmt::Debug for ExplainService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExplainService(..)")
    }
}

fn explained(
    index: &AuthorizedIndex,
    agent: &SpiffeId,
    explanation: &AgentExplanation,
) -> pb::ExplainEntriesResponse {
    let node_selectors = &explanation.node_selectors;
    let mut matches = Vec::new();
    for candidate in &explanation.authorized.matching {
        let is_expired = explanation.expired.iter().any(|it| it.entry_id == candidate.entry_id);
        let note = if is_expired {
            "matches, but the entry has expired and is pruned soon"
        } else {
            "matches and is issued"
        };
        matches.push(to_pb(index, agent, candidate, true, &[], note.to_owned()));
    }
    for withheld in &explanation.withheld {
        let note = format!("matches, but the agent is not sent it: {}", withheld.reason);
        matches.push(to_pb(index, agent, &withheld.entry, false, &[], note));
    }
    if explanation.more_withheld > 0
        && let Some(last) = matches.last_mut()
    {
        last.note.push_str(&format!(
            " (and {} more matching entries are not sent to it)",
            explanation.more_withheld
        ));
    }
    let near_misses = explanation.authorized.near_misses.iter().map(|miss: &NearMiss| {
        let missing: Vec<_> = miss.missing.iter().map(|selector| selector.wanted.clone()).collect();
        to_pb(index, agent, &miss.entry, true, &missing, miss.to_string())
    });
    let authorized = explanation.authorized.matching.len()
        + explanation.authorized.near_misses.len()
        + explanation.authorized.others;
    pb::ExplainEntriesResponse {
        agent_state: AgentState::Unspecified.into(),
        node_selectors: selectors_to_pb(node_selectors),
        aliases: aliases(index, agent.trust_domain(), node_selectors),
        near_misses: near_misses.collect(),
        matches,
        authorized_entries: u32::try_from(authorized).unwrap_or(u32::MAX),
    }
}

/// Says of what the agent would get if tenants were nothing why it does not.
fn judged(judge: &Judge<'_>, agent: &SpiffeId, response: &mut pb::ExplainEntriesResponse) {
    let all = response.matches.iter_mut().chain(&mut response.near_misses);
    for one in all.filter(|one| one.authorized) {
        let Ok(id) = one.entry_id.parse() else { continue };
        if let Err(denial) = judge.entry_for_agent(agent, &id) {
            one.authorized = false;
            one.note = format!("not for this agent: [{}] {denial}", denial.code());
        }
    }
    response.authorized_entries = u32::try_from(judge.authorized(agent).len()).unwrap_or(u32::MAX);
}

fn to_pb(
    index: &AuthorizedIndex,
    agent: &SpiffeId,
    candidate: &Candidate,
    authorized: bool,
    missing: &[signet_identity::Selector],
    note: String,
) -> Match {
    let entry = index.entry(&candidate.entry_id);
    let parent = entry.map(|entry| entry.parent_id.clone());
    let path = match &parent {
        Some(parent) if authorized => path(index, agent, parent),
        _ => Vec::new(),
    };
    Match {
        entry_id: candidate.entry_id.to_string(),
        spiffe_id: Some(id_to_pb(&candidate.spiffe_id)),
        parent_id: parent.as_ref().map(id_to_pb),
        selectors: selectors_to_pb(&candidate.selectors),
        hint: entry.map(|entry| entry.hint.clone()).unwrap_or_default(),
        authorized,
        path: path.iter().map(id_to_pb).collect(),
        missing: missing
            .iter()
            .map(|selector| signet_api::pb::spire::api::types::Selector {
                r#type: selector.kind().to_owned(),
                value: selector.value().to_owned(),
            })
            .collect(),
        note,
        tenant: entry
            .and_then(|entry| entry.tenant.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

/// From the agent down to an entry's parent: the parents of the parents, turned round.
fn path(index: &AuthorizedIndex, agent: &SpiffeId, parent: &SpiffeId) -> Vec<SpiffeId> {
    let mut steps = vec![parent.clone()];
    while let Some(last) = steps.last() {
        if last == agent || steps.len() >= MAX_DEPTH {
            break;
        }
        let above = index
            .entries_of(last)
            .map(|entry| if entry.parent_id.is_server() { agent } else { &entry.parent_id })
            .find(|above| !steps.contains(above))
            .cloned();
        match above {
            Some(above) => steps.push(above),
            None => break,
        }
    }
    steps.reverse();
    steps
}

/// The node aliases, those that apply to the node first.
fn aliases(
    index: &AuthorizedIndex,
    trust_domain: &TrustDomain,
    node_selectors: &SelectorSet,
) -> Vec<Alias> {
    let mut found: Vec<_> = index
        .children_of(&SpiffeId::server(trust_domain.clone()))
        .map(|entry| {
            let missing: SelectorSet =
                entry.selectors.missing_from(node_selectors).cloned().collect();
            (missing, entry)
        })
        .collect();
    found.sort_by(|(a, x), (b, y)| a.len().cmp(&b.len()).then_with(|| x.id.cmp(&y.id)));
    found
        .into_iter()
        .take(MAX_ALIASES)
        .map(|(missing, entry)| Alias {
            entry_id: entry.id.to_string(),
            spiffe_id: Some(id_to_pb(&entry.spiffe_id)),
            missing: selectors_to_pb(&missing),
        })
        .collect()
}
