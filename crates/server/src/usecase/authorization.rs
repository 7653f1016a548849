//! May this principal do this, to this: one table, whatever edge the request comes through.

mod agent;

use std::{collections::HashSet, sync::Arc, time::Duration};

use signet_base::SharedClock;
use signet_identity::{SpiffeId, TrustDomain};
use signet_store::Store;

use super::{
    error::{Denial, Error, ErrorKind},
    principal::{Peer, Role},
};
use crate::{
    cache::Cache,
    context::Context,
    policy::{Policy, Scope},
};

pub use agent::AgentRefusal;

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Add authorities to the own bundle.
    AppendBundle,
    /// Become an attested agent.
    AttestAgent,
    /// Ban an agent.
    BanAgent,
    /// Create entries.
    CreateEntries,
    /// Make a join token.
    CreateJoinToken,
    /// Delete an agent.
    DeleteAgent,
    /// Delete entries.
    DeleteEntries,
    /// Say what the API looks like.
    DescribeApi,
    /// Say why a workload gets what it gets.
    ExplainEntries,
    /// Follow the changes of entries.
    FollowEntries,
    /// Get an authority that signs for the own trust domain.
    IssueDownstreamAuthority,
    /// Get SVIDs of the entries that an agent is authorised for.
    IssueForEntries,
    /// Prepare, activate, taint and revoke authorities.
    ManageAuthorities,
    /// Create, update, set and delete bundles of others.
    ManageBundles,
    /// Create, update and delete federation relationships.
    ManageFederation,
    /// Change the log level.
    ManageLog,
    /// Create, suspend, resume and delete tenants, and assign agents and trust domains to them.
    ManageTenants,
    /// Get an SVID of any identity.
    MintSvid,
    /// Log in to the web console.
    OpenConsole,
    /// Add a key of a downstream server to the own bundle.
    PublishAuthority,
    /// List and look up agents.
    ReadAgents,
    /// See the state of the authorities.
    ReadAuthorities,
    /// Read the entries that an agent is authorised for.
    ReadAuthorizedEntries,
    /// Read the own bundle.
    ReadBundle,
    /// Read the bundle of one other trust domain.
    ReadFederatedBundle,
    /// List the bundles of others.
    ReadBundles,
    /// List and look up entries.
    ReadEntries,
    /// List and look up federation relationships.
    ReadFederation,
    /// See whether the server works.
    ReadHealth,
    /// See the log level.
    ReadLog,
    /// See figures about the server.
    ReadServerInfo,
    /// List tenants and what is assigned to them.
    ReadTenants,
    /// Fetch a bundle from its endpoint now.
    RefreshFederation,
    /// Get a new agent SVID.
    RenewAgent,
    /// Say which version an agent has.
    ReportAgentStatus,
    /// Say that a key of another trust domain is not in its bundle.
    ReportUnknownKey,
    /// Change entries.
    UpdateEntries,
    /// Be told at once that something has changed.
    WatchChanges,
}

/// By which right something is allowed, and on what.
#[derive(Clone, Debug)]
pub struct Authorized {
    /// By which right.
    pub role: Role,
    /// On what; `None` for everything in the trust domain.
    pub scope: Option<Arc<Scope>>,
}

