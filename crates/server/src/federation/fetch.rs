//! Fetching one bundle from its endpoint (SPIFFE Federation, section 5.2).
//!
//! Everything the endpoint controls is bounded: the time in all, the size of the answer, the number
//! of redirects, and (in `signet_pki::jwks`) the number of keys.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, Request, StatusCode, Uri,
    header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH, LOCATION},
};
use signet_http::{HttpClient, HttpError, expect_success};
use signet_pki::jwks::MAX_BUNDLE_LEN;

/// How long fetching may take in all, redirects included.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// The largest document that is read, bytes.
pub(super) const MAX_BODY: usize = MAX_BUNDLE_LEN;
/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// The longest entity tag that is kept, bytes.
const MAX_TAG: usize = 256;

/// What an endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The document; none when it is the one that is known by its entity tag.
    pub document: Option<Bytes>,
    /// Its entity tag.
    pub tag: Option<String>,
    /// For how long the endpoint says it is fresh.
    pub max_age: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The exchange failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It took too long.
    #[error("the bundle endpoint did not answer within {} s", DEADLINE.as_secs())]
    Late,
    /// It leads to where no bundle endpoint may be.
    #[error("the bundle endpoint redirects to {0:?}, expected an https URL without a user")]
    Redirect(String),
    /// It leads on and on.
    #[error("the bundle endpoint redirects more than {MAX_REDIRECTS} times")]
    Redirects,
    /// It says that nothing has changed, without being asked that.
    #[error("the bundle endpoint answers with status 304 to a request without an entity tag")]
    Unasked,
}

/// Gets `url`, unless it still is what has the entity tag `known`. A redirect holds for this time
/// only.
pub(super) async fn fetch(
    client: &HttpClient,
    url: &str,
    known: Option<&str>,
) -> Result<Answer, FetchError> {
    let fetched = tokio::time::timeout(DEADLINE, follow(client, url, known));
    fetched.await.unwrap_or(Err(FetchError::Late))
}

async fn follow(client: &HttpClient, url: &str, known: Option<&str>) -> Result<Answer, FetchError> {
    let mut at: Uri = url.parse().map_err(|_| HttpError::BadUrl(shown(url)))?;
    for _ in 0..=MAX_REDIRECTS {
        let mut request = Request::get(at.clone()).header(ACCEPT, "application/json");
        if let Some(tag) = known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let request = request.body(Bytes::new()).map_err(|_| HttpError::BadUrl(shown(url)))?;
        let answer = client.send(request).await?;
        match answer.status() {
            StatusCode::NOT_MODIFIED => {
                let Some(tag) = known else { return Err(FetchError::Unasked) };
                let max_age = max_age(answer.headers());
                return Ok(Answer { document: None, tag: Some(tag.to_owned()), max_age });
            }
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
                let to = to.unwrap_or_default();
                at = target(&at, to).ok_or_else(|| FetchError::Redirect(shown(to)))?;
            }
            _ => {
                let (tag, max_age) = (strong_tag(answer.headers()), max_age(answer.headers()));
                let document = expect_success(answer, &at.to_string())?;
                return Ok(Answer { document: Some(document), tag, max_age });
            }
        }
    }
    Err(FetchError::Redirects)
}

/// Where a redirect leads: a valid URL of a bundle endpoint (section 5.2.1.1), absolute or of the
/// same server.
fn target(from: &Uri, to: &str) -> Option<Uri> {
    let authority = from.authority()?;
    let to = match to {
        to if to.starts_with("//") => format!("https:{to}"),
        to if to.starts_with('/') => format!("https://{authority}{to}"),
        to => to.to_owned(),
    };
    let to: Uri = to.parse().ok()?;
    let is_good = to.scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
        && to
            .authority()
            .is_some_and(|there| !there.as_str().contains('@') && !there.host().is_empty());
    is_good.then_some(to)
}

/// Only a strong one tells documents apart byte by byte.
fn strong_tag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    let is_strong = tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"');
    (is_strong && tag.len() <= MAX_TAG).then(|| tag.to_owned())
}

/// `max-age` of the answer, unless something else there forbids to count on it.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut found = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().ok()?.split(',') {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-cache" | "no-store" => return None,
                "max-age" => found = value.trim().trim_matches('"').parse().ok(),
                _ => {}
            }
        }
    }
    found.filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// What an outsider sent, fit for a message.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_redirect_leads_to_https_only() {
        let from: Uri = "https://a.test:8443/x/y".parse().unwrap();
        let to = |to: &str| target(&from, to).map(|uri| uri.to_string());
        assert_eq!(to("https://b.test/z").as_deref(), Some("https://b.test/z"));
        assert_eq!(to("HTTPS://b.test/z").as_deref(), Some("https://b.test/z"));
        assert_eq!(to("/z?q").as_deref(), Some("https://a.test:8443/z?q"));
        assert_eq!(to("//c.test/z").as_deref(), Some("https://c.test/z"));
        for bad in ["http://b.test/", "https://u@b.test/", "https:///x", "", "z", "file:///x"] {
            assert_eq!(to(bad), None, "{bad}");
        }
    }

    #[test]
    fn freshness_counts_only_where_it_is_promised() {
        let of = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            max_age(&HeaderMap::from_iter([(CACHE_CONTROL, value)]))
        };
        assert_eq!(of("public, max-age=15"), Some(Duration::from_secs(15)));
        assert_eq!(of("Max-Age=\"15\""), Some(Duration::from_secs(15)));
        for none in ["no-store, max-age=15", "max-age=15, no-cache", "max-age=0", "max-age=x", ""] {
            assert_eq!(of(none), None, "{none}");
        }
        let tagged = |tag: &'static str| {
            strong_tag(&HeaderMap::from_iter([(ETAG, HeaderValue::from_static(tag))]))
        };
        assert_eq!(tagged("\"a\"").as_deref(), Some("\"a\""));
        assert_eq!((tagged("W/\"a\""), tagged("a"), tagged("\"")), (None, None, None));
    }
}
