//! The client of one service.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request as HttpRequest, Response};
use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use signet_base::{Jitter, SharedClock};
use signet_http::{HttpClient, Trust, UNRESERVED, shown};
use zeroize::Zeroizing;

use crate::{
    AwsError, Credentials, Environment, Keys, Service,
    endpoint::Endpoint,
    sign::{self, Scope, Signed},
};

/// How long a request may take, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read, bytes.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// How often a request is sent, at most.
const ATTEMPTS: u32 = 3;
/// How long to wait before the second attempt; twice as long before the third.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// What the path of a URL keeps as it is.
pub(crate) const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

const JSON: &str = "application/x-amz-json-1.1";

/// A client of one service in one region. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: HttpClient,
    service: Service,
    region: String,
    endpoint: Endpoint,
    credentials: Credentials,
    clock: SharedClock,
    random: Mutex<Jitter>,
}

/// A request that is to be signed.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// What it is called in messages.
    pub(crate) action: &'static str,
    /// Where it goes when not to the client's endpoint: scheme and host.
    pub(crate) base: Option<String>,
    /// Percent-encoded, with a slash at its beginning.
    pub(crate) path: String,
    /// In lower case, sorted by name; without those of the signature.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// Whether it may be sent again when its effect is not known.
    pub(crate) is_repeatable: bool,
}

impl Client {
    /// A client of `service`, at `endpoint` where that is set. Nothing is sent.
    ///
    /// # Errors
    /// [`AwsError::Setting`] when region or endpoint cannot be used, [`AwsError::File`] and
    /// [`AwsError::Http`] when the roots of TLS cannot.
    pub fn new(
        service: Service,
        endpoint: Option<&str>,
        credentials: &Credentials,
    ) -> Result<Self, AwsError> {
        let place = credentials.place();
        let endpoint = Endpoint::of(service, &place.region, endpoint, &place.environment)?;
        Ok(Self(Arc::new(Inner {
            http: place.http()?,
            service,
            region: place.region.clone(),
            endpoint,
            credentials: credentials.clone(),
            clock: Arc::clone(&place.clock),
            random: Mutex::new(Jitter::new()),
        })))
    }

    pub(crate) fn region(&self) -> &str {
        &self.0.region
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    pub(crate) fn unix(&self) -> i64 {
        self.0.clock.unix().seconds()
    }

    /// Makes a call that may be made again when its effect is not known.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        action: &'static str,
        body: &Value,
    ) -> Result<T, AwsError> {
        self.json(action, body, true).await
    }

    /// Makes a call that is not made again when its effect is not known.
    ///
    /// # Errors
    /// [`AwsError`]; see [`AwsError::had_no_effect`].
    pub async fn call_once<T: DeserializeOwned>(
        &self,
        action: &'static str,
        body: &Value,
    ) -> Result<T, AwsError> {
        self.json(action, body, false).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        action: &'static str,
        body: &Value,
        is_repeatable: bool,
    ) -> Result<T, AwsError> {
        let body = Zeroizing::new(body.to_string().into_bytes());
        let target = format!("{}.{action}", self.0.service.target);
        let response = self
            .send(&Request {
                method: Method::POST,
                action,
                base: None,
                path: "/".to_owned(),
                headers: vec![("content-type", JSON.to_owned()), ("x-amz-target", target)],
                body: Bytes::from_owner(body),
                is_repeatable,
            })
            .await?;
        // Some calls answer nothing.
        let text: &[u8] = match response.body().is_empty() {
            true => b"{}",
            false => response.body(),
        };
        serde_json::from_slice(text).map_err(|error| AwsError::Nonsense {
            action: action.to_owned(),
            why: match error.classify() {
                serde_json::error::Category::Data => "its fields are others".to_owned(),
                _ => "it is not JSON".to_owned(),
            },
        })
    }

    /// Signs and sends a request, again where that can help.
    pub(crate) async fn send(&self, request: &Request) -> Result<Response<Bytes>, AwsError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            // Whatever went wrong there, the call itself was not made.
            let keys = self.0.credentials.keys().await.map_err(|error| match error {
                AwsError::Credentials(_) => error,
                error => AwsError::Credentials(signet_base::chain(&error)),
            })?;
            let outcome = send_signed(&self.0, request, &keys).await;
            let Err(error) = outcome else { return outcome };
            let again = if error.is_of_credentials() {
                self.0.credentials.forget(&keys)
            } else {
                error.is_passing() && (error.had_no_effect() || request.is_repeatable)
            };
            if !again || attempt >= ATTEMPTS {
                return Err(error);
            }
            let wait =
                self.0.random.lock().unwrap_or_else(PoisonError::into_inner).spread(pause, 0.5);
            tokio::time::sleep(wait).await;
            pause = pause.saturating_mul(2);
            attempt += 1;
        }
    }
}

