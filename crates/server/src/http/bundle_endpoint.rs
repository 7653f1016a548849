//! The bundle endpoint: where others fetch the server's own trust bundle (SPIFFE Federation,
//! section 5).
//!
//! The document is encoded once for each bundle, and told apart by a strong entity tag, so that
//! whoever has it already is answered without a body. `Cache-Control` says how soon to ask again: a
//! Signet server does, and so learns of a new key within half a minute; a SPIRE server goes by the
//! refresh hint in the document.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::Response,
    routing::any,
};
use signet_acme::{Acme, KeyManagerStore, Status};
use signet_base::{SharedClock, Tasks, chain};
use signet_daemon::{
    http::{Document, HttpServer, PUBLIC, not_allowed, text},
    listen::{ListenError, bind_host},
};
use signet_identity::Bundle;
use signet_pki::{
    KeyManager, digest, jwks,
    tls::{
        CertFiles, CertFilesError, SwappableIdentity, TlsError, TlsOptions, web_server_config_with,
    },
};
use tokio::net::TcpListener;

use super::{Tls, watch_files};
use crate::{
    cache::{Cache, CachedBundle},
    config::{BundleEndpoint as Settings, EndpointProfile},
};

/// For how long an answer is fresh, at most: half of how long a new key may take to reach those who
/// honour it.
const MAX_AGE: Duration = Duration::from_secs(15);

/// Where SPIRE keeps the certificate by ACME too, below the data directory.
const ACME_DIR: &str = "bundle-acme";

