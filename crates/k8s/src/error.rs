//! Why an API server did not do what it was asked for.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Response, header};

use signet_http::HttpError;
use signet_pki::text_file::TextFileError;

use super::objects::Failure;

/// The most of a server's own words that is shown.
const MAX_MESSAGE: usize = 500;
/// The longest pause that an answer may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] TextFileError),
    /// Something is missing, malformed or not supported.
    #[error("{0}")]
    Invalid(String),
    /// The file is no kubeconfig.
    #[error("{path} is not a kubeconfig file: {reason}")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Why an API server gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The answer is not what was asked for.
    #[error("the answer of {url} cannot be read: {why}")]
    Answer {
        /// What was asked.
        url: String,
        /// Why it cannot be read.
        why: String,
    },
    /// The credentials cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The exchange failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A name that cannot stand in a path.
    #[error("{0:?} is not the name of a Kubernetes object")]
    Name(String),
    /// The server refuses, and says why.
    #[error("cannot {verb} {what}: {status} {message}{}", hint(*status, verb, what))]
    Refused {
        /// What was to be done: `get`, `list`, `watch`, `patch`, `create`.
        verb: &'static str,
        /// To what: `configmaps/spire-bundle in namespace spire`.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// A watch sent a line that is no event or longer than any object.
    #[error("the watch of {what} is broken: {reason}")]
    Watch {
        /// What was watched.
        what: String,
        /// What is wrong.
        reason: String,
    },
}

impl ApiError {
    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// How long the API server asks to be left alone; no more than a minute counts.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => {
                retry_after.map(|after| after.min(MAX_RETRY_AFTER))
            }
            _ => None,
        }
    }

    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether somebody else wrote first.
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }

    /// A refusal made of an answer that is not a success.
    pub(super) fn refused(verb: &'static str, what: String, answer: &Response<Bytes>) -> Self {
        let failure: Failure = serde_json::from_slice(answer.body()).unwrap_or_default();
        let own_words = String::from_utf8_lossy(answer.body());
        let message = match (failure.kind.as_str(), failure.message.as_str()) {
            ("Status", message) if !message.is_empty() => message,
            _ => own_words.trim(),
        };
        let message = message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
        let after = answer.headers().get(header::RETRY_AFTER);
        let seconds = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Self::Refused {
            verb,
            what,
            status: answer.status().as_u16(),
            message,
            retry_after: seconds.map(Duration::from_secs),
        }
    }
}

/// What to do about a missing permission.
fn hint(status: u16, verb: &str, what: &str) -> String {
    match status {
        401 => "; the credentials are not accepted".to_owned(),
        403 => {
            let place = what.split(' ').next().unwrap_or(what);
            let mut parts = place.split('/');
            let resource = parts.next().unwrap_or(what);
            let part = parts.nth(1).map(|part| format!("/{part}")).unwrap_or_default();
            format!("; the account needs the permission to {verb} {resource}{part}")
        }
        _ => String::new(),
    }
}
