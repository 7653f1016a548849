//! What can go wrong with a request.

use std::{io, time::Duration};

use super::redact::redacted;

/// A proxy's URL is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable proxy URL: {0}; expected http://[user:password@]host[:port] or https://")]
pub struct ProxyUrlError(pub(super) String);

/// Why a request has no answer. URLs are shown without user, password and query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The URL is not absolute, not `http` or `https`, or names a user.
    #[error("not a usable URL: {0}; expected http:// or https:// with a host and no user")]
    BadUrl(String),
    /// No connection.
    #[error("connecting to {server}")]
    Connect {
        /// Host and port.
        server: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The exchange of request and answer broke off.
    #[error("asking {server}")]
    Exchange {
        /// Host and port.
        server: String,
        /// What the HTTP library says.
        source: hyper::Error,
    },
    /// The proxy does not connect.
    #[error("proxy {proxy} does not connect to {server}: {reason}")]
    Proxy {
        /// Host and port of the proxy.
        proxy: String,
        /// Host and port of the server.
        server: String,
        /// Its status line, or what is wrong with its answer.
        reason: String,
    },
    /// A proxy's URL is not understood.
    #[error(transparent)]
    ProxyUrl(#[from] ProxyUrlError),
    /// An answer with an unexpected status.
    #[error("{url} answers with status {status}: {body}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How the body begins.
        body: String,
    },
    /// The deadline passed.
    #[error("{server} did not answer within {} ms", .after.as_millis())]
    TimedOut {
        /// Host and port.
        server: String,
        /// The deadline.
        after: Duration,
    },
    /// The TLS handshake failed.
    #[error("TLS handshake with {server}")]
    Tls {
        /// Host and port.
        server: String,
        /// What the TLS library says.
        source: io::Error,
    },
    /// The server is connected to, but it may not be spoken to.
    #[error("{server} is not asked")]
    Refused {
        /// Host and port.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// The answer is larger than allowed.
    #[error("answer of {server} is larger than {limit} bytes")]
    TooLarge {
        /// Host and port.
        server: String,
        /// The limit.
        limit: usize,
    },
    /// The root certificates are not usable.
    #[error("root certificates are not usable: {0}")]
    Trust(String),
}

impl HttpError {
    /// Whether the request certainly never reached its server, so that it can be sent again whatever
    /// it is.
    pub fn had_no_effect(&self) -> bool {
        matches!(
            self,
            Self::BadUrl(_)
                | Self::Connect { .. }
                | Self::Proxy { .. }
                | Self::Refused { .. }
                | Self::Tls { .. }
        )
    }

    pub(super) fn bad_url(url: &str) -> Self {
        Self::BadUrl(redacted(url))
    }
}
