//! Who may do what to what, as the operator has set it: scopes of administrators, and tenants.
//!
//! Without `tenancy` and without a `policy_file` this is SPIRE's policy: local callers and
//! administrators may do everything, and nothing is narrower than the trust domain. The file holds
//! data, no programs; it is read again on SIGUSR1.

mod file;
pub mod scope;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use signet_config::{ConfigError, Document};
use signet_identity::{
    AuthorizedIndex, SelectorSet, SpiffeId, Tenant,
    tenant::{Directory, Judge, Tenancy, TenantDenial, TenantPath},
};

pub use scope::{Grant, Scope, Tenants, VERBS};

use crate::{
    cache::Cache,
    usecase::{
        error::{Error, ErrorKind},
        principal::{LocalPeer, Peer, Role},
    },
};

/// What `server {}` says of tenants and administrators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySettings {
    /// `tenancy = "required"`.
    pub required: bool,
    /// `tenant_path_template`.
    pub path: Option<TenantPath>,
    /// `policy_file`, with what was in it at the start.
    pub file: Option<(PathBuf, Rules)>,
}

/// What a policy file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `admin`: what administrators with these SPIFFE IDs may.
    pub admins: HashMap<SpiffeId, Grant>,
    /// `local`: what local callers may; when there is one, others may nothing.
    pub local: Vec<LocalRule>,
    /// `agent_tenants`.
    pub agents: Vec<signet_identity::tenant::AgentRule>,
}

/// What some local callers may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRule {
    /// As the file names them.
    pub name: String,
    /// Users.
    pub users: BTreeSet<u32>,
    /// Groups: of a caller, its effective one counts.
    pub groups: BTreeSet<u32>,
    /// What they may.
    pub grant: Grant,
}

impl LocalRule {
    fn applies(&self, peer: &LocalPeer) -> bool {
        self.users.contains(&peer.uid) || self.groups.contains(&peer.gid)
    }
}

impl Rules {
    /// Reads a policy file.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong, by file, line and column.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::from_document(&signet_config::read(path, None)?)
    }

    /// Checks what was read already.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_document(document: &Document) -> Result<Self, ConfigError> {
        file::rules(document)
    }
}

/// The policy in force. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    required: bool,
    path: Option<TenantPath>,
    file: Option<PathBuf>,
    in_force: ArcSwap<InForce>,
    own_uid: u32,
}

#[derive(Debug)]
struct InForce {
    rules: Rules,
    tenancy: Tenancy,
}

impl Policy {
    /// The policy of a server; `own_uid` is the user that it runs as, who is never locked out.
    pub fn new(settings: &PolicySettings, own_uid: u32) -> Self {
        let rules = settings.file.as_ref().map(|(_, rules)| rules.clone()).unwrap_or_default();
        let path = settings.path.clone();
        let in_force = ArcSwap::from_pointee(InForce::new(path.clone(), rules));
        let file = settings.file.as_ref().map(|(file, _)| file.clone());
        let required = settings.required;
        Self { inner: Arc::new(Inner { required, path, file, in_force, own_uid }) }
    }

    /// Whether `tenancy = "required"`.
    pub fn is_required(&self) -> bool {
        self.inner.required
    }

    /// The template of workload paths.
    pub fn path(&self) -> Option<&TenantPath> {
        self.inner.path.as_ref()
    }

    /// Reads the policy file again. Answers whether anything is different now.
    ///
    /// # Errors
    /// [`ConfigError`]; then what was in force stays.
    pub fn reload(&self) -> Result<bool, ConfigError> {
        let Some(file) = &self.inner.file else { return Ok(false) };
        let rules = Rules::read(file)?;
        let differs = self.inner.in_force.load().rules != rules;
        if differs {
            let next = InForce::new(self.inner.path.clone(), rules);
            self.inner.in_force.store(Arc::new(next));
        }
        Ok(differs)
    }

