//! Why a use case refuses, or fails.

use std::{borrow::Cow, fmt, time::Duration};

use signet_authority::IssueError;
use signet_base::{RateLimitError, chain};
use signet_store::StoreError;

use crate::cache::NotFresh;

/// What kind of refusal or failure it is: what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// What the caller asks for makes no sense: to ask again does not help.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// There is such a thing already.
    Exists,
    /// The caller may not.
    Denied,
    /// It cannot be done in the state that things are in.
    Precondition,
    /// The caller asks for too much at a time.
    Exhausted,
    /// This server does not do that.
    Unsupported,
    /// It cannot be done now: to ask again later helps.
    Unavailable,
    /// The caller, or something that the server waits for, took too long.
    TimedOut,
    /// Something went wrong here.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Invalid,
        Self::NotFound,
        Self::Exists,
        Self::Denied,
        Self::Precondition,
        Self::Exhausted,
        Self::Unsupported,
        Self::Unavailable,
        Self::TimedOut,
        Self::Internal,
    ];

    /// The name that audit events and metrics have for it: that of its gRPC code.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "PermissionDenied",
            Self::Exhausted => "ResourceExhausted",
            Self::Exists => "AlreadyExists",
            Self::Internal => "Internal",
            Self::Invalid => "InvalidArgument",
            Self::NotFound => "NotFound",
            Self::Precondition => "FailedPrecondition",
            Self::TimedOut => "DeadlineExceeded",
            Self::Unavailable => "Unavailable",
            Self::Unsupported => "Unimplemented",
        }
    }
}

/// Why an agent is refused; it decides by this whether to attest anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It is banned.
    AgentBanned,
    /// Its SVID has expired.
    AgentExpired,
    /// It has to attest anew in place of renewing.
    AgentMustReattest,
    /// Its SVID was replaced by another one.
    AgentNotActive,
    /// It is not attested, or not any more.
    AgentNotAttested,
}

impl Denial {
    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AgentBanned => "agent_banned",
            Self::AgentExpired => "agent_expired",
            Self::AgentMustReattest => "agent_must_reattest",
            Self::AgentNotActive => "agent_not_active",
            Self::AgentNotAttested => "agent_not_attested",
        }
    }
}

/// A refusal or a failure: what was refused and why, in the texts that SPIRE's users know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    what: Cow<'static, str>,
    cause: Option<String>,
    denial: Option<Denial>,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
}

impl Error {
    /// What was refused or failed.
    pub fn new(kind: ErrorKind, what: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, what: what.into(), cause: None, denial: None, code: None, retry_after: None }
    }

    /// [`ErrorKind::Invalid`].
    pub fn invalid(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, what)
    }

    /// [`ErrorKind::NotFound`].
    pub fn not_found(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NotFound, what)
    }

    /// [`ErrorKind::Internal`].
    pub fn internal(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Internal, what)
    }

    /// [`ErrorKind::Unsupported`].
    pub fn unsupported(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }

    /// [`ErrorKind::Unavailable`].
    pub fn unavailable(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unavailable, what)
    }

    /// [`ErrorKind::Denied`], with what the agent is to make of it.
    pub fn denied(what: impl Into<Cow<'static, str>>, denial: Denial) -> Self {
        Self { denial: Some(denial), ..Self::new(ErrorKind::Denied, what) }
    }

    /// `what` needed the store, which refused or failed.
    pub fn store(what: impl Into<Cow<'static, str>>, error: &StoreError) -> Self {
        let kind = match error {
            StoreError::Busy { .. }
            | StoreError::Closed { .. }
            | StoreError::Unavailable { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, what).because(chain(error))
    }

    /// `what` needed a signature that could not be made.
    pub fn signing(what: impl Into<Cow<'static, str>>, error: &IssueError) -> Self {
        let kind = if error.is_askers_fault() {
            ErrorKind::Invalid
        } else if error.is_temporary() {
            ErrorKind::Unavailable
        } else {
            ErrorKind::Internal
        };
        Self::new(kind, what).because(chain(error))
    }

    /// The caller does too much of `doing`.
    pub fn rate_limited(doing: &str, error: RateLimitError) -> Self {
        let what = format!("rejecting request due to {doing} rate limiting");
        Self::new(ErrorKind::Exhausted, what).because(error)
    }

    /// The same, for a caller that is to ask again after so long.
    pub fn retry_after(self, pause: Duration) -> Self {
        Self { retry_after: Some(pause), ..self }
    }

    /// When the caller is to ask again, where that is known.
    pub fn retry(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same, for this cause.
    pub fn because(self, cause: impl fmt::Display) -> Self {
        Self { cause: Some(cause.to_string()), ..self }
    }

    /// The same, with a word for the reason that records and metrics carry.
    pub fn coded(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The reason as a word, where there is one.
    pub fn code(&self) -> Option<&'static str> {
        self.code
    }

    /// What kind it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was refused or failed, without the cause.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Why, where that is known.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// A short reason for metrics: what an agent is to make of it, else what was refused where that
    /// is a text of ours that names nothing, else the kind.
    pub fn reason(&self) -> &'static str {
        if let Some(code) = self.code {
            return code;
        }
        match (self.denial, &self.what) {
            (Some(denial), _) => denial.name(),
            (None, Cow::Borrowed(what)) => what,
            (None, Cow::Owned(_)) => self.kind.name(),
        }
    }

    /// What an agent is to make of it.
    pub fn denial(&self) -> Option<Denial> {
        self.denial
    }
}

/// `what: cause`, the text that callers get.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<NotFresh> for Error {
    fn from(error: NotFresh) -> Self {
        if let NotFresh::Store(why) = &error {
            tracing::error!(error = chain(why), "{error}");
        }
        Self::unavailable(error.to_string())
    }
}
