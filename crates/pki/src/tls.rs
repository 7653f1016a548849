//! TLS between servers, agents and admins: SPIFFE authentication on rustls, never by host name.

mod client;
mod identity;
mod provider;
mod server;
mod verifier;

pub use client::{ServerCheck, client_config};
pub use identity::{SwappableIdentity, TlsIdentity};
pub use provider::{TlsError, TlsOptions};
pub use server::{ClientPolicy, server_config};
pub use verifier::{BundleSource, Peer, StaticBundles, peer_of};
