//! How `instant-acme` sends its requests: by our HTTP client, signed by a key that it never sees.
//!
//! The library signs with a P-256 key in memory. Ours may be in a key manager, so the library is given
//! a key that nobody else knows, and each request is signed again on its way out.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response,
    header::{RETRY_AFTER, USER_AGENT},
    uri::Scheme,
};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error};
use serde_json::{Map, Value, json};
use signet_base::SharedClock;
use signet_http::HttpClient;
use signet_pki::{ManagedKey, jws};
use signet_time::UnixTime;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer, bytes: a certificate chain has some thousand.
const MAX_BODY: usize = 1024 * 1024;
/// The longest that an authority's `Retry-After` is honoured for.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

type Answer = Result<BytesResponse, Error>;

/// How long the authority asked to be left alone when it last refused something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(Arc<Mutex<Option<Duration>>>);

impl Asked {
    /// What it asked for since this was last called.
    pub(crate) fn take(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, wait: Option<Duration>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wait;
    }
}

/// Sends requests, signed by the key of the account.
pub(crate) struct Transport {
    http: HttpClient,
    key: ManagedKey,
    asked: Asked,
    clock: SharedClock,
}

impl Transport {
    pub(crate) fn new(
        http: &HttpClient,
        key: ManagedKey,
        asked: Asked,
        clock: SharedClock,
    ) -> Self {
        Self { http: http.with_limits(TIMEOUT, MAX_BODY), key, asked, clock }
    }
}

impl instant_acme::HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let (http, key, asked) = (self.http.clone(), self.key.clone(), self.asked.clone());
        let clock = Arc::clone(&self.clock);
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            if head.uri.scheme() != Some(&Scheme::HTTPS) {
                return Err(Error::Str("the authority names a URL that is not https"));
            }
            // Ours names the program.
            head.headers.remove(USER_AGENT);
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let body = match head.method {
                Method::POST => resign(&key, &body).await?,
                _ => body,
            };
            let answer = http.send(Request::from_parts(head, body)).await;
            let mut answer = answer.map_err(|error| Error::Other(Box::new(error)))?;
            let wait = retry_after(answer.headers(), clock.unix());
            if let Some(wait) = wait {
                // The library adds it to the time now, whatever it is.
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs()));
            }
            if answer.status().is_client_error() || answer.status().is_server_error() {
                asked.set(wait);
            }
            Ok(BytesResponse::from(answer.map(Full::new) as Response<Full<Bytes>>))
        })
    }
}

/// Signs a request (RFC 8555, section 6.2) anew: its header names the account, or holds the key that
/// is to be one's.
async fn resign(key: &ManagedKey, body: &[u8]) -> Result<Bytes, Error> {
    const UNEXPECTED: Error = Error::Str("a request of another form than ours");
    let request: Map<String, Value> = serde_json::from_slice(body)?;
    let text = |name: &str| request.get(name).and_then(Value::as_str).ok_or(UNEXPECTED);
    let header = URL_SAFE_NO_PAD.decode(text("protected")?).map_err(|_| UNEXPECTED)?;
    let mut header: Map<String, Value> = serde_json::from_slice(&header)?;
    header.insert("alg".to_owned(), jws::algorithm(key.public_key()).into());
    if let Some(jwk) = header.get_mut("jwk") {
        *jwk = jws::jwk(key.public_key());
    }
    let protected = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header)?);
    let payload = text("payload")?;
    let signature = jws::sign(key, &protected, payload).await;
    let signature = signature.map_err(|error| Error::Other(Box::new(error)))?;
    let signed = json!({"protected": protected, "payload": payload, "signature": signature});
    Ok(serde_json::to_vec(&signed)?.into())
}

/// Seconds or a date (RFC 9110, section 10.2.3), at most [`MAX_WAIT`].
fn retry_after(headers: &HeaderMap, now: UnixTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds).min(MAX_WAIT));
    }
    let at = UnixTime::from(OffsetDateTime::parse(text, &Rfc2822).ok()?);
    let seconds = u64::try_from(at - now).unwrap_or_default();
    Some(Duration::from_secs(seconds).min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use signet_pki::{KeyType, PrivateKey};

    use super::*;

    #[tokio::test]
    async fn a_request_is_signed_by_the_key_of_the_account_and_holds_it_where_it_held_another() {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        for (kind, alg) in [(KeyType::EcP256, "ES256"), (KeyType::EcP384, "ES384")] {
            let key: ManagedKey = PrivateKey::generate(kind).unwrap().signer().unwrap().into();
            for (given, wanted) in
                [(json!({"kty": "EC"}), Some(jws::jwk(key.public_key()))), (Value::Null, None)]
            {
                let mut header = json!({"alg": "ES256", "nonce": "n", "url": "https://ca.test/x"});
                match given.is_null() {
                    true => header["kid"] = "https://ca.test/1".into(),
                    false => header["jwk"] = given,
                }
                let request =
                    json!({"protected": encode(&header), "payload": "e30", "signature": "AA"});
                let signed = resign(&key, request.to_string().as_bytes()).await.unwrap();
                let signed: Value = serde_json::from_slice(&signed).unwrap();
                let protected = signed["protected"].as_str().unwrap();
                let read = URL_SAFE_NO_PAD.decode(protected).unwrap();
                let read: Value = serde_json::from_slice(&read).unwrap();
                assert_eq!((&read["alg"], &read["nonce"]), (&json!(alg), &json!("n")));
                assert_eq!(read["url"], "https://ca.test/x");
                assert_eq!(
                    (read.get("jwk").cloned(), read.get("kid")),
                    (wanted, header.get("kid"))
                );
                assert_eq!(signed["payload"], "e30");
                assert_ne!(signed["signature"], "AA");
            }
        }
        for bad in ["", "{}", "{\"protected\": \"!\", \"payload\": \"\"}", "[]"] {
            let key: ManagedKey =
                PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap().into();
            assert!(resign(&key, bad.as_bytes()).await.is_err(), "{bad}");
        }
    }

    #[test]
    fn an_authority_is_left_alone_for_as_long_as_it_asks_but_not_for_ever() {
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, UnixTime::from_seconds(946_684_700)).map(|wait| wait.as_secs())
        };
        assert_eq!((of("30"), of(" 7 ")), (Some(30), Some(7)));
        assert_eq!(of("18446744073709551615"), Some(86_400));
        assert_eq!(of("Fri, 31 Dec 1999 23:59:59 GMT"), Some(99));
        assert_eq!(of("Fri, 31 Dec 1999 23:00:00 GMT"), Some(0));
        assert_eq!(of("Fri, 31 Dec 9999 23:59:59 GMT"), Some(86_400));
        assert_eq!((of("soon"), of("-1")), (None, None));
    }
}
