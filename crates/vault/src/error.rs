//! What can go wrong with a Vault server.

use std::time::Duration;

use signet_http::{HttpError, shown};

/// Why a request was not answered as hoped. Nothing secret is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The token, or the login's credential, may not do that.
    #[error("permission denied at {path}{}", said(.errors))]
    Denied {
        /// What was asked for.
        path: String,
        /// What the server says.
        errors: Vec<String>,
    },
    /// A certificate, key or token file cannot be used.
    #[error("{0}")]
    File(String),
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Logging in failed.
    #[error("logging in at {path}")]
    Login {
        /// Where.
        path: String,
        /// Why.
        source: Box<VaultError>,
    },
    /// The answer is not what a Vault server says.
    #[error("the answer to {path} is not understood: {why}")]
    Nonsense {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such thing.
    #[error("nothing is found at {path}{}", said(.errors))]
    NotFound {
        /// What was asked for.
        path: String,
        /// What the server says.
        errors: Vec<String>,
    },
    /// The server refuses the request as wrong.
    #[error("{path} is refused with status {status}{}", said(.errors))]
    Refused {
        /// What was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the server says.
        errors: Vec<String>,
    },
    /// The server is sealed: somebody has to unseal it.
    #[error("the Vault server is sealed")]
    Sealed,
    /// The server failed.
    #[error("{path} fails with status {status}{}", said(.errors))]
    Server {
        /// What was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the server says.
        errors: Vec<String>,
    },
    /// A setting cannot be used.
    #[error("{0}")]
    Setting(String),
    /// The server wants fewer requests.
    #[error("the Vault server asks to be left alone for a while (status 429)")]
    Throttled {
        /// For how long, if it says.
        retry_after: Option<Duration>,
    },
    /// A token that cannot be replaced has expired or was revoked.
    #[error("the token has expired or was revoked, and there is no way to get another")]
    TokenGone,
    /// The last login failed a moment ago; it is not tried again yet.
    #[error("{0} (tried again soon)")]
    Waiting(String),
}

impl VaultError {
    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the request certainly had no effect, so that it can be sent again whatever it is.
    pub(crate) fn had_no_effect(&self) -> bool {
        match self {
            Self::Http(error) => matches!(
                error,
                HttpError::Connect { .. } | HttpError::Tls { .. } | HttpError::Proxy { .. }
            ),
            Self::Throttled { .. } => true,
            // Vault: the data of a write have not reached this node yet.
            Self::Refused { status, .. } => *status == 412,
            _ => false,
        }
    }

    /// Whether it may go well a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Http(error) => matches!(error, HttpError::Exchange { .. }),
            Self::Server { status, .. } => matches!(status, 502..=504 | 472 | 473),
            _ => false,
        }
    }
}

/// What a server said, for a message: bounded, on one line.
fn said(errors: &[String]) -> String {
    let all = errors.iter().map(|error| shown(error)).collect::<Vec<_>>().join("; ");
    if all.is_empty() { all } else { format!(": {}", shown(&all)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_shown_on_one_bounded_line() {
        let errors = vec!["1 error occurred:\n\t* no\u{7}pe\n".to_owned(), "x".repeat(1_000)];
        let text = VaultError::Denied { path: "transit/keys".to_owned(), errors }.to_string();
        assert!(text.starts_with("permission denied at transit/keys: 1 error occurred: * nope; x"));
        assert!(text.chars().count() < 350 && !text.contains('\n'), "{text}");
        let text = VaultError::Denied { path: "a".to_owned(), errors: Vec::new() }.to_string();
        assert_eq!(text, "permission denied at a");
    }
}