    /// Asks a judge about tenants, where they are required; `None` where they are not.
    ///
    /// # Errors
    /// What the judge refuses.
    pub fn judge<T>(
        &self,
        cache: &Cache,
        ask: impl FnOnce(&Judge<'_>) -> Result<T, TenantDenial>,
    ) -> Result<Option<T>, TenantDenial> {
        if !self.inner.required {
            return Ok(None);
        }
        let in_force = self.inner.in_force.load();
        let judged = cache.with_tenants(|index, directory| {
            ask(&Judge::new(&in_force.tenancy, directory, index)).map(Some)
        });
        judged.unwrap_or(Err(TenantDenial::Loading))
    }

    /// Waits until tenants can be judged, where they are required.
    ///
    /// # Errors
    /// `Unavailable` when that takes too long.
    pub async fn ready(&self, cache: &Cache) -> Result<(), Error> {
        if self.inner.required {
            cache.loaded().await?;
        }
        Ok(())
    }

    /// As [`Self::judge`], for whoever looks at the index already, and asks either way: there is no
    /// judge where tenants are not required.
    pub fn judge_with<T>(
        &self,
        index: &AuthorizedIndex,
        directory: &Directory,
        ask: impl FnOnce(Option<&Judge<'_>>) -> T,
    ) -> T {
        let in_force = self.inner.in_force.load();
        let judge = self.inner.required.then(|| Judge::new(&in_force.tenancy, directory, index));
        ask(judge.as_ref())
    }

    /// For which tenants an agent serves, whether tenants are required or not; empty when nothing
    /// says so, or rules contradict each other.
    pub fn tenants_of(
        &self,
        cache: &Cache,
        agent: &SpiffeId,
        selectors: &SelectorSet,
    ) -> BTreeSet<Tenant> {
        let in_force = self.inner.in_force.load();
        cache
            .with_tenants(|index, directory| {
                let judge = Judge::new(&in_force.tenancy, directory, index);
                judge.agent(agent, selectors).map(Cow::into_owned).unwrap_or_default()
            })
            .unwrap_or_default()
    }

    /// Whether the policy file makes this identity an administrator.
    pub fn makes_admin(&self, id: &SpiffeId) -> bool {
        self.inner.in_force.load().rules.admins.contains_key(id)
    }

    /// What `peer`, which has `role`, may do it to; `None` for everything that the role may.
    ///
    /// # Errors
    /// `Denied` when it is a local caller that the policy does not name, or an administrator
    /// without a tenant where one is required.
    pub async fn scope(
        &self,
        peer: &Peer,
        role: &Role,
        cache: &Cache,
    ) -> Result<Option<Arc<Scope>>, Error> {
        // Whole, and not borrowed: this waits below.
        let in_force = self.inner.in_force.load_full();
        let rules = &in_force.rules;
        match (role, peer) {
            (Role::Local, Peer::Local(local)) => {
                if rules.local.is_empty() || local.uid == 0 || local.uid == self.inner.own_uid {
                    return Ok(None);
                }
                let granted = rules.local.iter().filter(|rule| rule.applies(local));
                let grants: Vec<Grant> = granted.map(|rule| rule.grant.clone()).collect();
                if grants.is_empty() {
                    return Err(Error::new(
                        ErrorKind::Denied,
                        "the policy file has no rule for this local user",
                    )
                    .coded("policy_no_rule"));
                }
                Ok(Scope::of(grants))
            }
            (Role::AdminByConfig | Role::AdminByEntry, Peer::Remote(remote)) => {
                let Some(svid) = &remote.svid else { return Ok(None) };
                let id = &svid.spiffe_id;
                if let Some(grant) = rules.admins.get(id) {
                    let no_tenants = grant.tenants.is_empty();
                    if self.inner.required && no_tenants {
                        return Err(TenantDenial::CallerMissing.into());
                    }
                    return Ok(Scope::of(vec![grant.clone()]));
                }
                if !self.inner.required {
                    return Ok(None);
                }
                if matches!(role, Role::AdminByConfig) {
                    return Err(TenantDenial::CallerMissing.into());
                }
                self.ready(cache).await?;
                let entries = cache.entries_of(id).await?;
                let tenants = self.judge(cache, |judge| {
                    let admins = entries.iter().filter(|entry| entry.admin);
                    let mut tenants = BTreeSet::new();
                    for entry in admins {
                        tenants.insert(judge.standing(Some(&entry.id), entry)?.clone());
                    }
                    Ok(tenants)
                })?;
                Ok(Scope::of(vec![Grant::of_tenants(tenants.unwrap_or_default())]))
            }
            _ => Ok(None),
        }
    }

    /// By which right, and to what, a SPIFFE ID or a local user may do something, without a
    /// server: as far as the file and `admin_ids` say.
    pub fn known_scope(&self, who: &Named, is_admin: bool) -> Known {
        let in_force = self.inner.in_force.load();
        let rules = &in_force.rules;
        match who {
            Named::Spiffe(id) => match rules.admins.get(id) {
                Some(grant) if self.inner.required && grant.tenants.is_empty() => {
                    Known::Nothing("it is an administrator without a tenant")
                }
                Some(grant) => Known::Granted(Scope::of(vec![grant.clone()])),
                None if is_admin && self.inner.required => {
                    Known::Nothing("it is an administrator without a tenant")
                }
                None if is_admin => Known::Granted(None),
                None => Known::Unnamed,
            },
            Named::Local(peer) => {
                if rules.local.is_empty() || peer.uid == 0 || peer.uid == self.inner.own_uid {
                    return Known::Granted(None);
                }
                let granted = rules.local.iter().filter(|rule| rule.applies(peer));
                let grants: Vec<Grant> = granted.map(|rule| rule.grant.clone()).collect();
                match grants.is_empty() {
                    true => Known::Nothing("no local rule names it"),
                    false => Known::Granted(Scope::of(grants)),
                }
            }
        }
    }
}

/// Someone whom `policy explain -as` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A SPIFFE ID.
    Spiffe(SpiffeId),
    /// A local user.
    Local(LocalPeer),
}

/// What is known of someone without asking a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It may do this; `None` for everything.
    Granted(Option<Arc<Scope>>),
    /// It may do nothing, because of this.
    Nothing(&'static str),
    /// Neither `admin_ids` nor the policy file name it: it may do what its entries say.
    Unnamed,
}

impl InForce {
    fn new(path: Option<TenantPath>, rules: Rules) -> Self {
        Self { tenancy: Tenancy { path, agents: rules.agents.clone() }, rules }
    }
}

impl From<TenantDenial> for Error {
    /// What is missing can be given; the rest is not the caller's to have.
    fn from(denial: TenantDenial) -> Self {
        let kind = match denial {
            TenantDenial::Loading => ErrorKind::Unavailable,
            TenantDenial::Missing => ErrorKind::Invalid,
            _ => ErrorKind::Denied,
        };
        let code = denial.code();
        Self::new(kind, format!("[{code}] {denial}")).coded(code)
    }
}
