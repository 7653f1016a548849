//! Where a Vault server is and how one logs in there.

use std::{path::PathBuf, time::Duration};

use crate::Auth;

/// How long a request may take unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a Vault server is and how one logs in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its URL, `https://vault.example.org:8200`; `unix:///path` for a socket.
    pub address: String,
    /// The namespace of every request, `team/a`.
    pub namespace: Option<String>,
    /// PEM: the roots that its certificate must chain to; without it those of the machine. Read
    /// anew when it changes.
    pub ca_cert_path: Option<PathBuf>,
    /// Takes any certificate of the server.
    pub insecure_skip_verify: bool,
    /// How to log in.
    pub auth: Auth,
    /// How long each request may take, connecting included.
    pub timeout: Duration,
}

impl Settings {
    /// With the machine's roots, no namespace, and [`DEFAULT_TIMEOUT`].
    pub fn new(address: impl Into<String>, auth: Auth) -> Self {
        Self {
            address: address.into(),
            namespace: None,
            ca_cert_path: None,
            insecure_skip_verify: false,
            auth,
            timeout: DEFAULT_TIMEOUT,
        }
    }
}
