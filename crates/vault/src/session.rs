//! The token: got by a login, kept alive, and replaced when it is gone.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::json;
use signet_base::chain;
use tokio::{sync::Mutex, time::Instant};
use zeroize::Zeroizing;

use crate::{Answer, Auth, Request, VaultError, transport::Transport};

/// After a failed login the next is tried that much later, doubled with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// How often at most a token that lives is tried to be made to live longer.
const RENEWAL_RETRY: Duration = Duration::from_secs(5);

/// The token of a client; one login or renewal at a time.
#[derive(Debug)]
pub(crate) struct Session {
    auth: Auth,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Arc<Token>>,
    failures: u32,
    /// Nothing is tried before.
    retry_at: Option<Instant>,
    last_failure: String,
}

/// A token in use.
pub(crate) struct Token {
    pub value: Zeroizing<String>,
    obtained: Instant,
    /// How long it lives; none for ever.
    life: Option<Duration>,
    /// How long it lived when it was new.
    first_life: Option<Duration>,
    renewable: bool,
    /// The client certificate that it was got with.
    epoch: u64,
}

/// What a token says of itself.
#[derive(Deserialize)]
struct Looked {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: Option<bool>,
}

impl Session {
    pub(crate) fn new(auth: Auth) -> Self {
        Self { auth, state: Mutex::default() }
    }

    /// A token that is good now; none where no token is used.
    pub(crate) async fn token(
        &self,
        transport: &Transport,
    ) -> Result<Option<Arc<Token>>, VaultError> {
        if matches!(self.auth, Auth::None) {
            return Ok(None);
        }
        let epoch = transport.refresh().await;
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let is_too_early = state.retry_at.is_some_and(|at| now < at);
        let held = state.token.clone().filter(|token| token.epoch == epoch && !token.is_over(now));
        match held {
            Some(token) if !token.is_due(now) || is_too_early => return Ok(Some(token)),
            Some(token) => match self.longer(transport, &token, epoch).await {
                Ok(token) => return Ok(Some(state.take(token))),
                Err(error) => {
                    tracing::warn!(
                        error = %chain(&error),
                        "The Vault token could not be renewed; it is still good for a while"
                    );
                    state.retry_at = Some(now + RENEWAL_RETRY);
                    return Ok(Some(token));
                }
            },
            None if is_too_early => return Err(VaultError::Waiting(state.last_failure.clone())),
            None => {}
        }
        if state.token.take().is_some() && !self.auth.can_log_in() {
            state.fail(&VaultError::TokenGone);
            return Err(VaultError::TokenGone);
        }
        match self.log_in(transport, epoch).await {
            Ok(token) => Ok(Some(state.take(token))),
            Err(error) => {
                state.fail(&error);
                Err(error)
            }
        }
    }

    /// Finds out whether a token that was refused is good still; one that is not is forgotten.
    pub(crate) async fn is_good(&self, transport: &Transport, token: &Arc<Token>) -> bool {
        let looked = transport.ask(&look_at_self(), Some(&token.value)).await;
        if !matches!(looked, Err(VaultError::Denied { .. })) {
            return true;
        }
        let mut state = self.state.lock().await;
        if state.token.as_ref().is_some_and(|held| Arc::ptr_eq(held, token)) {
            if self.auth.can_log_in() {
                state.token = None;
            } else {
                // It may be made good again (a restored back end): it is looked at again then.
                state.token = None;
                state.fail(&VaultError::TokenGone);
            }
        }
        false
    }

    /// How long until the token wants to be looked at.
    pub(crate) async fn rest(&self) -> Option<Duration> {
        let state = self.state.lock().await;
        let token = state.token.as_ref()?;
        let due = token.due()?.saturating_sub(token.obtained.elapsed());
        let retry = state.retry_at.map(|at| at.saturating_duration_since(Instant::now()));
        Some(due.max(retry.unwrap_or_default()))
    }

    /// Renews, or logs in where that gives more.
    async fn longer(
        &self,
        transport: &Transport,
        token: &Token,
        epoch: u64,
    ) -> Result<Token, VaultError> {
        if token.renewable {
            let request = Request::post("auth/token/renew-self").json(&json!({})).repeatable();
            match transport.ask(&request, Some(&token.value)).await.and_then(|answer| {
                let first_life = token.first_life;
                Ok(Token { first_life, ..of_login(answer, epoch)? })
            }) {
                // What comes near to its longest life gets less and less.
                Ok(renewed) if renewed.is_worth_it() || !self.auth.can_log_in() => {
                    return Ok(renewed);
                }
                Err(error) if !self.auth.can_log_in() => return Err(error),
                _ => {}
            }
        }
        if self.auth.can_log_in() {
            return self.log_in(transport, epoch).await;
        }
        Err(VaultError::TokenGone)
    }

    async fn log_in(&self, transport: &Transport, epoch: u64) -> Result<Token, VaultError> {
        if let Auth::Token(value) = &self.auth {
            let answer = transport.ask(&look_at_self(), Some(value)).await;
            let at = |source| VaultError::Login {
                path: "auth/token/lookup-self".to_owned(),
                source: Box::new(source),
            };
            let looked: Looked = answer.and_then(Answer::data).map_err(at)?;
            let life = (looked.ttl > 0).then(|| Duration::from_secs(looked.ttl));
            return Ok(Token {
                value: value.clone(),
                obtained: Instant::now(),
                life,
                first_life: life,
                renewable: looked.renewable.unwrap_or_default(),
                epoch,
            });
        }
        let Some(request) = self.auth.login().await? else { return Err(VaultError::TokenGone) };
        let answer = transport.ask(&request, None).await;
        let answer = answer.and_then(|answer| of_login(answer, epoch));
        answer.map_err(|source| VaultError::Login {
            path: request.path.clone(),
            source: Box::new(source),
        })
    }
}

impl State {
    fn take(&mut self, token: Token) -> Arc<Token> {
        let token = Arc::new(token);
        *self = Self { token: Some(Arc::clone(&token)), ..Self::default() };
        token
    }

    fn fail(&mut self, error: &VaultError) {
        let doubled = FIRST_RETRY.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + doubled.min(LAST_RETRY));
        self.last_failure = chain(error);
    }
}

impl Token {
    /// From when on it is to be made to live longer: at two thirds of its life.
    fn due(&self) -> Option<Duration> {
        self.life.map(|life| life.mul_f64(2.0 / 3.0))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| now.saturating_duration_since(self.obtained) >= due)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.life.is_some_and(|life| now.saturating_duration_since(self.obtained) >= life)
    }

    /// Whether it lives at least half as long as when it was new.
    fn is_worth_it(&self) -> bool {
        match (self.life, self.first_life) {
            (Some(life), Some(first)) => life >= first / 2,
            _ => true,
        }
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(.., {:?}, renewable: {})", self.life, self.renewable)
    }
}

fn look_at_self() -> Request {
    Request::get("auth/token/lookup-self")
}

fn of_login(answer: Answer, epoch: u64) -> Result<Token, VaultError> {
    let nonsense =
        || VaultError::Nonsense { path: "a login".to_owned(), why: "it holds no token".to_owned() };
    let new = answer.token.ok_or_else(nonsense)?;
    let life = (!new.duration.is_zero()).then_some(new.duration);
    Ok(Token {
        value: new.token,
        obtained: Instant::now(),
        life,
        first_life: life,
        renewable: new.renewable,
        epoch,
    })
}
