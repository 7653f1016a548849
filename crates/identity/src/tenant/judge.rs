//! Whether an entry may be, may be sent to an agent, may be signed.

use std::{borrow::Cow, collections::BTreeSet, collections::HashSet, sync::Arc};

use super::{Directory, Tenant, TenantDenial, TenantPath, TenantState};
use crate::{AuthorizedIndex, Entry, EntryId, EntrySpec, SelectorSet, SpiffeId};

/// What the operator has set about tenants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenancy {
    /// Where the identities of a tenant lie; `None` when they may lie anywhere.
    pub path: Option<TenantPath>,
    /// For which tenants agents are that nothing was assigned to.
    pub agents: Vec<AgentRule>,
}

/// For which tenants agents are that have all of this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRule {
    /// How the path of the agent's SPIFFE ID begins; empty for any.
    pub path: String,
    /// Node selectors that it has, all of them.
    pub selectors: SelectorSet,
    /// For whom it is then.
    pub tenants: BTreeSet<Tenant>,
}

impl AgentRule {
    fn applies(&self, agent: &SpiffeId, selectors: &SelectorSet) -> bool {
        agent.path().starts_with(&self.path) && self.selectors.is_subset_of(selectors)
    }
}

/// Judges by what is set, what is kept, and the entries that there are.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    tenancy: &'a Tenancy,
    directory: &'a Directory,
    index: &'a AuthorizedIndex,
}

type Judged<T> = Result<T, TenantDenial>;

impl<'a> Judge<'a> {
    /// One with these in front of it.
    pub fn new(tenancy: &'a Tenancy, directory: &'a Directory, index: &'a AuthorizedIndex) -> Self {
        Self { tenancy, directory, index }
    }

    /// That this tenant is there and active.
    ///
    /// # Errors
    /// [`TenantDenial`], as for everything here.
    pub fn tenant(&self, tenant: &Tenant) -> Judged<()> {
        match self.directory.state(tenant) {
            Some(TenantState::Active) => Ok(()),
            Some(TenantState::Suspended) => Err(TenantDenial::Suspended(tenant.clone())),
            None => Err(TenantDenial::Unknown(tenant.clone())),
        }
    }

