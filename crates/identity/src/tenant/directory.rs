//! What a server keeps about tenants, besides what entries say.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    str::FromStr,
};

use super::Tenant;
use crate::{SpiffeId, TrustDomain};

/// Whether anything is issued for a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantState {
    /// Yes.
    Active,
    /// Not until it is resumed.
    Suspended,
}

/// What is said about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// For which tenants an agent may serve.
    Agent(SpiffeId, BTreeSet<Tenant>),
    /// There is a tenant, in this state.
    Tenant(Tenant, TenantState),
    /// Which tenants may federate with a foreign trust domain.
    TrustDomain(TrustDomain, BTreeSet<Tenant>),
}

/// About what an [`Assignment`] is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Assigned {
    /// An agent.
    Agent(SpiffeId),
    /// A tenant.
    Tenant(Tenant),
    /// A foreign trust domain.
    TrustDomain(TrustDomain),
}

impl Assignment {
    /// About what it is.
    pub fn about(&self) -> Assigned {
        match self {
            Self::Agent(id, _) => Assigned::Agent(id.clone()),
            Self::Tenant(tenant, _) => Assigned::Tenant(tenant.clone()),
            Self::TrustDomain(name, _) => Assigned::TrustDomain(name.clone()),
        }
    }
}

/// `agent <SPIFFE ID>`, `tenant <name>`, `trust_domain <name>`: as stores keep it.
impl fmt::Display for Assigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(id) => write!(f, "agent {id}"),
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
            Self::TrustDomain(name) => write!(f, "trust_domain {name}"),
        }
    }
}

/// The text is not about anything that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("neither an agent nor a tenant nor a trust domain")]
pub struct AssignedError;

impl FromStr for Assigned {
    type Err = AssignedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(' ') {
            Some(("agent", id)) => id.parse().map(Self::Agent).map_err(|_| AssignedError),
            Some(("tenant", name)) => name.parse().map(Self::Tenant).map_err(|_| AssignedError),
            Some(("trust_domain", name)) => {
                name.parse().map(Self::TrustDomain).map_err(|_| AssignedError)
            }
            _ => Err(AssignedError),
        }
    }
}

/// All that is said: the tenants that there are, and for whom agents and trust domains are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    tenants: BTreeMap<Tenant, TenantState>,
    agents: HashMap<SpiffeId, BTreeSet<Tenant>>,
    trust_domains: HashMap<TrustDomain, BTreeSet<Tenant>>,
}

impl Directory {
    /// Takes over what is said about one thing now; `None` when nothing is.
    pub fn apply(&mut self, about: &Assigned, said: Option<Assignment>) {
        match said {
            Some(Assignment::Agent(id, tenants)) => {
                self.agents.insert(id, tenants);
            }
            Some(Assignment::Tenant(tenant, state)) => {
                self.tenants.insert(tenant, state);
            }
            Some(Assignment::TrustDomain(name, tenants)) => {
                self.trust_domains.insert(name, tenants);
            }
            None => match about {
                Assigned::Agent(id) => _ = self.agents.remove(id),
                Assigned::Tenant(tenant) => _ = self.tenants.remove(tenant),
                Assigned::TrustDomain(name) => _ = self.trust_domains.remove(name),
            },
        }
    }

    /// The state of a tenant; `None` when there is no such tenant.
    pub fn state(&self, tenant: &Tenant) -> Option<TenantState> {
        self.tenants.get(tenant).copied()
    }

    /// The tenants that there are, by name.
    pub fn tenants(&self) -> impl Iterator<Item = (&Tenant, TenantState)> {
        self.tenants.iter().map(|(tenant, state)| (tenant, *state))
    }

    /// For which tenants an agent was said to serve.
    pub fn agent(&self, id: &SpiffeId) -> Option<&BTreeSet<Tenant>> {
        self.agents.get(id)
    }

    /// Which tenants may federate with a trust domain.
    pub fn trust_domain(&self, name: &TrustDomain) -> Option<&BTreeSet<Tenant>> {
        self.trust_domains.get(name)
    }

    /// All that is said about agents, in no particular order.
    pub fn agents(&self) -> impl Iterator<Item = (&SpiffeId, &BTreeSet<Tenant>)> {
        self.agents.iter()
    }

    /// All that is said about foreign trust domains, in no particular order.
    pub fn trust_domains(&self) -> impl Iterator<Item = (&TrustDomain, &BTreeSet<Tenant>)> {
        self.trust_domains.iter()
    }

    /// Whether an agent or a trust domain is for this tenant.
    pub fn is_used(&self, tenant: &Tenant) -> bool {
        self.agents.values().chain(self.trust_domains.values()).any(|all| all.contains(tenant))
    }
}
