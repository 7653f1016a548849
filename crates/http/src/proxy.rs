//! Which proxy a server is reached through, by the rules of Go's `net/http`.

use std::{env, fmt, net::IpAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use super::{error::ProxyUrlError, redact::redacted, url};

/// The proxies for `http` and `https` URLs, and the servers that need none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    exceptions: Vec<Exception>,
    except_all: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    authorization: Option<String>,
}

/// One item of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    /// An address with an optional port.
    Address(IpAddr, Option<u16>),
    /// A network.
    Network(IpAddr, u8),
    /// A domain with an optional port; `.example.org` means its subdomains only.
    Domain { name: String, itself: bool, port: Option<u16> },
}

impl Proxies {
    /// No proxies at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// From `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, or the same in lower case.
    ///
    /// # Errors
    /// [`ProxyUrlError`] for a proxy that is not understood.
    pub fn from_env() -> Result<Self, ProxyUrlError> {
        let get = |upper: &str| {
            let value = env::var(upper).ok().filter(|value| !value.is_empty());
            value.or_else(|| env::var(upper.to_ascii_lowercase()).ok()).unwrap_or_default()
        };
        Self::new(&get("HTTP_PROXY"), &get("HTTPS_PROXY"), &get("NO_PROXY"))
    }

    /// From the texts of the three variables; an empty one means none.
    ///
    /// # Errors
    /// [`ProxyUrlError`] for a proxy that is not understood.
    pub fn new(http: &str, https: &str, no_proxy: &str) -> Result<Self, ProxyUrlError> {
        let mut proxies =
            Self { http: Proxy::parse(http)?, https: Proxy::parse(https)?, ..Self::default() };
        for item in no_proxy.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if item == "*" {
                proxies.except_all = true;
            } else {
                proxies.exceptions.push(Exception::parse(item));
            }
        }
        Ok(proxies)
    }

    /// Whether a server behind TLS is reached without a proxy.
    pub fn is_direct(&self, host: &str, port: u16) -> bool {
        self.of(true, host, port).is_none()
    }

    /// The proxy through which `host` (without brackets) is reached, if any. The machine itself is
    /// never reached through one.
    pub(super) fn of(&self, tls: bool, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = if tls { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let ip = host.parse::<IpAddr>().ok();
        let local = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        let excepted = self.exceptions.iter().any(|exception| exception.covers(&host, ip, port));
        if self.except_all || local || excepted { None } else { Some(proxy) }
    }
}

impl Proxy {
    fn parse(text: &str) -> Result<Option<Self>, ProxyUrlError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let bad = || ProxyUrlError(redacted(text));
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = full.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        let host = url::bare(authority.host()).to_owned();
        if host.is_empty() {
            return Err(bad());
        }
        let authorization = match authority.as_str().rsplit_once('@') {
            Some((user, _)) => {
                let plain = decode_percent(user).ok_or_else(bad)?;
                Some(format!("Basic {}", STANDARD.encode(plain)))
            }
            None => None,
        };
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Some(Self { tls, host, port, authorization }))
    }

    /// The `Proxy-Authorization` header.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(self.authorization.as_deref()?).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", url::bracketed(&self.host), self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl Exception {
    fn parse(item: &str) -> Self {
        let item = item.to_ascii_lowercase();
        if let Some((network, prefix)) = item.split_once('/')
            && let (Ok(network), Ok(prefix)) = (network.parse::<IpAddr>(), prefix.parse::<u8>())
            && prefix <= if network.is_ipv4() { 32 } else { 128 }
        {
            return Self::Network(network, prefix);
        }
        if let Ok(ip) = url::bare(&item).parse::<IpAddr>() {
            return Self::Address(ip, None);
        }
        let (host, port) = match item.rsplit_once(':') {
            Some((host, port)) => match port.parse() {
                Ok(port) => (host, Some(port)),
                Err(_) => (item.as_str(), None),
            },
            None => (item.as_str(), None),
        };
        if let Ok(ip) = url::bare(host).parse::<IpAddr>() {
            return Self::Address(ip, port);
        }
        let host = host.strip_prefix('*').filter(|host| host.starts_with('.')).unwrap_or(host);
        let itself = !host.starts_with('.');
        Self::Domain { name: host.trim_start_matches('.').to_owned(), itself, port }
    }

    fn covers(&self, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
        match self {
            Self::Address(address, at) => ip == Some(*address) && at.is_none_or(|at| at == port),
            Self::Network(network, prefix) => ip.is_some_and(|ip| within(*network, *prefix, ip)),
            Self::Domain { name, itself, port: at } => {
                let inside = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| (rest.is_empty() && *itself) || rest.ends_with('.'));
                inside && at.is_none_or(|at| at == port)
            }
        }
    }
}

