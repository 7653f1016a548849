//! The calls to the upstream server.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use signet_api::{
    connect, convert,
    pb::spire::api::server::{
        bundle::v1::{
            GetBundleRequest, PublishJwtAuthorityRequest, PublishWitAuthorityRequest,
            bundle_client::BundleClient,
        },
        svid::v1::{NewDownstreamX509caRequest, svid_client::SvidClient},
    },
};
use signet_http::{Proxies, connect_via_proxy};
use signet_identity::{Bundle, JwtAuthority};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};
use tonic::{Code, Status, transport::Channel};

/// How long a call may take, connecting included.
const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// How long the TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(15);
/// The longest answer that is read, bytes: a bundle of many servers is long.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// There is no connection.
    #[error("connecting to the upstream server at {address}: {why}")]
    Connect {
        /// Where.
        address: String,
        /// What happened.
        why: String,
    },
    /// The answer is not what it should be.
    #[error("{method}: unexpected answer of the upstream server: {why}")]
    Malformed {
        /// The call.
        method: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The server refused or failed.
    #[error("{method}: {} ({:?})", .status.message(), .status.code())]
    Refused {
        /// The call.
        method: &'static str,
        /// Its answer.
        status: Box<Status>,
    },
    /// No answer in time.
    #[error("{method}: no answer within {CALL_DEADLINE:?}")]
    TimedOut {
        /// The call.
        method: &'static str,
    },
}

impl CallError {
    /// Whether the upstream server cannot do that at all.
    pub(crate) fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code() == Code::Unimplemented)
    }
}

/// The upstream server. One connection, made when it is needed.
pub(crate) struct Client {
    host: String,
    port: u16,
    proxies: Proxies,
    tls: Arc<ClientConfig>,
    channel: Mutex<Option<Channel>>,
    /// Why the last connection was not made: gRPC's own words do not tell.
    failure: Arc<Mutex<Option<String>>>,
}

impl Client {
    pub(crate) fn new(host: String, port: u16, proxies: Proxies, tls: Arc<ClientConfig>) -> Self {
        Self { host, port, proxies, tls, channel: Mutex::default(), failure: Arc::default() }
    }

    /// Gives up the connection: the next call makes one with what is then the identity.
    pub(crate) fn release(&self) {
        *lock(&self.channel) = None;
    }

    /// Has an authority signed: its chain, the new certificate first, DER.
    pub(crate) async fn new_downstream_ca(
        &self,
        csr: &[u8],
        ttl: Duration,
    ) -> Result<Vec<Arc<[u8]>>, CallError> {
        const METHOD: &str = "NewDownstreamX509CA";
        let request = NewDownstreamX509caRequest {
            csr: Bytes::copy_from_slice(csr),
            preferred_ttl: i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX),
        };
        let answer = self.call(METHOD, |channel| {
            let request = request.clone();
            async move { SvidClient::new(channel).new_downstream_x509ca(request).await }
        });
        let chain: Vec<Arc<[u8]>> =
            answer.await?.ca_cert_chain.iter().map(|der| Arc::from(&**der)).collect();
        if chain.is_empty() {
            let why = "it holds no certificate".to_owned();
            return Err(CallError::Malformed { method: METHOD, why });
        }
        Ok(chain)
    }

    /// The bundle of the trust domain.
    pub(crate) async fn bundle(&self) -> Result<Bundle, CallError> {
        const METHOD: &str = "GetBundle";
        let answer = self.call(METHOD, |channel| async move {
            BundleClient::new(channel)
                .max_decoding_message_size(MAX_ANSWER)
                .get_bundle(GetBundleRequest::default())
                .await
        });
        convert::bundle_from_pb(&answer.await?)
            .map_err(|error| CallError::Malformed { method: METHOD, why: error.to_string() })
    }

    /// Publishes a JWT key; all keys that are known there then.
    pub(crate) async fn publish_jwt(
        &self,
        key: &JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, CallError> {
        const METHOD: &str = "PublishJWTAuthority";
        let request =
            PublishJwtAuthorityRequest { jwt_authority: Some(convert::jwt_authority_to_pb(key)) };
        let answer = self.call(METHOD, |channel| {
            let request = request.clone();
            async move {
                BundleClient::new(channel)
                    .max_decoding_message_size(MAX_ANSWER)
                    .publish_jwt_authority(request)
                    .await
            }
        });
        let keys = answer.await?.jwt_authorities;
        keys.iter()
            .map(convert::jwt_authority_from_pb)
            .collect::<Result<_, _>>()
            .map_err(|error| CallError::Malformed { method: METHOD, why: error.to_string() })
    }

    /// Publishes a WIT key; all keys that are known there then.
    pub(crate) async fn publish_wit(
        &self,
        key: &JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, CallError> {
        const METHOD: &str = "PublishWITAuthority";
        let request =
            PublishWitAuthorityRequest { wit_authority: Some(convert::wit_authority_to_pb(key)) };
        let answer = self.call(METHOD, |channel| {
            let request = request.clone();
            async move {
                BundleClient::new(channel)
                    .max_decoding_message_size(MAX_ANSWER)
                    .publish_wit_authority(request)
                    .await
            }
        });
        let keys = answer.await?.wit_authorities;
        keys.iter()
            .map(convert::wit_authority_from_pb)
            .collect::<Result<_, _>>()
            .map_err(|error| CallError::Malformed { method: METHOD, why: error.to_string() })
    }

    /// Makes a call; one that meets a connection broken meanwhile is made once more.
    async fn call<T, F>(
        &self,
        method: &'static str,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let attempts = async {
            let mut again = lock(&self.channel).is_some();
            loop {
                let status = match call(self.channel()).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) => status,
                };
                // Made on this side: the server's own have no source.
                if std::error::Error::source(&status).is_none() {
                    return Err(CallError::Refused { method, status: Box::new(status) });
                }
                self.release();
                if !std::mem::take(&mut again) {
                    let why = lock(&self.failure).take();
                    return Err(CallError::Connect {
                        address: self.to_string(),
                        why: why.unwrap_or_else(|| status.message().to_owned()),
                    });
                }
            }
        };
        let outcome = tokio::time::timeout(CALL_DEADLINE, attempts).await;
        outcome.unwrap_or_else(|_| {
            self.release();
            Err(CallError::TimedOut { method })
        })
    }

    fn channel(&self) -> Channel {
        lock(&self.channel).get_or_insert_with(|| self.open()).clone()
    }

    fn open(&self) -> Channel {
        let (host, port, proxies) = (self.host.clone(), self.port, self.proxies.clone());
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let failure = Arc::clone(&self.failure);
        connect::over_lazy("https://spire-server", move || {
            let (host, proxies) = (host.clone(), proxies.clone());
            let (connector, failure) = (connector.clone(), Arc::clone(&failure));
            async move {
                let opened = async {
                    let tcp = connect_via_proxy(&proxies, &host, port)
                        .await
                        .map_err(|error| signet_base::chain(&error))?;
                    let name = signet_pki::tls::no_server_name();
                    let handshake = connector.connect(name, tcp);
                    match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
                        Ok(Ok(stream)) => Ok(stream),
                        Ok(Err(error)) => Err(format!("TLS handshake: {error}")),
                        Err(_) => Err(format!("no TLS handshake within {HANDSHAKE_DEADLINE:?}")),
                    }
                };
                opened.await.map_err(|why: String| {
                    *lock(&failure) = Some(why.clone());
                    io::Error::other(why)
                })
            }
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({self})")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