/// A set of rights, any of which allows an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Anyone, with or without a certificate.
    pub const ANYONE: Self = Self(1);
    /// Processes on the local socket.
    pub const LOCAL: Self = Self(1 << 1);
    /// Administrators, by configuration or entry.
    pub const ADMIN: Self = Self(1 << 2);
    /// Workloads with a downstream entry.
    pub const DOWNSTREAM: Self = Self(1 << 3);
    /// Attested agents.
    pub const AGENT: Self = Self(1 << 4);

    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets have a right in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl Action {
    /// Who may do it: SPIRE's table of callers, and our own actions.
    pub const fn rights(self) -> Rights {
        const OPERATOR: Rights = Rights::LOCAL.or(Rights::ADMIN);
        match self {
            Self::AttestAgent | Self::ReadBundle => Rights::ANYONE,
            Self::DescribeApi
            | Self::ManageLog
            | Self::OpenConsole
            | Self::ReadHealth
            | Self::ReadLog
            | Self::ReadServerInfo => Rights::LOCAL,
            Self::AppendBundle
            | Self::BanAgent
            | Self::CreateEntries
            | Self::CreateJoinToken
            | Self::DeleteAgent
            | Self::DeleteEntries
            | Self::ExplainEntries
            | Self::FollowEntries
            | Self::ManageAuthorities
            | Self::ManageBundles
            | Self::ManageFederation
            | Self::ManageTenants
            | Self::MintSvid
            | Self::ReadAgents
            | Self::ReadAuthorities
            | Self::ReadBundles
            | Self::ReadEntries
            | Self::ReadFederation
            | Self::ReadTenants
            | Self::RefreshFederation
            | Self::UpdateEntries => OPERATOR,
            Self::ReadFederatedBundle | Self::ReportUnknownKey | Self::WatchChanges => {
                OPERATOR.or(Rights::AGENT)
            }
            Self::IssueDownstreamAuthority | Self::PublishAuthority => Rights::DOWNSTREAM,
            Self::IssueForEntries
            | Self::ReadAuthorizedEntries
            | Self::RenewAgent
            | Self::ReportAgentStatus => Rights::AGENT,
        }
    }

    /// Its name in policy files: see [`crate::policy::VERBS`]. `None` for what no policy narrows.
    pub const fn verb(self) -> Option<&'static str> {
        Some(match self {
            Self::AppendBundle => "bundle.append",
            Self::BanAgent => "agent.ban",
            Self::CreateEntries => "entry.create",
            Self::CreateJoinToken => "token.create",
            Self::DeleteAgent => "agent.evict",
            Self::DeleteEntries => "entry.delete",
            Self::ExplainEntries => "entry.explain",
            Self::FollowEntries | Self::WatchChanges => "entry.follow",
            Self::ManageAuthorities => "authority.manage",
            Self::ManageBundles => "bundle.manage",
            Self::ManageFederation => "federation.manage",
            Self::ManageLog => "log.manage",
            Self::ManageTenants => "tenant.manage",
            Self::MintSvid => "svid.mint",
            Self::OpenConsole => "console.open",
            Self::ReadAgents => "agent.read",
            Self::ReadAuthorities => "authority.read",
            Self::ReadBundles | Self::ReadFederatedBundle => "bundle.read",
            Self::ReadEntries => "entry.read",
            Self::ReadFederation => "federation.read",
            Self::DescribeApi | Self::ReadHealth | Self::ReadLog | Self::ReadServerInfo => {
                "server.read"
            }
            Self::ReadTenants => "tenant.read",
            Self::RefreshFederation => "federation.refresh",
            Self::UpdateEntries => "entry.update",
            Self::AttestAgent
            | Self::IssueDownstreamAuthority
            | Self::IssueForEntries
            | Self::PublishAuthority
            | Self::ReadAuthorizedEntries
            | Self::ReadBundle
            | Self::RenewAgent
            | Self::ReportAgentStatus
            | Self::ReportUnknownKey => return None,
        })
    }

    /// Whether it concerns everybody in the trust domain: only who may do it to everything may do
    /// it at all.
    pub const fn is_everybodys(self) -> bool {
        matches!(
            self,
            Self::AppendBundle
                | Self::ManageAuthorities
                | Self::ManageBundles
                | Self::ManageFederation
                | Self::ManageLog
                | Self::RefreshFederation
        )
    }
}

/// Why an action is not allowed.
#[derive(Clone, Debug)]
pub enum Unauthorized {
    /// It is refused.
    Denied {
        /// What an agent is to make of it.
        denial: Option<Denial>,
        /// For the log: the caller is not told.
        why: Option<String>,
    },
    /// It could not be found out.
    Failed(Error),
}

impl From<Error> for Unauthorized {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

const DENIED: Unauthorized = Unauthorized::Denied { denial: None, why: None };

/// Decides who may do what. Cheap to clone.
#[derive(Clone)]
pub struct Authorizer {
    inner: Arc<Inner>,
}

struct Inner {
    trust_domain: TrustDomain,
    admin_ids: HashSet<SpiffeId>,
    max_staleness: Duration,
    store: Store,
    cache: Arc<Cache>,
    clock: SharedClock,
    policy: Policy,
}

impl Authorizer {
    /// The decisions of this server.
    pub fn new(context: &Context) -> Self {
        Self {
            inner: Arc::new(Inner {
                trust_domain: context.trust_domain.clone(),
                admin_ids: context.config.admin_ids.iter().cloned().collect(),
                max_staleness: context.config.max_store_staleness,
                store: context.store.clone(),
                cache: Arc::clone(&context.cache),
                clock: Arc::clone(&context.clock),
                policy: context.policy.clone(),
            }),
        }
    }

