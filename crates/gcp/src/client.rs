//! Requests to Google's services.

use std::{fmt, sync::Arc};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use signet_base::SharedClock;
use signet_http::{
    HttpClient, HttpError, Proxies,
    rest::{Call, Rest, RestError, Tokens},
};

use crate::{Credentials, credentials::Source};

/// How many pages of a list are read at most.
const MAX_PAGES: usize = 100;

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
        let http = HttpClient::builder().keep_alive().build()?;
        // The metadata server is this machine's own: no proxy knows it.
        let direct = http.with_proxies(Proxies::none());
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

    /// All items of the list at `url`, whose answers hold them as `member`, `size` in a page.
    ///
    /// # Errors
    /// [`RestError`]: of a page, or there are too many; never part of the list.
    pub(crate) async fn pages<T: DeserializeOwned>(
        &self,
        url: &str,
        member: &str,
        size: u32,
        filter: Option<&str>,
    ) -> Result<Vec<T>, RestError> {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let filter = filter.map(|filter| format!("&filter={}", encode(filter)));
        let first = format!("{url}?pageSize={size}{}", filter.unwrap_or_default());
        let mut call = Call::get(&*first);
        let mut items = Vec::new();
        for _ in 0..MAX_PAGES {
            let mut answer = self.json(call.clone()).await?;
            let page = answer.get_mut(member).map(Value::take).unwrap_or_else(|| json!([]));
            let page: Vec<T> = serde_json::from_value(page)
                .map_err(|_| RestError::nonsense(&call, "it has other fields than expected"))?;
            items.extend(page);
            match answer.get("nextPageToken").and_then(Value::as_str).unwrap_or_default() {
                "" => return Ok(items),
                token => call = Call::get(format!("{first}&pageToken={}", encode(token))),
            }
        }
        Err(RestError::nonsense(&call, &format!("it has more than {MAX_PAGES} pages")))
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
