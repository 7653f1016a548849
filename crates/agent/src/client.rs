//! The conversation with the server: one mTLS connection, made when first needed, made anew when
//! it breaks and after each rotation of the agent's own SVID.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use signet_api::{connect, status::Reason};
use signet_base::Jitter;
use signet_daemon::spans;
use signet_identity::{SpiffeId, TrustDomain};
use tokio_rustls::{TlsConnector, rustls};
use tonic::{Code, Status, transport::Channel};
use tracing::Instrument as _;

use crate::{request_id, trace};

mod addresses;
mod dial;
mod entries;
mod rpc;

use addresses::Addresses;
pub use dial::Target;
pub use entries::{EntrySync, SyncMethod, SyncStats};
pub use rpc::{Attested, NewSvid, Notice, NoticeStream, SignRequest, SignedToken};

/// How long one call may take.
pub const RPC_TIMEOUT: Duration = Duration::from_secs(30);
/// When to ask again, milliseconds, as a busy server says it: gRPC's retries have it so (proposal A6).
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
/// A server may not keep an agent away for longer.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(60);
/// The longest answer read, bytes: a server's answer is trusted further than a workload's request.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Calls to the server. Shared by `Arc`; calls run side by side on one connection.
#[derive(Debug)]
pub struct ServerClient {
    target: Target,
    addresses: Arc<Addresses>,
    tls: Arc<rustls::ClientConfig>,
    channel: Mutex<Option<Channel>>,
    failure: Arc<Mutex<Option<ClientError>>>,
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no connection.
    #[error("connecting to the server at {address}: {message}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the operating system or TLS said.
        message: String,
    },
    /// The server's answer is not what it should be.
    #[error("{method}: unexpected answer from the server: {reason}")]
    Malformed {
        /// The call.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// This side could not make its request.
    #[error("{0}")]
    Local(String),
    /// The server refused or failed.
    #[error(
        "{method}: {} ({:?}, request_id {request_id})", .status.message(), .status.code()
    )]
    Rpc {
        /// The call.
        method: &'static str,
        /// What it answered.
        status: Box<Status>,
        /// Names the request in the server's log.
        request_id: Arc<str>,
    },
    /// No answer in time.
    #[error("{method}: no answer within {after:?}")]
    TimedOut {
        /// The call.
        method: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The trust bundle at hand does not vouch for the server.
    #[error(
        "the server at {address} presents a certificate of an authority that is not in the trust bundle{}",
        .reason.as_ref().map(|reason| format!(" or cannot be used: {reason}")).unwrap_or_default()
    )]
    UnknownAuthority {
        /// Host and port.
        address: String,
        /// What is wrong with the authority, where it is in the bundle.
        reason: Option<String>,
    },
}

/// Why an agent that was evicted must attest anew.
pub const EVICTED: &str = "the server does not know it";

/// What the server says of this agent when it refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The agent is banned: it must forget its SVID and stop.
    Banned,
    /// The agent must attest anew.
    Reattest(&'static str),
}

impl ClientError {
    /// What the server answered. It names a request itself whose caller it does not know.
    fn rpc(method: &'static str, status: Status) -> Self {
        let named = status.metadata().get(signet_api::REQUEST_ID);
        let request_id = named.and_then(|id| id.to_str().ok()).unwrap_or_default().into();
        Self::Rpc { method, status: Box::new(status), request_id }
    }

    /// The same, of the request `id` unless the server named it.
    fn under(mut self, id: Arc<str>) -> Self {
        if let Self::Rpc { request_id, .. } = &mut self
            && request_id.is_empty()
        {
            *request_id = id;
        }
        self
    }

    /// What the server says of this agent, if it says so.
    pub fn refusal(&self) -> Option<Refusal> {
        let Self::Rpc { status, .. } = self else { return None };
        match signet_api::status::denied_reason(status)? {
            Reason::AgentBanned => Some(Refusal::Banned),
            Reason::AgentExpired => Some(Refusal::Reattest("its SVID has expired")),
            Reason::AgentNotAttested => Some(Refusal::Reattest(EVICTED)),
            Reason::AgentNotActive => Some(Refusal::Reattest("its SVID is not the active one")),
            Reason::AgentMustReattest => Some(Refusal::Reattest("it must attest to renew")),
            _ => None,
        }
    }

    /// The gRPC code, if the server answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rpc { status, .. } => Some(status.code()),
            _ => None,
        }
    }

    /// How long to wait before asking again, of what one would wait by oneself: longer where a busy
    /// server says so, spread so that those who were turned away together do not come back together.
    pub fn pause(&self, own: Duration) -> Duration {
        let Self::Rpc { status, .. } = self else { return own };
        let said = status.metadata().get(RETRY_PUSHBACK).and_then(|it| it.to_str().ok());
        let Some(said) = said.and_then(|text| text.parse().ok()) else { return own };
        let said = Duration::from_millis(said).min(LONGEST_PUSHBACK);
        own.max(Jitter::new().spread(said.mul_f64(1.5), 1.0 / 3.0))
    }

    /// Whether the server lacks the call.
    pub fn is_unimplemented(&self) -> bool {
        self.code() == Some(Code::Unimplemented)
    }

    /// Whether the server cannot be trusted with the bundle at hand.
    pub fn is_unknown_authority(&self) -> bool {
        matches!(self, Self::UnknownAuthority { .. })
    }

    /// Whether there was no server to answer (as opposed to one that refused).
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::TimedOut { .. } | Self::UnknownAuthority { .. })
            || matches!(self.code(), Some(Code::Unavailable))
    }
}

