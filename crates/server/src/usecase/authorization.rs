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
use crate::{cache::Cache, context::Context};

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
    /// Make a join token.
    CreateJoinToken,
    /// Delete an agent.
    DeleteAgent,
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
    /// Create, update and delete entries.
    ManageEntries,
    /// Create, update and delete federation relationships.
    ManageFederation,
    /// Change the log level.
    ManageLog,
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
    /// Fetch a bundle from its endpoint now.
    RefreshFederation,
    /// Get a new agent SVID.
    RenewAgent,
    /// Say which version an agent has.
    ReportAgentStatus,
    /// Say that a key of another trust domain is not in its bundle.
    ReportUnknownKey,
    /// Be told at once that something has changed.
    WatchChanges,
}

/// On what an action is to be done.
///
/// Rights hold for the whole trust domain as yet. What narrows them (a tenant, a path) becomes a
/// variant here, which the compiler then asks [`Authorizer::authorize`] about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything in the server's trust domain.
    TrustDomain,
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

    const fn or(self, other: Self) -> Self {
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
            | Self::CreateJoinToken
            | Self::DeleteAgent
            | Self::ExplainEntries
            | Self::FollowEntries
            | Self::ManageAuthorities
            | Self::ManageBundles
            | Self::ManageEntries
            | Self::ManageFederation
            | Self::MintSvid
            | Self::ReadAgents
            | Self::ReadAuthorities
            | Self::ReadBundles
            | Self::ReadEntries
            | Self::ReadFederation
            | Self::RefreshFederation => OPERATOR,
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
            }),
        }
    }

    /// By which right `peer` may do `action` on `scope`.
    ///
    /// # Errors
    /// [`Unauthorized`].
    pub async fn authorize(
        &self,
        peer: &Peer,
        action: Action,
        scope: Scope,
    ) -> Result<Role, Unauthorized> {
        let Scope::TrustDomain = scope;
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
        let Inner { trust_domain, admin_ids, cache, .. } = &*self.inner;
        if rights.meets(Rights::ADMIN) && admin_ids.contains(&svid.spiffe_id) {
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
            ManageEntries,
            ManageFederation,
            ManageLog,
            MintSvid,
            PublishAuthority,
        ] {
            assert!(!write.rights().meets(Rights::AGENT.or(Rights::ANYONE)), "{write:?}");
        }
        for theirs in [IssueForEntries, ReadAuthorizedEntries, RenewAgent, ReportAgentStatus] {
            assert_eq!(theirs.rights(), Rights::AGENT, "nobody else has entries: {theirs:?}");
        }
    }
}
