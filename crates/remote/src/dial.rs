//! TCP connections to named peers, through an HTTP proxy where the environment asks for one.
//!
//! As gRPC programs written in Go do: `HTTPS_PROXY` (or `https_proxy`) names a proxy that is asked
//! to `CONNECT`, `NO_PROXY` who is reached without; loopback addresses always are.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The longest answer of a proxy to `CONNECT` that is read, bytes.
const MAX_PROXY_ANSWER: usize = 8 * 1024;

/// Opens TCP connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialer {
    proxy: Option<Proxy>,
    bypass: Vec<Bypass>,
}

#[derive(Clone, PartialEq, Eq)]
struct Proxy {
    host: String,
    port: u16,
    authorization: Option<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bypass {
    All,
    Network(IpAddr, u8),
    /// A name and whatever is below it; with a leading dot only what is below.
    Name(String, Option<u16>),
}

/// Why the proxy settings are no good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: expected http://[user:password@]host[:port]")]
pub struct ProxyError {
    variable: &'static str,
}

impl Dialer {
    /// Connects without a proxy.
    pub fn direct() -> Self {
        Self::default()
    }

    /// Reads `HTTPS_PROXY` and `NO_PROXY` (or their lower-case forms).
    ///
    /// # Errors
    /// [`ProxyError`] when the proxy's URL is not one; its text is not shown, it may hold a
    /// password.
    pub fn from_env() -> Result<Self, ProxyError> {
        let read = |upper: &str, lower: &str| {
            std::env::var(upper).or_else(|_| std::env::var(lower)).unwrap_or_default()
        };
        Self::new(&read("HTTPS_PROXY", "https_proxy"), &read("NO_PROXY", "no_proxy"))
    }

    /// From the texts of `HTTPS_PROXY` and `NO_PROXY`; either may be empty.
    ///
    /// # Errors
    /// [`ProxyError`] when the proxy's URL is not one.
    pub fn new(https_proxy: &str, no_proxy: &str) -> Result<Self, ProxyError> {
        let proxy = match https_proxy.trim() {
            "" => None,
            text => Some(parse_proxy(text).ok_or(ProxyError { variable: "HTTPS_PROXY" })?),
        };
        let bypass = no_proxy.split(',').filter_map(|item| parse_bypass(item.trim())).collect();
        Ok(Self { proxy, bypass })
    }

    /// Whether `host` is reached through the proxy.
    pub fn uses_proxy(&self, host: &str, port: u16) -> bool {
        self.proxy.is_some()
            && !is_loopback(host)
            && !self.bypass.iter().any(|b| b.covers(host, port))
    }

    /// Connects to `host` (a name, or an address without brackets), trying its addresses in turn.
    /// The caller sets the deadline.
    ///
    /// # Errors
    /// The last address's error, or the proxy's refusal.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        match &self.proxy {
            Some(proxy) if self.uses_proxy(host, port) => {
                let stream = direct(&proxy.host, proxy.port).await.map_err(|error| {
                    io::Error::new(error.kind(), format!("proxy {proxy:?}: {error}"))
                })?;
                tunnel(stream, host, port, proxy.authorization.as_deref()).await
            }
            _ => direct(host, port).await,
        }
    }
}

impl Bypass {
    fn covers(&self, host: &str, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Network(network, bits) => {
                host.parse().is_ok_and(|address| in_network(address, *network, *bits))
            }
            Self::Name(name, only_port) => {
                if only_port.is_some_and(|only| only != port) {
                    return false;
                }
                let host = host.to_ascii_lowercase();
                match name.strip_prefix('.') {
                    Some(_) => host.ends_with(name.as_str()),
                    None => {
                        host == *name
                            || host.strip_suffix(name.as_str()).is_some_and(|h| h.ends_with('.'))
                    }
                }
            }
        }
    }
}

async fn direct(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("no address for {host}"));
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => tokio::net::lookup_host((host, port)).await?.collect(),
    };
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn tunnel(
    mut stream: TcpStream,
    host: &str,
    port: u16,
    authorization: Option<&str>,
) -> io::Result<TcpStream> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(authorization) = authorization {
        request.push_str(&format!("Proxy-Authorization: Basic {authorization}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;

    // Read byte by byte: nothing after the blank line is ours, it belongs to the tunnel.
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_PROXY_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "proxy answer is too long"));
        }
        answer.push(stream.read_u8().await?);
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let accepted = words.next().is_some_and(|word| word.starts_with("HTTP/1."))
        && words.next().is_some_and(|code| code.len() == 3 && code.starts_with('2'));
    if !accepted {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            format!("proxy refused the connection: {line}"),
        ));
    }
    Ok(stream)
}

