//! How fetching goes, and why it did not.

use signet_http::HttpError;
use signet_identity::{FederationRelationship, TrustDomain};
use signet_pki::{jwks, tls::TlsError};
use signet_store::StoreError;
use signet_time::UnixTime;

use super::fetch::FetchError;

/// Where a relationship comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    Static,
    /// The API.
    Dynamic,
}

/// How fetching goes for one relationship. Times are Unix seconds, as this server saw them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The relationship.
    pub relationship: FederationRelationship,
    /// Where it comes from.
    pub origin: Origin,
    /// When the endpoint was last asked.
    pub last_poll: Option<UnixTime>,
    /// When it last gave a good answer.
    pub last_success: Option<UnixTime>,
    /// When it last gave another bundle.
    pub last_change: Option<UnixTime>,
    /// When it is asked next.
    pub next_poll: Option<UnixTime>,
    /// Why the last poll failed; none when it succeeded.
    pub last_error: Option<String>,
    /// How many polls failed in a row.
    pub failures: u32,
    /// Whether another server polls this endpoint for all that share the store. What is above is then
    /// of what this server did by itself.
    pub elsewhere: bool,
}

/// Why a bundle was not refreshed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// It may not be what it says it is.
    #[error("can't perform SPIFFE Authentication: local copy of bundle not found")]
    NoBundleOfEndpoint,
    /// There is no such relationship.
    #[error("no relationship with trust domain \"{0}\"")]
    NoRelationship(TrustDomain),
    /// The relationship was deleted meanwhile.
    #[error("the relationship is gone")]
    Gone,
    /// The machine's roots or proxies cannot be used.
    #[error("failed to create the client")]
    Client(#[source] HttpError),
    /// The endpoint gave none.
    #[error("failed to fetch the bundle")]
    Fetch(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What it gave is no bundle.
    #[error("failed to read the bundle")]
    Bundle(#[from] jwks::BundleError),
    /// What it gave cannot be used.
    #[error("the bundle cannot be used: {0}")]
    Unusable(String),
    /// What it gave is older than what is held.
    #[error(
        "the endpoint has a bundle with sequence number {found}, older than the {held} that is \
         held, which stays; `federation refresh -acceptOlder` takes it all the same"
    )]
    Older {
        /// The sequence number of what it gave.
        found: u64,
        /// That of what is held.
        held: u64,
    },
    /// It cannot be stored.
    #[error("failed to store the bundle")]
    Store(#[from] StoreError),
    /// TLS cannot be set up.
    #[error("setting up TLS")]
    Tls(#[from] TlsError),
}

impl From<FetchError> for RefreshError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(Box::new(error))
    }
}
