//! `signet.api.server.tenancy.v1.Tenancy`: tenants, which SPIRE's messages do not know of.

use std::collections::BTreeSet;

use signet_api::{
    convert::{agent_id_from_pb, entry_to_pb, id_to_pb, trust_domain_from_pb, workload_id_from_pb},
    pb::{
        signet::api::server::tenancy::v1::{self as pb, tenancy_server},
        spire::api::types,
    },
};
use signet_audit::Field;
use signet_identity::{
    Entry, EntryId, SpiffeId, Tenant,
    tenant::{Assignment, TenantState},
};
use signet_store::NewEntry;
use tonic::{Request, Response, Status};

use super::{
    entry::{edit, new_entry},
    shared::{Batch, item, serve},
};
use crate::usecase::{
    agents::Agents,
    entries::{Created, Edit, Entries, TenantEdit, similar},
    error::Error,
    tenants::TenantRegistry,
};

/// How many entries may be asked about in one call.
const MAX_IDS: usize = 1_000;

/// The service.
#[derive(Clone, Debug)]
pub struct TenancyService {
    tenants: TenantRegistry,
    entries: Entries,
    agents: Agents,
}

impl TenancyService {
    /// The service of a server.
    pub fn new(tenants: TenantRegistry, entries: Entries, agents: Agents) -> Self {
        Self { tenants, entries, agents }
    }

    /// As a service for the router.
    pub fn into_server(self) -> tenancy_server::TenancyServer<Self> {
        tenancy_server::TenancyServer::new(self)
    }

    fn new_entry(&self, given: &pb::TenantEntry) -> Result<NewEntry, Error> {
        let mut new = new_entry(&self.entries, &entry_of(given))?;
        owner(given.tenant.as_ref())?.unwrap_or_default().apply(&mut new.draft);
        let checked = new.draft.check(self.entries.trust_domain());
        checked.map_err(|error| Error::invalid("failed to convert entry").because(error))?;
        Ok(new)
    }

    fn edit(
        &self,
        given: &pb::TenantEntry,
        mask: Option<&types::EntryMask>,
    ) -> Result<Edit, Error> {
        let tenant = owner(given.tenant.as_ref())?;
        Ok(Edit { tenant, ..edit(&self.entries, &entry_of(given), mask)? })
    }
}

