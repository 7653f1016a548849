//! Taking back: what is marked in the lease store is ended in OpenBao, until OpenBao says that it is.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::{Value, json};
use signet_audit::{AuditEvent, Caller, Field, Outcome, Sink};
use signet_base::{Backoff, ReadyGuard, Tasks, chain};
use signet_time::UnixTime;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    bao::{BaoCall, BaoError, LoginError},
    issue::Issuer,
    lease_store::{Holder, Lease, Token},
    policy::Tenant,
    watch::Verdict,
};

/// How many things are taken back at the same time.
const AT_ONCE: usize = 32;
/// How often identities are looked at when nobody says that something has changed: entries expire.
const LOOK: Duration = Duration::from_secs(1);
/// How often the lease store is tidied.
const TIDY: Duration = Duration::from_secs(30);
/// How long after the end of a token's life it is believed to have ended by itself, seconds.
const OVER: i64 = 60;

/// Takes things back. Clones share it.
#[derive(Clone)]
pub struct Revoker {
    issuer: Issuer,
    tasks: Tasks,
    turns: Arc<Semaphore>,
    audit: Arc<dyn Sink>,
}

impl Revoker {
    /// Takes back what `issuer` has handed out.
    pub fn new(issuer: Issuer, tasks: Tasks, audit: Arc<dyn Sink>) -> Self {
        Self { issuer, tasks, turns: Arc::new(Semaphore::new(AT_ONCE)), audit }
    }

    /// Takes back, in the background, what was marked.
    pub fn take_back(&self, tokens: Vec<Token>, leases: Vec<(Lease, Holder)>) {
        for token in tokens {
            let revoker = self.clone();
            self.spawn(async move { revoker.end_token(token).await });
        }
        for (lease, holder) in leases {
            let revoker = self.clone();
            self.spawn(async move { revoker.end_lease(lease, holder).await });
        }
    }

    /// Ends what a crash left, then follows verdicts, for as long as it is polled.
    pub async fn run(self, mut verdicts: mpsc::Receiver<Verdict>, ready: ReadyGuard) {
        let (tokens, leases) = self.issuer.store().unfinished();
        if !(tokens.is_empty() && leases.is_empty()) {
            tracing::info!(
                tokens = tokens.len(),
                leases = leases.len(),
                "Taking back what was left"
            );
        }
        self.take_back(tokens, leases);
        drop(ready);
        let mut look = tokio::time::interval(LOOK);
        let mut tidy = tokio::time::interval(TIDY);
        loop {
            tokio::select! {
                verdict = verdicts.recv() => match verdict {
                    Some(Verdict::Banned(ids)) => {
                        let tokens =
                            self.issuer.store().end_holders(|holder| ids.get(&holder.id).cloned());
                        self.take_back(tokens, Vec::new());
                    }
                    Some(Verdict::Look) => self.look(),
                    None => return,
                },
                _ = look.tick() => self.look(),
                _ = tidy.tick() => {
                    let store = self.issuer.store();
                    store.tidy(self.issuer.clock().unix());
                    let (tokens, leases, ending) = store.counts();
                    self.issuer.metrics().held(tokens, leases, ending);
                }
            }
        }
    }

    fn look(&self) {
        let view = self.issuer.view();
        let tokens = self.issuer.store().end_holders(|holder| {
            let suspended = view.is_suspended(&holder.tenant);
            let ended = view.ended(&holder.id);
            ended.or_else(|| suspended.then(|| "its tenant is suspended".to_owned()))
        });
        self.take_back(tokens, Vec::new());
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let turns = Arc::clone(&self.turns);
        self.tasks.spawn_until_end("revocation", async move {
            // The semaphore is never closed.
            let _turn = turns.acquire_owned().await;
            work.await;
        });
    }

