//! Tenants: which there are, and for whom agents and foreign trust domains are.

use std::{collections::BTreeSet, fmt, sync::Arc};

use signet_audit::Field;
use signet_base::SharedClock;
use signet_identity::{
    EntryId, JoinToken, SpiffeId, Tenant, TrustDomain,
    tenant::{Assigned, Assignment, TenantState},
};
use signet_pki::random;
use signet_store::{EntryFilter, PageRequest, Store};

use super::{
    Call,
    agents::{Agents, join_token_id, shared_agent},
    authorization::Action,
    entries::{Entries, TenantEdit},
    error::{Error, ErrorKind},
    parts::Parts,
};
use crate::{
    cache::{Cache, NotFresh},
    policy::Policy,
};

/// How many tenants one agent or trust domain may be for.
const MAX_TENANTS: usize = 1_000;
/// How many entries are looked at together to see whether a tenant still has one.
const AT_ONCE: u32 = 1_000;

/// What can be done with tenants. Cheap to clone.
#[derive(Clone)]
pub struct TenantRegistry {
    trust_domain: TrustDomain,
    store: Store,
    cache: Arc<Cache>,
    clock: SharedClock,
    policy: Policy,
}

/// What is set and kept about tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// Whether tenants are required.
    pub required: bool,
    /// The template of workload paths.
    pub path_template: Option<String>,
    /// The tenants that the caller may see, by name.
    pub tenants: Vec<(Tenant, TenantState)>,
}

impl TenantRegistry {
    /// Those of a server with these parts.
    pub fn new(parts: &Parts) -> Self {
        Self {
            trust_domain: parts.trust_domain.clone(),
            store: parts.store.clone(),
            cache: Arc::clone(&parts.cache),
            clock: Arc::clone(&parts.clock),
            policy: parts.policy.clone(),
        }
    }

    /// The trust domain of the server.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What is set, and the tenants that the caller may see.
    ///
    /// # Errors
    /// `Unavailable` when what is known may be too old.
    pub async fn list(&self, call: &Call) -> Result<Overview, Error> {
        call.may(Action::ReadTenants)?;
        self.cache.current().await?;
        let sees = |tenant: &Tenant| {
            call.scope().is_none_or(|scope| scope.allows_tenant("tenant.read", tenant))
        };
        let tenants = self.cache.with_tenants(|_, directory| {
            let seen = directory.tenants().filter(|(tenant, _)| sees(tenant));
            seen.map(|(tenant, state)| (tenant.clone(), state)).collect()
        });
        let tenants = tenants.unwrap_or_default();
        Ok(Overview {
            required: self.policy.is_required(),
            path_template: self.policy.path().map(ToString::to_string),
            tenants,
        })
    }

    /// Creates a tenant, or suspends or resumes one; `None` leaves a tenant that is there as it
    /// is. It is in force when this answers.
    ///
    /// # Errors
    /// `Denied`; `NotFound` when it is to be suspended or resumed and not there; `Unavailable` when
    /// it is not in force yet; or when the store fails.
    pub async fn set(
        &self,
        call: &Call,
        tenant: Tenant,
        state: Option<TenantState>,
    ) -> Result<TenantState, Error> {
        call.may(Action::ManageTenants)?;
        call.about(Field::Tenant(tenant.clone()));
        self.may_manage(call)?;
        self.cache.current().await?;
        let known = self.cache.with_tenants(|_, directory| directory.state(&tenant)).flatten();
        if state.is_some() && known.is_none() {
            return Err(Error::not_found(format!("there is no tenant \"{tenant}\"")));
        }
        let state = state.or(known).unwrap_or(TenantState::Active);
        if known != Some(state) {
            self.assign(Assignment::Tenant(tenant.clone(), state)).await?;
            tracing::info!(%tenant, ?state, "Tenant set");
        }
        Ok(state)
    }

    /// Deletes a tenant that nothing belongs to.
    ///
    /// # Errors
    /// `Denied`; `NotFound`; `Precondition` while something belongs to it; or when the store fails.
    pub async fn delete(&self, call: &Call, tenant: &Tenant) -> Result<(), Error> {
        const FAILED: &str = "failed to delete tenant";
        call.may(Action::ManageTenants)?;
        call.about(Field::Tenant(tenant.clone()));
        self.may_manage(call)?;
        self.cache.current().await?;
        let used = self.cache.with_tenants(|_, directory| directory.is_used(tenant));
        let used = used.unwrap_or(true);
        if used || self.has_entry(tenant).await? {
            let why = "entries, agents or trust domains belong to it; suspend it, or delete those";
            return Err(Error::new(ErrorKind::Precondition, FAILED).because(why));
        }
        let about = Assigned::Tenant(tenant.clone());
        let deleted = self.store.unassign(&about, self.clock.unix()).await;
        match deleted.map_err(|error| Error::store(FAILED, &error))? {
            true => Ok(self.cache.fresh().await?),
            false => Err(Error::not_found("tenant not found")),
        }
    }

    async fn has_entry(&self, tenant: &Tenant) -> Result<bool, Error> {
        let mut page = PageRequest::first(AT_ONCE);
        loop {
            let listed = self.store.list_entries(&EntryFilter::default(), page).await;
            let listed = listed.map_err(|error| Error::store("failed to list entries", &error))?;
            if listed.items.iter().any(|entry| entry.tenant.as_ref() == Some(tenant)) {
                return Ok(true);
            }
            let Some(next) = listed.next else { return Ok(false) };
            page.after = Some(next);
        }
    }

