//! PROXY protocol headers, versions 1 and 2 (HAProxy's specification).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
};

use signet_config::Cidr;

/// The longest line of version 1, line end included.
const MAX_V1: usize = 107;
/// The most bytes of addresses and extensions that version 2 may carry here.
const MAX_V2: usize = 4 * 1024;
/// What version 2 begins with.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// How long a header may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a connection with a PROXY header is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The header is not well formed.
    #[error("PROXY protocol header is malformed: {0}")]
    Malformed(&'static str),
    /// The connection failed first.
    #[error("reading PROXY protocol header")]
    Read(#[from] io::Error),
    /// The header did not come in time.
    #[error("PROXY protocol header did not arrive within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// A peer that is no trusted proxy sent one.
    #[error("PROXY protocol header from {0}, which is not in proxy_protocol_trusted_cidrs")]
    Untrusted(IpAddr),
}

/// Who a connection comes from: what a trusted proxy's header says, else the peer itself.
///
/// Takes the header off the stream, and nothing after it. A header is optional from a trusted peer
/// and refused from any other, as in SPIRE. Works for protocols whose first byte is neither `P` nor
/// a carriage return, as is the case with TLS.
///
/// # Errors
/// [`ProxyError`]; the connection must be closed.
pub async fn client_address(
    stream: &mut TcpStream,
    peer: SocketAddr,
    trusted: &[Cidr],
) -> Result<SocketAddr, ProxyError> {
    let read = read_header(stream, peer, trusted);
    tokio::time::timeout(TIMEOUT, read).await.map_err(|_| ProxyError::TimedOut)?
}

async fn read_header(
    stream: &mut TcpStream,
    peer: SocketAddr,
    trusted: &[Cidr],
) -> Result<SocketAddr, ProxyError> {
    let mut first = [0_u8; 1];
    let seen = stream.peek(&mut first).await?;
    if seen == 0 || !matches!(first, [b'P' | b'\r']) {
        return Ok(peer);
    }
    if !trusted.iter().any(|cidr| cidr.contains(peer.ip())) {
        return Err(ProxyError::Untrusted(peer.ip()));
    }
    let told = if first == [b'P'] { read_v1(stream).await? } else { read_v2(stream).await? };
    Ok(told.unwrap_or(peer))
}

/// Reads a header of either version.
///
/// # Errors
/// [`ProxyError`].
pub async fn proxy_header(mut bytes: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    match bytes.first() {
        Some(b'P') => read_v1(&mut bytes).await,
        _ => read_v2(&mut bytes).await,
    }
}

async fn read_v1(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    // Byte by byte, so that nothing after the line is taken; at most 107 of them.
    let mut line = Vec::with_capacity(MAX_V1);
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_V1 {
            return Err(ProxyError::Malformed("line is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    let text = str::from_utf8(&line).map_err(|_| ProxyError::Malformed("line is not ASCII"))?;
    parse_v1(text.trim_end_matches("\r\n"))
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443`, or `PROXY UNKNOWN` with anything after it.
fn parse_v1(line: &str) -> Result<Option<SocketAddr>, ProxyError> {
    const BAD: ProxyError = ProxyError::Malformed("not a version 1 line");
    let mut words = line.split(' ');
    if words.next() != Some("PROXY") {
        return Err(BAD);
    }
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let mut ip = || words.next()?.parse::<IpAddr>().ok();
    let (source, destination) = (ip().ok_or(BAD)?, ip().ok_or(BAD)?);
    let mut port = || words.next()?.parse::<u16>().ok();
    let (source_port, _) = (port().ok_or(BAD)?, port().ok_or(BAD)?);
    let fits = match family {
        Some("TCP4") => source.is_ipv4() && destination.is_ipv4(),
        Some("TCP6") => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    if !fits || words.next().is_some() {
        return Err(BAD);
    }
    Ok(Some(SocketAddr::new(source, source_port)))
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let mut head = [0_u8; 16];
    stream.read_exact(&mut head).await?;
    let [signature @ .., version_command, family, high, low] = head;
    if signature != V2_SIGNATURE {
        return Err(ProxyError::Malformed("signature of version 2 is wrong"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2 {
        return Err(ProxyError::Malformed("version 2 header is too long"));
    }
    let mut body = vec![0_u8; length];
    stream.read_exact(&mut body).await?;
    parse_v2(version_command, family, &body)
}

fn parse_v2(
    version_command: u8,
    family: u8,
    body: &[u8],
) -> Result<Option<SocketAddr>, ProxyError> {
    const SHORT: ProxyError = ProxyError::Malformed("version 2 addresses are cut short");
    match version_command {
        // LOCAL: the proxy's own connection, for instance a health check.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(ProxyError::Malformed("version or command is unknown")),
    }
    match family {
        0x11 => {
            let all: &[u8; 12] = body.first_chunk().ok_or(SHORT)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *all;
            let ip = Ipv4Addr::new(a, b, c, d);
            Ok(Some(SocketAddr::new(ip.into(), u16::from_be_bytes([high, low]))))
        }
        0x21 => {
            let source: &[u8; 16] = body.first_chunk().ok_or(SHORT)?;
            let ports = body.get(32..36).ok_or(SHORT)?;
            let port: &[u8; 2] = ports.first_chunk().ok_or(SHORT)?;
            Ok(Some(SocketAddr::new(Ipv6Addr::from(*source).into(), u16::from_be_bytes(*port))))
        }
        // Unspecified or not TCP: the specification says to use the peer.
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    async fn sent(
        bytes: &[u8],
        trusted: &[&str],
    ) -> (Result<SocketAddr, ProxyError>, SocketAddr, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, peer) = listener.accept().await.unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let trusted: Vec<Cidr> = trusted.iter().map(|t| t.parse().unwrap()).collect();
        let got = client_address(&mut stream, peer, &trusted).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        (got, peer, rest)
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    const LOCAL: &[&str] = &["127.0.0.0/8"];

    #[tokio::test]
    async fn a_trusted_proxy_names_the_client_and_the_rest_stays() {
        let mut v4 = v2(0x21, 0x11, &[192, 0, 2, 1, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb, 9, 9]);
        v4.extend(b"\x16tls");
        for (bytes, want) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n\x16tls".to_vec(), "192.0.2.1:56324"),
            (b"PROXY TCP6 2001:db8::1 ::1 5 443\r\n\x16tls".to_vec(), "[2001:db8::1]:5"),
            (v4, "192.0.2.1:56324"),
        ] {
            let (got, _, rest) = sent(&bytes, LOCAL).await;
            assert_eq!(got.unwrap().to_string(), want);
            assert_eq!(rest, b"\x16tls");
        }
        let mut body = Ipv6Addr::LOCALHOST.octets().to_vec();
        body.extend([0; 16]);
        body.extend([1, 2, 0, 0]);
        let (got, _, _) = sent(&v2(0x21, 0x21, &body), LOCAL).await;
        assert_eq!(got.unwrap().to_string(), "[::1]:258");
    }

    #[tokio::test]
    async fn without_a_header_or_with_an_unknown_one_it_is_the_peer() {
        for bytes in [
            b"\x16tls".to_vec(),
            b"PROXY UNKNOWN whatever\r\n".to_vec(),
            v2(0x20, 0, &[]),
            v2(0x21, 0x00, &[]),
            Vec::new(),
        ] {
            let (got, peer, _) = sent(&bytes, LOCAL).await;
            assert_eq!(got.unwrap(), peer);
        }
        let (got, peer, rest) = sent(b"\x16tls", &[]).await;
        assert_eq!((got.unwrap(), &*rest), (peer, &b"\x16tls"[..]));
    }

    #[tokio::test]
    async fn nobody_but_a_trusted_proxy_can_name_a_client() {
        let line = b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n";
        for trusted in [&[][..], &["10.0.0.0/8", "::/0"][..]] {
            let (got, _, _) = sent(line, trusted).await;
            assert!(matches!(got, Err(ProxyError::Untrusted(_))));
        }
    }

    #[tokio::test]
    async fn malformed_and_endless_headers_are_refused() {
        let mut endless = b"PROXY TCP4 ".to_vec();
        endless.extend([b' '; 500]);
        let mut long = V2_SIGNATURE.to_vec();
        long.extend([0x21, 0x11, 0xff, 0xff]);
        for bytes in [
            endless,
            long,
            b"PRI * HTTP/2.0\r\n\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4\r\n".to_vec(),
            b"PROXY TCP4 1.2".to_vec(),
            v2(0x31, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            b"\r\n\r\n".to_vec(),
        ] {
            let (got, _, _) = sent(&bytes, LOCAL).await;
            assert!(got.is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn no_bytes_make_the_parsers_panic_or_invent_a_client() {
        let mut random = signet_base::Jitter::from_seed(1);
        for _ in 0..20_000 {
            let length = (random.next_u64() % 60) as usize;
            let bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
            let _ = parse_v2(random.next_u64() as u8, random.next_u64() as u8, &bytes);
            let line = format!("PROXY TCP4 {}", String::from_utf8_lossy(&bytes));
            assert!(parse_v1(&line).is_err());
        }
    }
}
