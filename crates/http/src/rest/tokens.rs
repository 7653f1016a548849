//! Access tokens: got once, kept, and replaced in time.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use signet_base::chain;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::RestError;

/// How long before its end a token is replaced; at half its life where that is later.
const MARGIN: Duration = Duration::from_secs(300);
/// After a failure the next token is asked for that much later, doubled with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// A new access token.
pub struct Token {
    /// The token.
    pub value: Zeroizing<String>,
    /// How long it lives from now.
    pub life: Duration,
}

/// Where access tokens come from.
#[async_trait]
pub trait TokenSource: Send + Sync + fmt::Debug {
    /// A new token.
    ///
    /// # Errors
    /// [`RestError`], without secrets.
    async fn fetch(&self) -> Result<Token, RestError>;
}

/// The access token of a client. One is asked for at a time, and one that still lives is used while
/// its successor is asked for.
#[derive(Debug)]
pub struct Tokens {
    source: Arc<dyn TokenSource>,
    /// Held while the source is asked.
    asking: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    failures: u32,
    /// The source is not asked before.
    retry_at: Option<Instant>,
    last_failure: String,
}

struct Held {
    value: Arc<Zeroizing<String>>,
    due: Instant,
    end: Instant,
}

impl Tokens {
    /// Tokens of `source`, which is asked when one is needed.
    pub fn new(source: Arc<dyn TokenSource>) -> Self {
        Self { source, asking: tokio::sync::Mutex::default(), state: Mutex::default() }
    }

    /// A token that is good now.
    ///
    /// # Errors
    /// [`RestError`] of the source; for a while after it failed it is not asked again.
    pub async fn token(&self) -> Result<Arc<Zeroizing<String>>, RestError> {
        if let Some(token) = self.held(|held, now| now < held.due) {
            return Ok(token);
        }
        let _asking = match self.asking.try_lock() {
            Ok(asking) => asking,
            Err(_) => match self.held(|held, now| now < held.end) {
                Some(token) => return Ok(token),
                None => self.asking.lock().await,
            },
        };
        if let Some(token) = self.held(|held, now| now < held.due) {
            return Ok(token);
        }
        {
            let state = self.state();
            let now = Instant::now();
            if state.retry_at.is_some_and(|at| now < at) {
                return match state.held.as_ref().filter(|held| now < held.end) {
                    Some(held) => Ok(Arc::clone(&held.value)),
                    None => Err(RestError::Credentials(format!(
                        "{} (tried again soon)",
                        state.last_failure
                    ))),
                };
            }
        }
        match self.source.fetch().await {
            Ok(token) => {
                let (now, value) = (Instant::now(), Arc::new(token.value));
                let due = now + token.life.saturating_sub(MARGIN).max(token.life / 2);
                let held = Held { value: Arc::clone(&value), due, end: now + token.life };
                *self.state() = State { held: Some(held), ..State::default() };
                Ok(value)
            }
            Err(error) => {
                let mut state = self.state();
                let doubled = FIRST_RETRY.saturating_mul(1 << state.failures.min(10));
                state.failures = state.failures.saturating_add(1);
                let now = Instant::now();
                state.retry_at = Some(now + doubled.min(LAST_RETRY));
                state.last_failure = chain(&error);
                match state.held.as_ref().filter(|held| now < held.end) {
                    Some(held) => {
                        tracing::warn!(
                            error = state.last_failure,
                            "No new access token; the old one is still good for a while"
                        );
                        Ok(Arc::clone(&held.value))
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// Forgets a token that was refused, unless there is another one by now.
    pub fn forget(&self, token: &Arc<Zeroizing<String>>) {
        let mut state = self.state();
        if state.held.as_ref().is_some_and(|held| Arc::ptr_eq(&held.value, token)) {
            state.held = None;
        }
    }

    fn held(&self, good: impl Fn(&Held, Instant) -> bool) -> Option<Arc<Zeroizing<String>>> {
        let now = Instant::now();
        self.state().held.as_ref().filter(|held| good(held, now)).map(|held| held.value.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(.., {:?})", self.life)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Source(Arc<Mutex<(u32, bool)>>);

    #[async_trait]
    impl TokenSource for Source {
        async fn fetch(&self) -> Result<Token, RestError> {
            let mut state = self.0.lock().unwrap();
            state.0 += 1;
            if state.1 {
                return Err(RestError::Credentials("away".to_owned()));
            }
            let value = Zeroizing::new(format!("t{}", state.0));
            Ok(Token { value, life: Duration::from_secs(3600) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_kept_and_replaced_in_time() {
        let state = Arc::<Mutex<(u32, bool)>>::default();
        let tokens = Tokens::new(Arc::new(Source(Arc::clone(&state))));
        let first = tokens.token().await.unwrap();
        tokio::time::advance(Duration::from_secs(3200)).await;
        assert_eq!(**tokens.token().await.unwrap(), "t1");
        // Its successor cannot be had: the old one is used to its end, and no longer.
        state.lock().unwrap().1 = true;
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(**tokens.token().await.unwrap(), "t1");
        assert_eq!(**tokens.token().await.unwrap(), "t1");
        assert_eq!(state.lock().unwrap().0, 2, "who failed is left alone for a moment");
        tokio::time::advance(Duration::from_secs(200)).await;
        assert!(tokens.token().await.unwrap_err().to_string().contains("away"));
        assert!(tokens.token().await.unwrap_err().to_string().contains("tried again soon"));
        state.lock().unwrap().1 = false;
        tokio::time::advance(LAST_RETRY).await;
        let new = tokens.token().await.unwrap();
        assert_eq!(**new, "t4");
        tokens.forget(&first);
        assert_eq!(**tokens.token().await.unwrap(), "t4", "only the token that was refused");
        tokens.forget(&new);
        assert_eq!(**tokens.token().await.unwrap(), "t5");
        assert!(!format!("{tokens:?}").contains("t5"));
    }
}
