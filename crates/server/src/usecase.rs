//! What a server does: the rules between an edge (gRPC today; HTTP, a console, a broker) and the
//! store.
//!
//! A use case is given a [`Call`] (who asks, and where to say what came of it) and values that are
//! parsed, and answers with values or an [`error::Error`]. It knows no protocol. An edge asks the
//! [`authorization::Authorizer`] first, and each use case checks that it was for its own action.

pub mod agents;
pub mod attestation;
pub mod authorities;
pub mod authorization;
pub mod bundles;
pub mod entries;
pub mod error;
pub mod explain;
pub mod federation;
pub mod issuance;
pub mod parts;
pub mod principal;
pub mod search;
pub mod tenants;

use signet_audit::Field;
use signet_base::chain;
use signet_identity::{EntrySpec, SpiffeId, Tenant, TenantDenial, TrustDomain};
use signet_store::StoreError;

use self::{
    authorization::Action,
    error::{Error, ErrorKind},
    parts::Parts,
    principal::Principal,
};
use crate::{attestors::Attestors, audit::Audit, cache::Cache, policy::Scope};

/// One request: who asks, and where to say what came of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks.
    pub principal: Principal,
    /// What the request leaves behind.
    pub audit: Audit,
}

impl Call {
    /// See [`Principal::may`].
    ///
    /// # Errors
    /// `Internal` when something else was authorised.
    pub fn may(&self, action: Action) -> Result<(), Error> {
        self.principal.may(action)
    }

    /// See [`Principal::agent_id`].
    ///
    /// # Errors
    /// `Internal` when the caller is no agent.
    pub fn agent_id(&self) -> Result<&SpiffeId, Error> {
        self.principal.agent_id()
    }

    /// To what the caller's rights are narrowed; `None` when they are not.
    pub fn scope(&self) -> Option<&Scope> {
        self.principal.scope.as_deref()
    }

    /// That the caller may do what this call does to something of this tenant with this ID.
    ///
    /// # Errors
    /// `Denied`.
    pub fn may_touch(&self, tenant: Option<&Tenant>, id: &SpiffeId) -> Result<(), Error> {
        let (Some(scope), Some(verb)) = (self.scope(), self.principal.action.verb()) else {
            return Ok(());
        };
        if scope.allows(verb, tenant, id) {
            return Ok(());
        }
        Err(out_of_scope(scope, verb, tenant))
    }

    /// Whether the caller may see an entry.
    pub fn sees(&self, entry: &EntrySpec) -> bool {
        self.scope().is_none_or(|scope| {
            let verb = self.principal.action.verb().unwrap_or("entry.read");
            scope.allows_entry("entry.read", entry) || scope.allows_entry(verb, entry)
        })
    }

    /// Whether the caller may see a foreign trust domain: one of its tenants federates with it.
    pub(crate) fn sees_domain(&self, cache: &Cache, name: &TrustDomain) -> bool {
        let (Some(scope), Some(verb)) = (self.scope(), self.principal.action.verb()) else {
            return true;
        };
        cache
            .with_tenants(|_, directory| match directory.trust_domain(name) {
                Some(tenants) => scope.allows_shared(verb, tenants, false),
                None => scope.allows_whole(verb),
            })
            .unwrap_or(false)
    }

    /// That the caller may make an entry one of an administrator or of a downstream server, if
    /// that is what it is: whoever has less than everything would give away more than it has.
    ///
    /// # Errors
    /// `Denied`.
    pub fn may_grant(&self, entry: &EntrySpec) -> Result<(), Error> {
        let (Some(scope), Some(verb)) = (self.scope(), self.principal.action.verb()) else {
            return Ok(());
        };
        if !(entry.admin || entry.downstream) || scope.allows_whole(verb) {
            return Ok(());
        }
        let why = "[policy_escalation] only who may do everything may make administrators and \
                   downstream servers";
        Err(Error::new(ErrorKind::Denied, why).coded("policy_escalation"))
    }