fn within(network: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    let (network, ip, bits) = match (network, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128_u32),
        _ => return false,
    };
    let shift = bits.saturating_sub(u32::from(prefix));
    network.checked_shr(shift).unwrap_or(0) == ip.checked_shr(shift).unwrap_or(0)
}

/// As Go: a percent sign must begin an escape.
fn decode_percent(text: &str) -> Option<Vec<u8>> {
    let is_whole = |escape: &str| matches!(escape.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    text.split('%').skip(1).all(is_whole).then(|| percent_decode_str(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(no_proxy: &str, host: &str, port: u16) -> bool {
        let proxies = Proxies::new("p", "p", no_proxy).unwrap();
        proxies.of(true, host, port).is_some()
    }

    #[test]
    fn exceptions_follow_the_rules_of_go() {
        assert!(proxied("", "example.org", 443));
        for host in ["localhost", "127.0.0.1", "::1", "LOCALHOST."] {
            assert!(!proxied("", host, 443), "{host}");
        }
        assert!(!proxied("*", "example.org", 443));
        assert!(!proxied("example.org", "example.org", 443));
        assert!(!proxied(" Example.org , x", "a.example.ORG", 443));
        assert!(proxied("example.org", "badexample.org", 443));
        assert!(proxied(".example.org", "example.org", 443));
        assert!(!proxied(".example.org", "a.example.org", 443));
        assert!(!proxied("*.example.org", "a.example.org", 443));
        assert!(!proxied("example.org:8443", "example.org", 8443));
        assert!(proxied("example.org:8443", "example.org", 443));
        assert!(!proxied("10.0.0.0/8", "10.1.2.3", 443));
        assert!(proxied("10.0.0.0/8", "11.1.2.3", 443));
        assert!(!proxied("192.0.2.1", "192.0.2.1", 443));
        assert!(proxied("192.0.2.1:80", "192.0.2.1", 443));
        assert!(!proxied("2001:db8::/32", "2001:db8::1", 443));
        assert!(!proxied("::/0", "2001:db8::1", 443));
        assert!(!proxied("[2001:db8::1]:443", "2001:db8::1", 443));
    }

    #[test]
    fn each_scheme_has_its_own_proxy() {
        let proxies = Proxies::new("one:1", "https://two", "").unwrap();
        assert_eq!(proxies.of(false, "example.org", 80).unwrap().to_string(), "one:1");
        let https = proxies.of(true, "example.org", 443).unwrap();
        assert_eq!((https.tls, https.to_string().as_str()), (true, "two:443"));
        assert!(Proxies::none().of(true, "example.org", 443).is_none());
    }

    #[test]
    fn a_password_is_sent_decoded_and_never_shown() {
        let proxies = Proxies::new("", "http://user:s%3Acret@proxy:3128", "").unwrap();
        let proxy = proxies.of(true, "example.org", 443).unwrap();
        let header = proxy.authorization().unwrap();
        assert_eq!(header.to_str().unwrap(), format!("Basic {}", STANDARD.encode("user:s:cret")));
        assert!(!format!("{proxies:?} {header:?}").contains("cret"));
        let error = Proxies::new("", "socks5://user:secret@proxy", "").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
