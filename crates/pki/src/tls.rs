//! TLS between servers, agents and admins: SPIFFE authentication on rustls, never by host name.

mod client;
mod endpoint;
mod files;
mod identity;
mod managed;
mod provider;
mod server;
mod verifier;
mod web;

pub use client::{client_config, no_server_name, spiffe_web_client_config};
pub use endpoint::{EndpointClients, endpoint_config};
pub use files::{CertFiles, CertFilesError};
pub use identity::{SwappableIdentity, TlsIdentity};
pub use provider::{ALPN_H2, ALPN_HTTP1, TlsError, TlsOptions};
pub use server::server_config;
pub use verifier::{
    BundleSource, ClientPolicy, Peer, ServerCheck, StaticBundles, is_unknown_authority, peer_of,
};
pub use web::{WebCheck, web_client_config, web_server_config, web_server_config_with};
