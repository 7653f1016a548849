//! May this principal do this, to this: one table, whatever edge the request comes through.

pub mod action;
mod agent;

use std::{collections::HashSet, sync::Arc, time::Duration};

use signet_base::SharedClock;
use signet_identity::{SpiffeId, TrustDomain};
use signet_store::Store;

use super::{
    error::{Denial, Error, ErrorKind},
    parts::Parts,
    principal::{Peer, Role},
};
use crate::{
    cache::Cache,
    policy::{Policy, Scope},
};

pub use action::{Action, Rights};
pub use agent::AgentRefusal;

/// By which right something is allowed, and on what.
#[derive(Clone, Debug)]
pub struct Authorized {
    /// By which right.
    pub role: Role,
    /// On what; `None` for everything in the trust domain.
    pub scope: Option<Arc<Scope>>,
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
    pub fn new(parts: &Parts) -> Self {
        Self {
            inner: Arc::new(Inner {
                trust_domain: parts.trust_domain.clone(),
                admin_ids: parts.rules.admin_ids.iter().cloned().collect(),
                max_staleness: parts.rules.max_staleness,
                store: parts.store.clone(),
                cache: Arc::clone(&parts.cache),
                clock: Arc::clone(&parts.clock),
                policy: parts.policy.clone(),
            }),
        }
    }

    /// By which right `peer` may do `action`, and on what.
    ///
    /// # Errors
    /// [`Unauthorized`] when no right of `peer` covers it, or its rights cannot be told now.
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
