//! Who may have which credential: pure rules, read from one file.
//!
//! A tenant is a namespace of OpenBao and a part of the trust domain; a credential is a place in
//! an engine; a rule grants credentials to identities of a tenant. Nothing is granted unless a rule
//! says so, and nothing across tenants.

mod decode;
mod pattern;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use serde_json::{Map, Value};
use signet_config::ConfigError;
use signet_identity::SpiffeId;

pub use self::pattern::{IdPattern, PatternError};
use crate::reason::{Denial, Reason};

/// A policy that is whole: every name in it is defined.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub(crate) tenants: BTreeMap<String, Tenant>,
    pub(crate) credentials: BTreeMap<String, Credential>,
    pub(crate) rules: Vec<Rule>,
}

/// Whose workloads, and where their secrets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its name, the value of the claim `tenant`.
    pub name: String,
    /// The namespace of OpenBao; empty for the root namespace.
    pub namespace: String,
    /// The path that its identities begin with, `/t/acme/`; `None` when only the claim says it.
    pub path: Option<String>,
    /// Nobody of it gets anything, and what was handed out ends.
    pub suspended: bool,
    /// Where the broker logs in, in that namespace: the mount of the JWT auth method.
    pub login_mount: String,
    /// The role it logs in to.
    pub login_role: String,
    /// The audience of its own JWT-SVID for this tenant.
    pub login_audience: Option<String>,
}

/// What kind of secret a credential is, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Tier 1: cloud credentials of the AWS engine, `creds` or `sts`.
    Aws {
        /// The role.
        role: String,
        /// Session credentials rather than a user.
        sts: bool,
    },
    /// Tier 1: a database login made for the caller.
    Database {
        /// The role.
        role: String,
        /// For `bootstrap`: the connection that the role is of, and the PostgreSQL role whose rights
        /// its logins have and that owns what they leave.
        setup: Option<(String, String)>,
    },
    /// Tier 2: a version of a static secret.
    Kv {
        /// The path below the mount.
        path: String,
    },
    /// Tier 1: a certificate for the caller's key.
    Pki {
        /// The role.
        role: String,
    },
    /// Tier 1: an operation with a key that stays in OpenBao.
    Transit {
        /// The key.
        key: String,
        /// What may be done: `encrypt`, `decrypt`, `sign`, `verify`, `hmac`.
        operations: Vec<String>,
    },
}

/// Something that can be handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Its name in URLs.
    pub name: String,
    /// Where the engine is mounted.
    pub mount: String,
    /// What it is.
    pub engine: Engine,
    /// How long it may live.
    pub ttl: Duration,
    /// How often one identity may draw it within `ttl`.
    pub max_uses: Option<u32>,
    /// Hand out a single-use wrapping token of this life instead of the secret.
    pub wrap: Option<Duration>,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, for `explain` and records.
    pub name: String,
    /// The tenant that the caller must be of.
    pub tenant: String,
    /// The paths of identities.
    pub ids: Vec<IdPattern>,
    /// Claims that a JWT-SVID must have, with these values.
    pub claims: BTreeMap<String, String>,
    /// What is granted.
    pub credentials: Vec<String>,
    /// For `bootstrap`: the Kubernetes service accounts, namespace and name, that may log in to
    /// OpenBao themselves.
    pub service_accounts: Vec<(String, String)>,
}

/// Whom a decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The identity.
    pub id: &'a SpiffeId,
    /// The tenant that its token names, if there is a token and it does.
    pub tenant: Option<&'a str>,
    /// The claims of its token; `None` when the evidence is a certificate.
    pub claims: Option<&'a Map<String, Value>>,
}

/// A decision in the caller's favour.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    /// The tenant.
    pub tenant: &'a Tenant,
    /// The credential.
    pub credential: &'a Credential,
    /// The rule that grants it.
    pub rule: &'a Rule,
}

