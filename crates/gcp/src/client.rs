//! Requests to Google's services.

use std::{fmt, sync::Arc};

use serde_json::Value;
use signet_base::SharedClock;
use signet_http::{
    HttpClient, HttpError, Proxies,
    rest::{Call, Rest, RestError, Tokens},
};

use crate::{Credentials, credentials::Source};

/// A client of Google's services. Clones share its token.
#[derive(Clone)]
pub struct Gcp {
    rest: Rest,
    source: Arc<Source>,
}

impl Gcp {
    /// A client that is known by `credentials`. Nothing is read or sent yet.
    ///
    /// # Errors
    /// [`HttpError`] when the machine's proxies cannot be used.
    pub fn new(credentials: Credentials, clock: SharedClock) -> Result<Self, HttpError> {
        let http = HttpClient::builder().build()?;
        // The metadata server is this machine's own: no proxy knows it.
        let direct = HttpClient::builder().proxies(Proxies::none()).build()?;
        let source = Source::new(credentials, Rest::new(http.clone(), None), direct, clock);
        let source = Arc::new(source);
        let tokens = Tokens::new(Arc::clone(&source) as _);
        Ok(Self { rest: Rest::new(http, Some(Arc::new(tokens))), source })
    }

    /// Sends a request and reads the JSON of the answer; null where it is empty.
    ///
    /// # Errors
    /// [`RestError`]: no token, no answer, or one that is a failure.
    pub async fn json(&self, call: Call) -> Result<Value, RestError> {
        self.rest.json(call).await
    }

    /// The service account's email address; none where who asks has none of his own.
    ///
    /// # Errors
    /// [`RestError`] when it cannot be found out.
    pub async fn email(&self) -> Result<Option<String>, RestError> {
        self.source.email().await
    }
}

impl fmt::Debug for Gcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gcp({:?})", self.source)
    }
}