impl ServerClient {
    /// A client of the server at `target`. `tls` says whom it trusts and who it is; both may
    /// change meanwhile and hold for the next connection.
    pub fn new(target: Target, tls: Arc<rustls::ClientConfig>) -> Self {
        let addresses = Arc::new(Addresses::new(Jitter::new()));
        Self { target, addresses, tls, channel: Mutex::new(None), failure: Arc::default() }
    }

    /// Gives up the connection: the next call makes a new one, with what is then the identity.
    pub fn release(&self) {
        *lock(&self.channel) = None;
    }

    /// Where the server is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Makes one call with a deadline; a call that meets a connection broken meanwhile is made
    /// once more.
    async fn call<T, F>(
        &self,
        method: &'static str,
        deadline: Duration,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let attempt = async {
            let mut again = lock(&self.channel).is_some();
            loop {
                let status = match call(self.channel()).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) => status,
                };
                if let Some(failure) = lock(&self.failure).clone() {
                    self.release();
                    return Err(failure);
                }
                if !is_transport_failure(&status) {
                    if status.code() == Code::Unavailable {
                        // Another server of the same name may be better off.
                        self.addresses.leave();
                        self.release();
                    }
                    return Err(ClientError::rpc(method, status));
                }
                self.release();
                if !again {
                    return Err(ClientError::Connect {
                        address: self.target.to_string(),
                        message: status.message().to_owned(),
                    });
                }
                again = false;
            }
        };
        let attempt =
            trace::timed(method, attempt, |result: &Result<T, ClientError>| match result {
                Ok(_) => String::new(),
                Err(error) => error.to_string(),
            });
        let span = tracing::info_span!(
            target: spans::TARGET, "call", otel.name = method, otel.kind = "client",
            rpc.system = "grpc", rpc.method = method
        );
        let attempt = tokio::time::timeout(deadline, attempt).instrument(span);
        let (id, result) = request_id::under_its_id(attempt).await;
        match result {
            Ok(result) => result.map_err(|error| error.under(id)),
            Err(_) => {
                self.addresses.leave();
                self.release();
                match lock(&self.failure).clone() {
                    Some(failure) => Err(failure),
                    None => Err(ClientError::TimedOut { method, after: deadline }),
                }
            }
        }
    }

    fn channel(&self) -> Channel {
        lock(&self.channel).get_or_insert_with(|| self.open()).clone()
    }

    fn open(&self) -> Channel {
        let (target, addresses) = (self.target.clone(), Arc::clone(&self.addresses));
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let failure = Arc::clone(&self.failure);
        // Only the stream of notices lasts, and only our own server has that.
        connect::over_lazy_watched("https://spire-server", move || {
            let (target, connector) = (target.clone(), connector.clone());
            let addresses = Arc::clone(&addresses);
            let failure = Arc::clone(&failure);
            async move {
                match dial::connect(&target, &addresses, connector).await {
                    Ok(stream) => {
                        *lock(&failure) = None;
                        Ok(stream)
                    }
                    Err(error) => {
                        *lock(&failure) = Some(error.clone());
                        Err(io::Error::other(error.to_string()))
                    }
                }
            }
        })
    }
}

/// The TLS configuration of a client that knows the server by `bundles`, or, when bootstrapping
/// insecurely, believes whoever claims to be it.
///
/// # Errors
/// [`ClientError::Local`] when TLS cannot be set up.
pub fn tls_config(
    trust_domain: &TrustDomain,
    bundles: Option<Arc<dyn signet_pki::tls::BundleSource>>,
    identity: Option<Arc<signet_pki::tls::SwappableIdentity>>,
    clock: signet_base::SharedClock,
    require_pq_kem: bool,
) -> Result<Arc<rustls::ClientConfig>, ClientError> {
    use signet_pki::tls::{ServerCheck, TlsOptions, client_config};

    let id = SpiffeId::server(trust_domain.clone());
    let check = match bundles {
        Some(bundles) => ServerCheck::Id { id, bundles },
        None => ServerCheck::InsecureId { id },
    };
    client_config(check, identity, clock, TlsOptions { require_pq_kem })
        .map_err(|error| ClientError::Local(error.to_string()))
}

/// Whether a status was made on this side because the connection failed.
fn is_transport_failure(status: &Status) -> bool {
    use std::error::Error as _;
    status.source().is_some()
        && matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
        )
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_server_says_when_to_come_again_and_not_all_come_at_once() {
        let (one, five) = (Duration::from_secs(1), Duration::from_secs(5));
        let said = |text: &str| {
            let mut status = Status::resource_exhausted("busy");
            status.metadata_mut().insert(RETRY_PUSHBACK, text.parse().unwrap());
            ClientError::rpc("RenewAgent", status)
        };
        let busy = said("5000");
        let pauses: std::collections::HashSet<_> = (0..50).map(|_| busy.pause(one)).collect();
        assert!(pauses.iter().all(|pause| (five..=2 * five).contains(pause)), "{pauses:?}");
        assert!(pauses.len() > 10, "they are spread: {pauses:?}");
        assert_eq!(busy.pause(60 * one), 60 * one, "who would wait longer does");
        assert!(said("999999999999").pause(one) <= 2 * LONGEST_PUSHBACK);
        assert_eq!(said("-1").pause(one), one);
        assert_eq!(ClientError::Local(String::new()).pause(one), one);
    }
}
