//! Why something is refused for its tenant.

use super::Tenant;
use crate::{SpiffeId, TrustDomain};

/// Why an entry, an agent or a caller is refused. Each has a code of its own, which answers, audit
/// records and metrics carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TenantDenial {
    /// An agent serves other tenants.
    #[error("agent {0} may not serve tenant \"{1}\"")]
    AgentMismatch(SpiffeId, Tenant),
    /// Nothing says for which tenants an agent is.
    #[error("agent {0} has no tenants: assign some, or add a rule to the policy file")]
    AgentMissing(SpiffeId),
    /// Rules for an agent contradict each other.
    #[error("rules of the policy file give agent {0} different tenants: assign some to it")]
    AgentAmbiguous(SpiffeId),
    /// Entries of several tenants issue one SPIFFE ID.
    #[error("entries of several tenants issue {0}")]
    Ambiguous(SpiffeId),
    /// A caller is not one of this tenant.
    #[error("the caller is no administrator of tenant \"{0}\"")]
    CallerMismatch(Tenant),
    /// A caller is an administrator of no tenant.
    #[error("the caller is an administrator without a tenant")]
    CallerMissing,
    /// A downstream authority signs for every tenant.
    #[error("downstream authorities sign for every tenant of the trust domain")]
    Downstream,
    /// A trust domain is for others.
    #[error("tenant \"{1}\" may not federate with {0}")]
    FederationMismatch(TrustDomain, Tenant),
    /// What is kept about tenants was not read yet.
    #[error("tenants are still being read")]
    Loading,
    /// There is no tenant.
    #[error("there is no tenant")]
    Missing,
    /// The parent is of another tenant.
    #[error("parent {0} is not of tenant \"{1}\"")]
    ParentMismatch(SpiffeId, Tenant),
    /// There is no such parent.
    #[error("no agent and no entry has the ID of parent {0}")]
    ParentUnknown(SpiffeId),
    /// The path is not one of the tenant's.
    #[error("{0} does not lie where tenant \"{1}\" has its identities")]
    PathMismatch(SpiffeId, Tenant),
    /// The tenant is suspended.
    #[error("tenant \"{0}\" is suspended")]
    Suspended(Tenant),
    /// Nobody created the tenant.
    #[error("there is no tenant \"{0}\"")]
    Unknown(Tenant),
}

impl TenantDenial {
    /// Every code, for metrics.
    pub const CODES: [&'static str; 14] = [
        "tenant_agent_mismatch",
        "tenant_agent_missing",
        "tenant_ambiguous",
        "tenant_caller_mismatch",
        "tenant_caller_missing",
        "tenant_downstream",
        "tenant_federation_mismatch",
        "tenant_loading",
        "tenant_missing",
        "tenant_parent_mismatch",
        "tenant_parent_unknown",
        "tenant_path_mismatch",
        "tenant_suspended",
        "tenant_unknown",
    ];

    /// The reason as a word: the same in answers, audit records and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AgentAmbiguous(_) | Self::Ambiguous(_) => "tenant_ambiguous",
            Self::AgentMismatch(..) => "tenant_agent_mismatch",
            Self::AgentMissing(_) => "tenant_agent_missing",
            Self::CallerMismatch(_) => "tenant_caller_mismatch",
            Self::CallerMissing => "tenant_caller_missing",
            Self::Downstream => "tenant_downstream",
            Self::FederationMismatch(..) => "tenant_federation_mismatch",
            Self::Loading => "tenant_loading",
            Self::Missing => "tenant_missing",
            Self::ParentMismatch(..) => "tenant_parent_mismatch",
            Self::ParentUnknown(_) => "tenant_parent_unknown",
            Self::PathMismatch(..) => "tenant_path_mismatch",
            Self::Suspended(_) => "tenant_suspended",
            Self::Unknown(_) => "tenant_unknown",
        }
    }
}
