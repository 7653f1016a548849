//! A document that is made once and given to everyone who asks: `GET` and `HEAD` with an entity
//! tag, and nothing for those who have it already (RFC 9110, section 13).

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ALLOW, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
            LAST_MODIFIED,
        },
    },
    response::Response,
};
use bytes::Bytes;

/// The longest list of entity tags that is looked at, bytes; a longer one counts as none.
const MAX_TAGS: usize = 8 * 1024;

/// A document with the headers that go with it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Document {
    body: Bytes,
    headers: HeaderMap,
}

impl Document {
    /// A JSON document. `digest` tells it from every other one, such as its SHA-256 in hex; it
    /// becomes the strong entity tag, without one if it does not fit into a header.
    pub fn json(body: impl Into<Bytes>, digest: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(tag) = HeaderValue::try_from(format!("\"{digest}\"")) {
            headers.insert(ETAG, tag);
        }
        Self { body: body.into(), headers }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Its text.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Answers a request for it. Whoever has it gets 304 without a body; what is neither `GET` nor
    /// `HEAD` gets 405.
    pub fn answer(&self, method: &Method, asked: &HeaderMap) -> Response {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return not_allowed();
        }
        let mut response = Response::new(Body::empty());
        response.headers_mut().clone_from(&self.headers);
        if self.is_known_to(asked) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().remove(CONTENT_TYPE);
        } else if *method == Method::HEAD {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        } else {
            *response.body_mut() = Body::from(self.body.clone());
        }
        response
    }

    /// Whether the one who asks has it: by entity tag, else by date (RFC 9110, section 13.2.2).
    fn is_known_to(&self, asked: &HeaderMap) -> bool {
        if asked.contains_key(IF_NONE_MATCH) {
            let Some(own) = self.headers.get(ETAG).and_then(|tag| tag.to_str().ok()) else {
                return false;
            };
            let lists = asked.get_all(IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
            let mut tags = lists.filter(|list| list.len() <= MAX_TAGS).flat_map(|l| l.split(','));
            return tags.any(|tag| {
                let tag = tag.trim();
                // For this question a weak tag is as good as a strong one.
                tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own
            });
        }
        // Only the date that was given out is compared: that needs no reading of dates.
        match (asked.get(IF_MODIFIED_SINCE), self.headers.get(LAST_MODIFIED)) {
            (Some(asked), Some(own)) => asked == own,
            _ => false,
        }
    }
}

/// The answer to a verb that is not for documents.
pub fn not_allowed() -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// An answer of one line of text.
pub fn text(status: StatusCode, line: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(line.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn whoever_has_it_gets_nothing_and_everyone_else_gets_all() {
        let document = Document::json("{}", "abc")
            .with(LAST_MODIFIED, HeaderValue::from_static("Mon, 30 Nov 2026 10:00:00 GMT"));
        let status = |asked: &HeaderMap| document.answer(&Method::GET, asked).status();
        let answer = document.answer(&Method::GET, &HeaderMap::new());
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[ETAG], "\"abc\"");
        for known in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert_eq!(status(&asking(IF_NONE_MATCH, known)), StatusCode::NOT_MODIFIED, "{known}");
        }
        for other in ["\"ab\"", "abc", ""] {
            assert_eq!(status(&asking(IF_NONE_MATCH, other)), StatusCode::OK, "{other}");
        }
        let since = asking(IF_MODIFIED_SINCE, "Mon, 30 Nov 2026 10:00:00 GMT");
        assert_eq!(status(&since), StatusCode::NOT_MODIFIED);
        // A tag that does not match counts more than a date that does.
        let mut both = since;
        both.insert(IF_NONE_MATCH, HeaderValue::from_static("\"x\""));
        assert_eq!(status(&both), StatusCode::OK);
    }

    #[test]
    fn head_has_the_length_and_other_verbs_are_refused() {
        let document = Document::json("{}", "abc");
        let head = document.answer(&Method::HEAD, &HeaderMap::new());
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(head.headers()[CONTENT_LENGTH], "2");
        let post = document.answer(&Method::POST, &HeaderMap::new());
        assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(post.headers()[ALLOW], "GET, HEAD");
    }
}
