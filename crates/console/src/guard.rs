//! What a request must look like, and what every answer says to the browser.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// The cookie of a session. The prefix makes browsers take it from this very host over TLS only.
pub const COOKIE: &str = "__Host-signet";

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `Host` names another host: a page of that name was made to lead here (DNS rebinding).
    Host,
    /// A write that another site's page asked for.
    CrossSite,
}

impl Refusal {
    /// For the one who asked.
    pub fn message(self) -> &'static str {
        match self {
            Self::Host => "this host name is not one the console answers to (allowed_hosts)",
            Self::CrossSite => "the request came from a page of another site",
        }
    }
}

/// Checks that a request is for one of `hosts` (names without a port, lower case) and, if it changes
/// something, that a page of the console itself made it. Browsers say so by `Sec-Fetch-Site` and
/// `Origin`, which pages cannot set; a program that sends neither has no cookies of a person.
///
/// # Errors
/// [`Refusal`] when the request is for another host, or a change that another site's page asks for.
pub fn check(method: &Method, headers: &HeaderMap, hosts: &[String]) -> Result<(), Refusal> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.map(str::to_ascii_lowercase).unwrap_or_default();
    if !hosts.iter().any(|allowed| *allowed == without_port(&host)) {
        return Err(Refusal::Host);
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin") {
        return Err(Refusal::CrossSite);
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        if origin.strip_prefix("https://") != Some(host.as_str()) {
            return Err(Refusal::CrossSite);
        }
    }
    Ok(())
}

/// `[::1]:8443` → `[::1]`; `name:8443` → `name`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

/// The value of a cookie.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// The `Set-Cookie` of a new session.
pub fn set_cookie(value: &str) -> String {
    format!("{COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Strict")
}

/// The `Set-Cookie` that ends one.
pub fn unset_cookie() -> String {
    format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0")
}

/// What each answer carries: nothing from elsewhere is loaded, nothing inline runs, nobody frames it,
/// nothing of it is kept.
pub fn headers() -> [(HeaderName, HeaderValue); 9] {
    const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                       connect-src 'self'; form-action 'self'; base-uri 'none'; \
                       frame-ancestors 'none'; require-trusted-types-for 'script'; \
                       trusted-types signet";
    let value = HeaderValue::from_static;
    [
        (header::CONTENT_SECURITY_POLICY, value(CSP)),
        (header::X_CONTENT_TYPE_OPTIONS, value("nosniff")),
        (header::X_FRAME_OPTIONS, value("DENY")),
        // Not no-referrer: browsers then say `Origin: null` of the console's own forms.
        (header::REFERRER_POLICY, value("same-origin")),
        (HeaderName::from_static("cross-origin-opener-policy"), value("same-origin")),
        (HeaderName::from_static("cross-origin-resource-policy"), value("same-origin")),
        (
            HeaderName::from_static("permissions-policy"),
            value("camera=(), microphone=(), geolocation=()"),
        ),
        (header::STRICT_TRANSPORT_SECURITY, value("max-age=31536000")),
        (header::CACHE_CONTROL, value("no-store")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn only_the_names_of_the_console_are_answered() {
        let hosts = ["localhost".to_owned(), "[::1]".to_owned()];
        let get = |host: &str| check(&Method::GET, &request(&[("host", host)]), &hosts);
        assert_eq!(get("localhost:8443"), Ok(()));
        assert_eq!(get("LOCALHOST"), Ok(()));
        assert_eq!(get("[::1]:8443"), Ok(()));
        for other in ["evil.example:8443", "localhost.evil.example", "", "127.0.0.1", "localhost:x"]
        {
            assert_eq!(get(other), Err(Refusal::Host), "{other}");
        }
        assert_eq!(check(&Method::GET, &HeaderMap::new(), &hosts), Err(Refusal::Host));
    }

    #[test]
    fn a_write_comes_from_a_page_of_the_console_or_from_no_page() {
        let hosts = ["localhost".to_owned()];
        let post = |pairs: &[(&'static str, &str)]| {
            let mut headers = request(pairs);
            headers.insert("host", "localhost:8443".parse().unwrap());
            check(&Method::POST, &headers, &hosts)
        };
        assert_eq!(post(&[]), Ok(()));
        let own = ("origin", "https://localhost:8443");
        assert_eq!(post(&[("sec-fetch-site", "same-origin"), own]), Ok(()));
        for site in ["cross-site", "same-site", "none"] {
            assert_eq!(post(&[("sec-fetch-site", site), own]), Err(Refusal::CrossSite), "{site}");
        }
        for origin in
            ["https://evil.example", "http://localhost:8443", "null", "https://localhost:1"]
        {
            assert_eq!(post(&[("origin", origin)]), Err(Refusal::CrossSite), "{origin}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let headers = request(&[("cookie", "a=1; __Host-signet=secret;b=2")]);
        assert_eq!(cookie(&headers, COOKIE), Some("secret"));
        assert_eq!(cookie(&headers, "c"), None);
    }
}
