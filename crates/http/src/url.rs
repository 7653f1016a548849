//! Where a request goes.

use std::{fmt, net::IpAddr};

use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

use super::HttpError;

/// All but the characters that mean themselves everywhere in a URL (RFC 3986, section 2.3).
pub const UNRESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The server of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) tls: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn of(uri: &Uri) -> Result<Self, HttpError> {
        let bad = || HttpError::bad_url(&uri.to_string());
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        let host = bare(authority.host());
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(bad());
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host: host.to_owned(), port })
    }

    /// The `Host` header: without the port where it is the scheme's own.
    pub(super) fn host_header(&self) -> String {
        if self.port == if self.tls { 443 } else { 80 } {
            bracketed(&self.host)
        } else {
            self.to_string()
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

/// Whether nobody on the way can read what is sent to `url`: it goes over TLS, or does not leave this
/// machine. False for what is not the URL of a server, or names a user.
pub fn is_confidential(url: &str) -> bool {
    let target = url.parse::<Uri>().ok().and_then(|uri| Target::of(&uri).ok());
    target.is_some_and(|target| target.tls || is_loopback(&target.host))
}

/// Whether a host, with or without brackets, is this machine's loopback: `localhost`, `127.0.0.0/8`
/// or `::1`.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || bare(host).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `[::1]` is `::1`.
pub(super) fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// `::1` is `[::1]`.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_from_urls() {
        let of = |url: &str| Target::of(&url.parse().unwrap());
        let target = of("https://example.org/x?y").unwrap();
        assert_eq!((target.tls, &*target.host, target.port), (true, "example.org", 443));
        assert_eq!(target.host_header(), "example.org");
        let target = of("http://[::1]:8080").unwrap();
        assert_eq!(target.to_string(), "[::1]:8080");
        assert_eq!(target.host_header(), "[::1]:8080");
        for bad in ["/path", "ftp://example.org/", "https://user:secret@example.org/"] {
            let error = of(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_is_sent_in_the_clear_stays_on_this_machine() {
        for good in
            ["https://example.org", "http://127.0.0.1:1/a", "http://localhost", "http://[::1]:2"]
        {
            assert!(is_confidential(good), "{good}");
        }
        for bad in [
            "http://example.org",
            "http://127.0.0.1.example.org",
            "http://127.0.0.1:80@example.org/",
            "https://user@example.org",
            "http://10.0.0.1",
            "https://",
            "127.0.0.1:80",
            "",
        ] {
            assert!(!is_confidential(bad), "{bad}");
        }
    }
}