    /// For which tenants an agent with these node selectors may serve: at least one.
    ///
    /// # Errors
    /// `AgentMissing`, `AgentAmbiguous`.
    pub fn agent(
        &self,
        agent: &SpiffeId,
        selectors: &SelectorSet,
    ) -> Judged<Cow<'a, BTreeSet<Tenant>>> {
        if let Some(assigned) = self.directory.agent(agent).filter(|all| !all.is_empty()) {
            return Ok(Cow::Borrowed(assigned));
        }
        let mut rules = self.tenancy.agents.iter().filter(|rule| rule.applies(agent, selectors));
        let first = rules.next().filter(|rule| !rule.tenants.is_empty());
        let first = first.ok_or_else(|| TenantDenial::AgentMissing(agent.clone()))?;
        if rules.any(|other| other.tenants != first.tenants) {
            return Err(TenantDenial::AgentAmbiguous(agent.clone()));
        }
        Ok(Cow::Borrowed(&first.tenants))
    }

    /// For which tenants an agent may serve, by what is known of it.
    ///
    /// # Errors
    /// As [`Self::agent`].
    pub fn known_agent(&self, agent: &SpiffeId) -> Judged<Cow<'a, BTreeSet<Tenant>>> {
        let none = SelectorSet::default();
        self.agent(agent, self.index.node_selectors(agent).unwrap_or(&none))
    }

    /// What holds for an entry by itself, whoever its parent is: it has a tenant, which is there
    /// and active, owns the path and the SPIFFE ID, and may federate as the entry does.
    ///
    /// # Errors
    /// [`TenantDenial`]: the first rule of tenants that is broken.
    pub fn standing<'e>(&self, id: Option<&EntryId>, entry: &'e EntrySpec) -> Judged<&'e Tenant> {
        let tenant = entry.tenant.as_ref().ok_or(TenantDenial::Missing)?;
        self.tenant(tenant)?;
        if entry.downstream {
            return Err(TenantDenial::Downstream);
        }
        self.owns(tenant, &entry.spiffe_id, id)?;
        for name in &entry.federates_with {
            if !self.directory.trust_domain(name).is_some_and(|all| all.contains(tenant)) {
                return Err(TenantDenial::FederationMismatch(name.clone(), tenant.clone()));
            }
        }
        Ok(tenant)
    }

    /// That an identity is this tenant's and nobody else's; the entry `but` does not count.
    fn owns(&self, tenant: &Tenant, id: &SpiffeId, but: Option<&EntryId>) -> Judged<()> {
        if self.tenancy.path.as_ref().is_some_and(|path| !path.holds(id, tenant)) {
            return Err(TenantDenial::PathMismatch(id.clone(), tenant.clone()));
        }
        let theirs =
            |other: &&Arc<Entry>| Some(&other.id) != but && other.tenant.as_ref() != Some(tenant);
        if self.index.entries_of(id).any(|other| theirs(&other)) {
            return Err(TenantDenial::Ambiguous(id.clone()));
        }
        Ok(())
    }

    /// Whose identity this is, as the path template or the entries say: for what is signed without
    /// an entry.
    ///
    /// # Errors
    /// `Missing` when nothing says so; `Ambiguous`, `Unknown`, `Suspended`.
    pub fn owner(&self, id: &SpiffeId) -> Judged<Tenant> {
        let by_path = match &self.tenancy.path {
            Some(path) => path.tenant_of(id).and_then(|name| name.parse::<Tenant>().ok()),
            None => self.index.entries_of(id).find_map(|entry| entry.tenant.clone()),
        };
        let tenant = by_path.ok_or(TenantDenial::Missing)?;
        self.tenant(&tenant)?;
        self.owns(&tenant, id, None)?;
        Ok(tenant)
    }

    /// Whether an entry may be created, or become what it is here. `batch` holds entries that are
    /// created with it, and were judged.
    ///
    /// # Errors
    /// [`TenantDenial`]: the first rule of tenants that is broken.
    pub fn creation(
        &self,
        id: &EntryId,
        entry: &EntrySpec,
        batch: &[(&EntryId, &EntrySpec)],
    ) -> Judged<()> {
        let tenant = self.standing(Some(id), entry)?;
        let others = || batch.iter().filter(|(other, _)| *other != id).map(|(_, draft)| *draft);
        if others().any(|o| o.spiffe_id == entry.spiffe_id && o.tenant != entry.tenant) {
            return Err(TenantDenial::Ambiguous(entry.spiffe_id.clone()));
        }
        let parent = &entry.parent_id;
        if parent.is_server() {
            return Ok(());
        }
        if parent.is_agent() || self.index.node_selectors(parent).is_some() {
            return self.agent_serves(parent, tenant);
        }
        let in_batch = others().filter(|other| other.spiffe_id == *parent).map(|it| &it.tenant);
        let stored = self.index.entries_of(parent).filter(|entry| entry.id != *id);
        let owners: HashSet<Option<&Tenant>> =
            stored.map(|entry| &entry.tenant).chain(in_batch).map(Option::as_ref).collect();
        match owners.len() {
            0 => Err(TenantDenial::ParentUnknown(parent.clone())),
            1 if owners.contains(&Some(tenant)) => Ok(()),
            1 => Err(TenantDenial::ParentMismatch(parent.clone(), tenant.clone())),
            _ => Err(TenantDenial::Ambiguous(parent.clone())),
        }
    }

    fn agent_serves(&self, agent: &SpiffeId, tenant: &Tenant) -> Judged<()> {
        if self.known_agent(agent)?.contains(tenant) {
            return Ok(());
        }
        Err(TenantDenial::AgentMismatch(agent.clone(), tenant.clone()))
    }

    /// Whether `entry`, seen alone, is for `agent`.
    ///
    /// # Errors
    /// [`TenantDenial`]: the first rule of tenants that is broken.
    pub fn for_agent(&self, agent: &SpiffeId, entry: &Entry) -> Judged<()> {
        let tenant = self.standing(Some(&entry.id), entry)?;
        self.agent_serves(agent, tenant)
    }

    /// The entries of `agent`, as [`AuthorizedIndex::authorized`] finds them, that are for it:
    /// every step from the agent down to an entry is of the entry's tenant.
    pub fn authorized(&self, agent: &SpiffeId) -> Vec<Arc<Entry>> {
        let Ok(serves) = self.known_agent(agent) else { return Vec::new() };
        self.index.authorized_where(agent, &|parent, entry| self.admits(&serves, parent, entry))
    }

    /// The entry with this ID if it is for `agent`; `None` when the agent would not get it anyway.
    ///
    /// # Errors
    /// Why it does not get what it would get if tenants were nothing.
    pub fn entry_for_agent(&self, agent: &SpiffeId, id: &EntryId) -> Judged<Option<Arc<Entry>>> {
        let Some(entry) = self.index.entry_for_agent(agent, id) else { return Ok(None) };
        self.for_agent(agent, &entry)?;
        let serves = self.known_agent(agent)?;
        let admit = |parent: Option<&Entry>, entry: &Entry| self.admits(&serves, parent, entry);
        if self.index.entry_for_agent_where(agent, id, &admit).is_some() {
            return Ok(Some(entry));
        }
        let tenant = entry.tenant.clone().ok_or(TenantDenial::Missing)?;
        Err(TenantDenial::ParentMismatch(entry.parent_id.clone(), tenant))
    }

    fn admits(&self, serves: &BTreeSet<Tenant>, parent: Option<&Entry>, entry: &Entry) -> bool {
        let Ok(tenant) = self.standing(Some(&entry.id), entry) else { return false };
        serves.contains(tenant)
            && parent.is_none_or(|parent| parent.tenant.as_ref() == Some(tenant))
    }
}
