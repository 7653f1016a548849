//! Certificates from a certificate authority that speaks ACME (RFC 8555), for a TLS listener of ours:
//! obtained when there is none, renewed long before they expire, kept over restarts.
//!
//! Domains are confirmed on the listener itself (`tls-alpn-01`, RFC 8737), so nothing else has to
//! listen. The protocol is `instant-acme`'s; keys stay where a [`Store`] has them, which may be a key
//! manager that never shows them.
//!
//! A listener takes its TLS from [`Acme::server_config`], asks [`refuse_challenge`] about each
//! connection, and starts [`Acme::spawn`]. Nothing waits for the authority: until there
//! is a certificate, handshakes fail, and [`Acme::status`] says why.

mod certificates;
mod config;
mod error;
mod keeper;
mod order;
mod schedule;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod transport;

use std::{fmt, io, sync::Arc};

use rustls::{ServerConfig, ServerConnection};
use signet_base::{SharedClock, Tasks};
use signet_pki::tls::{TlsError, TlsOptions, web_server_config_with};

use self::{certificates::Certificates, keeper::Keeper};
pub use self::{
    config::{BadDomainName, DomainName, settings},
    error::AcmeError,
    status::{DomainStatus, Status},
    store::{CacheDir, KeyManagerStore, Store, StoreError},
};

/// The directory of Let's Encrypt, which is asked unless another is configured.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// The application protocol of the connections by which a domain is confirmed (RFC 8737).
const ALPN_CHALLENGE: &[u8] = b"acme-tls/1";

/// Whom to ask for certificates, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The authority's directory, `https://…`.
    pub directory_url: String,
    /// Whom the authority may write to; none is told to it when there is none.
    pub email: Option<String>,
    /// The domains, lower case; each gets a certificate of its own, so that one which cannot be
    /// confirmed does not take the others with it.
    pub domains: Vec<String>,
}

/// Keeps the certificates of a listener.
pub struct Acme {
    settings: Settings,
    store: Arc<dyn Store>,
    clock: SharedClock,
    certificates: Arc<Certificates>,
    status: Status,
}

impl Acme {
    /// Reads and asks nothing yet.
    pub fn new(settings: Settings, store: Arc<dyn Store>, clock: SharedClock) -> Self {
        let certificates = Arc::new(Certificates::new(&settings.domains));
        let status = Status::new(&settings.domains);
        Self { settings, store, clock, certificates, status }
    }

    /// The TLS of the listener: the newest certificate of the domain that a client asks for, and the
    /// answers to challenges. A client that asks for another domain is refused; one that asks for none
    /// gets the first domain's.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn server_config(&self, options: TlsOptions) -> Result<Arc<ServerConfig>, TlsError> {
        let certificates = Arc::clone(&self.certificates);
        let config = web_server_config_with(certificates, Arc::clone(&self.clock), options)?;
        let mut config = Arc::unwrap_or_clone(config);
        // Last: who offers it beside others is no authority.
        config.alpn_protocols.push(ALPN_CHALLENGE.to_vec());
        Ok(Arc::new(config))
    }

    /// How each domain fares.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Reads what is kept, and obtains and renews certificates until the tasks end.
    pub fn spawn(self, tasks: &Tasks) {
        tasks.spawn_until_end("acme", Keeper::new(self).run());
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Refuses to serve anything on a connection that was an authority's to confirm a domain: the
/// handshake was all of it.
///
/// # Errors
/// For such a connection.
pub fn refuse_challenge(connection: &ServerConnection) -> io::Result<()> {
    match connection.alpn_protocol() {
        Some(ALPN_CHALLENGE) => Err(io::Error::other("a challenge of a certificate authority")),
        _ => Ok(()),
    }
}
