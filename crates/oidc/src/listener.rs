//! Where a provider is reached: by TLS with certificate files or with certificates by ACME, by plain
//! TCP behind something that does TLS, or on a Unix socket.

use std::{fmt, io, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use signet_acme::{Acme, CacheDir, Status};
use signet_base::{SharedClock, Tasks, chain};
use signet_daemon::{
    http::{Duplex, HttpServer, PUBLIC, Secure, spawn_on_socket},
    listen::{ListenError, UnixOptions, UnixSocket, bind_host_or_all, bind_unix},
};
use signet_pki::tls::{CertFiles, CertFilesError, TlsError, TlsOptions, web_server_config_with};
use tokio::{
    net::{TcpListener, TcpStream},
    time::MissedTickBehavior,
};
use tokio_rustls::TlsAcceptor;

use crate::provider::Provider;

/// The socket is for whatever web server is in front, of whatever user, as with SPIRE.
const SOCKET: UnixOptions =
    UnixOptions { dir_mode: Some(0o755), socket_mode: 0o777, take_over: false };

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    /// `acme`: HTTPS with certificates that an authority issues.
    Acme {
        /// `addr` (our own key), default `:443`.
        address: Address,
        /// Whom to ask for which certificates.
        settings: signet_acme::Settings,
        /// `cache_dir`, default `./.acme-cache`: where keys and certificates are kept; none keeps them
        /// in memory alone.
        cache_dir: Option<PathBuf>,
    },
    /// `serving_cert_file`: HTTPS.
    CertFiles {
        /// `addr`, default `:443`.
        address: Address,
        /// `cert_file_path`: PEM, leaf first.
        cert: PathBuf,
        /// `key_file_path`: PEM.
        key: PathBuf,
        /// `file_sync_interval`, default 1 minute: how often the files are looked at.
        sync_interval: Duration,
    },
    /// `insecure_addr`: plain HTTP.
    Insecure(Address),
    /// `listen_socket_path`: plain HTTP on a Unix socket.
    Socket(PathBuf),
}

/// `host:port`, `[address]:port` or `:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT or :PORT")]
pub struct BadAddress;

impl Address {
    /// All addresses of the machine.
    pub fn any(port: u16) -> Self {
        Self { host: String::new(), port }
    }

    async fn bind(&self) -> Result<TcpListener, ListenError> {
        bind_host_or_all(&self.host, self.port).await
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(BadAddress)?;
        let port = port.parse().map_err(|_| BadAddress)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains([':', '/']) {
            return Err(BadAddress);
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Its certificate cannot be used.
    #[error("the OIDC discovery provider's certificate")]
    Certificate(#[from] CertFilesError),
    /// Its address cannot be bound.
    #[error("opening the OIDC discovery provider")]
    Listen(#[from] ListenError),
    /// TLS cannot be set up.
    #[error("setting up the OIDC discovery provider's TLS")]
    Tls(#[from] TlsError),
}

/// A listener that is open and not served yet.
#[derive(Debug)]
pub struct Bound(Kind);

#[derive(Debug)]
enum Kind {
    Acme(HttpServer, Acme),
    Plain(HttpServer),
    Secured(HttpServer, CertFiles, Duration),
    Socket(UnixSocket),
}

struct Tls(TlsAcceptor);

#[async_trait]
impl Secure for Tls {
    async fn secure(&self, stream: TcpStream) -> io::Result<Box<dyn Duplex>> {
        let stream = self.0.accept(stream).await?;
        signet_acme::refuse_challenge(stream.get_ref().1)?;
        Ok(Box::new(stream))
    }
}

impl Listener {
    /// Opens it.
    ///
    /// # Errors
    /// [`BindError`] when a certificate file cannot be used, or the address cannot be bound.
    pub async fn bind(&self, clock: SharedClock) -> Result<Bound, BindError> {
        const NAME: &str = "oidc";
        Ok(Bound(match self {
            Self::Acme { address, settings, cache_dir } => {
                let store = Arc::new(CacheDir::new(cache_dir.clone()));
                let acme = Acme::new(settings.clone(), store, clock);
                let tls = acme.server_config(TlsOptions::default())?;
                let server = HttpServer::new(NAME, address.bind().await?)?;
                let server = server.secured(Arc::new(Tls(TlsAcceptor::from(tls)))).capped(PUBLIC);
                Kind::Acme(server, acme)
            }
            Self::CertFiles { address, cert, key, sync_interval } => {
                let files = CertFiles::load(cert, key)?;
                let tls = web_server_config_with(files.identity(), clock, TlsOptions::default())?;
                let server = HttpServer::new(NAME, address.bind().await?)?;
                let server = server.secured(Arc::new(Tls(TlsAcceptor::from(tls)))).capped(PUBLIC);
                Kind::Secured(server, files, *sync_interval)
            }
            Self::Insecure(address) => {
                Kind::Plain(HttpServer::new(NAME, address.bind().await?)?.capped(PUBLIC))
            }
            Self::Socket(path) => Kind::Socket(bind_unix(path, SOCKET).await?),
        }))
    }
}

impl Bound {
    /// Where it listens, unless on a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Acme(server, _) | Kind::Plain(server) | Kind::Secured(server, ..) => {
                Some(server.address())
            }
            Kind::Socket(_) => None,
        }
    }

    /// How its certificates by ACME fare, if it has such.
    pub fn acme(&self) -> Option<Status> {
        match &self.0 {
            Kind::Acme(_, acme) => Some(acme.status()),
            _ => None,
        }
    }

    /// Serves until the tasks end.
    pub fn spawn(self, tasks: &Tasks, provider: Provider) {
        match self.0 {
            Kind::Acme(server, acme) => {
                tracing::info!(address = %server.address(), "Serving HTTPS via ACME");
                server.spawn(tasks, provider.router(true));
                acme.spawn(tasks);
            }
            Kind::Plain(server) => {
                tracing::warn!(address = %server.address(), "Serving HTTP (insecure)");
                server.spawn(tasks, provider.router(false));
            }
            Kind::Secured(server, files, interval) => {
                tracing::info!(
                    address = %server.address(),
                    "Serving HTTPS using certificate loaded from disk"
                );
                server.spawn(tasks, provider.router(true));
                watch(tasks, files, interval);
            }
            Kind::Socket(socket) => {
                tracing::info!(socket = %socket.path().display(), "Serving HTTP");
                spawn_on_socket("oidc", socket, PUBLIC, tasks, provider.router(false));
            }
        }
    }
}

/// Looks at the certificate files from time to time.
fn watch(tasks: &Tasks, mut files: CertFiles, interval: Duration) {
    let token = tasks.token().clone();
    tasks.spawn("oidc_certificate", async move {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while token.run_until_cancelled(ticks.tick()).await.is_some() {
            match files.refresh() {
                Ok(false) => {}
                Ok(true) => tracing::info!("Serving certificate read again"),
                Err(error) => tracing::error!(
                    error = chain(&error),
                    "Failed to read the serving certificate; the one before stays in force"
                ),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_go_writes_them() {
        for (text, host, port) in [
            (":443", "", 443),
            ("127.0.0.1:80", "127.0.0.1", 80),
            ("[::1]:80", "::1", 80),
            ("oidc.test:8443", "oidc.test", 8443),
        ] {
            let read: Address = text.parse().unwrap();
            assert_eq!((read.host.as_str(), read.port), (host, port));
            assert_eq!(read.to_string(), text);
        }
        for bad in ["", "443", "a", "a:", "a:x", "::1:80", "http://a:80", "a:70000"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