/// The roots are the machine's, or those that `AWS_CA_BUNDLE` names.
pub(crate) fn http_client(environment: &Environment) -> Result<HttpClient, AwsError> {
    let mut builder = HttpClient::builder().timeout(TIMEOUT).max_body(MAX_BODY).keep_alive();
    if let Some(path) = environment.get("AWS_CA_BUNDLE") {
        let trust = Trust::file(path.as_ref());
        let trust = trust.map_err(|error| AwsError::File(signet_base::chain(&error)))?;
        builder = builder.trust(trust);
    }
    Ok(builder.build()?)
}

async fn send_signed(
    client: &Inner,
    request: &Request,
    keys: &Keys,
) -> Result<Response<Bytes>, AwsError> {
    let base = request.base.as_ref().unwrap_or(&client.endpoint.url);
    let scope = Scope { region: &client.region, service: client.service.name };
    let unix = client.clock.unix().seconds();
    let message = signed(scope, unix, base, request, keys)?;
    let response = client.http.send(message).await?;
    match response.status().is_success() {
        true => Ok(response),
        false => Err(AwsError::of(request.action, &response)),
    }
}

/// The request as it is sent.
pub(crate) fn signed(
    scope: Scope<'_>,
    unix: i64,
    base: &str,
    request: &Request,
    keys: &Keys,
) -> Result<HttpRequest<Bytes>, AwsError> {
    let wrong = |what: &str| AwsError::Setting(format!("{}: {what}", request.action));
    let date = sign::amz_date(unix).ok_or_else(|| wrong("the clock is wrong"))?;
    let url = format!("{base}{}", request.path);
    let uri: http::Uri = url.parse().map_err(|_| wrong(&format!("no URL: {}", shown(&url))))?;
    let host = host_header(&uri).ok_or_else(|| wrong("the URL has no host"))?;
    let digest = signet_pki::digest::sha256_hex(&request.body);
    let mut headers: Vec<(&str, &str)> =
        request.headers.iter().map(|(name, value)| (*name, &**value)).collect();
    headers.extend([("host", &*host), ("x-amz-date", &date)]);
    if scope.service == Service::S3.name {
        headers.push(("x-amz-content-sha256", &digest));
    }
    if let Some(token) = &keys.session_token {
        headers.push(("x-amz-security-token", token));
    }
    headers.sort_unstable();
    // All services but S3 take the path of the URL as text, and encode it.
    let path = uri.path();
    let path = match scope.service == Service::S3.name {
        true => path.to_owned(),
        false => utf8_percent_encode(path, PATH).to_string(),
    };
    let method = request.method.as_str();
    let what = Signed { method, path: &path, headers: &headers, digest: &digest };
    let authorization = sign::authorization(keys, scope, &what);
    let mut message = HttpRequest::new(request.body.clone());
    *message.method_mut() = request.method.clone();
    for (name, value) in headers.into_iter().filter(|(name, _)| *name != "host") {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("a header"))?;
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| wrong(&format!("{name} has a character that a header cannot have")))?;
        value.set_sensitive(name == "x-amz-security-token");
        message.headers_mut().insert(name, value);
    }
    let mut value = HeaderValue::from_str(&authorization)
        .map_err(|_| wrong("the access key ID has a character that a header cannot have"))?;
    value.set_sensitive(true);
    message.headers_mut().insert(http::header::AUTHORIZATION, value);
    *message.uri_mut() = uri;
    Ok(message)
}

/// The `Host` header that the HTTP client sends: without the port where it is the scheme's own.
fn host_header(uri: &http::Uri) -> Option<String> {
    let own = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host()?;
    match uri.port_u16() {
        Some(port) if port != own => Some(format!("{host}:{port}")),
        _ => Some(host.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_what_was_signed() {
        let keys = Keys::new("AK", "SK", Some("TOKEN"));
        let request = Request {
            method: Method::PATCH,
            action: "Do",
            base: None,
            path: "/a%20b".to_owned(),
            headers: vec![("content-type", JSON.to_owned())],
            body: Bytes::from_static(b"{}"),
            is_repeatable: false,
        };
        let scope = Scope { region: "eu-west-1", service: "kms" };
        let message = signed(scope, 0, "http://h:8000", &request, &keys).unwrap();
        let header = |name: &str| message.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-amz-security-token"), "TOKEN");
        assert_eq!(header("x-amz-date"), "19700101T000000Z");
        let signed_headers = "content-type;host;x-amz-date;x-amz-security-token";
        let start = format!(
            "AWS4-HMAC-SHA256 Credential=AK/19700101/eu-west-1/kms/aws4_request, \
             SignedHeaders={signed_headers}, Signature="
        );
        assert!(header("authorization").starts_with(&start), "{}", header("authorization"));
        let what = Signed {
            method: "PATCH",
            path: "/a%2520b",
            headers: &[
                ("content-type", JSON),
                ("host", "h:8000"),
                ("x-amz-date", "19700101T000000Z"),
                ("x-amz-security-token", "TOKEN"),
            ],
            digest: &signet_pki::digest::sha256_hex(b"{}"),
        };
        assert_eq!(header("authorization"), sign::authorization(&keys, scope, &what));
        let shown = format!("{message:?}");
        assert!(!shown.contains("TOKEN") && !shown.contains("Signature"), "{shown}");
    }
}
