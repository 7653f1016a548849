//! Opening the connection that a request goes over.

use std::{io, path::Path, sync::Arc, time::Duration};

use http::HeaderValue;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use super::{
    HttpError, Peers, Proxies,
    peers::Anybody,
    proxy::Proxy,
    url::{Target, bare, bracketed},
};

/// The largest answer of a proxy to CONNECT, in bytes.
const MAX_CONNECT_ANSWER: usize = 16 * 1024;

/// How long one address of a server may take to answer, before the next is tried or the caller
/// tries again: a connection that was on its way to a server that was replaced never arrives.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection of any kind.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// How a server is reached.
#[derive(Debug, Clone, Copy)]
pub(super) enum Route<'a> {
    Direct,
    Socket(&'a Path),
    Through(&'a Proxy, Forward),
}

/// What a proxy is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forward {
    /// To send a plain request on.
    Request,
    /// To connect, for TLS inside.
    Tunnel,
}

impl<'a> Route<'a> {
    pub(super) fn of(target: &Target, socket: Option<&'a Path>, proxies: &'a Proxies) -> Self {
        if let Some(path) = socket {
            return Self::Socket(path);
        }
        match proxies.of(target.tls, &target.host, target.port) {
            Some(proxy) if target.tls => Self::Through(proxy, Forward::Tunnel),
            Some(proxy) => Self::Through(proxy, Forward::Request),
            None => Self::Direct,
        }
    }

    /// Whether the request goes to a proxy that sends it on, with its absolute URL.
    pub(super) fn is_forwarded(&self) -> bool {
        matches!(self, Self::Through(_, Forward::Request))
    }

    pub(super) fn forward_authorization(&self) -> Option<HeaderValue> {
        match self {
            Self::Through(proxy, Forward::Request) => proxy.authorization(),
            _ => None,
        }
    }
}

pub(super) async fn open(
    target: &Target,
    route: &Route<'_>,
    tls: &Arc<ClientConfig>,
    server_name: &str,
    peers: &dyn Peers,
) -> Result<Box<dyn ByteStream>, HttpError> {
    let mut direct = None;
    let stream: Box<dyn ByteStream> = match route {
        Route::Direct => {
            let stream = tcp(&target.host, target.port, peers).await?;
            let ends = || Ok((stream.local_addr()?, stream.peer_addr()?));
            direct = Some(ends().map_err(|source| connecting(target, source))?);
            Box::new(stream)
        }
        Route::Socket(path) => {
            let connected = UnixStream::connect(path).await;
            Box::new(connected.map_err(|source| HttpError::Connect {
                server: path.display().to_string(),
                source,
            })?)
        }
        Route::Through(proxy, forward) => {
            let stream = tcp(&proxy.host, proxy.port, &Anybody).await?;
            let mut stream: Box<dyn ByteStream> = if proxy.tls {
                handshake(Box::new(stream), &proxy.host, &proxy.to_string(), tls).await?
            } else {
                Box::new(stream)
            };
            if *forward == Forward::Tunnel {
                tunnel(&mut stream, proxy, &target.to_string()).await?;
            }
            stream
        }
    };
    let stream = if target.tls {
        handshake(stream, server_name, &target.to_string(), tls).await?
    } else {
        stream
    };
    if let Some((local, peer)) = direct {
        peers
            .connected(local, peer)
            .await
            .map_err(|source| HttpError::Refused { server: target.to_string(), source })?;
    }
    Ok(stream)
}

fn connecting(target: &Target, source: io::Error) -> HttpError {
    HttpError::Connect { server: target.to_string(), source }
}

/// Opens a TCP connection to a server, through the proxy for `https` if there is one.
///
/// For protocols of their own over TLS, such as gRPC: the caller does TLS inside. `host` may be a
/// name or an address, with or without brackets. The caller sets the deadline.
///
/// # Errors
/// [`HttpError::Connect`] or [`HttpError::Proxy`]; a proxy that is itself behind TLS is refused.
pub async fn connect_via_proxy(
    proxies: &Proxies,
    host: &str,
    port: u16,
) -> Result<TcpStream, HttpError> {
    let host = bare(host);
    let Some(proxy) = proxies.of(true, host, port) else {
        return tcp(host, port, &Anybody).await;
    };
    let server = format!("{}:{port}", bracketed(host));
    if proxy.tls {
        let reason = "a proxy behind TLS cannot be used for this connection".to_owned();
        return Err(HttpError::Proxy { proxy: proxy.to_string(), server, reason });
    }
    let mut stream = tcp(&proxy.host, proxy.port, &Anybody).await?;
    tunnel(&mut stream, proxy, &server).await?;
    Ok(stream)
}

async fn tcp(host: &str, port: u16, peers: &dyn Peers) -> Result<TcpStream, HttpError> {
    let failed =
        |source| HttpError::Connect { server: format!("{}:{port}", bracketed(host)), source };
    let mut why = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in peers.resolve(host, port).await.map_err(failed)? {
        match tokio::time::timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(failed)?;
                return Ok(stream);
            }
            Ok(Err(error)) => why = error,
            Err(_) => {
                let text = format!("no answer from {} within {ADDRESS_TIMEOUT:?}", address.ip());
                why = io::Error::new(io::ErrorKind::TimedOut, text);
            }
        }
    }
    Err(failed(why))
}

async fn handshake(
    stream: Box<dyn ByteStream>,
    host: &str,
    server: &str,
    tls: &Arc<ClientConfig>,
) -> Result<Box<dyn ByteStream>, HttpError> {
    let failed = |source| HttpError::Tls { server: server.to_owned(), source };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let connector = TlsConnector::from(Arc::clone(tls));
    Ok(Box::new(connector.connect(name, stream).await.map_err(failed)?))
}

/// Asks a proxy to connect to `server`, and takes exactly its answer off the stream.
async fn tunnel(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
    server: &str,
) -> Result<(), HttpError> {
    let mut request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n").into_bytes();
    if let Some(authorization) = proxy.authorization() {
        request.extend(b"Proxy-Authorization: ");
        request.extend(authorization.as_bytes());
        request.extend(b"\r\n");
    }
    request.extend(b"\r\n");
    let refused = |reason: &str| HttpError::Proxy {
        proxy: proxy.to_string(),
        server: server.to_owned(),
        reason: reason.chars().filter(|c| !c.is_control()).take(200).collect(),
    };
    let answer = async {
        stream.write_all(&request).await?;
        // Byte by byte: what follows the answer belongs to the server.
        let mut answer = Vec::with_capacity(256);
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= MAX_CONNECT_ANSWER {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
            }
            answer.push(stream.read_u8().await?);
        }
        io::Result::Ok(answer)
    };
    let answer = answer.await.map_err(|error| refused(&error.to_string()))?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    let mut words = status.split(' ');
    let spoken = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    if spoken && words.next().is_some_and(|code| code.len() == 3 && code.starts_with('2')) {
        Ok(())
    } else {
        Err(refused(status))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_is_given_up() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        // Room for one connection that nobody accepts.
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let _only = std::net::TcpStream::connect(address).unwrap();
        let began = tokio::time::Instant::now();
        let error = tcp("127.0.0.1", address.port(), &Anybody).await.unwrap_err();
        assert_eq!(began.elapsed(), ADDRESS_TIMEOUT);
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "no answer from 127.0.0.1 within 5s");
    }
}
