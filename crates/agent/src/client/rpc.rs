//! The calls an agent makes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use signet_api::{
    convert,
    pb::{
        signet::api::{
            push::v1::{self as push, push_client::PushClient},
            server::federation::v1::{
                ReportUnknownKeyRequest, federation_client::FederationClient,
            },
        },
        spire::api::{
            server::{
                agent::v1::{
                    AgentX509svidParams, AttestAgentRequest, PostStatusRequest, RenewAgentRequest,
                    agent_client::AgentClient,
                    attest_agent_request::{Params, Step as RequestStep},
                    attest_agent_response::Step as ResponseStep,
                },
                bundle::v1::{
                    GetBundleRequest, GetFederatedBundleRequest, bundle_client::BundleClient,
                },
                svid::v1::{
                    BatchNewWitsvidRequest, BatchNewX509svidRequest, NewJwtsvidRequest,
                    NewWitsvidParams, NewX509svidParams, svid_client::SvidClient,
                },
            },
            types,
        },
    },
    status,
};
use signet_attest::node::NodeAttestorAgent;
use signet_identity::{Bundle, EntryId, SpiffeId, TrustDomain};
use signet_pki::{PublicKey, wit::ProofAlgorithm};
use signet_time::UnixTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{ClientError, MAX_ANSWER, RPC_TIMEOUT, ServerClient};
use crate::{jwt_cache::JwtSvid, request_id};

/// How long a whole attestation may take, challenges included.
const ATTEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How many challenges a server may pose.
const MAX_CHALLENGES: usize = 16;
/// How long a report of an unknown key may take: a workload waits for it.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long subscribing to notices may take.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);

/// What attestation brought.
#[derive(Clone, Debug)]
pub struct Attested {
    /// The agent's certificates, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Whether the agent may attest again with the same evidence.
    pub reattestable: bool,
}

/// One SVID to sign.
#[derive(Clone, Debug)]
pub struct SignRequest {
    /// For which entry.
    pub entry_id: EntryId,
    /// The request, DER.
    pub csr: Vec<u8>,
}

/// What came of a [`SignRequest`]: certificates (DER, leaf first), or why not.
pub type NewSvid = Result<Vec<Box<[u8]>>, Status>;

/// A token that the server signed, as far as it can be judged without the entry.
pub struct SignedToken {
    /// The compact JWS.
    pub token: String,
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// When it was issued.
    pub issued_at: UnixTime,
    /// When it expires; not before it was issued.
    pub expires_at: UnixTime,
    /// The key that signed it.
    pub key_id: Box<str>,
}

/// Where things stand on the server, as far as this agent is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Which history the revisions belong to.
    pub feed_id: String,
    /// Newest change of the agent's entries.
    pub entries_revision: u64,
    /// Newest change of a bundle.
    pub bundles_revision: u64,
}

/// A subscription to notices.
#[derive(Debug)]
pub struct NoticeStream {
    stream: Streaming<push::Notice>,
    /// Names the subscription in the server's log.
    request_id: Arc<str>,
}

impl NoticeStream {
    /// The next notice; none when the server ends the stream.
    ///
    /// # Errors
    /// [`ClientError::Rpc`] when the stream fails.
    pub async fn next(&mut self) -> Result<Option<Notice>, ClientError> {
        let notice = self.stream.message().await.map_err(|status| {
            ClientError::rpc("Subscribe", status).under(Arc::clone(&self.request_id))
        })?;
        Ok(notice.map(|notice| Notice {
            feed_id: notice.feed_id,
            entries_revision: notice.entries_revision,
            bundles_revision: notice.bundles_revision,
        }))
    }
}

