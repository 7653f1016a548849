//! Attested agents and join tokens.

use std::{fmt, sync::Arc};

use signet_audit::Field;
use signet_authority::Authority;
use signet_base::SharedClock;
use signet_identity::{
    AttestedNode, EntrySpec, JoinToken, Selector, SelectorSet, SpiffeId, TrustDomain,
};
use signet_pki::random;
use signet_store::{CreateOutcome, NewEntry, NodeFilter, Page, PageRequest, Store};

use super::{
    Call,
    authorization::Action,
    error::{Denial, Error, ErrorKind},
    issuance::{Issued, public_key},
    parts::Parts,
};
use crate::{
    cache::Cache,
    limits::{Limit, Limits, Work},
    metrics::ServerMetrics,
    policy::Policy,
};

/// How many agents are looked at together to count those that a caller may see.
const COUNTED_AT_ONCE: u32 = 1_000;
/// The longest agent version that is stored, bytes.
const MAX_VERSION_LEN: usize = 255;
/// The longest join token that is created, bytes: it becomes part of a SPIFFE ID.
const MAX_TOKEN_LEN: usize = signet_attest::node::join_token::MAX_TOKEN;

/// What can be done with agents. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    trust_domain: TrustDomain,
    store: Store,
    cache: Arc<Cache>,
    clock: SharedClock,
    authority: Authority,
    limits: Limits,
    counted: ServerMetrics,
    policy: Policy,
}

impl Agents {
    /// Those of a server with these parts.
    pub fn new(parts: &Parts) -> Self {
        Self {
            trust_domain: parts.trust_domain.clone(),
            store: parts.store.clone(),
            cache: Arc::clone(&parts.cache),
            clock: Arc::clone(&parts.clock),
            authority: parts.authority.clone(),
            limits: parts.limits.clone(),
            counted: parts.counted.clone(),
            policy: parts.policy.clone(),
        }
    }

