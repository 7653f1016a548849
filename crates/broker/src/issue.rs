//! Handing out: from a proven caller to a credential.

mod engine;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde_json::{Value, json};
use signet_base::{FairQueue, RateLimiter, SharedClock, chain};
use signet_pki::{digest, random};
use signet_time::UnixTime;

pub use self::engine::Ask;
use self::engine::Drawn;
use crate::{
    bao::{BaoCall, BaoError, LoginError, Secret, Sessions, text_of},
    caller::Caller,
    lease_store::{Ended, Holder, Lease, LeaseStore, Token},
    metrics::BrokerMetrics,
    policy::{Credential, Policy, Tenant},
    reason::{Denial, Reason},
    watch::View,
};

/// The name of the token role, in each tenant's namespace, that makes the tokens of identities.
pub const TOKEN_ROLE: &str = "signet-workload";
/// How long such a token lives at first; it is renewed while it is needed.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// A lease ends this long before its token, at the latest, seconds.
const TOKEN_MARGIN: i64 = 5;

/// How much one identity may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls a second, and at once after a pause.
    pub per_second: u32,
    /// Calls of one identity that OpenBao works on at the same time.
    pub each: usize,
    /// Calls of all identities that OpenBao works on at the same time.
    pub total: usize,
    /// Calls of one identity that wait.
    pub waiting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_second: 10, each: 2, total: 64, waiting: 16 }
    }
}

/// Hands out credentials. Clones share everything.
#[derive(Clone)]
pub struct Issuer(Arc<Shared>);

struct Shared {
    policy: RwLock<Arc<Policy>>,
    tenants: RwLock<BTreeMap<String, Tenant>>,
    store: LeaseStore,
    sessions: Sessions,
    view: View,
    clock: SharedClock,
    rate: RateLimiter<Holder>,
    turns: FairQueue<Holder>,
    metrics: BrokerMetrics,
}

/// What was handed out. Holds a secret.
pub struct Issued {
    /// The lease.
    pub lease: Lease,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// What OpenBao gave: the secret, or how to unwrap it.
    pub data: Value,
    /// The tenant.
    pub tenant: String,
    /// The rule that granted it.
    pub rule: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issued({:?}, ..)", self.lease)
    }
}