    async fn end_token(&self, token: Token) {
        let why = token.ending.clone().unwrap_or_default();
        let body = json!({ "accessor": &*token.accessor });
        let path = "auth/token/revoke-accessor";
        let effect = self.until_done(&token.holder, path, &body, token.expires).await;
        self.issuer.store().token_ended(&token.accessor);
        self.record("RevokeIdentity", &token.holder, None, &why, effect);
    }

    async fn end_lease(&self, lease: Lease, holder: Holder) {
        let why = lease.ending.clone().unwrap_or_else(|| "given back".to_owned());
        let effect = match &lease.bao_lease {
            Some(bao_lease) => {
                let body = json!({ "lease_id": bao_lease });
                self.until_done(&holder, "sys/leases/revoke", &body, lease.expires_at).await
            }
            None => Effect::HadEnded,
        };
        self.issuer.store().lease_ended(&lease.lease_id);
        self.record("RevokeLease", &holder, Some(&lease), &why, effect);
    }

    /// Asks until OpenBao has done it, or says that there is nothing to do, or it has ended by
    /// itself.
    async fn until_done(
        &self,
        holder: &Holder,
        path: &str,
        body: &Value,
        expires: UnixTime,
    ) -> Effect {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let Some(tenant) = self.issuer.tenant(&holder.tenant) else {
                tracing::error!(
                    tenant = &*holder.tenant,
                    "A tenant that is not in the policy has tokens: they end by themselves only"
                );
                return Effect::Unknown;
            };
            match self.ask(&tenant, path, body).await {
                Ok(effect) => return effect,
                Err(error) => {
                    self.issuer.metrics().revocations.inc(&["failed"]);
                    tracing::warn!(
                        tenant = tenant.name, spiffe_id = %holder.id, error = chain(&error),
                        "Cannot take back yet"
                    );
                }
            }
            if self.issuer.clock().unix() > expires + OVER {
                return Effect::Unknown;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn ask(&self, tenant: &Tenant, path: &str, body: &Value) -> Result<Effect, LoginError> {
        let call = BaoCall::post(&tenant.namespace, path, body);
        match self.issuer.sessions().call(tenant, call).await {
            Ok((204, _)) => Ok(Effect::Ended),
            // With a warning that there is no such token.
            Ok(_) => Ok(Effect::HadEnded),
            Err(LoginError::Bao { source: BaoError::Refused { status, errors, .. }, .. })
                if matches!(status, 400 | 404)
                    && (errors.contains("invalid accessor")
                        || errors.contains("lease not found")
                        || errors.contains("invalid lease")) =>
            {
                Ok(Effect::HadEnded)
            }
            Err(error) => Err(error),
        }
    }

    fn record(
        &self,
        method: &'static str,
        holder: &Holder,
        lease: Option<&Lease>,
        why: &str,
        effect: Effect,
    ) {
        self.issuer.metrics().revocations.inc(&[effect.name()]);
        let mut event = AuditEvent::new(Caller::default(), "broker", method);
        event.message = "Credentials taken back";
        event.tenant = Some(Arc::clone(&holder.tenant));
        event.fields = vec![Field::SpiffeId(holder.id.clone()), Field::Why(why.to_owned())];
        if let Some(lease) = lease {
            event.request_id = lease.correlation_id.as_str().into();
            event.fields.push(Field::Credential(lease.credential.clone()));
            event.fields.push(Field::LeaseId(lease.lease_id.clone()));
        }
        if effect == Effect::Unknown {
            event.outcome = Outcome::Failure {
                code: "Unknown",
                reason: "OpenBao did not confirm it; it has expired meanwhile".to_owned(),
            };
        }
        self.audit.record(&event);
    }
}

impl fmt::Debug for Revoker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revoker({:?})", self.issuer)
    }
}

/// What came of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Ended,
    HadEnded,
    Unknown,
}

impl Effect {
    fn name(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::HadEnded => "had_ended",
            Self::Unknown => "unconfirmed",
        }
    }
}
