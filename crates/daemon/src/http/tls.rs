//! TLS in front of an HTTP server, with a certificate of files or one that somebody else renews.

use std::{
    fmt, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use signet_base::{SharedClock, chain};
use signet_config::{EndpointCertificate, EndpointClients as Clients, EndpointTls};
use signet_identity::SpiffeId;
use signet_pki::{
    text_file::{self, TextFileError},
    tls::{
        BundleSource, CertFiles, CertFilesError, EndpointClients, SwappableIdentity, TlsError,
        TlsOptions, endpoint_config,
    },
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::TlsAcceptor;

use super::{Duplex, Secure};

/// How often is looked whether the files have changed.
const LOOK: Duration = Duration::from_secs(10);

/// Why an endpoint cannot speak TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] TextFileError),
    /// An authorized SPIFFE ID is none.
    #[error("{0:?} is no SPIFFE ID: {1}")]
    Id(String, String),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Files(#[from] CertFilesError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What TLS needs of the program: its own SVID, and the bundles that those of others are verified
/// with.
#[derive(Clone, Debug)]
pub struct SvidSource {
    /// The program's own X.509-SVID.
    pub identity: Arc<SwappableIdentity>,
    /// Bundles by trust domain.
    pub bundles: Arc<dyn BundleSource>,
}

/// TLS for connections to an endpoint.
pub struct Https {
    acceptor: TlsAcceptor,
    files: Option<Arc<Files>>,
}

impl Https {
    /// As `settings` say; files are read, and read again when they change.
    ///
    /// # Errors
    /// [`HttpsError`] when a file cannot be read, or certificate and key do not fit together.
    pub fn open(
        settings: &EndpointTls,
        svid: SvidSource,
        clock: SharedClock,
        require_pq_kem: bool,
    ) -> Result<Self, HttpsError> {
        let (identity, files) = match &settings.certificate {
            EndpointCertificate::Svid => (svid.identity, None),
            EndpointCertificate::Files { cert, key } => {
                let files = Files::open(cert, key)?;
                (files.identity(), Some(Arc::new(files)))
            }
        };
        let clients = match &settings.clients {
            Clients::Anyone => EndpointClients::Anyone,
            Clients::Ca(file) => EndpointClients::Roots(text_file::certificates(file)?),
            Clients::SpiffeIds(ids) => {
                let parsed = ids.iter().map(|id| {
                    id.parse::<SpiffeId>()
                        .map_err(|error| HttpsError::Id(id.clone(), error.to_string()))
                });
                let ids = parsed.collect::<Result<Vec<_>, _>>()?.into();
                EndpointClients::SpiffeIds { bundles: svid.bundles, ids }
            }
        };
        let options = TlsOptions { require_pq_kem };
        let config = endpoint_config(identity, clients, clock, options)?;
        Ok(Self { acceptor: TlsAcceptor::from(config), files })
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Https(..)")
    }
}

#[async_trait]
impl Secure for Https {
    async fn secure(&self, stream: TcpStream) -> io::Result<Box<dyn Duplex>> {
        if let Some(files) = &self.files {
            files.look().await;
        }
        Ok(Box::new(self.acceptor.accept(stream).await?))
    }
}

/// A certificate and its key in files, looked at when a connection comes in.
#[derive(Debug)]
struct Files {
    files: Mutex<CertFiles>,
    looked: Mutex<Instant>,
}

impl Files {
    fn open(cert: &Path, key: &Path) -> Result<Self, HttpsError> {
        let files = Mutex::new(CertFiles::load(cert, key)?);
        Ok(Self { files, looked: Mutex::new(Instant::now()) })
    }

    fn identity(&self) -> Arc<SwappableIdentity> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).identity()
    }

    /// Reads the files again if it is time. While they are broken (somebody is replacing them) the
    /// last good ones stay in use.
    async fn look(self: &Arc<Self>) {
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < LOOK {
                return;
            }
            *looked = Instant::now();
        }
        let me = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            me.files.lock().unwrap_or_else(PoisonError::into_inner).refresh()
        });
        match read.await {
            Ok(Ok(true)) => tracing::info!("An endpoint presents a new certificate"),
            // An error of the task comes only at the end of the program.
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    error = chain(&error),
                    "Staying with the last good certificate of an endpoint"
                );
            }
        }
    }
}