impl Issuer {
    /// Hands out by `policy`.
    pub fn new(
        policy: Policy,
        store: LeaseStore,
        sessions: Sessions,
        view: View,
        clock: SharedClock,
        limits: Limits,
        metrics: BrokerMetrics,
    ) -> Self {
        let tenants = policy.tenants().map(|tenant| (tenant.name.clone(), tenant.clone()));
        let rate = RateLimiter::new(limits.per_second).with_max_wait(Duration::ZERO);
        Self(Arc::new(Shared {
            tenants: RwLock::new(tenants.collect()),
            policy: RwLock::new(Arc::new(policy)),
            store,
            sessions,
            view,
            clock,
            rate,
            turns: FairQueue::new(limits.total, limits.each, limits.waiting),
            metrics,
        }))
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.0.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The tokens and leases that exist.
    pub fn store(&self) -> &LeaseStore {
        &self.0.store
    }

    /// The sessions with OpenBao.
    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// The clock.
    pub fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// The metrics.
    pub fn metrics(&self) -> &BrokerMetrics {
        &self.0.metrics
    }

    /// What is known of identities.
    pub fn view(&self) -> &View {
        &self.0.view
    }

    /// A tenant that the policy has, or had: what was handed out is taken back there.
    pub fn tenant(&self, name: &str) -> Option<Tenant> {
        self.0.tenants.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Puts another policy in force, and marks what it does not cover any more to be taken back.
    pub fn replace(&self, policy: Policy) -> Ended {
        {
            let mut tenants = self.0.tenants.write().unwrap_or_else(PoisonError::into_inner);
            tenants.extend(policy.tenants().map(|t| (t.name.clone(), t.clone())));
        }
        let policy = Arc::new(policy);
        *self.0.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&policy);
        let tokens = self.0.store.end_holders(|holder| match policy.tenant(&holder.tenant) {
            None => Some("its tenant is not in the policy any more".to_owned()),
            Some(tenant) if tenant.suspended => Some("its tenant is suspended".to_owned()),
            Some(_) => None,
        });
        let leases = self.0.store.end_leases(|holder, lease| {
            let covered = policy.covers(&holder.tenant, &holder.id, &lease.credential);
            (!covered).then(|| "the policy does not grant it any more".to_owned())
        });
        Ended { tokens, leases }
    }

    /// Who a caller is in the lease store, once it may be one at all: its identity is alive and its
    /// tenant known, and it does not call too often.
    ///
    /// # Errors
    /// [`Denial`] when the policy does not allow it, the caller's identity or tenant has ended, it
    /// asks too often, or OpenBao does not do it; its reason says which.
    pub fn admit(&self, caller: &Caller) -> Result<Holder, Denial> {
        let policy = self.policy();
        let tenant = policy.tenant_of(&caller.subject())?;
        let holder = Holder { tenant: tenant.name.as_str().into(), id: caller.id.clone() };
        if self.0.rate.try_acquire(&holder, 1).is_err() {
            let text = format!("more than {} calls a second", self.0.rate.burst());
            return Err(Denial::new(Reason::RateLimit, text));
        }
        self.0.view.check(&caller.id, caller.issued_at)?;
        if self.0.view.is_suspended(&tenant.name) {
            let text = format!("tenant {:?} is suspended", tenant.name);
            return Err(Denial::new(Reason::TenantSuspended, text));
        }
        Ok(holder)
    }

    /// Hands out the credential `name`.
    ///
    /// # Errors
    /// [`Denial`] when the policy does not allow it, the caller's identity or tenant has ended, it
    /// asks too often, or OpenBao does not do it; its reason says which.
    pub async fn issue(
        &self,
        caller: &Caller,
        name: &str,
        ask: &Ask,
        correlation: &str,
    ) -> Result<Issued, Denial> {
        let holder = self.admit(caller)?;
        let policy = self.policy();
        let subject = caller.subject();
        let grant = policy.decide(&subject, name)?;
        let (tenant, credential) = (grant.tenant, grant.credential);
        let ttl = ask.ttl.unwrap_or(credential.ttl).min(credential.ttl);
        let turn = self.0.turns.turn(holder.clone()).await;
        let _turn = turn.map_err(|_| {
            Denial::new(Reason::Busy, "too many calls of this identity are waiting")
        })?;
        let now = self.0.clock.unix();
        let Some(reserved) =
            self.0.store.reserve(&holder, &credential.name, credential.max_uses, now)
        else {
            let max = credential.max_uses.unwrap_or_default();
            let text = format!("{max} times within {} s", credential.ttl.as_secs());
            return Err(Denial::new(Reason::MaxUses, text));
        };
        let granted: BTreeSet<String> =
            policy.granted(&subject).into_iter().map(Credential::bao_policy).collect();
        let until = now + ttl;
        let mut token = self.token(tenant, credential, &holder, &granted, until).await?;
        let call = engine::call(credential, ask, ttl)?;
        let mut answer = self.draw(tenant, &token, &call, correlation).await;
        if matches!(&answer, Err(error) if error.is_denied())
            && self.has_ended(tenant, &token).await
        {
            // OpenBao has ended the token under us: once more with a new one.
            self.0.store.token_ended(&token.accessor);
            token = self.token(tenant, credential, &holder, &granted, until).await?;
            answer = self.draw(tenant, &token, &call, correlation).await;
        }
        let drawn = answer.map_err(|error| refused(&error))?;
        let issued =
            self.note(&holder, tenant, credential, &token, drawn, ttl, correlation).await?;
        drop(reserved);
        Ok(Issued { rule: grant.rule.name.clone(), ..issued })
    }

    /// Lets one of the caller's own leases live for the credential's life from now on.
    ///
    /// # Errors
    /// [`Denial`] when the policy does not allow it, the caller's identity or tenant has ended, it
    /// asks too often, or OpenBao does not do it; its reason says which.
    pub async fn renew(
        &self,
        caller: &Caller,
        lease: &str,
        correlation: &str,
    ) -> Result<Lease, Denial> {
        let holder = self.admit(caller)?;
        let now = self.0.clock.unix();
        let lease = self.own(&holder, lease, now)?;
        let policy = self.policy();
        let grant = policy.decide(&caller.subject(), &lease.credential)?;
        let Some(bao_lease) = &lease.bao_lease else {
            let text = "this credential is no lease: ask for it again";
            return Err(Denial::new(Reason::Parameter, text));
        };
        let turn = self.0.turns.turn(holder.clone()).await;
        let _turn = turn.map_err(|_| {
            Denial::new(Reason::Busy, "too many calls of this identity are waiting")
        })?;
        let wanted = seconds(grant.credential.ttl);
        let token = self.0.store.token(&lease.accessor).ok_or_else(|| unknown(&lease.lease_id))?;
        let lasts = self
            .keep_token(grant.tenant, &token, now + wanted)
            .await
            .map_err(|error| login_denial(&error))?;
        // What the token does not cover, the lease cannot have.
        let increment = wanted.min((lasts - now).saturating_sub(TOKEN_MARGIN)).max(0);
        let body = json!({ "lease_id": bao_lease, "increment": increment });
        let call = BaoCall::post(&grant.tenant.namespace, "sys/leases/renew", &body)
            .correlated(correlation);
        let (_, answer) =
            self.0.sessions.call(grant.tenant, call).await.map_err(|error| login_denial(&error))?;
        let life = answer.get("lease_duration").and_then(Value::as_i64).unwrap_or_default();
        let expires = self.0.clock.unix() + life.min(increment);
        self.0
            .store
            .renew_lease(&lease.lease_id, expires)
            .await
            .map_err(|error| Denial::new(Reason::OpenBaoUnavailable, chain(&error)))?;
        Ok(Lease { expires_at: expires, ..lease })
    }

    /// Marks one of the caller's own leases to be taken back, which [`Revoker`] then does.
    ///
    /// [`Revoker`]: crate::revoke::Revoker
    ///
    /// # Errors
    /// [`Denial`] when the policy does not allow it, the caller's identity or tenant has ended, it
    /// asks too often, or OpenBao does not do it; its reason says which.
    pub fn give_back(&self, caller: &Caller, lease: &str) -> Result<(Lease, Holder), Denial> {
        let holder = self.admit(caller)?;
        let lease = self.own(&holder, lease, self.0.clock.unix())?;
        let ended = self.0.store.end_lease(&lease.lease_id, "given back");
        ended.ok_or_else(|| unknown(&lease.lease_id))
    }

    /// The caller's own leases.
    ///
    /// # Errors
    /// [`Denial`] when the policy does not allow it, the caller's identity or tenant has ended, it
    /// asks too often, or OpenBao does not do it; its reason says which.
    pub fn leases(&self, caller: &Caller) -> Result<Vec<Lease>, Denial> {
        let holder = self.admit(caller)?;
        Ok(self.0.store.leases(&holder, self.0.clock.unix()))
    }

    fn own(&self, holder: &Holder, lease: &str, now: UnixTime) -> Result<Lease, Denial> {
        let own = self.0.store.leases(holder, now).into_iter();
        own.into_iter().find(|own| own.lease_id == lease).ok_or_else(|| unknown(lease))
    }

    /// A token of the holder that covers the credential until `until`.
    async fn token(
        &self,
        tenant: &Tenant,
        credential: &Credential,
        holder: &Holder,
        granted: &BTreeSet<String>,
        until: UnixTime,
    ) -> Result<Token, Denial> {
        let making = self.0.store.making(holder);
        let _making = making.lock().await;
        let wanted = credential.bao_policy();
        if let Some(token) = self.0.store.usable(holder, &wanted, granted) {
            match self.keep_token(tenant, &token, until).await {
                Ok(lasts) if lasts >= until => return Ok(token),
                // It has reached the end of its life: its leases go on, new ones get a new token.
                Ok(_) => {}
                Err(error) if is_temporary(&error) => return Err(login_denial(&error)),
                Err(error) => {
                    tracing::info!(
                        error = chain(&error),
                        "A token cannot be renewed; making another"
                    );
                }
            }
        }
        self.make_token(tenant, holder, granted, until).await
    }

    async fn make_token(
        &self,
        tenant: &Tenant,
        holder: &Holder,
        granted: &BTreeSet<String>,
        until: UnixTime,
    ) -> Result<Token, Denial> {
        let now = self.0.clock.unix();
        let ttl = TOKEN_TTL.as_secs().max(u64::try_from(until - now).unwrap_or_default() + 60);
        let body = json!({
            "policies": granted,
            "ttl": format!("{ttl}s"),
            "display_name": display_name(holder),
            "meta": { "spiffe_id": holder.id.to_string(), "tenant": &*holder.tenant },
        });
        let path = format!("auth/token/create/{TOKEN_ROLE}");
        let call = BaoCall::post(&tenant.namespace, &path, &body);
        let (_, answer) =
            self.0.sessions.call(tenant, call).await.map_err(|error| login_denial(&error))?;
        let field = |pointer: &str| text_of(&answer, pointer, &path).map_err(|e| refused(&e));
        let life = answer.pointer("/auth/lease_duration").and_then(Value::as_i64);
        let token = Token {
            holder: holder.clone(),
            accessor: field("/auth/accessor")?.into(),
            secret: Some(Arc::new(Secret::new(field("/auth/client_token")?))),
            policies: granted.clone(),
            issued: now,
            expires: now + life.unwrap_or_default(),
            ending: None,
        };
        if let Err(error) = self.0.store.add_token(token.clone()).await {
            // Nothing has been drawn by it, and nothing will be.
            let body = json!({ "accessor": &*token.accessor });
            let call = BaoCall::post(&tenant.namespace, "auth/token/revoke-accessor", &body);
            let _ = self.0.sessions.call(tenant, call).await;
            self.0.store.token_ended(&token.accessor);
            return Err(Denial::new(Reason::OpenBaoUnavailable, chain(&error)));
        }
        Ok(token)
    }

    /// Renews a token so that it lasts until `until` if it can; returns until when it lasts.
    async fn keep_token(
        &self,
        tenant: &Tenant,
        token: &Token,
        until: UnixTime,
    ) -> Result<UnixTime, LoginError> {
        let wanted = until + TOKEN_MARGIN;
        if token.expires >= wanted {
            return Ok(token.expires);
        }
        let now = self.0.clock.unix();
        let increment = (wanted - now).max(seconds(TOKEN_TTL));
        let body = json!({ "accessor": &*token.accessor, "increment": increment });
        let call = BaoCall::post(&tenant.namespace, "auth/token/renew-accessor", &body);
        let (_, answer) = self.0.sessions.call(tenant, call).await?;
        let life = answer.pointer("/auth/lease_duration").and_then(Value::as_i64);
        let expires = now + life.unwrap_or_default();
        if let Err(error) = self.0.store.renew_token(&token.accessor, expires).await {
            tracing::warn!(error = chain(&error), "That a token was renewed is not in the journal");
        }
        Ok(expires)
    }

    /// Whether OpenBao has ended a token by itself.
    async fn has_ended(&self, tenant: &Tenant, token: &Token) -> bool {
        let body = json!({ "accessor": &*token.accessor });
        let call = BaoCall::post(&tenant.namespace, "auth/token/lookup-accessor", &body);
        matches!(
            self.0.sessions.call(tenant, call).await,
            Err(LoginError::Bao { source: BaoError::Refused { status: 403 | 404 | 400, .. }, .. })
        )
    }

    async fn draw(
        &self,
        tenant: &Tenant,
        token: &Token,
        call: &engine::EngineCall,
        correlation: &str,
    ) -> Result<Drawn, BaoError> {
        let Some(secret) = &token.secret else {
            return Err(BaoError::Path("a token that was not kept".to_owned()));
        };
        let timer = self.0.metrics.openbao.start(&[]);
        let result = self
            .0
            .sessions
            .bao()
            .call(call.with(&tenant.namespace, secret, correlation))
            .await
            .and_then(|(_, answer)| Drawn::read(call, answer));
        timer.done(if result.is_ok() { "OK" } else { "Unknown" });
        result
    }

    /// Notes what was drawn, with a life that the policy allows, before it is handed out.
    #[expect(clippy::too_many_arguments, reason = "all of one grant")]
    async fn note(
        &self,
        holder: &Holder,
        tenant: &Tenant,
        credential: &Credential,
        token: &Token,
        mut drawn: Drawn,
        ttl: Duration,
        correlation: &str,
    ) -> Result<Issued, Denial> {
        let now = self.0.clock.unix();
        let allowed = seconds(ttl);
        if let Some(bao_lease) = drawn.lease.as_deref().filter(|_| drawn.life > allowed) {
            // The role in OpenBao gives more: cut it.
            let body = json!({ "lease_id": bao_lease, "increment": allowed });
            let call =
                BaoCall::post(&tenant.namespace, "sys/leases/renew", &body).correlated(correlation);
            let life = match self.0.sessions.call(tenant, call).await {
                Ok((_, answer)) => answer.get("lease_duration").and_then(Value::as_i64),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "A lease cannot be cut");
                    None
                }
            };
            drawn.life = life.unwrap_or(drawn.life);
        }
        let too_long = drawn.lease.is_some() && drawn.life > allowed.saturating_add(1);
        let life = if drawn.lease.is_some() { drawn.life.min(allowed) } else { allowed };
        let lease = Lease {
            lease_id: random::uuid_v4()
                .map_err(|error| Denial::new(Reason::Busy, error.to_string()))?,
            credential: credential.name.clone(),
            issued_at: now,
            expires_at: now + life,
            correlation_id: correlation.to_owned(),
            bao_lease: drawn.lease.clone(),
            accessor: Arc::clone(&token.accessor),
            ending: None,
        };
        let noted = self.0.store.add_lease(lease.clone()).await;
        let suspended = self.0.view.is_suspended(&tenant.name);
        let ended = self.0.view.ended(&holder.id);
        let ended = ended.or_else(|| suspended.then(|| "its tenant is suspended".to_owned()));
        match noted {
            Ok(true) if ended.is_none() && !too_long => {}
            outcome => {
                self.drop_lease(tenant, &lease, correlation).await;
                return Err(match outcome {
                    Err(error) => Denial::new(Reason::OpenBaoUnavailable, chain(&error)),
                    Ok(_) if too_long => Denial::new(
                        Reason::LeaseTooLong,
                        format!("OpenBao's role gives {} s, not {allowed}", drawn.life),
                    ),
                    Ok(_) => Denial::new(
                        Reason::IdentityEnded,
                        ended.unwrap_or_else(|| "it has ended meanwhile".to_owned()),
                    ),
                });
            }
        }
        Ok(Issued {
            renewable: lease.bao_lease.is_some() && drawn.renewable,
            lease,
            data: drawn.data,
            tenant: tenant.name.clone(),
            rule: String::new(),
        })
    }

    /// Takes back what is not handed out after all. What does not succeed ends with its token.
    async fn drop_lease(&self, tenant: &Tenant, lease: &Lease, correlation: &str) {
        let Some(bao_lease) = &lease.bao_lease else { return };
        let body = json!({ "lease_id": bao_lease });
        let call =
            BaoCall::post(&tenant.namespace, "sys/leases/revoke", &body).correlated(correlation);
        match self.0.sessions.call(tenant, call).await {
            Ok(_) => self.0.store.lease_ended(&lease.lease_id),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "A lease that was not handed out is not ended"
                );
            }
        }
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({:?})", self.0.store)
    }
}

