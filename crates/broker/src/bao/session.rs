//! The broker's own session with OpenBao, one for each tenant.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use tokio::time::Instant;

use super::{Bao, BaoCall, BaoError, Secret, text_of};
use crate::policy::Tenant;

/// A session is made anew when less than this part of it is left.
const RENEW_AT: f64 = 1.0 / 3.0;

/// Gives the broker's own JWT-SVID.
#[async_trait]
pub trait TokenSource: Send + Sync + fmt::Debug {
    /// A JWT-SVID for one audience.
    ///
    /// # Errors
    /// Why there is none, for people.
    async fn jwt_svid(&self, audience: &str) -> Result<Secret, String>;
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// OpenBao did not let the broker in.
    #[error("logging in to OpenBao for tenant {tenant:?}")]
    Bao {
        /// The tenant.
        tenant: String,
        /// Why.
        source: BaoError,
    },
    /// The broker has no identity of its own.
    #[error("the broker has no JWT-SVID for {audience:?}: {why}")]
    Identity {
        /// The audience.
        audience: String,
        /// Why.
        why: String,
    },
}

/// The sessions.
#[derive(Debug)]
pub struct Sessions {
    bao: Bao,
    tokens: Arc<dyn TokenSource>,
    audience: String,
    held: Mutex<HashMap<String, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot(tokio::sync::Mutex<Option<Session>>);

struct Session {
    token: Arc<Secret>,
    renew_at: Instant,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot(..)")
    }
}

impl Sessions {
    /// `audience` is the prefix of the audiences of tenants that have none of their own.
    pub fn new(bao: Bao, tokens: Arc<dyn TokenSource>, audience: String) -> Self {
        Self { bao, tokens, audience, held: Mutex::default() }
    }

    /// The client.
    pub fn bao(&self) -> &Bao {
        &self.bao
    }

    /// The audience of the broker's own token for a tenant: each has another, so that one tenant's
    /// token opens nothing at another.
    pub fn audience_of(&self, tenant: &Tenant) -> String {
        match &tenant.login_audience {
            Some(audience) => audience.clone(),
            None => format!("{}/{}", self.audience, tenant.name),
        }
    }

    /// The broker's token for a tenant; logs in when there is none that lasts.
    ///
    /// # Errors
    /// [`LoginError`] when the broker has no identity to log in with, or OpenBao cannot be reached
    /// or refuses.
    pub async fn token(&self, tenant: &Tenant) -> Result<Arc<Secret>, LoginError> {
        let slot = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(held.entry(tenant.name.clone()).or_default())
        };
        let mut session = slot.0.lock().await;
        if let Some(session) = &*session
            && Instant::now() < session.renew_at
        {
            return Ok(Arc::clone(&session.token));
        }
        *session = None;
        let made = self.login(tenant).await?;
        let token = Arc::clone(&made.token);
        *session = Some(made);
        Ok(token)
    }

    /// Forgets the session of a tenant whose token was refused.
    pub async fn forget(&self, tenant: &Tenant, refused: &Arc<Secret>) {
        let slot = {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.get(&tenant.name).cloned()
        };
        if let Some(slot) = slot {
            let mut session = slot.0.lock().await;
            if session.as_ref().is_some_and(|session| Arc::ptr_eq(&session.token, refused)) {
                *session = None;
            }
        }
    }

    /// Makes a call by the broker's own token, once more with a new one if that is refused.
    ///
    /// # Errors
    /// [`LoginError`] when the broker has no identity to log in with, or OpenBao cannot be reached
    /// or refuses.
    pub async fn call(
        &self,
        tenant: &Tenant,
        call: BaoCall<'_>,
    ) -> Result<super::Answer, LoginError> {
        let failed = |source| LoginError::Bao { tenant: tenant.name.clone(), source };
        let token = self.token(tenant).await?;
        match self.bao.call(call.by(&token)).await {
            Err(error) if error.is_denied() => {
                self.forget(tenant, &token).await;
                let token = self.token(tenant).await?;
                self.bao.call(call.by(&token)).await.map_err(failed)
            }
            answer => answer.map_err(failed),
        }
    }

    async fn login(&self, tenant: &Tenant) -> Result<Session, LoginError> {
        let audience = self.audience_of(tenant);
        let jwt = self.tokens.jwt_svid(&audience).await;
        let jwt = jwt.map_err(|why| LoginError::Identity { audience, why })?;
        let path = format!("auth/{}/login", tenant.login_mount);
        let body = json!({ "role": tenant.login_role, "jwt": *jwt });
        let failed = |source| LoginError::Bao { tenant: tenant.name.clone(), source };
        let call = BaoCall::post(&tenant.namespace, &path, &body);
        let (_, answer) = self.bao.call(call).await.map_err(failed)?;
        let token = text_of(&answer, "/auth/client_token", &path).map_err(failed)?;
        let seconds = answer.pointer("/auth/lease_duration").and_then(serde_json::Value::as_u64);
        let life = Duration::from_secs(seconds.unwrap_or(60));
        tracing::info!(tenant = tenant.name, life_s = life.as_secs(), "Logged in to OpenBao");
        Ok(Session {
            token: Arc::new(Secret::new(token)),
            renew_at: Instant::now() + life.mul_f64(1.0 - RENEW_AT),
        })
    }
}
