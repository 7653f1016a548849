//! What can go wrong.

use signet_identity::SpiffeId;

use crate::journal::JournalError;

/// A failure behind a port, in the words of whoever stands there.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct PortError {
    doing: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PortError {
    /// A failure of `doing` (for example "writing the CA journal"), caused by `source`.
    pub fn new(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { doing: doing.into(), source: Some(source.into()) }
    }

    /// A failure that has no further cause.
    pub fn plain(doing: impl Into<String>) -> Self {
        Self { doing: doing.into(), source: None }
    }
}

/// Why an authority could not be recovered, prepared or activated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The bundle could not be read or written.
    #[error("accessing the trust bundle")]
    Bundle(#[source] PortError),
    /// A CA certificate that was made, minted or journalled cannot be read.
    #[error("reading the X.509 CA certificate")]
    BadCertificate(#[source] signet_pki::x509::CertError),
    /// A CA certificate could not be made, or does not match its key.
    #[error("making the X.509 CA certificate")]
    Certificate(#[source] signet_pki::x509::IssueError),
    /// A credential composer failed.
    #[error("composing the X.509 CA certificate")]
    Composer(#[source] signet_pki::ports::PortError),
    /// The request for an upstream-signed CA certificate could not be made.
    #[error("making the request for the X.509 CA certificate")]
    Csr(#[source] signet_pki::x509::CsrError),
    /// The upstream authority answered with a CA that would not serve.
    #[error("X509 CA minted by upstream authority is invalid: {0}")]
    InvalidUpstreamCa(String),
    /// The stored journal is not usable.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal could not be read or written.
    #[error("accessing the CA journal")]
    JournalStore(#[source] PortError),
    /// The JWT or WIT key is of a kind that is not used.
    #[error("using the JWT key")]
    JwtKey(#[source] signet_pki::jwt::JwtSignError),
    /// The key manager failed.
    #[error("accessing the key manager")]
    KeyManager(#[source] signet_pki::KeyManagerError),
    /// The key manager no longer has the key of the authority that signs, and nobody said that a
    /// new one is wanted.
    #[error(
        "the key {key_id} of the active {authority} {authority_id} is not in the KeyManager \
         \"{key_manager}\", and agents would not trust a new one: bring the key back (with \
         \"disk\": the file keys_path, from a backup of the same time as the registration \
         store), or start the server once with -replaceLostKeys to make a new CA; then agents \
         that do not have it yet must be bootstrapped anew"
    )]
    LostKey {
        /// What kind, as SPIRE's logs say it: `X509 CA`.
        authority: &'static str,
        /// Its authority ID.
        authority_id: String,
        /// The key's name in the key manager.
        key_id: String,
        /// The key manager.
        key_manager: &'static str,
    },
    /// A key that the key manager just made is not what was asked for, or does not sign.
    #[error("trying the new key")]
    NewKey(#[source] signet_pki::SignError),
    /// The random generator failed.
    #[error(transparent)]
    Random(#[from] signet_pki::random::RandomError),
    /// The task that owns the authorities has ended.
    #[error("the server is shutting down")]
    Stopped,
    /// Something outside did not answer in time.
    #[error("{0} did not answer in time")]
    TimedOut(&'static str),
    /// The upstream authority failed.
    #[error("asking the upstream authority")]
    Upstream(#[source] signet_pki::ports::PortError),
}

/// Which kind of answer an [`OperationError`] deserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationClass {
    /// The state of the server does not allow it at all.
    FailedPrecondition,
    /// It should have worked.
    Internal,
    /// The caller named the wrong authority.
    InvalidArgument,
    /// The server has no active authority yet.
    Unavailable,
    /// That kind of authority is switched off.
    Unimplemented,
}

/// Why an operation on an authority was refused or failed. The texts are those that SPIRE's API
/// answers with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct OperationError {
    class: OperationClass,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl OperationError {
    pub(crate) fn new(class: OperationClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), source: None }
    }

    pub(crate) fn because(
        class: OperationClass,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { class, message: message.into(), source: Some(source.into()) }
    }

    /// Which kind of answer it deserves.
    pub fn class(&self) -> OperationClass {
        self.class
    }
}

/// Why something was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// A credential composer failed.
    #[error("composing the credential")]
    Composer(#[source] signet_pki::ports::PortError),
    /// The ID is not of the trust domain.
    #[error("{0} is not a member of the trust domain")]
    Foreign(SpiffeId),
    /// Signing the JWT-SVID failed.
    #[error("signing the JWT-SVID")]
    Jwt(#[from] signet_pki::jwt::JwtSignError),
    /// JWT-SVIDs are switched off.
    #[error("JWT functionality is disabled")]
    JwtDisabled,
    /// Some audiences of one JWT-SVID want it signed by the one key, the others by the other.
    #[error(
        "the audience {second} wants the second JWT key and {first} the first: ask for a JWT-SVID \
         for each"
    )]
    MixedAudiences {
        /// An audience of the first key, quoted.
        first: String,
        /// An audience of the second key, quoted.
        second: String,
    },
    /// WIT-SVIDs are not switched on.
    #[error("WIT functionality is disabled")]
    WitDisabled,
    /// Nothing is active yet.
    #[error("{0} is not available for signing")]
    NotAvailable(&'static str),
    /// The active authority has expired, or the clock is before its issue. A replacement has been
    /// asked for.
    #[error("{0} is not valid now")]
    NotValidNow(&'static str),
    /// Signing the certificate failed.
    #[error("signing the certificate")]
    X509(#[from] signet_pki::x509::IssueError),
}

impl IssueError {
    /// Whether the asker asked for what there cannot be.
    pub fn is_askers_fault(&self) -> bool {
        matches!(self, Self::MixedAudiences { .. })
    }

    /// Whether it is likely to work in a moment, here or at another server.
    pub fn is_temporary(&self) -> bool {
        use signet_pki::{SignError, jwt::JwtSignError, x509};
        match self {
            Self::NotAvailable(_) | Self::NotValidNow(_) => true,
            Self::Jwt(JwtSignError::Sign(error)) | Self::X509(x509::IssueError::Sign(error)) => {
                matches!(error, SignError::Busy { .. } | SignError::TimedOut { .. })
            }
            _ => false,
        }
    }
}