/// What stands in OpenBao's logs, and in the names of database users, for an identity: the end of
/// its path, and enough of a digest to tell it from others.
fn display_name(holder: &Holder) -> String {
    let id = holder.id.to_string();
    let name: String = holder
        .id
        .path()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(12)
        .collect();
    let digest: String = digest::sha256_hex(id.as_bytes()).chars().take(8).collect();
    format!("{name}-{digest}")
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn unknown(lease: &str) -> Denial {
    let shown: String = lease.chars().filter(|c| !c.is_control()).take(64).collect();
    Denial::new(Reason::LeaseUnknown, format!("you have no lease {shown:?}"))
}

fn is_temporary(error: &LoginError) -> bool {
    match error {
        LoginError::Bao { source, .. } => source.is_temporary(),
        LoginError::Identity { .. } => true,
    }
}

fn login_denial(error: &LoginError) -> Denial {
    match error {
        LoginError::Bao { source, .. } => refused(source),
        LoginError::Identity { .. } => Denial::new(Reason::OpenBaoUnavailable, chain(error)),
    }
}

/// What the caller is told of OpenBao's answer: which kind of trouble it is, in OpenBao's words,
/// which name paths and policies and no secrets.
fn refused(error: &BaoError) -> Denial {
    let reason = match error {
        BaoError::Sealed(_) => Reason::OpenBaoSealed,
        error if error.is_temporary() => Reason::OpenBaoUnavailable,
        _ => Reason::OpenBaoRefused,
    };
    Denial::new(reason, chain(error))
}