impl Credential {
    /// The tier: 1 for what is made for the caller and ends, 2 for what is kept.
    pub fn tier(&self) -> u8 {
        if matches!(self.engine, Engine::Kv { .. }) { 2 } else { 1 }
    }

    /// The name of the policy in OpenBao that allows reading it and nothing else.
    pub fn bao_policy(&self) -> String {
        format!("signet-credential-{}", self.name)
    }
}

impl Policy {
    /// Reads and checks a policy file, HCL or JSON.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong, by line and column.
    pub fn load(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        let document = signet_config::read(path, None)?;
        signet_config::decode_document(&document, decode::policy)
    }

    /// The tenants.
    pub fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.values()
    }

    /// The credentials.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.values()
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// A tenant by its name.
    pub fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenants.get(name)
    }

    /// Which tenant a caller is of. Path and claim must name the same one, and one of them must
    /// name one.
    ///
    /// # Errors
    /// [`Denial`] with a reason that begins with `tenant_`.
    pub fn tenant_of(&self, subject: &Subject<'_>) -> Result<&Tenant, Denial> {
        let path = subject.id.path();
        let by_path = self.tenants.values().find(|tenant| tenant.holds(path));
        let tenant = match (subject.tenant, by_path) {
            (None, Some(tenant)) => tenant,
            (None, None) => {
                return Err(Denial::new(
                    Reason::TenantMissing,
                    format!(
                        "neither a claim nor the path of {} says which tenant it is of",
                        subject.id
                    ),
                ));
            }
            (Some(name), by_path) => {
                let Some(tenant) = self.tenants.get(name) else {
                    let text = "the claim names a tenant that the policy does not know";
                    return Err(Denial::new(Reason::TenantUnknown, text));
                };
                let agrees = match by_path {
                    Some(by_path) => by_path.name == tenant.name,
                    None => tenant.path.is_none(),
                };
                if !agrees {
                    return Err(Denial::new(
                        Reason::TenantMismatch,
                        format!(
                            "the claim says tenant {:?}, the path of {} another",
                            tenant.name, subject.id
                        ),
                    ));
                }
                tenant
            }
        };
        if tenant.suspended {
            let text = format!("tenant {:?} is suspended", tenant.name);
            return Err(Denial::new(Reason::TenantSuspended, text));
        }
        Ok(tenant)
    }

    /// Decides whether a caller gets a credential.
    ///
    /// # Errors
    /// [`Denial`] when the policy has no such credential for this caller, or not now.
    pub fn decide(&self, subject: &Subject<'_>, credential: &str) -> Result<Grant<'_>, Denial> {
        let tenant = self.tenant_of(subject)?;
        let granted: Vec<&Rule> = self
            .rules_for(tenant, subject.id)
            .into_iter()
            .filter(|rule| rule.credentials.iter().any(|name| name == credential))
            .collect();
        let mut unmet = None;
        for rule in granted {
            match rule.unmet_claim(subject.claims) {
                None => {
                    if let Some(credential) = self.credentials.get(credential) {
                        return Ok(Grant { tenant, credential, rule });
                    }
                }
                Some(claim) => unmet = Some((rule, claim)),
            }
        }
        if let Some((rule, claim)) = unmet {
            return Err(Denial::new(
                Reason::Claim,
                format!("rule {:?} asks for another value of the claim {claim:?}", rule.name),
            ));
        }
        if self.credentials.contains_key(credential) {
            return Err(Denial::new(
                Reason::NoRule,
                format!(
                    "no rule of tenant {:?} grants {credential:?} to {}",
                    tenant.name, subject.id
                ),
            ));
        }
        Err(Denial::new(
            Reason::UnknownCredential,
            format!("there is no credential {credential:?}"),
        ))
    }

    /// Every credential that a caller is granted.
    pub fn granted(&self, subject: &Subject<'_>) -> BTreeSet<&Credential> {
        let Ok(tenant) = self.tenant_of(subject) else { return BTreeSet::new() };
        self.rules_for(tenant, subject.id)
            .into_iter()
            .filter(|rule| rule.unmet_claim(subject.claims).is_none())
            .flat_map(|rule| rule.credentials.iter())
            .filter_map(|name| self.credentials.get(name))
            .collect()
    }

    /// Whether a lease that was handed out is still covered: by tenant, path and credential, with
    /// any claims.
    pub fn covers(&self, tenant: &str, id: &SpiffeId, credential: &str) -> bool {
        let Some(tenant) = self.tenants.get(tenant).filter(|tenant| !tenant.suspended) else {
            return false;
        };
        self.rules_for(tenant, id)
            .iter()
            .any(|rule| rule.credentials.iter().any(|name| name == credential))
    }

    /// What the decision is made of, line by line, for an operator.
    pub fn explain(&self, subject: &Subject<'_>, credential: &str) -> Vec<String> {
        let mut lines = vec![format!("identity   {}", subject.id)];
        match self.tenant_of(subject) {
            Ok(tenant) => {
                let by = match (subject.tenant, &tenant.path) {
                    (Some(_), Some(path)) => format!("claim and path {path}"),
                    (Some(_), None) => "claim".to_owned(),
                    (None, path) => format!("path {}", path.as_deref().unwrap_or_default()),
                };
                lines.push(format!("tenant     {} (by {by})", tenant.name));
                for rule in &self.rules {
                    lines.push(format!("rule       {}: {}", rule.name, {
                        if rule.tenant != tenant.name {
                            format!("is of tenant {}", rule.tenant)
                        } else if !rule.ids.iter().any(|id| id.matches(subject.id.path())) {
                            "does not name this identity".to_owned()
                        } else if !rule.credentials.iter().any(|name| name == credential) {
                            format!("does not grant {credential}")
                        } else if let Some(claim) = rule.unmet_claim(subject.claims) {
                            format!("asks for the claim {claim}={:?}", rule.claims.get(claim))
                        } else {
                            "grants it".to_owned()
                        }
                    }));
                }
            }
            Err(denial) => lines.push(format!("tenant     {denial}")),
        }
        lines.push(match self.decide(subject, credential) {
            Ok(grant) => format!(
                "decision   allowed by rule {}: {} from {} in namespace {:?}, for {} s at most",
                grant.rule.name,
                grant.credential.name,
                grant.credential.mount,
                grant.tenant.namespace,
                grant.credential.ttl.as_secs(),
            ),
            Err(denial) => format!("decision   denied: {denial}"),
        });
        lines
    }

    fn rules_for(&self, tenant: &Tenant, id: &SpiffeId) -> Vec<&Rule> {
        let path = id.path();
        let fits = |rule: &&Rule| {
            rule.tenant == tenant.name && rule.ids.iter().any(|pattern| pattern.matches(path))
        };
        self.rules.iter().filter(fits).collect()
    }
}

impl Tenant {
    fn holds(&self, path: &str) -> bool {
        self.path.as_deref().is_some_and(|prefix| path.starts_with(prefix))
    }
}

impl Rule {
    /// The first claim that is not as asked for.
    fn unmet_claim(&self, claims: Option<&Map<String, Value>>) -> Option<&str> {
        let has = |name: &str, wanted: &str| match claims.and_then(|claims| claims.get(name)) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(list)) => list.iter().any(|one| one.as_str() == Some(wanted)),
            Some(Value::Bool(value)) => value.to_string() == wanted,
            Some(Value::Number(number)) => number.to_string() == wanted,
            _ => false,
        };
        let unmet = self.claims.iter().find(|(name, wanted)| !has(name, wanted));
        unmet.map(|(name, _)| name.as_str())
    }
}

impl PartialOrd for Credential {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Credential {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name.cmp(&other.name)
    }
}

#[cfg(test)]
mod tests;