impl ServerClient {
    /// Attests with `attestor` and has `csr` signed.
    ///
    /// # Errors
    /// [`ClientError`]; `PermissionDenied` and `InvalidArgument` are the server's final word.
    pub async fn attest(
        &self,
        attestor: &dyn NodeAttestorAgent,
        csr: &[u8],
    ) -> Result<Attested, ClientError> {
        const METHOD: &str = "AttestAgent";
        self.call(METHOD, ATTEST_TIMEOUT, |channel| async move {
            let (payload, mut answerer) = attestor
                .begin()
                .await
                .map_err(|error| Status::failed_precondition(error.to_string()))?;
            let ended = || Status::internal("the server ended the attestation early");
            let (requests, receiver) = mpsc::channel(2);
            let send = async |step| {
                requests.send(AttestAgentRequest { step: Some(step) }).await.map_err(|_| ended())
            };
            send(RequestStep::Params(Params {
                data: Some(types::AttestationData {
                    r#type: attestor.kind().to_owned(),
                    payload: Bytes::from(payload),
                }),
                params: Some(AgentX509svidParams { csr: Bytes::copy_from_slice(csr) }),
            }))
            .await?;
            let mut answers = AgentClient::new(channel)
                .attest_agent(request_id::named(ReceiverStream::new(receiver)))
                .await?
                .into_inner();
            for _ in 0..=MAX_CHALLENGES {
                match answers.message().await?.and_then(|answer| answer.step) {
                    Some(ResponseStep::Challenge(challenge)) => {
                        let response = answerer
                            .answer(&challenge)
                            .await
                            .map_err(|error| Status::failed_precondition(error.to_string()))?;
                        send(RequestStep::ChallengeResponse(Bytes::from(response))).await?;
                    }
                    Some(ResponseStep::Result(result)) => {
                        let svid = result.svid.unwrap_or_default();
                        return Ok(Attested {
                            chain: svid.cert_chain.iter().map(|der| der.to_vec()).collect(),
                            reattestable: result.reattestable,
                        });
                    }
                    None => return Err(ended()),
                }
            }
            Err(Status::internal("the server does not stop challenging"))
        })
        .await
        .and_then(|attested| {
            if attested.chain.is_empty() {
                return Err(malformed(METHOD, "no certificate"));
            }
            Ok(attested)
        })
    }

    /// Has a new SVID of this agent signed: certificates, DER, leaf first.
    ///
    /// # Errors
    /// [`ClientError`] when the server cannot be reached or is not trusted, does not answer in
    /// time, refuses, or answers what cannot be read.
    pub async fn renew(&self, csr: &[u8]) -> Result<Vec<Vec<u8>>, ClientError> {
        const METHOD: &str = "RenewAgent";
        let answer = self
            .call(METHOD, RPC_TIMEOUT, |channel| {
                let params = AgentX509svidParams { csr: Bytes::copy_from_slice(csr) };
                let request = RenewAgentRequest { params: Some(params) };
                async move { AgentClient::new(channel).renew_agent(request_id::named(request)).await }
            })
            .await?
            .into_inner();
        let chain: Vec<Vec<u8>> =
            answer.svid.unwrap_or_default().cert_chain.iter().map(|der| der.to_vec()).collect();
        if chain.is_empty() {
            return Err(malformed(METHOD, "no certificate"));
        }
        Ok(chain)
    }

    /// Tells the server which version this agent is.
    ///
    /// # Errors
    /// [`ClientError`] when the server cannot be reached or is not trusted, does not answer in
    /// time, refuses, or answers what cannot be read.
    pub async fn post_status(&self, version: &str) -> Result<(), ClientError> {
        self.call("PostStatus", RPC_TIMEOUT, |channel| {
            let request = PostStatusRequest {
                agent_version: version.to_owned(),
                ..PostStatusRequest::default()
            };
            async move { AgentClient::new(channel).post_status(request_id::named(request)).await }
        })
        .await?;
        Ok(())
    }

    /// Tells the server that a token was signed by a key of `trust_domain` that its bundle does not
    /// have; a SPIRE server does not listen.
    ///
    /// # Errors
    /// [`ClientError`] when the server cannot be reached or is not trusted, does not answer in
    /// time, refuses, or answers what cannot be read.
    pub async fn report_unknown_key(&self, trust_domain: &TrustDomain) -> Result<(), ClientError> {
        self.call("ReportUnknownKey", REPORT_TIMEOUT, |channel| {
            let request = ReportUnknownKeyRequest { trust_domain: trust_domain.to_string() };
            async move {
                FederationClient::new(channel).report_unknown_key(request_id::named(request)).await
            }
        })
        .await?;
        Ok(())
    }