fn parse_proxy(text: &str) -> Option<Proxy> {
    let rest = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some(_) => return None,
        None => text,
    };
    let rest = rest.split(['/', '?', '#']).next()?;
    let (user, address) = match rest.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, rest),
    };
    let (host, port) = if let Some(inner) = address.strip_prefix('[') {
        let (host, after) = inner.split_once(']')?;
        (host, after.strip_prefix(':'))
    } else {
        match address.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    if host.is_empty() {
        return None;
    }
    let port = port.map_or(Some(80), |port| port.parse().ok())?;
    let authorization = user.map(|user| base64(&percent_decode(user)));
    Some(Proxy { host: host.to_owned(), port, authorization })
}

fn parse_bypass(item: &str) -> Option<Bypass> {
    let item = item.to_ascii_lowercase();
    if item.is_empty() {
        return None;
    }
    if item == "*" {
        return Some(Bypass::All);
    }
    if let Some((address, bits)) = item.split_once('/') {
        return Some(Bypass::Network(address.parse().ok()?, bits.parse().ok()?));
    }
    if let Ok(address) = item.parse::<IpAddr>() {
        return Some(Bypass::Network(address, if address.is_ipv4() { 32 } else { 128 }));
    }
    let (name, port) = match item.rsplit_once(':') {
        Some((name, port)) => (name.to_owned(), Some(port.parse().ok()?)),
        None => (item, None),
    };
    Some(Bypass::Name(name.strip_prefix('*').unwrap_or(&name).to_owned(), port))
}

fn in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let bits = u32::from(bits).min(width);
        bits == 0 || (a ^ b) >> (width - bits) == 0
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => same(u32::from(a).into(), u32::from(n).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => same(a.into(), n.into(), 128),
        _ => false,
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let hex = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16));
        match (byte, hex(ahead.next()), hex(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                bytes = ahead;
            }
            _ => out.push(byte),
        }
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let joined = chunk.iter().fold(0_u32, |all, byte| all << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let index = (joined >> (18 - 6 * at) & 63) as usize;
            let letter = if at <= chunk.len() { ALPHABET.get(index) } else { None };
            out.push(letter.map_or('=', |letter| *letter as char));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn proxies_are_read_from_urls() {
        let proxy = |text| Dialer::new(text, "").map(|dialer| dialer.proxy);
        let plain = proxy("http://p.example:3128/").unwrap().unwrap();
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.authorization),
            ("p.example", 3128, None)
        );
        let full = proxy("http://us%65r:pa%40ss@[::1]:80").unwrap().unwrap();
        assert_eq!((full.host.as_str(), full.port), ("::1", 80));
        assert_eq!(full.authorization.as_deref(), Some("dXNlcjpwYUBzcw=="));
        assert_eq!(proxy("p").unwrap().unwrap().port, 80);
        assert_eq!(proxy("").unwrap(), None);
        for bad in ["socks5://p:1", "http://", "http://p:x", "http://[::1"] {
            assert!(proxy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exceptions_are_names_networks_and_loopback() {
        let dialer =
            Dialer::new("http://p:1", "a.example, .b.example,10.0.0.0/8,c:9, fd00::/8").unwrap();
        for direct in
            ["a.example", "x.A.example", "x.b.example", "10.1.2.3", "localhost", "::1", "fd00::5"]
        {
            assert!(!dialer.uses_proxy(direct, 1), "{direct}");
        }
        for proxied in ["b.example", "xa.example", "11.0.0.1", "c", "fe00::1"] {
            assert!(dialer.uses_proxy(proxied, 1), "{proxied}");
        }
        assert!(!dialer.uses_proxy("c", 9));
        assert!(!Dialer::new("http://p:1", "*").unwrap().uses_proxy("x", 1));
        assert!(!Dialer::direct().uses_proxy("x", 1));
    }

    #[tokio::test]
    async fn tunnels_through_a_proxy_and_passes_on_its_refusal() {
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello", true),
            ("HTTP/1.0 407 Proxy Authentication Required\r\n\r\n", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let proxy = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                (String::from_utf8(request).unwrap(), stream)
            });
            let dialer = Dialer::new(&format!("http://u:p@127.0.0.1:{port}"), "").unwrap();
            let stream = dialer.connect("server.example", 8081).await;
            let (request, _open) = proxy.await.unwrap();
            assert!(request.starts_with("CONNECT server.example:8081 HTTP/1.1\r\n"), "{request}");
            assert!(request.contains("Proxy-Authorization: Basic dTpw\r\n"), "{request}");
            match (stream, good) {
                (Ok(mut stream), true) => {
                    let mut first = [0; 5];
                    stream.read_exact(&mut first).await.unwrap();
                    assert_eq!(&first, b"hello");
                }
                (Err(error), false) => assert!(error.to_string().contains("407"), "{error}"),
                (other, _) => panic!("{other:?}"),
            }
        }
    }
}