    /// Adds what the request is about.
    pub fn about(&self, field: Field) {
        self.audit.field(field);
    }
}

/// All use cases of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UseCases {
    /// Attested agents and join tokens.
    pub agents: agents::Agents,
    /// How an agent becomes one.
    pub attestation: attestation::Attestation,
    /// The server's authorities.
    pub authorities: authorities::Authorities,
    /// Trust bundles, own and foreign.
    pub bundles: bundles::Bundles,
    /// Registration entries.
    pub entries: entries::Entries,
    /// Why a workload gets what it gets.
    pub explain: explain::Explain,
    /// Federation relationships.
    pub federation: federation::Federation,
    /// What is signed.
    pub issuance: issuance::Issuance,
    /// Tenants, and what is assigned to them.
    pub tenants: tenants::TenantRegistry,
}

impl UseCases {
    /// The use cases of a server with these parts.
    pub fn new(parts: &Parts, attestors: &Attestors) -> Self {
        Self {
            agents: agents::Agents::new(parts),
            attestation: attestation::Attestation::new(parts, attestors.clone()),
            authorities: authorities::Authorities::new(parts),
            bundles: bundles::Bundles::new(parts),
            entries: entries::Entries::new(parts),
            explain: explain::Explain::new(parts),
            federation: federation::Federation::new(parts),
            issuance: issuance::Issuance::new(parts),
            tenants: tenants::TenantRegistry::new(parts),
        }
    }
}

/// The refusal of what the caller's scope does not hold.
fn out_of_scope(scope: &Scope, verb: &str, tenant: Option<&Tenant>) -> Error {
    if let Some(tenant) = tenant
        && !scope.allows_tenant(verb, tenant)
    {
        return TenantDenial::CallerMismatch(tenant.clone()).into();
    }
    let why = format!("[policy_scope] the policy does not let the caller do {verb} to this");
    Error::new(ErrorKind::Denied, why).coded("policy_scope")
}

/// Waits until a write is visible in memory, so that the caller's next call sees it. What was
/// written stays written: when memory lags, the answer is none the worse.
async fn settle(cache: &Cache) {
    if let Err(error) = cache.fresh().await {
        tracing::warn!(error = chain(&error), "A change is not visible in memory yet");
    }
}

/// What came of each of `asked` items of a batch, which the store takes in one transaction: when
/// that fails, nothing of it was stored, and each item says so.
fn outcomes<O>(
    asked: usize,
    what: &'static str,
    stored: Result<Vec<O>, StoreError>,
) -> Vec<Result<O, Error>> {
    match stored {
        Ok(outcomes) => {
            let missing = asked.saturating_sub(outcomes.len());
            let lost = || Err(Error::internal(what).because("no outcome"));
            outcomes.into_iter().map(Ok).chain((0..missing).map(|_| lost())).collect()
        }
        Err(error) => {
            let mut failed = Error::store(what, &error);
            if asked > 1 {
                let cause = failed.cause().unwrap_or_default();
                let all = format!("{cause} (nothing of this batch of {asked} was stored)");
                failed = failed.because(all);
            }
            (0..asked).map(|_| Err(failed.clone())).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_of_a_batch_that_failed_says_that_none_was_stored() {
        let closed = || Err::<Vec<()>, _>(StoreError::Closed { doing: "x" });
        let alone = outcomes(1, "failed to create entry", closed());
        let alone = alone[0].as_ref().unwrap_err();
        assert!(!alone.to_string().contains("batch"), "{alone}");
        let all = outcomes(3, "failed to create entry", closed());
        assert_eq!(all.len(), 3);
        for one in all {
            let error = one.unwrap_err().to_string();
            assert!(error.starts_with("failed to create entry: "), "{error}");
            assert!(error.ends_with("(nothing of this batch of 3 was stored)"), "{error}");
        }
        let lost = outcomes(2, "x", Ok(vec![()]));
        assert_eq!((lost[0].is_ok(), lost[1].is_ok()), (true, false));
    }
}