    /// Says for which tenants an agent may serve, or which may federate with a trust domain; for
    /// none takes that back. It is in force when this answers.
    ///
    /// # Errors
    /// `Denied`; `Invalid` for too many; `Precondition` for a tenant that is not there; or when
    /// the store fails.
    pub async fn say(&self, call: &Call, said: Assignment) -> Result<(), Error> {
        call.may(Action::ManageTenants)?;
        self.may_manage(call)?;
        let (field, tenants) = match &said {
            Assignment::Agent(id, tenants) => (Field::AgentId(id.clone()), tenants),
            Assignment::TrustDomain(name, tenants) => {
                (Field::TrustDomainId(name.to_string()), tenants)
            }
            Assignment::Tenant(..) => return Err(Error::invalid("a tenant is not assigned")),
        };
        call.about(field);
        self.must_be_known(tenants).await?;
        if !tenants.is_empty() {
            return self.assign(said).await;
        }
        let deleted = self.store.unassign(&said.about(), self.clock.unix()).await;
        deleted.map_err(|error| Error::store("failed to assign tenants", &error))?;
        Ok(self.cache.fresh().await?)
    }

    async fn must_be_known(&self, tenants: &BTreeSet<Tenant>) -> Result<(), Error> {
        if tenants.len() > MAX_TENANTS {
            return Err(Error::invalid(format!("more than {MAX_TENANTS} tenants")));
        }
        self.cache.current().await?;
        let unknown = self.cache.with_tenants(|_, directory| {
            tenants.iter().find(|tenant| directory.state(tenant).is_none()).cloned()
        });
        match unknown.ok_or(NotFresh::Loading)? {
            None => Ok(()),
            Some(tenant) => {
                let code = "tenant_unknown";
                let why = format!("[{code}] there is no tenant \"{tenant}\"; create it first");
                Err(Error::new(ErrorKind::Precondition, why).coded(code))
            }
        }
    }

    /// What is said about agents or about trust domains, by key, as far as the caller may see it.
    ///
    /// # Errors
    /// `Unavailable` when what is known may be too old.
    pub async fn assignments(&self, call: &Call, agents: bool) -> Result<Vec<Assignment>, Error> {
        call.may(Action::ReadTenants)?;
        self.cache.current().await?;
        let sees = |tenants: &BTreeSet<Tenant>| {
            call.scope().is_none_or(|scope| scope.allows_shared("tenant.read", tenants, false))
        };
        let all = self.cache.with_tenants(|_, directory| match agents {
            true => {
                let mut all: Vec<_> =
                    directory.agents().filter(|(_, tenants)| sees(tenants)).collect();
                all.sort();
                all.into_iter()
                    .map(|(id, tenants)| Assignment::Agent(id.clone(), tenants.clone()))
                    .collect()
            }
            false => {
                let mut all: Vec<_> =
                    directory.trust_domains().filter(|(_, tenants)| sees(tenants)).collect();
                all.sort();
                all.into_iter()
                    .map(|(name, tenants)| Assignment::TrustDomain(name.clone(), tenants.clone()))
                    .collect()
            }
        });
        Ok(all.ok_or(NotFresh::Loading)?)
    }

    /// Makes a join token for an agent that may serve these tenants; see
    /// [`Agents::create_join_token`].
    ///
    /// # Errors
    /// As there; `Invalid` without a tenant; `Denied` when one is not the caller's.
    pub async fn create_join_token(
        &self,
        call: &Call,
        agents: &Agents,
        ttl: i32,
        alias: Option<SpiffeId>,
        tenants: BTreeSet<Tenant>,
    ) -> Result<JoinToken, Error> {
        agents.check_token_ttl(call, ttl)?;
        if tenants.is_empty() {
            return Err(Error::invalid("name at least one tenant"));
        }
        if let Some(scope) = call.scope()
            && !scope.allows_shared("token.create", &tenants, true)
        {
            return Err(shared_agent("token.create"));
        }
        self.must_be_known(&tenants).await?;
        if let Some(only) = tenants.iter().next().filter(|_| tenants.len() == 1) {
            call.about(Field::Tenant(only.clone()));
        }
        let token = random::uuid_v4()
            .map_err(|error| Error::internal("failed to generate token UUID").because(error))?;
        let agent = join_token_id(&self.trust_domain, &token)?;
        self.assign(Assignment::Agent(agent.clone(), tenants)).await?;
        let created = agents.create_join_token(call, &token, ttl, alias).await;
        if created.is_err() {
            let about = Assigned::Agent(agent);
            if let Err(error) = self.store.unassign(&about, self.clock.unix()).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "An assignment stays");
            }
        }
        created
    }

    /// What those of `ids` that are there, and the caller may see, say of their tenants.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn of_entries(
        &self,
        call: &Call,
        entries: &Entries,
        ids: &[EntryId],
    ) -> Result<Vec<(EntryId, TenantEdit)>, Error> {
        let found = entries.some(call, ids).await?;
        let owned = found.into_iter().filter(|entry| entry.tenant.is_some()).map(|entry| {
            let claim = entry.jwt_svid_tenant_claim;
            (entry.id, TenantEdit { tenant: entry.spec.tenant, claim })
        });
        Ok(owned.collect())
    }

    /// Tenants are for those who may do everything: their names are everybody's.
    fn may_manage(&self, call: &Call) -> Result<(), Error> {
        match call.scope() {
            Some(scope) if !scope.allows_whole("tenant.manage") => {
                let why = "[policy_scope] tenants are managed by who may do so for all of them";
                Err(Error::new(ErrorKind::Denied, why).coded("policy_scope"))
            }
            _ => Ok(()),
        }
    }

    async fn assign(&self, said: Assignment) -> Result<(), Error> {
        let stored = self.store.assign(said, self.clock.unix()).await;
        stored.map_err(|error| Error::store("failed to assign tenants", &error))?;
        Ok(self.cache.fresh().await?)
    }
}

impl fmt::Debug for TenantRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantRegistry(..)")
    }
}
