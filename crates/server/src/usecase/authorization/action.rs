//! What can be done, and by which right.

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

    pub(super) const fn or(self, other: Self) -> Self {
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
