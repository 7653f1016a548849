//! Where a built server listens, and what its services share.

use std::{net::SocketAddr, path::PathBuf};

use super::{App, BundleEndpoint, Context, OidcProvider};

impl App {
    /// Where the network API listens.
    ///
    /// # Errors
    /// What the system answers.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Where the bundle endpoint listens, if there is one.
    pub fn bundle_endpoint(&self) -> Option<SocketAddr> {
        self.bundle_endpoint.as_ref().map(BundleEndpoint::address)
    }

    /// Where the OIDC discovery provider listens, if there is one on TCP.
    pub fn oidc(&self) -> Option<SocketAddr> {
        self.oidc.as_ref().and_then(OidcProvider::address)
    }

    /// Where the local API listens.
    pub fn socket_path(&self) -> &PathBuf {
        &self.context.config.socket_path
    }

    /// What the services share.
    pub fn context(&self) -> &Context {
        &self.context
    }
}