/// Why the endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleEndpointError {
    /// Its certificate cannot be used.
    #[error("the bundle endpoint's certificate")]
    Certificate(#[from] CertFilesError),
    /// Its address cannot be bound.
    #[error("opening the bundle endpoint")]
    Listen(#[from] ListenError),
    /// TLS cannot be set up.
    #[error("setting up the bundle endpoint's TLS")]
    Tls(#[from] TlsError),
}

/// The endpoint, bound but not served yet.
#[derive(Debug)]
pub struct BundleEndpoint {
    server: HttpServer,
    certificate: Certificate,
    refresh_hint: Duration,
    with_wit: bool,
}

/// Whose work its certificate is.
#[derive(Debug)]
enum Certificate {
    /// An authority's.
    Acme(Acme),
    /// That of who writes the files, which are looked at that often.
    Files(CertFiles, Duration),
    /// The server's: its SVID.
    Svid,
}

/// What the endpoint's certificate may come from.
#[derive(Debug)]
pub struct Sources {
    /// The server's own SVID.
    pub identity: Arc<SwappableIdentity>,
    /// What keeps the keys of certificates by ACME.
    pub keys: Arc<dyn KeyManager>,
    /// `data_dir`: these certificates are in `bundle-acme` below it.
    pub data_dir: PathBuf,
}

impl BundleEndpoint {
    /// Binds it, or takes a listener that is bound already.
    ///
    /// # Errors
    /// [`BundleEndpointError`] when a certificate file cannot be used, or the address cannot be
    /// bound.
    pub async fn bind(
        settings: &Settings,
        listener: Option<TcpListener>,
        sources: Sources,
        clock: SharedClock,
        options: TlsOptions,
    ) -> Result<Self, BundleEndpointError> {
        let (tls, certificate) = match &settings.profile {
            EndpointProfile::HttpsSpiffe => {
                let tls = web_server_config_with(sources.identity, clock, options)?;
                (tls, Certificate::Svid)
            }
            EndpointProfile::HttpsWebAcme(settings) => {
                if !sources.keys.outlives_process() {
                    tracing::warn!(
                        "The key manager forgets the key of the bundle endpoint's certificate: each \
                         start orders another one, and authorities allow few"
                    );
                }
                let store = KeyManagerStore::new(sources.keys, sources.data_dir.join(ACME_DIR));
                let acme = Acme::new(settings.clone(), Arc::new(store), clock);
                (acme.server_config(options)?, Certificate::Acme(acme))
            }
            EndpointProfile::HttpsWeb(files) => {
                let loaded = CertFiles::load(&files.cert, &files.key)?;
                let tls = web_server_config_with(loaded.identity(), clock, options)?;
                (tls, Certificate::Files(loaded, files.sync_interval))
            }
        };
        let listener = match listener {
            Some(listener) => listener,
            None => bind_host(&settings.address, settings.port).await?,
        };
        let server = HttpServer::new("bundle_endpoint", listener)?;
        let server = server.secured(Tls::new(tls)).capped(PUBLIC);
        let (refresh_hint, with_wit) = (settings.refresh_hint, settings.publish_wit_keys);
        Ok(Self { server, certificate, refresh_hint, with_wit })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How its certificate by ACME fares, if it has one.
    pub fn acme(&self) -> Option<Status> {
        match &self.certificate {
            Certificate::Acme(acme) => Some(acme.status()),
            Certificate::Files(..) | Certificate::Svid => None,
        }
    }

    /// Serves until the tasks end.
    pub fn spawn(self, tasks: &Tasks, cache: &Arc<Cache>) {
        tracing::info!(
            addr = %self.address(),
            refresh_hint = self.refresh_hint.as_secs(),
            "Serving bundle endpoint"
        );
        match self.certificate {
            Certificate::Acme(acme) => acme.spawn(tasks),
            Certificate::Files(files, interval) => {
                watch_files(tasks, "bundle_endpoint", files, interval);
            }
            Certificate::Svid => {}
        }
        let source = Arc::new(Source {
            cache: Arc::clone(cache),
            refresh_hint: self.refresh_hint,
            with_wit: self.with_wit,
            newest: Mutex::default(),
        });
        let answer = move |request: Request| {
            let answer = source.answer(&request);
            async move { answer }
        };
        self.server.spawn(tasks, Router::new().fallback_service(any(answer)));
    }
}

/// The document of the newest bundle.
struct Source {
    cache: Arc<Cache>,
    refresh_hint: Duration,
    with_wit: bool,
    newest: Mutex<Option<(Arc<CachedBundle>, Document)>>,
}

impl Source {
    /// SPIRE's answers, and `HEAD`.
    fn answer(&self, request: &Request) -> Response {
        if request.uri().path() != "/" {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        if !(request.method().is_safe()) {
            return not_allowed();
        }
        match self.document() {
            Some(document) => document.answer(request.method(), request.headers()),
            None => {
                text(StatusCode::INTERNAL_SERVER_ERROR, "500 unable to retrieve local bundle\n")
            }
        }
    }

    fn document(&self) -> Option<Document> {
        let bundle = self.cache.own_bundle()?;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, document)) = &*newest
            && Arc::ptr_eq(of, &bundle)
        {
            return Some(document.clone());
        }
        match document(&bundle.bundle, self.refresh_hint, self.with_wit) {
            Ok(document) => {
                *newest = Some((bundle, document.clone()));
                Some(document)
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "Unable to encode the trust bundle");
                None
            }
        }
    }
}

/// The bundle in the SPIFFE bundle format. WIT authorities are left out unless they are asked for:
/// SPIRE before 1.15.3 refuses the whole document for the sake of a key of a use that it does not
/// know.
fn document(
    bundle: &Bundle,
    refresh_hint: Duration,
    with_wit: bool,
) -> Result<Document, jwks::BundleError> {
    let hint = refresh_hint.as_secs().max(1);
    let refresh_hint = hint.try_into().unwrap_or(i64::MAX);
    let served = Bundle { refresh_hint, ..bundle.clone() };
    let body = match with_wit {
        true => jwks::encode_spiffe(&served)?,
        false => jwks::encode_spiffe_without_wit(&served)?,
    };
    let digest = digest::sha256_hex(body.as_bytes());
    let fresh = hint.min(MAX_AGE.as_secs());
    let document = Document::json(body, &digest);
    Ok(match HeaderValue::try_from(format!("public, max-age={fresh}")) {
        Ok(value) => document.with(CACHE_CONTROL, value),
        Err(_) => document,
    })
}