    /// The bundle of the own trust domain.
    ///
    /// # Errors
    /// [`ClientError`] when the server cannot be reached or is not trusted, does not answer in
    /// time, refuses, or answers what cannot be read.
    pub async fn bundle(&self) -> Result<Bundle, ClientError> {
        const METHOD: &str = "GetBundle";
        let answer = self
            .call(METHOD, RPC_TIMEOUT, |channel| async move {
                BundleClient::new(channel)
                    .max_decoding_message_size(MAX_ANSWER)
                    .get_bundle(request_id::named(GetBundleRequest::default()))
                    .await
            })
            .await?;
        convert::bundle_from_pb(answer.get_ref())
            .map_err(|error| malformed(METHOD, &error.to_string()))
    }

    /// The bundle of a foreign trust domain; none when the server has none.
    ///
    /// # Errors
    /// [`ClientError`] when the server cannot be reached or is not trusted, does not answer in
    /// time, refuses, or answers what cannot be read.
    pub async fn federated_bundle(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Bundle>, ClientError> {
        const METHOD: &str = "GetFederatedBundle";
        let answer = self
            .call(METHOD, RPC_TIMEOUT, |channel| {
                let request = GetFederatedBundleRequest {
                    trust_domain: trust_domain.to_string(),
                    ..GetFederatedBundleRequest::default()
                };
                async move {
                    BundleClient::new(channel)
                        .max_decoding_message_size(MAX_ANSWER)
                        .get_federated_bundle(request_id::named(request))
                        .await
                }
            })
            .await;
        match answer {
            Ok(answer) => convert::bundle_from_pb(answer.get_ref())
                .map(Some)
                .map_err(|error| malformed(METHOD, &error.to_string())),
            Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has up to 500 X.509-SVIDs signed; the results are in the order of the requests.
    ///
    /// # Errors
    /// [`ClientError`] when the call as a whole fails.
    pub async fn sign_x509(&self, requests: &[SignRequest]) -> Result<Vec<NewSvid>, ClientError> {
        const METHOD: &str = "BatchNewX509SVID";
        let answer = self
            .call(METHOD, RPC_TIMEOUT, |channel| {
                let params = requests
                    .iter()
                    .map(|request| NewX509svidParams {
                        entry_id: request.entry_id.to_string(),
                        csr: Bytes::copy_from_slice(&request.csr),
                    })
                    .collect();
                async move {
                    SvidClient::new(channel)
                        .max_decoding_message_size(MAX_ANSWER)
                        .batch_new_x509svid(request_id::named(BatchNewX509svidRequest { params }))
                        .await
                }
            })
            .await?
            .into_inner();
        if answer.results.len() != requests.len() {
            return Err(malformed(METHOD, "not one result for each request"));
        }
        Ok(answer
            .results
            .into_iter()
            .map(|result| {
                if let Some(failed) =
                    result.status.as_ref().filter(|status| !status::is_ok(Some(status)))
                {
                    return Err(status::from_item(failed));
                }
                let chain: Vec<Box<[u8]>> = result
                    .svid
                    .unwrap_or_default()
                    .cert_chain
                    .iter()
                    .map(|der| Box::from(&**der))
                    .collect();
                if chain.is_empty() {
                    return Err(Status::internal("no certificate"));
                }
                Ok(chain)
            })
            .collect())
    }

    /// Has a JWT-SVID signed.
    ///
    /// # Errors
    /// [`ClientError`] when the server cannot be reached or is not trusted, does not answer in
    /// time, refuses, or answers what cannot be read.
    pub async fn sign_jwt(
        &self,
        entry_id: &EntryId,
        audience: &[String],
        deadline: Duration,
    ) -> Result<JwtSvid, ClientError> {
        const METHOD: &str = "NewJWTSVID";
        let answer = self
            .call(METHOD, deadline, |channel| {
                let request = NewJwtsvidRequest {
                    entry_id: entry_id.to_string(),
                    audience: audience.to_vec(),
                };
                let request = request_id::named(request);
                async move { SvidClient::new(channel).new_jwtsvid(request).await }
            })
            .await?
            .into_inner();
        let svid = answer.svid.ok_or_else(|| malformed(METHOD, "no SVID"))?;
        let times = (svid.issued_at, svid.expires_at);
        let SignedToken { token, spiffe_id, issued_at, expires_at, key_id } =
            signed(METHOD, svid.token, svid.id.as_ref(), times)?;
        Ok(JwtSvid { token: Arc::from(token), spiffe_id, issued_at, expires_at, key_id })
    }

    /// Has WIT-SVIDs signed, up to 500 at once: each for the key (SubjectPublicKeyInfo DER) that is
    /// given with its entry. The results are in the order of the requests.
    ///
    /// # Errors
    /// [`ClientError`] when the call as a whole fails; `Unimplemented` from a server that has none.
    pub async fn sign_wit(
        &self,
        requests: &[(EntryId, PublicKey)],
        deadline: Duration,
    ) -> Result<Vec<Result<SignedToken, ClientError>>, ClientError> {
        const METHOD: &str = "BatchNewWITSVID";
        let answer = self
            .call(METHOD, deadline, |channel| {
                let params = requests.iter().map(|(id, key)| NewWitsvidParams {
                    entry_id: id.to_string(),
                    public_key: Bytes::copy_from_slice(key.spki_der()),
                    signing_algorithm: ProofAlgorithm::of(key.algorithm()).to_string(),
                });
                let request = BatchNewWitsvidRequest { params: params.collect() };
                async move {
                    SvidClient::new(channel)
                        .max_decoding_message_size(MAX_ANSWER)
                        .batch_new_witsvid(request_id::named(request))
                        .await
                }
            })
            .await?
            .into_inner();
        if answer.results.len() != requests.len() {
            return Err(malformed(METHOD, "not one result for each request"));
        }
        let results = answer.results.into_iter().map(|result| {
            let refused = |status| ClientError::rpc(METHOD, status);
            match result.status.as_ref().filter(|status| !status::is_ok(Some(status))) {
                Some(failed) => Err(refused(status::from_item(failed))),
                None => {
                    let svid = result.svid.ok_or_else(|| refused(Status::internal("no SVID")))?;
                    let times = (svid.issued_at, svid.expires_at);
                    signed(METHOD, svid.token, svid.id.as_ref(), times)
                }
            }
        });
        Ok(results.collect())
    }

    /// Subscribes to notices of what changed.
    ///
    /// # Errors
    /// [`ClientError`]; `Unimplemented` from a server without push.
    pub async fn subscribe(&self, last: Option<&Notice>) -> Result<NoticeStream, ClientError> {
        let request = push::SubscribeRequest {
            feed_id: last.map(|notice| notice.feed_id.clone()).unwrap_or_default(),
            entries_revision: last.map_or(0, |notice| notice.entries_revision),
            bundles_revision: last.map_or(0, |notice| notice.bundles_revision),
        };
        let subscribed = self.call("Subscribe", SUBSCRIBE_TIMEOUT, |channel| {
            let request = request.clone();
            async move { PushClient::new(channel).subscribe(request_id::named(request)).await }
        });
        let (request_id, stream) = request_id::under_its_id(subscribed).await;
        Ok(NoticeStream { stream: stream?.into_inner(), request_id })
    }
}

fn malformed(method: &'static str, reason: &str) -> ClientError {
    ClientError::Malformed { method, reason: reason.to_owned() }
}

/// Checks that a token is somebody's, and has times (issued, expires) that make sense.
fn signed(
    method: &'static str,
    token: String,
    id: Option<&types::Spiffeid>,
    (issued_at, expires_at): (i64, i64),
) -> Result<SignedToken, ClientError> {
    if issued_at == 0 || expires_at == 0 || issued_at > expires_at {
        return Err(malformed(method, "issue or expiry time is absent or out of order"));
    }
    let spiffe_id =
        convert::id_from_pb(id).map_err(|error| malformed(method, &error.to_string()))?;
    Ok(SignedToken {
        key_id: key_id(&token),
        token,
        spiffe_id,
        issued_at: UnixTime::from_seconds(issued_at),
        expires_at: UnixTime::from_seconds(expires_at),
    })
}

/// The key ID in a token's header; empty when there is none. The token comes from the server and
/// is not judged here.
fn key_id(token: &str) -> Box<str> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    #[derive(serde::Deserialize)]
    struct Header {
        kid: Box<str>,
    }

    token
        .split_once('.')
        .and_then(|(header, _)| URL_SAFE_NO_PAD.decode(header).ok())
        .and_then(|header| serde_json::from_slice::<Header>(&header).ok())
        .map_or_else(|| "".into(), |header| header.kid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_are_read_from_token_headers() {
        // {"alg":"ES256","kid":"k1","typ":"JWT"}
        let token = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsxIiwidHlwIjoiSldUIn0.e30.AA";
        assert_eq!(&*key_id(token), "k1");
        assert_eq!(&*key_id("nonsense"), "");
    }
}
