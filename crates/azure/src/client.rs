//! Requests to Azure's services.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use signet_http::{
    HttpClient, HttpError, Proxies,
    rest::{Call, Rest, RestError, Tokens},
};

use crate::{Credentials, credentials::Source};

/// A client of one service, `https://vault.azure.net`. Clones share its token.
#[derive(Clone)]
pub struct Azure {
    rest: Rest,
    source: Arc<Source>,
}

impl Azure {
    /// A client that is known by `credentials` to the service `resource`. Nothing is read or sent yet.
    ///
    /// # Errors
    /// [`HttpError`] when the machine's proxies cannot be used.
    pub fn new(credentials: Credentials, resource: impl Into<String>) -> Result<Self, HttpError> {
        let http = HttpClient::builder().keep_alive().build()?;
        // The metadata service is this machine's own: no proxy knows it.
        let direct = http.with_proxies(Proxies::none());
        let rest = Rest::new(http.clone(), None);
        let direct = Rest::new(direct, None);
        let source = Arc::new(Source::new(credentials, resource.into(), rest, direct));
        let tokens = Tokens::new(Arc::clone(&source) as _);
        Ok(Self { rest: Rest::new(http, Some(Arc::new(tokens))), source })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// [`RestError`]: no token, no answer, or one that is a failure.
    pub async fn send(&self, call: &Call) -> Result<Response<Bytes>, RestError> {
        self.rest.send(call).await
    }

    /// Sends a request and reads the JSON of the answer; null where it is empty.
    ///
    /// # Errors
    /// [`RestError`]: no token, no answer, or one that is a failure.
    pub async fn json(&self, call: Call) -> Result<Value, RestError> {
        self.rest.json(call).await
    }
}

impl fmt::Debug for Azure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Azure({:?})", self.source)
    }
}
