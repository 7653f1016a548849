//! Where the console listens.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use signet_base::Tasks;
use signet_daemon::{
    http::{Duplex, HttpServer, Secure},
    listen::{Caps, Each, ListenError, bind_host},
};
use signet_pki::tls::{ALPN_HTTP1, CertFiles, CertFilesError, peer_of};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::Console;
use crate::{config::ConsoleSettings, http::watch_files, usecase::principal::Peer};

/// Browsers keep some six connections each.
const CAPS: Caps = Caps {
    total: 64,
    each: Each::Share,
    idle: Some(Duration::from_secs(1)),
    busy: Some(Duration::from_secs(60)),
};
/// How often certificate files are looked at.
const LOOK: Duration = Duration::from_secs(30);

/// Why the console cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsoleError {
    /// Its certificate cannot be used.
    #[error("the certificate of the console")]
    Certificate(#[from] CertFilesError),
    /// Its address cannot be bound.
    #[error("opening the console (console {{ address, port }})")]
    Listen(#[from] ListenError),
}

/// The console's listener, bound and not served yet.
pub struct ConsoleServer {
    server: HttpServer,
    files: Option<CertFiles>,
}

impl ConsoleServer {
    /// Reads the certificate, if the settings name one, and binds the address.
    ///
    /// # Errors
    /// [`ConsoleError`] when a certificate file cannot be used, or the address cannot be bound.
    pub async fn bind(
        settings: &ConsoleSettings,
        listener: Option<TcpListener>,
    ) -> Result<Self, ConsoleError> {
        let files = settings.files.as_ref();
        let files = files.map(|(cert, key)| CertFiles::load(cert, key)).transpose()?;
        let listener = match listener {
            Some(listener) => listener,
            None => bind_host(&settings.address, settings.port).await?,
        };
        Ok(Self { server: HttpServer::new("console", listener)?.capped(CAPS), files })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Serves until the tasks end. `tls` is that of the API, which asks for certificates of clients
    /// and verifies them; the console's own certificate takes the place of the server's SVID.
    pub fn spawn(self, tasks: &Tasks, console: Console, tls: &ServerConfig) {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        if let Some(files) = self.files {
            tls.cert_resolver = files.identity();
            watch_files(tasks, "console", files, LOOK);
        }
        tracing::info!(addr = %self.server.address(), "Serving the web console");
        let secure = Arc::new(Browsers(TlsAcceptor::from(Arc::new(tls))));
        self.server.secured(secure).spawn(tasks, console.router());
    }
}

impl fmt::Debug for ConsoleServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConsoleServer(on {})", self.server.address())
    }
}

/// TLS with an optional certificate of the client.
struct Browsers(TlsAcceptor);

#[async_trait]
impl Secure for Browsers {
    async fn secure(&self, stream: TcpStream) -> io::Result<Box<dyn Duplex>> {
        Ok(Box::new(self.0.accept(stream).await?))
    }

    async fn identify(
        &self,
        stream: TcpStream,
        addr: SocketAddr,
    ) -> io::Result<(Box<dyn Duplex>, axum::http::Extensions)> {
        let stream = self.0.accept(stream).await?;
        let (_, session) = stream.get_ref();
        let peer = peer_of(session.peer_certificates()).map_err(io::Error::other)?;
        let mut carried = axum::http::Extensions::new();
        carried.insert(Peer::remote(addr, peer));
        Ok((Box::new(stream), carried))
    }
}
