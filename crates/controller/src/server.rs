//! The registration server: ours, or SPIRE's. One of its local sockets, one call at a time.
//!
//! Protobuf types do not leave this module.

mod changes;
mod entries;
mod federation;
mod svid;

use std::{
    fmt,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use signet_api::{MAX_MESSAGE_SIZE, connect};
use tonic::{Code, Request, Status, transport::Channel};

pub use self::{
    changes::{Changes, Notice, Notices},
    entries::{Held, NewEntry, Outcome, Refusal, UpdatedEntry},
    svid::Minted,
};

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The server's answer is not what this call is answered with.
    #[error("{method}: the server's answer cannot be used: {why}")]
    Malformed {
        /// The call.
        method: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The call failed.
    #[error("{method}: {}: {}", .status.code(), .status.message())]
    Rpc {
        /// The call.
        method: &'static str,
        /// Why.
        status: Box<Status>,
    },
}

impl ServerError {
    /// The gRPC code, of a call that failed.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rpc { status, .. } => Some(status.code()),
            Self::Malformed { .. } => None,
        }
    }

    /// Whether what was sent may be at fault, and not the server's state or the way to it.
    pub fn blames_request(&self) -> bool {
        matches!(
            self.code(),
            Some(
                Code::InvalidArgument
                    | Code::OutOfRange
                    | Code::ResourceExhausted
                    | Code::Internal
                    | Code::Unknown
            )
        )
    }
}

/// A server. Clones share the connection.
#[derive(Clone)]
pub struct Server {
    channel: Channel,
    max_message: usize,
    /// Whether it has tenants, as the last list showed.
    knows_tenants: Arc<AtomicBool>,
}

impl Server {
    /// The server at a Unix socket; connected to when it is first needed, and whenever needed.
    /// `max_message` is the longest answer taken, bytes; `None` for gRPC's default.
    pub fn at(socket: &Path, max_message: Option<usize>) -> Self {
        Self {
            channel: connect::unix_lazy(socket),
            max_message: max_message.unwrap_or(MAX_MESSAGE_SIZE),
            knows_tenants: Arc::default(),
        }
    }

    /// Makes a call within `deadline` (and 30 s).
    async fn call<T, R, F>(
        &self,
        method: &'static str,
        deadline: Option<Duration>,
        message: T,
        call: impl FnOnce(Channel, usize, Request<T>) -> F,
    ) -> Result<R, ServerError>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let deadline = deadline.unwrap_or(DEADLINE).min(DEADLINE);
        let mut request = Request::new(message);
        // The server gives up as well.
        request.set_timeout(deadline);
        let failed = |status| ServerError::Rpc { method, status: Box::new(status) };
        let answer = call(self.channel.clone(), self.max_message, request);
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(failed(status)),
            Err(_) => Err(failed(Status::deadline_exceeded(format!(
                "no answer within {} ms",
                deadline.as_millis()
            )))),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}
