//! To what someone may do something.

use std::{collections::BTreeSet, sync::Arc};

use signet_identity::{EntrySpec, SpiffeId, Tenant};

/// Every verb of policy files, with what it stands for.
pub const VERBS: &[(&str, &str)] = &[
    ("agent.ban", "ban an agent"),
    ("agent.evict", "delete an agent, which then has to attest anew"),
    ("agent.read", "list and look up agents"),
    ("authority.manage", "prepare, activate, taint and revoke authorities"),
    ("authority.read", "see the state of the authorities"),
    ("bundle.append", "add authorities to the own bundle"),
    ("bundle.manage", "set and delete bundles of others"),
    ("bundle.read", "read bundles of others"),
    ("console.open", "log in to the web console"),
    ("entry.create", "create entries"),
    ("entry.delete", "delete entries"),
    ("entry.explain", "ask why a workload gets what it gets"),
    ("entry.follow", "follow changes of entries"),
    ("entry.read", "list and look up entries"),
    ("entry.update", "change entries"),
    ("federation.manage", "create, change and delete federation relationships"),
    ("federation.read", "list and look up federation relationships"),
    ("federation.refresh", "fetch a bundle now"),
    ("log.manage", "change the log level"),
    ("server.read", "see health, log level and figures of the server"),
    ("svid.mint", "get an SVID by hand"),
    ("tenant.manage", "create, suspend, resume and delete tenants, and assign them"),
    ("tenant.read", "list tenants"),
    ("token.create", "make join tokens"),
];

/// For which tenants a grant holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// `"*"`: all of them, and what has none.
    All,
    /// These.
    Only(BTreeSet<Tenant>),
}

impl Tenants {
    /// Whether it is for nobody.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Only(tenants) if tenants.is_empty())
    }

    fn hold(&self, tenant: Option<&Tenant>) -> bool {
        match self {
            Self::All => true,
            Self::Only(tenants) => tenant.is_some_and(|tenant| tenants.contains(tenant)),
        }
    }
}

/// What one rule allows: these verbs, on what is of these tenants and under these paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// For whom.
    pub tenants: Tenants,
    /// How the paths of SPIFFE IDs begin, whole segments, without a slash at the end; none for
    /// any.
    pub paths: Vec<String>,
    /// Which [`VERBS`], `entry.*` for a group of them, `*` for all; none for all.
    pub verbs: Vec<String>,
}

impl Grant {
    /// Everything that can be done within these tenants.
    pub fn of_tenants(tenants: BTreeSet<Tenant>) -> Self {
        Self { tenants: Tenants::Only(tenants), paths: Vec::new(), verbs: Vec::new() }
    }

    fn is_whole(&self) -> bool {
        self.tenants == Tenants::All && self.paths.is_empty()
    }

    fn allows_verb(&self, verb: &str) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(group) => verb.starts_with(group),
            None => pattern == verb,
        };
        self.verbs.is_empty() || self.verbs.iter().any(matches)
    }

    fn allows_path(&self, id: &SpiffeId) -> bool {
        let under = |prefix: &String| {
            id.path()
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.paths.is_empty() || self.paths.iter().any(under)
    }
}

/// All that someone may, of what its role may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    grants: Vec<Grant>,
}

impl Scope {
    /// What these allow together; `None` when that is everything.
    pub(crate) fn of(grants: Vec<Grant>) -> Option<Arc<Self>> {
        let everything = grants.iter().any(|grant| grant.is_whole() && grant.verbs.is_empty());
        (!everything).then(|| Arc::new(Self { grants }))
    }

    /// Whether there is anything to which this can be done.
    pub fn allows_verb(&self, verb: &str) -> bool {
        self.grants.iter().any(|grant| grant.allows_verb(verb))
    }

    /// Whether this can be done to everything: what is nobody's own, or everybody's.
    pub fn allows_whole(&self, verb: &str) -> bool {
        self.grants.iter().any(|grant| grant.is_whole() && grant.allows_verb(verb))
    }

    /// Whether this can be done to something of this tenant that has (or stands for) this ID.
    pub fn allows(&self, verb: &str, tenant: Option<&Tenant>, id: &SpiffeId) -> bool {
        let holds = |grant: &Grant| grant.tenants.hold(tenant) && grant.allows_path(id);
        self.grants.iter().any(|grant| grant.allows_verb(verb) && holds(grant))
    }

    /// Whether this can be done to an entry.
    pub fn allows_entry(&self, verb: &str, entry: &EntrySpec) -> bool {
        self.allows(verb, entry.tenant.as_ref(), &entry.spiffe_id)
    }

    /// Whether this can be done to a tenant as such.
    pub fn allows_tenant(&self, verb: &str, tenant: &Tenant) -> bool {
        self.grants.iter().any(|g| g.allows_verb(verb) && g.tenants.hold(Some(tenant)))
    }

    /// Whether this can be done to something that is for several tenants: for all of them when
    /// `all`, for one of them otherwise. Of what is for none, only who may everything sees.
    pub fn allows_shared(&self, verb: &str, tenants: &BTreeSet<Tenant>, all: bool) -> bool {
        if self.allows_whole(verb) {
            return true;
        }
        let allows = |tenant: &Tenant| self.allows_tenant(verb, tenant);
        !tenants.is_empty()
            && if all { tenants.iter().all(allows) } else { tenants.iter().any(allows) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(tenants: &[&str], paths: &[&str], verbs: &[&str]) -> Grant {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        let tenants = match tenants {
            ["*"] => Tenants::All,
            some => Tenants::Only(some.iter().map(|name| name.parse().unwrap()).collect()),
        };
        Grant { tenants, paths: texts(paths), verbs: texts(verbs) }
    }

    #[test]
    fn a_grant_holds_for_its_verbs_tenants_and_paths_and_for_nothing_else() {
        let scope =
            Scope::of(vec![grant(&["blue"], &["/t/blue"], &["entry.*", "agent.read"])]).unwrap();
        let blue: Tenant = "blue".parse().unwrap();
        let red: Tenant = "red".parse().unwrap();
        let id = |path: &str| format!("spiffe://td{path}").parse::<SpiffeId>().unwrap();
        assert!(scope.allows("entry.create", Some(&blue), &id("/t/blue/x")));
        assert!(scope.allows("entry.read", Some(&blue), &id("/t/blue")));
        assert!(!scope.allows("entry.create", Some(&blue), &id("/t/blue2/x")));
        assert!(!scope.allows("entry.create", Some(&red), &id("/t/blue/x")));
        assert!(!scope.allows("entry.create", None, &id("/t/blue/x")));
        assert!(!scope.allows("svid.mint", Some(&blue), &id("/t/blue/x")));
        assert!(scope.allows_verb("agent.read") && !scope.allows_verb("agent.ban"));
        assert!(!scope.allows_whole("entry.read"));
        let both: BTreeSet<Tenant> = [blue.clone(), red].into_iter().collect();
        assert!(scope.allows_shared("agent.read", &both, false));
        assert!(!scope.allows_shared("agent.read", &both, true));
        assert!(!scope.allows_shared("agent.read", &BTreeSet::new(), false));
    }

    #[test]
    fn a_grant_of_everything_is_no_scope() {
        assert!(Scope::of(vec![grant(&["*"], &[], &[])]).is_none());
        let reader = Scope::of(vec![grant(&["*"], &[], &["entry.read"])]).unwrap();
        assert!(reader.allows_whole("entry.read") && !reader.allows_verb("entry.create"));
    }

    #[test]
    fn verbs_are_sorted_and_each_is_there_once() {
        assert!(VERBS.is_sorted_by(|a, b| a.0 < b.0));
    }
}
