//! Sockets: binding them with the right modes, accepting within bounds, PROXY headers.

mod admission;
mod directory;
mod incoming;
mod proxy;
mod unix;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::net::{TcpListener, lookup_host};

// For fuzz/.
#[doc(hidden)]
pub use self::proxy::proxy_header;
pub use self::{
    admission::{Admission, Call, Caps, Each, Full, Ticket},
    directory::make_directories,
    incoming::{Accept, Connection, Incoming, counted_address, handshakes},
    proxy::{ProxyError, client_address},
    unix::{
        MAX_SOCKET_PATH, SocketPlace, UnixOptions, UnixSocket, bind_unix, check_unix_path,
        check_unix_unused, remove_stale,
    },
};

/// How long a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The directory of a socket cannot be made.
    #[error("creating directory {} for a socket", .path.display())]
    Directory {
        /// The directory's path.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A program answers on the socket.
    #[error("socket {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A directory is in the place of the socket.
    #[error("socket path {} is a directory", .0.display())]
    IsDirectory(PathBuf),
    /// Something else than a socket is in the place of the socket; it is left alone.
    #[error("socket path {} exists and is not a socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The path does not fit into a socket address.
    #[error(
        "socket path {} is {length} bytes long; the system allows at most {MAX_SOCKET_PATH}",
        .path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// A host name gives no address.
    #[error("resolving {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver answered.
        source: io::Error,
    },
    /// A TCP address cannot be bound.
    #[error("listening on {address}")]
    Tcp {
        /// The address.
        address: String,
        /// What the system answered.
        source: io::Error,
    },
    /// Another program listens on a TCP address.
    #[error("port {} is in use by another process: listening on {address}", .address.port())]
    TcpInUse {
        /// The address.
        address: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// Somebody else could put another socket into the directory of a socket, or into one above it.
    #[error("directory {} of a socket: {reason}", .path.display())]
    Untrusted {
        /// The directory, or a symbolic link on the way to it.
        path: PathBuf,
        /// Who could.
        reason: String,
    },
    /// A Unix socket cannot be bound.
    #[error("listening on socket {}", .path.display())]
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

/// Binds a TCP address. `[::]` takes IPv4 too, where the system allows it.
///
/// # Errors
/// [`ListenError::TcpInUse`] when another program listens there, else [`ListenError::Tcp`].
pub async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::TcpInUse { address, source },
        _ => ListenError::Tcp { address: address.to_string(), source },
    })
}

/// Binds a host name or address (IPv6 with or without brackets); of several addresses of a name an
/// IPv4 one is taken, as Go does.
///
/// # Errors
/// [`ListenError::Resolve`], or those of [`bind_tcp`].
pub async fn bind_host(host: &str, port: u16) -> Result<TcpListener, ListenError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return bind_tcp(SocketAddr::new(ip, port)).await;
    }
    let failed = |source| ListenError::Resolve { host: host.to_owned(), source };
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, lookup_host((bare, port)))
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    match found.first() {
        Some(address) => bind_tcp(*address).await,
        None => Err(failed(io::ErrorKind::NotFound.into())),
    }
}

/// Binds a host as [`bind_host`] does; no host is all addresses, of IPv4 alone where there is no
/// other.
///
/// # Errors
/// Those of [`bind_host`].
pub async fn bind_host_or_all(host: &str, port: u16) -> Result<TcpListener, ListenError> {
    if !host.is_empty() {
        return bind_host(host, port).await;
    }
    match bind_host("::", port).await {
        // A machine without IPv6.
        Err(ListenError::Tcp { .. }) => bind_host("0.0.0.0", port).await,
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_and_addresses_of_both_families_are_bound() {
        for host in ["localhost", "127.0.0.1"] {
            let listener = bind_host(host, 0).await.unwrap();
            assert!(listener.local_addr().unwrap().is_ipv4(), "{host}");
        }
        for host in ["::1", "[::1]"] {
            if let Ok(listener) = bind_host(host, 0).await {
                assert!(listener.local_addr().unwrap().is_ipv6(), "{host}");
            }
        }
    }

    #[tokio::test]
    async fn errors_name_the_address() {
        let first = bind_host("127.0.0.1", 0).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let error = bind_host("127.0.0.1", port).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("port {port} is in use by another process: listening on 127.0.0.1:{port}")
        );
        let error = bind_host("no such host", 1).await.unwrap_err();
        assert_eq!(error.to_string(), "resolving no such host");
    }
}