#[tonic::async_trait]
impl tenancy_server::Tenancy for TenancyService {
    async fn list_tenants(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> Result<Response<pb::ListTenantsResponse>, Status> {
        serve(request, |call, _| async move {
            let all = self.tenants.list(&call).await?;
            let tenants = all.tenants.into_iter().map(|(tenant, state)| to_pb(&tenant, state));
            Ok(pb::ListTenantsResponse {
                required: all.required,
                tenants: tenants.collect(),
                path_template: all.path_template.unwrap_or_default(),
            })
        })
        .await
    }

    async fn set_tenant(
        &self,
        request: Request<pb::SetTenantRequest>,
    ) -> Result<Response<pb::Tenant>, Status> {
        serve(request, |call, request| async move {
            let tenant = tenant(&request.name)?;
            let state = match pb::tenant::State::try_from(request.state) {
                Ok(pb::tenant::State::Unspecified) => None,
                Ok(pb::tenant::State::Active) => Some(TenantState::Active),
                Ok(pb::tenant::State::Suspended) => Some(TenantState::Suspended),
                Err(_) => return Err(Error::invalid("unknown state")),
            };
            let state = self.tenants.set(&call, tenant.clone(), state).await?;
            Ok(to_pb(&tenant, state))
        })
        .await
    }

    async fn delete_tenant(
        &self,
        request: Request<pb::DeleteTenantRequest>,
    ) -> Result<Response<pb::DeleteTenantResponse>, Status> {
        serve(request, |call, request| async move {
            self.tenants.delete(&call, &tenant(&request.name)?).await?;
            Ok(pb::DeleteTenantResponse {})
        })
        .await
    }

    async fn batch_create_entry(
        &self,
        request: Request<pb::BatchCreateEntryRequest>,
    ) -> Result<Response<pb::BatchEntryResponse>, Status> {
        serve(request, |call, request| async move {
            let mut batch =
                Batch::read(&call, &request.entries, |given| self.new_entry(given), about);
            let created = self.entries.create(&call, batch.take()).await;
            let results = batch.answers(created).map(|created| match created {
                Ok(Created::New(entry)) => result(Ok(()), Some(&entry)),
                Ok(Created::Similar(entry)) => result(Err(similar()), Some(&entry)),
                Err(error) => result(Err(error), None),
            });
            Ok(pb::BatchEntryResponse { results: results.collect() })
        })
        .await
    }

    async fn batch_update_entry(
        &self,
        request: Request<pb::BatchUpdateEntryRequest>,
    ) -> Result<Response<pb::BatchEntryResponse>, Status> {
        serve(request, |call, request| async move {
            let mask = request.input_mask.as_ref();
            let mut batch =
                Batch::read(&call, &request.entries, |given| self.edit(given, mask), about);
            let updated = self.entries.update(&call, batch.take()).await;
            let results = batch.answers(updated).map(|updated| match updated {
                Ok(entry) => result(Ok(()), Some(&entry)),
                Err(error) => result(Err(error), None),
            });
            Ok(pb::BatchEntryResponse { results: results.collect() })
        })
        .await
    }

    async fn get_entry_tenants(
        &self,
        request: Request<pb::GetEntryTenantsRequest>,
    ) -> Result<Response<pb::GetEntryTenantsResponse>, Status> {
        serve(request, |call, request| async move {
            if request.ids.len() > MAX_IDS {
                return Err(Error::invalid(format!("more than {MAX_IDS} entry IDs")));
            }
            // What is no ID is the ID of no entry.
            let ids: Vec<EntryId> = request.ids.iter().filter_map(|id| id.parse().ok()).collect();
            let found = self.tenants.of_entries(&call, &self.entries, &ids).await?;
            let tenants = found.into_iter().map(|(id, edit)| (id.to_string(), owner_to_pb(&edit)));
            Ok(pb::GetEntryTenantsResponse { tenants: tenants.collect() })
        })
        .await
    }

    async fn set_assignment(
        &self,
        request: Request<pb::Assignment>,
    ) -> Result<Response<pb::Assignment>, Status> {
        serve(request, |call, request| async move {
            let tenants = tenants(&request.tenants)?;
            let said = match kind(request.kind)? {
                pb::assignment::Kind::Agent => {
                    let id: SpiffeId = request
                        .key
                        .parse()
                        .map_err(|error| Error::invalid("invalid agent ID").because(error))?;
                    let id = agent_id_from_pb(self.tenants.trust_domain(), Some(&id_to_pb(&id)));
                    let id =
                        id.map_err(|error| Error::invalid("invalid agent ID").because(error))?;
                    Assignment::Agent(id, tenants)
                }
                _ => {
                    let name = trust_domain_from_pb(&request.key)
                        .map_err(|error| Error::invalid("invalid trust domain").because(error))?;
                    Assignment::TrustDomain(name, tenants)
                }
            };
            let answer = assignment_to_pb(&said);
            self.tenants.say(&call, said).await?;
            Ok(answer)
        })
        .await
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        serve(request, |call, request| async move {
            let alias = request.agent_id.as_ref().map(|id| {
                workload_id_from_pb(self.tenants.trust_domain(), Some(id))
                    .map_err(|error| Error::invalid("invalid agent ID").because(error))
            });
            let (alias, tenants) = (alias.transpose()?, tenants(&request.tenants)?);
            let (agents, ttl) = (&self.agents, request.ttl);
            let token = self.tenants.create_join_token(&call, agents, ttl, alias, tenants).await?;
            Ok(types::JoinToken { value: token.token, expires_at: token.expires_at.seconds() })
        })
        .await
    }

    async fn list_assignments(
        &self,
        request: Request<pb::ListAssignmentsRequest>,
    ) -> Result<Response<pb::ListAssignmentsResponse>, Status> {
        serve(request, |call, request| async move {
            let agents = kind(request.kind)? == pb::assignment::Kind::Agent;
            let all = self.tenants.assignments(&call, agents).await?;
            let assignments = all.iter().map(assignment_to_pb).collect();
            Ok(pb::ListAssignmentsResponse { assignments })
        })
        .await
    }
}

fn entry_of(given: &pb::TenantEntry) -> types::Entry {
    given.entry.clone().unwrap_or_default()
}

fn about(given: &pb::TenantEntry) -> Field {
    Field::EntryId(given.entry.as_ref().map(|entry| entry.id.clone()).unwrap_or_default())
}

fn tenant(name: &str) -> Result<Tenant, Error> {
    name.parse().map_err(|error| Error::invalid(format!("invalid tenant {name:?}")).because(error))
}

fn tenants(names: &[String]) -> Result<BTreeSet<Tenant>, Error> {
    names.iter().map(|name| tenant(name)).collect()
}

/// What an entry is to say; `None` when nothing is said.
fn owner(given: Option<&pb::EntryTenant>) -> Result<Option<TenantEdit>, Error> {
    let Some(given) = given else { return Ok(None) };
    let tenant = match given.tenant.as_str() {
        "" => None,
        name => Some(tenant(name)?),
    };
    Ok(Some(TenantEdit { tenant, claim: given.jwt_svid_tenant_claim }))
}

fn owner_to_pb(edit: &TenantEdit) -> pb::EntryTenant {
    pb::EntryTenant {
        tenant: edit.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
        jwt_svid_tenant_claim: edit.claim,
    }
}

fn result(status: Result<(), Error>, entry: Option<&Entry>) -> pb::batch_entry_response::Result {
    let entry = entry.map(|entry| {
        let edit = TenantEdit { tenant: entry.tenant.clone(), claim: entry.jwt_svid_tenant_claim };
        pb::TenantEntry { entry: Some(entry_to_pb(entry, None)), tenant: Some(owner_to_pb(&edit)) }
    });
    pb::batch_entry_response::Result { status: item(&status), entry }
}

fn kind(number: i32) -> Result<pb::assignment::Kind, Error> {
    match pb::assignment::Kind::try_from(number) {
        Ok(pb::assignment::Kind::Unspecified) | Err(_) => Err(Error::invalid("unknown kind")),
        Ok(kind) => Ok(kind),
    }
}

fn to_pb(tenant: &Tenant, state: TenantState) -> pb::Tenant {
    let state = match state {
        TenantState::Active => pb::tenant::State::Active,
        TenantState::Suspended => pb::tenant::State::Suspended,
    };
    pb::Tenant { name: tenant.to_string(), state: state.into() }
}

fn assignment_to_pb(said: &Assignment) -> pb::Assignment {
    let (kind, key, tenants) = match said {
        Assignment::Agent(id, tenants) => {
            (pb::assignment::Kind::Agent, id.to_string(), tenants.clone())
        }
        Assignment::TrustDomain(name, tenants) => {
            (pb::assignment::Kind::TrustDomain, name.to_string(), tenants.clone())
        }
        Assignment::Tenant(tenant, _) => {
            (pb::assignment::Kind::Unspecified, tenant.to_string(), BTreeSet::new())
        }
    };
    let tenants = tenants.iter().map(ToString::to_string).collect();
    pb::Assignment { kind: kind.into(), key, tenants }
}