    /// By which right `peer` may do `action`, and on what.
    ///
    /// # Errors
    /// [`Unauthorized`].
    pub async fn authorize(&self, peer: &Peer, action: Action) -> Result<Authorized, Unauthorized> {
        let role = self.role(peer, action).await?;
        let Inner { policy, cache, .. } = &*self.inner;
        let scope = policy.scope(peer, &role, cache).await?;
        if let (Some(scope), Some(verb)) = (&scope, action.verb()) {
            let allowed = match action.is_everybodys() {
                true => scope.allows_whole(verb),
                false => scope.allows_verb(verb),
            };
            if !allowed {
                let why = format!("the policy does not let the caller do {verb}");
                return Err(Error::new(ErrorKind::Denied, why).coded("policy_verb").into());
            }
        }
        Ok(Authorized { role, scope })
    }

    async fn role(&self, peer: &Peer, action: Action) -> Result<Role, Unauthorized> {
        let rights = action.rights();
        if rights.meets(Rights::ANYONE) {
            return Ok(Role::Anyone);
        }
        let remote = match peer {
            Peer::Local(_) if rights.meets(Rights::LOCAL) => return Ok(Role::Local),
            Peer::Local(_) => return Err(DENIED),
            Peer::Remote(remote) => remote,
        };
        let Some(svid) = &remote.svid else { return Err(DENIED) };
        let Inner { trust_domain, admin_ids, cache, policy, .. } = &*self.inner;
        let id = &svid.spiffe_id;
        if rights.meets(Rights::ADMIN) && (admin_ids.contains(id) || policy.makes_admin(id)) {
            return Ok(Role::AdminByConfig);
        }
        if !svid.spiffe_id.is_member_of(trust_domain) {
            return Err(DENIED);
        }
        if rights.meets(Rights::ADMIN.or(Rights::DOWNSTREAM)) {
            cache.fresh_or_away(self.inner.max_staleness).await.map_err(Error::from)?;
            self.must_not_be_stale()?;
            let entries = cache.entries_of(&svid.spiffe_id).await.map_err(Error::from)?;
            if rights.meets(Rights::ADMIN) && entries.iter().any(|entry| entry.admin) {
                return Ok(Role::AdminByEntry);
            }
            if rights.meets(Rights::DOWNSTREAM) {
                let found: Vec<_> = entries.into_iter().filter(|entry| entry.downstream).collect();
                if !found.is_empty() {
                    return Ok(Role::Downstream(found));
                }
            }
        }
        if rights.meets(Rights::AGENT) {
            self.must_not_be_stale()?;
            return match self.agent(svid).await {
                Ok(()) => Ok(Role::Agent),
                Err(AgentRefusal { denial: Some(denial), why, .. }) => {
                    Err(Unauthorized::Denied { denial: Some(denial), why: Some(why) })
                }
                Err(AgentRefusal { denial: None, why, away }) => {
                    let kind = if away { ErrorKind::Unavailable } else { ErrorKind::Internal };
                    Err(Unauthorized::Failed(Error::new(kind, why)))
                }
            };
        }
        Err(DENIED)
    }

    /// A yes from memory holds only as long as the store was seen lately.
    fn must_not_be_stale(&self) -> Result<(), Error> {
        let staleness = self.inner.cache.staleness();
        if staleness <= self.inner.max_staleness {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "the registration store has not answered for {} s",
            staleness.as_secs()
        )))
    }
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorizer(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_never_write_and_only_attestation_and_the_bundle_are_open() {
        use Action::*;

        for open in [AttestAgent, ReadBundle] {
            assert_eq!(open.rights(), Rights::ANYONE);
        }
        for write in [
            AppendBundle,
            BanAgent,
            CreateJoinToken,
            DeleteAgent,
            ManageAuthorities,
            ManageBundles,
            CreateEntries,
            DeleteEntries,
            UpdateEntries,
            ManageTenants,
            ManageFederation,
            ManageLog,
            MintSvid,
            PublishAuthority,
        ] {
            assert!(!write.rights().meets(Rights::AGENT.or(Rights::ANYONE)), "{write:?}");
        }
        for action in [ManageBundles, CreateEntries, ReadEntries, ManageLog, DescribeApi] {
            let verb = action.verb().unwrap();
            assert!(crate::policy::VERBS.iter().any(|(name, _)| *name == verb), "{verb}");
        }
        for theirs in [IssueForEntries, ReadAuthorizedEntries, RenewAgent, ReportAgentStatus] {
            assert_eq!(theirs.rights(), Rights::AGENT, "nobody else has entries: {theirs:?}");
        }
    }
}
