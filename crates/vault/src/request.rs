//! A request to a Vault server.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
use percent_encoding::utf8_percent_encode;
use serde::Serialize;
use signet_http::UNRESERVED;
use zeroize::Zeroizing;

use crate::VaultError;

/// Joins segments to a path below `/v1/`: what is inside a segment is escaped, but for the slashes
/// of mount points (`team/transit`), which are kept; those at its ends are dropped.
///
/// Names that others chose must not be given as a segment unless they are known to hold no slash.
pub fn path(segments: &[&str]) -> String {
    let parts = segments.iter().flat_map(|segment| segment.split('/')).filter(|p| !p.is_empty());
    // A segment of dots would be taken for a step up by proxies on the way.
    let escaped = parts.map(|part| match part {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        part => utf8_percent_encode(part, UNRESERVED).to_string(),
    });
    escaped.collect::<Vec<_>>().join("/")
}

/// A request to a Vault server. What its body and headers hold is not shown.
#[derive(Clone)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Bytes,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) namespace: Option<String>,
    pub(crate) with_token: bool,
    pub(crate) is_repeatable: bool,
    pub(crate) timeout: Option<Duration>,
    /// What is wrong with it; said when it is sent.
    pub(crate) defect: Option<String>,
}

impl Request {
    /// Any request; `path` is below `/v1/` and escaped already, see [`path()`].
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let is_repeatable = method == Method::GET || method == Method::DELETE;
        Self {
            method,
            path: path.into(),
            body: Bytes::new(),
            headers: Vec::new(),
            namespace: None,
            with_token: true,
            is_repeatable,
            timeout: None,
            defect: None,
        }
    }

    /// Reads.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Writes.
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// Sets the body; it is wiped when it was sent.
    #[must_use]
    pub fn json(mut self, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(bytes) => {
                self.body = Bytes::from_owner(Zeroizing::new(bytes));
                self.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
            }
            Err(error) => self.defect = Some(error.to_string()),
        }
        self
    }

    /// Adds a header, such as one that the server's audit log has a correlation ID from. Its value
    /// is not shown.
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

    /// Asks for the answer to be wrapped: it can be fetched once, within that time.
    #[must_use]
    pub fn wrapped(self, ttl: Duration) -> Self {
        let name = HeaderName::from_static("x-vault-wrap-ttl");
        self.header(name, &format!("{}s", ttl.as_secs()))
    }

    /// Is for another namespace than the client's.
    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Is sent without the client's token.
    #[must_use]
    pub fn without_token(mut self) -> Self {
        self.with_token = false;
        self
    }

    /// May be sent again though the server may have done it already. Reads and deletions may in
    /// any case.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.is_repeatable = true;
        self
    }

    /// May take as long, in place of what the client's settings say.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub(crate) fn check(&self) -> Result<(), VaultError> {
        match &self.defect {
            None => Ok(()),
            Some(why) => Err(VaultError::Setting(format!("{}: {why}", self.path))),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} {}, ..)", self.method, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_and_keep_the_slashes_of_mounts() {
        assert_eq!(path(&["/team/transit/", "keys", "a b?c"]), "team/transit/keys/a%20b%3Fc");
        assert_eq!(path(&["pki", "..", "sys"]), "pki/%2E%2E/sys");
        assert_eq!(path(&["a-b.c_d~e"]), "a-b.c_d~e");
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let request = Request::post("auth/approle/login")
            .json(&serde_json::json!({ "secret_id": "hush" }))
            .header(HeaderName::from_static("x-a"), "hush");
        assert_eq!(format!("{request:?}"), "Request(POST auth/approle/login, ..)");
        let bad = Request::get("a").header(HeaderName::from_static("x-a"), "a\nb");
        assert!(bad.check().unwrap_err().to_string().contains("x-a"));
    }
}
