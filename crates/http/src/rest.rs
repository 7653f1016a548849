//! JSON services of clouds: requests with a bearer token, sent again where that can help.

mod error;
mod tokens;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response,
    header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use signet_base::Jitter;
use zeroize::Zeroizing;

pub use self::{
    error::RestError,
    tokens::{Token, TokenSource, Tokens},
};
use crate::{HttpClient, HttpError};

/// How long one attempt may take unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read, bytes.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// How often a request is sent, at most.
const ATTEMPTS: u32 = 3;
/// How long to wait before the second attempt; twice as long before the third.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest wait that a server may ask for between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A request to a service.
#[derive(Clone)]
pub struct Call {
    method: Method,
    url: String,
    body: Bytes,
    headers: Vec<(HeaderName, HeaderValue)>,
    repeatable: bool,
    timeout: Duration,
    /// What is wrong with it; said when it is sent.
    defect: Option<String>,
}

/// A client of services that take bearer tokens. Clones share its token.
#[derive(Clone)]
pub struct Rest {
    http: HttpClient,
    tokens: Option<Arc<Tokens>>,
    random: Arc<Mutex<Jitter>>,
}

impl Call {
    /// Any request. GET, PUT, PATCH and DELETE may be sent again though the service may have done
    /// what they ask for already.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        let repeatable = method.is_idempotent() || method == Method::PATCH;
        Self {
            method,
            url: url.into(),
            body: Bytes::new(),
            headers: Vec::new(),
            repeatable,
            timeout: DEFAULT_TIMEOUT,
            defect: None,
        }
    }

    /// Reads.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::GET, url)
    }

    /// Writes.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new(Method::POST, url)
    }

    /// Sets a JSON body; it is wiped when it was sent.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    /// Sets a form as the body, see [`form`]; it is wiped when it was sent.
    #[must_use]
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        self.body("application/x-www-form-urlencoded", form(fields).as_bytes())
    }

    /// Sets a body; it is wiped when it was sent.
    #[must_use]
    pub fn body(mut self, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Bytes::from_owner(Zeroizing::new(body.into()));
        self.headers.push((CONTENT_TYPE, HeaderValue::from_static(content_type)));
        self
    }

    /// Adds a header. Its value is not shown.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(mut value) => {
                value.set_sensitive(true);
                self.headers.push((name, value));
            }
            Err(_) => self.defect = Some(format!("the value of header {name} cannot be sent")),
        }
        self
    }

    /// May be sent again though the service may have done it already.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// How long each attempt may take.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What is asked, for messages: method, host and path, without the query.
    fn what(&self) -> String {
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        let url = url.split_once("://").map_or(url, |(_, rest)| rest);
        format!("{} {}", self.method, crate::shown(url))
    }

    fn message(&self, token: Option<&str>) -> Result<Request<Bytes>, RestError> {
        if let Some(why) = &self.defect {
            return Err(RestError::Setting(format!("{}: {why}", self.what())));
        }
        let mut message = Request::builder()
            .method(self.method.clone())
            .uri(&self.url)
            .body(self.body.clone())
            .map_err(|_| HttpError::bad_url(&self.url))?;
        let headers = message.headers_mut();
        if let Some(token) = token {
            let value = Zeroizing::new(format!("Bearer {token}"));
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                RestError::Credentials("the access token cannot be sent in a header".to_owned())
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        Ok(message)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({}, ..)", self.what())
    }
}

impl Rest {
    /// A client whose requests carry what `tokens` gives, or no token.
    pub fn new(http: HttpClient, tokens: Option<Arc<Tokens>>) -> Self {
        Self { http, tokens, random: Arc::default() }
    }

    /// Sends a request and reads the JSON of the answer; null where it is empty.
    ///
    /// # Errors
    /// [`RestError`]: no answer, one that is a failure, or no JSON.
    pub async fn json(&self, call: Call) -> Result<Value, RestError> {
        let answer = self.send(&call).await?;
        if answer.body().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(answer.body())
            .map_err(|_| RestError::nonsense(&call, "it is no JSON"))
    }

    /// Sends a request, again where that can help.
    ///
    /// # Errors
    /// [`RestError`]: no answer, or one that is a failure.
    pub async fn send(&self, call: &Call) -> Result<Response<Bytes>, RestError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        let mut renewed = false;
        loop {
            let token = match &self.tokens {
                Some(tokens) => Some(tokens.token().await?),
                None => None,
            };
            let http = self.http.with_limits(call.timeout, MAX_BODY);
            let message = call.message(token.as_ref().map(|token| token.as_str()))?;
            let error = match http.send(message).await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => RestError::answer(call, &answer, retry_after(&answer)),
                Err(error) => error.into(),
            };
            // A token that was revoked, or whose service lost it, is replaced once.
            if let (Some(tokens), Some(token), Some(401)) = (&self.tokens, &token, error.status())
                && !renewed
            {
                renewed = true;
                tokens.forget(token);
                continue;
            }
            if attempt >= ATTEMPTS || !error.is_worth_another(call.repeatable) {
                return Err(error);
            }
            let wait = error.retry_after().unwrap_or(pause).min(LONGEST_PAUSE);
            let wait = self.random.lock().unwrap_or_else(PoisonError::into_inner).spread(wait, 0.2);
            tokio::time::sleep(wait).await;
            pause = pause.saturating_mul(2);
            attempt += 1;
        }
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

/// Names and values as in the body of a form, or in a query; they may be secrets.
pub fn form(fields: &[(&str, &str)]) -> Zeroizing<String> {
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    Zeroizing::new(fields.collect::<Vec<_>>().join("&"))
}

fn retry_after(answer: &Response<Bytes>) -> Option<Duration> {
    let text = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
