//! TLS of database connections, on the one TLS stack that all programs share.

use std::{
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls_pki_types::ServerName;
use signet_base::SystemClock;
use signet_pki::{
    PrivateKey, pem, text_file,
    tls::{SwappableIdentity, TlsIdentity, WebCheck, web_client_config},
    x509::Certificate,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::{TlsConnector, client, rustls::ClientConfig};

use super::{
    dsn::{ConnectionString, Host, Pem, Roots, SslMode},
    socket::Socket,
};

/// The protocol that `sslnegotiation=direct` names.
const ALPN: &[u8] = b"postgresql";

/// How servers are checked, and who we are.
pub(crate) struct Secured {
    /// None where TLS is off.
    config: Option<Arc<ClientConfig>>,
}

impl std::fmt::Debug for Secured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secured(..)")
    }
}

impl Secured {
    /// # Errors
    /// What is wrong with the certificates that the connection string names.
    pub(crate) fn new(to: &ConnectionString) -> Result<Self, String> {
        let tls = &to.tls;
        if tls.mode == SslMode::Disable {
            return Ok(Self { config: None });
        }
        let roots = match &tls.roots {
            Roots::Any => None,
            Roots::System => Some(system_roots()),
            Roots::Pem(pem) => Some(certificates("sslrootcert", pem)?),
        };
        let check = match (tls.mode, &roots) {
            (SslMode::VerifyFull, _) => WebCheck::ChainAndName,
            (SslMode::VerifyCa, _) | (_, Some(_)) => WebCheck::Chain,
            (_, None) => WebCheck::Nothing,
        };
        let identity = match &tls.identity {
            None => None,
            Some((cert, key)) => {
                let chain = certificates("sslcert", cert)?;
                let chain: Vec<Arc<[u8]>> = chain.into_iter().map(Arc::from).collect();
                let signer = private_key(key)?.signer();
                let signer = signer.map_err(|error| format!("sslkey: {error}"))?;
                let identity = TlsIdentity::new(&chain, signer);
                let identity = identity.map_err(|error| format!("sslcert: {error}"))?;
                Some(Arc::new(SwappableIdentity::new(identity)))
            }
        };
        let roots = roots.unwrap_or_default();
        let config = web_client_config(check, &roots, identity, Arc::new(SystemClock));
        let config = config.map_err(|error| format!("sslrootcert: {error}"))?;
        let mut config = ClientConfig::clone(&config);
        config.enable_sni = tls.sends_name;
        if tls.direct {
            config.alpn_protocols = vec![ALPN.to_vec()];
        }
        Ok(Self { config: Some(Arc::new(config)) })
    }

    pub(super) fn connector(&self, host: &Host) -> Connect {
        Connect { config: self.config.clone(), host: host.name.clone(), address: host.address }
    }
}

fn system_roots() -> Vec<Vec<u8>> {
    let found = rustls_native_certs::load_native_certs();
    let ders = found.certs.iter().map(|root| root.to_vec());
    ders.filter(|der| Certificate::from_der(der).is_ok()).collect()
}

fn certificates(key: &str, from: &Pem) -> Result<Vec<Vec<u8>>, String> {
    match from {
        Pem::File(path) => {
            text_file::certificates(path).map_err(|error| format!("{key}: {}", chain(&error)))
        }
        Pem::Text(text) => {
            pem::decode_certificates(text).map_err(|error| format!("{key}: {error}"))
        }
    }
}

fn private_key(from: &Pem) -> Result<PrivateKey, String> {
    match from {
        Pem::File(path) => {
            must_be_private(path)?;
            text_file::private_key(path).map_err(|error| format!("sslkey: {}", chain(&error)))
        }
        Pem::Text(text) => PrivateKey::from_pem(text).map_err(|error| format!("sslkey: {error}")),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    signet_base::chain(error)
}

/// As libpq and lib/pq: a key that anybody may read is not used. One that belongs to root may be
/// readable for a group.
fn must_be_private(path: &std::path::Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(meta) = std::fs::metadata(path) else { return Ok(()) };
    let open = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if meta.mode() & open == 0 {
        return Ok(());
    }
    let limit = if meta.uid() == 0 { "0640" } else { "0600" };
    Err(format!("sslkey: others may read {}: set its mode to {limit} or stricter", path.display()))
}

/// Makes one connection secure.
pub(super) struct Connect {
    config: Option<Arc<ClientConfig>>,
    host: String,
    address: Option<IpAddr>,
}

impl TlsConnect<Socket> for Connect {
    type Stream = Secure;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secure>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let Some(config) = self.config else {
                return Err(io::Error::other("sslmode=disable"));
            };
            let name = match (self.host.is_empty(), self.address) {
                (true, Some(address)) => ServerName::IpAddress(address.into()),
                _ => ServerName::try_from(self.host).map_err(io::Error::other)?,
            };
            Ok(Secure(TlsConnector::from(config).connect(name, stream).await?))
        })
    }
}

/// A secured connection.
pub(super) struct Secure(client::TlsStream<Socket>);

impl TlsStream for Secure {
    fn channel_binding(&self) -> ChannelBinding {
        // lib/pq knows none either.
        ChannelBinding::none()
    }
}

impl AsyncRead for Secure {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secure {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