    /// The trust domain that agents belong to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// How many agents `filter` accepts.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn count(&self, call: &Call, filter: &NodeFilter) -> Result<u64, Error> {
        call.may(Action::ReadAgents)?;
        const FAILED: &str = "failed to count agents";
        if call.scope().is_none() {
            let counted = self.store.count_nodes(filter).await;
            return counted.map_err(|error| Error::store(FAILED, &error));
        }
        let (mut page, mut counted) = (PageRequest::first(COUNTED_AT_ONCE), 0);
        loop {
            let listed = self.store.list_nodes(filter, page).await;
            let listed = listed.map_err(|error| Error::store(FAILED, &error))?;
            counted += listed.items.iter().filter(|node| self.sees(call, node)).count() as u64;
            let Some(next) = listed.next else { return Ok(counted) };
            page.after = Some(next);
        }
    }

    /// The agents that `filter` accepts, page by page.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn list(
        &self,
        call: &Call,
        filter: &NodeFilter,
        page: PageRequest,
    ) -> Result<Page<AttestedNode>, Error> {
        call.may(Action::ReadAgents)?;
        let mut page = page;
        loop {
            let found = self.store.list_nodes(filter, page).await;
            let mut found = found.map_err(|error| Error::store("failed to list agents", &error))?;
            found.items.retain(|node| self.sees(call, node));
            match found.next.filter(|_| found.items.is_empty()) {
                Some(next) => page.after = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// One agent.
    ///
    /// # Errors
    /// `NotFound`; or when the store fails.
    pub async fn get(&self, call: &Call, id: &SpiffeId) -> Result<AttestedNode, Error> {
        call.may(Action::ReadAgents)?;
        call.about(Field::SpiffeId(id.clone()));
        let node = self.store.node(id).await;
        let node = node.map_err(|error| Error::store("failed to fetch agent", &error))?;
        node.filter(|node| self.sees(call, node)).ok_or_else(agent_not_found)
    }

    /// Whether the caller may see an agent: it serves one of the caller's tenants.
    fn sees(&self, call: &Call, node: &AttestedNode) -> bool {
        self.sees_with(call, &node.spiffe_id, &node.selectors)
    }

    /// As [`Self::sees`], for whoever knows no more of the agent than its ID.
    pub(crate) fn sees_agent(&self, call: &Call, id: &SpiffeId) -> bool {
        call.scope().is_none() || self.sees_with(call, id, &self.cache.node_selectors(id))
    }

    fn sees_with(&self, call: &Call, id: &SpiffeId, selectors: &SelectorSet) -> bool {
        let Some(scope) = call.scope() else { return true };
        let tenants = self.policy.tenants_of(&self.cache, id, selectors);
        scope.allows_shared("agent.read", &tenants, false)
            || call
                .principal
                .action
                .verb()
                .is_some_and(|verb| scope.allows_shared(verb, &tenants, false))
    }

    /// That the caller may do this to an agent: all tenants that it serves are the caller's.
    async fn may_touch(&self, call: &Call, id: &SpiffeId) -> Result<(), Error> {
        let (Some(scope), Some(verb)) = (call.scope(), call.principal.action.verb()) else {
            return Ok(());
        };
        let node = self.store.node(id).await;
        let node = node.map_err(|error| Error::store("failed to fetch agent", &error))?;
        let node = node.filter(|node| self.sees(call, node)).ok_or_else(agent_not_found)?;
        let tenants = self.policy.tenants_of(&self.cache, id, &node.selectors);
        match scope.allows_shared(verb, &tenants, true) {
            true => Ok(()),
            false => Err(shared_agent(verb)),
        }
    }

    /// Deletes an agent, which has to attest anew then.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when the deletion is not in force yet; or when the store fails.
    pub async fn delete(&self, call: &Call, id: &SpiffeId) -> Result<(), Error> {
        call.may(Action::DeleteAgent)?;
        call.about(Field::SpiffeId(id.clone()));
        self.may_touch(call, id).await?;
        let deleted = self.store.delete_node(id, self.clock.unix()).await;
        let deleted = deleted.map_err(|error| Error::store("failed to remove agent", &error))?;
        deleted.ok_or_else(agent_not_found)?;
        self.cache.fresh().await?;
        tracing::info!(spiffe_id = %id, request_id = &**call.audit.request_id(), "Agent deleted");
        Ok(())
    }

    /// Bans an agent until it is deleted.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when the ban is not in force yet; or when the store fails.
    pub async fn ban(&self, call: &Call, id: &SpiffeId) -> Result<(), Error> {
        call.may(Action::BanAgent)?;
        call.about(Field::SpiffeId(id.clone()));
        self.may_touch(call, id).await?;
        let banned = self.store.update_node(id, self.clock.unix(), |node| {
            if node.is_banned() {
                return false;
            }
            node.serial_number.clear();
            node.new_serial_number.clear();
            true
        });
        let banned = banned.await.map_err(|error| Error::store("failed to ban agent", &error))?;
        banned.ok_or_else(agent_not_found)?;
        self.cache.fresh().await?;
        tracing::info!(spiffe_id = %id, request_id = &**call.audit.request_id(), "Agent banned");
        Ok(())
    }

    /// Signs a new SVID for the calling agent; the one it has stays active until the new one is
    /// used.
    ///
    /// # Errors
    /// `Denied` when it has to attest anew or is banned; `Exhausted`; or when it cannot be signed.
    pub async fn renew(&self, call: &Call, csr: Option<&[u8]>) -> Result<Issued, Error> {
        call.may(Action::RenewAgent)?;
        self.limits.acquire(&call.principal, Limit::SignX509, 1, "renew agent").await?;
        let id = call.agent_id()?;
        let node = self.store.node(id).await;
        let node = node.map_err(|error| Error::store("failed to fetch agent", &error))?;
        let node = node.ok_or_else(agent_not_found)?;
        if node.can_reattest {
            return Err(Error::denied(
                "agent must reattest instead of renew",
                Denial::AgentMustReattest,
            ));
        }
        if self.policy.is_required() {
            self.policy.ready(&self.cache).await?;
            self.cache.fresh().await?;
            self.policy.judge(&self.cache, |judge| judge.agent(id, &node.selectors).map(drop))?;
        }
        let now = self.clock.unix();
        let _turn = self.limits.turns.turn(&call.principal, Work::Renew, None, now).await?;
        let csr = csr.ok_or_else(|| Error::invalid("params cannot be nil"))?;
        if csr.is_empty() {
            return Err(Error::invalid("missing CSR"));
        }
        let public_key = public_key(csr)?;
        let signed = self.authority.sign_agent_x509(id, &public_key, None).await;
        let svid = signed.map_err(|error| Error::signing("failed to sign X509 SVID", &error))?;
        self.counted.signed_x509.inc(&[]);
        let (serial, not_after) = (svid.serial_number.clone(), svid.not_after);
        let updated = self.store.update_node(id, self.clock.unix(), move |node| {
            // Banned meanwhile: a new serial number would lift that.
            if node.is_banned() {
                return false;
            }
            node.new_serial_number = serial;
            node.new_expires_at = not_after;
            true
        });
        match updated.await.map_err(|error| Error::store("failed to update agent", &error))? {
            Some((_, true)) => {}
            Some((_, false)) => {
                return Err(Error::denied("agent is banned", Denial::AgentBanned));
            }
            None => return Err(agent_not_found()),
        }
        call.about(Field::SpiffeId(id.clone()));
        call.about(Field::SerialNumber(svid.serial_number.clone()));
        call.about(Field::ExpiresAt(svid.not_after));
        tracing::info!(
            spiffe_id = %id,
            serial_num = svid.serial_number,
            request_id = &**call.audit.request_id(),
            "Renewing agent SVID"
        );
        Ok(Issued { spiffe_id: id.clone(), svid })
    }

    /// That a join token may live for so long.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check_token_ttl(&self, call: &Call, ttl: i32) -> Result<(), Error> {
        call.may(Action::CreateJoinToken)?;
        call.about(Field::Ttl(ttl));
        match ttl < 1 {
            true => Err(Error::invalid("ttl is required, you must provide one")),
            false => Ok(()),
        }
    }

    /// Makes a join token, a random one if `token` is empty, that lives for `ttl` seconds; with
    /// `alias`, also an entry that gives the agent that identity.
    ///
    /// # Errors
    /// `Invalid` when lifetime or token are out of bounds; `Internal` when the token exists; or
    /// when the store fails.
    pub async fn create_join_token(
        &self,
        call: &Call,
        token: &str,
        ttl: i32,
        alias: Option<SpiffeId>,
    ) -> Result<JoinToken, Error> {
        call.may(Action::CreateJoinToken)?;
        let token = match token {
            "" => random::uuid_v4()
                .map_err(|error| Error::internal("failed to generate token UUID").because(error))?,
            token if token.len() > MAX_TOKEN_LEN => {
                return Err(Error::invalid(format!("token is longer than {MAX_TOKEN_LEN} bytes")));
            }
            token => token.to_owned(),
        };
        let parent = join_token_id(&self.trust_domain, &token)?;
        if self.policy.is_required() || call.scope().is_some() {
            self.cache.loaded().await?;
        }
        let none = SelectorSet::default();
        if self.policy.is_required() {
            self.policy.judge(&self.cache, |judge| judge.agent(&parent, &none).map(drop))?;
        }
        if let Some(scope) = call.scope()
            && !scope.allows_shared(
                "token.create",
                &self.policy.tenants_of(&self.cache, &parent, &none),
                true,
            )
        {
            return Err(shared_agent("token.create"));
        }
        let entry = match alias {
            None => None,
            Some(alias) => {
                call.about(Field::SpiffeId(alias.clone()));
                let selector = Selector::new("spiffe_id", &parent.to_string())
                    .map_err(|error| Error::internal(error.to_string()))?;
                let id = random::uuid_v4().unwrap_or_default().parse().map_err(|error| {
                    Error::internal("failed to generate an entry ID").because(error)
                })?;
                let selectors = std::iter::once(selector).collect();
                let tenants = self.policy.tenants_of(&self.cache, &parent, &none);
                let mut draft = EntrySpec::new(alias, parent, selectors);
                // The alias is of the agent's tenant, where that is one.
                draft.tenant = tenants.iter().next().filter(|_| tenants.len() == 1).cloned();
                call.may_touch(draft.tenant.as_ref(), &draft.spiffe_id)?;
                self.policy.judge(&self.cache, |judge| judge.creation(&id, &draft, &[]))?;
                Some(NewEntry { id, draft })
            }
        };
        let now = self.clock.unix();
        let expires_at = now + i64::from(ttl);
        let stored = JoinToken { token, expires_at, spent_by: None };
        let created = self.store.create_join_token(stored.clone(), entry, now).await;
        match created.map_err(|error| Error::store("failed to create token", &error))? {
            CreateOutcome::Created(_) => {}
            CreateOutcome::Exists => {
                return Err(
                    Error::internal("failed to create token").because("token already exists")
                );
            }
        }
        self.cache.fresh().await?;
        Ok(stored)
    }

    /// Stores which version the calling agent has.
    ///
    /// # Errors
    /// `Invalid` when it is too long; `NotFound`; `Exhausted`; or when the store fails.
    pub async fn report_version(&self, call: &Call, version: String) -> Result<(), Error> {
        call.may(Action::ReportAgentStatus)?;
        self.limits.acquire(&call.principal, Limit::Status, 1, "post status").await?;
        let id = call.agent_id()?;
        call.about(Field::SpiffeId(id.clone()));
        if version.len() > MAX_VERSION_LEN {
            return Err(Error::invalid("agent version is too long (max 255 characters)"));
        }
        if version.is_empty() {
            return Ok(());
        }
        call.about(Field::AgentVersion(version.clone()));
        let updated = self.store.update_node(id, self.clock.unix(), move |node| {
            let changed = node.agent_version != version;
            node.agent_version = version;
            changed
        });
        let updated =
            updated.await.map_err(|error| Error::store("failed to update agent", &error))?;
        updated.map(drop).ok_or_else(agent_not_found)
    }
}

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Agents(..)")
    }
}

/// The agent ID of a join token.
pub(super) fn join_token_id(trust_domain: &TrustDomain, token: &str) -> Result<SpiffeId, Error> {
    let path = format!("/spire/agent/join_token/{token}");
    SpiffeId::new(trust_domain.clone(), &path)
        .map_err(|error| Error::internal("failed to create join token ID").because(error))
}

/// An agent serves others too, or nobody of the caller's.
pub(super) fn shared_agent(verb: &str) -> Error {
    let why = format!(
        "[policy_scope] the policy does not let the caller do {verb} to an agent of these tenants"
    );
    Error::new(ErrorKind::Denied, why).coded("policy_scope")
}

fn agent_not_found() -> Error {
    Error::not_found("agent not found")
}
