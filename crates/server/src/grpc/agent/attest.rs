//! AttestAgent: payload, challenges, agent ID, signature, record; in SPIRE's order.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use signet_api::{
    pb::spire::api::server::agent::v1::{self as pb, attest_agent_request, attest_agent_response},
    status,
};
use signet_attest::node::{
    Challenger, FailureClass, MAX_PAYLOAD, NodeAttestError, NodeAttestation, join_token,
};
use signet_identity::{AttestedNode, Selector, SelectorSet, SpiffeId};
use signet_pki::{PublicKey, digest, x509::Csr};
use signet_store::TokenAttestation;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    super::{
        shared::store_failed,
        svid::{bad_csr, sign_failed, x509_to_pb},
    },
    AgentService,
};
use crate::{audit::Audit, caller::Caller};

/// How long the agent may take for its first message, and for each answer to a challenge.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a whole attestation may take.
const ATTEST_DEADLINE: Duration = Duration::from_secs(120);
const TOKEN_UNUSABLE: &str = "failed to attest: join token does not exist or has already been used";

type Reply = Result<pb::AttestAgentResponse, Status>;

/// The parts of a well-formed first message.
struct Params {
    kind: String,
    payload: bytes::Bytes,
    csr: bytes::Bytes,
}

impl AgentService {
    /// Attests the agent at the other end of `requests`; the stream answers it.
    pub(super) fn attest(
        &self,
        caller: Caller,
        audit: Audit,
        mut requests: Streaming<pb::AttestAgentRequest>,
    ) -> <Self as super::agent_server::Agent>::AttestAgentStream {
        let (replies, stream) = mpsc::channel(1);
        let service = self.clone();
        let task = async move {
            let attested = service.attest_on(&caller, &audit, &mut requests, &replies);
            let reply = match tokio::time::timeout(ATTEST_DEADLINE, attested).await {
                Ok(Ok(result)) => Ok(pb::AttestAgentResponse {
                    step: Some(attest_agent_response::Step::Result(result)),
                }),
                Ok(Err(status)) => Err(status),
                Err(_) => Err(Status::deadline_exceeded("attestation took too long")),
            };
            if reply.is_err() {
                service.context.limits.attestation_failed(&caller).await;
            }
            // An agent that is gone does not read its answer.
            let _ = replies.send(reply).await;
        };
        Box::pin(WithTask { stream: ReceiverStream::new(stream), task: Some(Box::pin(task)) })
    }

    async fn attest_on(
        &self,
        caller: &Caller,
        audit: &Audit,
        requests: &mut Streaming<pb::AttestAgentRequest>,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<attest_agent_response::Result, Status> {
        let first = receive(requests).await?;
        let params = match first.step {
            Some(attest_agent_request::Step::Params(params)) => checked(params),
            _ => Err("missing params"),
        };
        let params =
            params.map_err(|why| status::wrap(Code::InvalidArgument, "malformed param", why))?;
        audit.field("node_attestor_type", &params.kind);
        let public_key = Csr::verified_public_key(&params.csr).map_err(|error| bad_csr(&error))?;

        let is_token = params.kind == join_token::KIND;
        let mut attestation = if is_token {
            self.join_token_attestation(&params.payload).await?
        } else {
            let peer = caller.addr().map(|addr| addr.ip().to_canonical());
            self.attest_by_plugin(&params, peer, requests, replies).await?
        };
        let agent_id = attestation.agent_id.clone();
        audit.field("agent_id", &agent_id);
        self.check_agent_id(&agent_id, &params.kind)?;
        self.context.limits.attested(caller, &agent_id).await?;
        if self.context.config.experimental.agent_spiffe_id_as_selector {
            attestation.selectors = with_id(attestation.selectors, &agent_id)?;
        }
        let is_known = !is_token && self.is_known(&agent_id, attestation.can_reattest).await?;
        // For a token this comes before the token is spent, so that spending it and recording the
        // agent are one transaction; nothing leaves before that has come to pass.
        let signed = self.context.authority.sign_agent_x509(&agent_id, &public_key).await;
        let svid = signed.map_err(|error| sign_failed("failed to sign X509 SVID", &error))?;
        let node = AttestedNode {
            spiffe_id: agent_id.clone(),
            attestation_type: params.kind,
            serial_number: svid.serial_number.clone(),
            expires_at: svid.not_after,
            new_serial_number: String::new(),
            new_expires_at: 0,
            selectors: attestation.selectors,
            can_reattest: attestation.can_reattest,
            agent_version: String::new(),
        };
        if is_token {
            self.spend_token(&params.payload, &public_key, node).await?;
        } else {
            self.record(node, is_known).await?;
        }
        audit.field("serial_num", &svid.serial_number);
        audit.field("expires_at", svid.not_after);
        tracing::info!(
            agent_id = %agent_id,
            address = caller.addr().map(tracing::field::display),
            "Agent attestation request completed"
        );
        Ok(attest_agent_response::Result {
            svid: Some(x509_to_pb(&agent_id, svid)),
            reattestable: attestation.can_reattest,
        })
    }

    /// Stores the attested agent; a ban that came meanwhile stays.
    async fn record(&self, node: AttestedNode, is_known: bool) -> Result<(), Status> {
        let store = &self.context.store;
        let now = self.context.clock.unix();
        if is_known {
            let id = node.spiffe_id.clone();
            let fresh = node.clone();
            let updated = store.update_node(&id, now, move |stored| {
                if stored.is_banned() {
                    return false;
                }
                let agent_version = std::mem::take(&mut stored.agent_version);
                *stored = AttestedNode { agent_version, ..fresh };
                true
            });
            let updated = updated
                .await
                .map_err(|error| store_failed("failed to update attested agent", &error))?;
            match updated {
                Some((_, true)) => return Ok(()),
                Some((_, false)) => return Err(banned()),
                // Deleted meanwhile: attesting makes it anew.
                None => {}
            }
        }
        store
            .put_node(node, now)
            .await
            .map_err(|error| store_failed("failed to create attested agent", &error))
    }

    /// Whether the agent attested before.
    ///
    /// # Errors
    /// `PermissionDenied` when it is banned, or when it may attest only once.
    async fn is_known(&self, agent_id: &SpiffeId, can_reattest: bool) -> Result<bool, Status> {
        let known = self.context.store.node(agent_id).await;
        match known.map_err(|error| store_failed("failed to fetch agent", &error))? {
            None => Ok(false),
            Some(node) if node.is_banned() => Err(banned()),
            Some(_) if can_reattest => Ok(true),
            Some(_) => Err(Status::permission_denied(
                "attestation data has already been used to attest an agent",
            )),
        }
    }

    /// What a join token stands for, if it is one.
    async fn join_token_attestation(&self, payload: &[u8]) -> Result<NodeAttestation, Status> {
        let unusable = || Status::invalid_argument(TOKEN_UNUSABLE);
        let token = token_text(payload).ok_or_else(unusable)?;
        let agent_id = self.join_token_id(token).map_err(|_| unusable())?;
        // Guessing costs a look, and not a signature. Whether it can still be spent is decided when
        // it is.
        let known = self.context.store.join_token(token).await;
        if known.map_err(|error| store_failed("failed to fetch join token", &error))?.is_none() {
            return Err(unusable());
        }
        Ok(NodeAttestation { agent_id, selectors: SelectorSet::default(), can_reattest: false })
    }

    /// Spends the token and records its agent.
    async fn spend_token(
        &self,
        payload: &[u8],
        public_key: &PublicKey,
        node: AttestedNode,
    ) -> Result<(), Status> {
        let token = token_text(payload).unwrap_or_default();
        let key_hash = digest::sha256(public_key.spki_der());
        let now = self.context.clock.unix();
        let spent = self.context.store.attest_with_token(token, key_hash, node, now).await;
        match spent.map_err(|error| store_failed("failed to fetch join token", &error))? {
            TokenAttestation::Attested => Ok(()),
            TokenAttestation::Banned => Err(banned()),
            TokenAttestation::Expired => Err(Status::invalid_argument("join token expired")),
            TokenAttestation::SpentByAnother | TokenAttestation::Unknown => {
                Err(Status::invalid_argument(TOKEN_UNUSABLE))
            }
        }
    }

    async fn attest_by_plugin(
        &self,
        params: &Params,
        peer: Option<IpAddr>,
        requests: &mut Streaming<pb::AttestAgentRequest>,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<NodeAttestation, Status> {
        let attestor = self.attestors.find(&params.kind).ok_or_else(|| {
            status::wrap(
                Code::FailedPrecondition,
                "error getting node attestor",
                format_args!("could not find node attestor type \"{}\"", params.kind),
            )
        })?;
        let mut challenger = StreamChallenger { requests, replies };
        attestor.attest(&params.payload, peer, &mut challenger).await.map_err(|error| {
            let code = match error.class {
                FailureClass::Internal => Code::Internal,
                FailureClass::InvalidArgument => Code::InvalidArgument,
                FailureClass::PermissionDenied => Code::PermissionDenied,
                FailureClass::Unavailable => Code::Unavailable,
            };
            let message = format!("nodeattestor({}): {}", params.kind, error.message);
            tracing::warn!(node_attestor_type = params.kind, error = message, "Attestation failed");
            Status::new(code, message)
        })
    }

    fn check_agent_id(&self, id: &SpiffeId, kind: &str) -> Result<(), Status> {
        if !id.is_member_of(&self.context.trust_domain) {
            return Err(Status::internal(format!(
                "invalid agent ID: \"{id}\" is not a member of trust domain \"{}\"",
                self.context.trust_domain
            )));
        }
        if id.is_server() {
            return Err(Status::internal("agent ID cannot collide with the server ID"));
        }
        let expected = format!("/spire/agent/{kind}/");
        if !id.path().starts_with(&expected) {
            tracing::warn!(
                agent_id = %id,
                "The node attestor produced an agent ID outside of its own namespace"
            );
        }
        Ok(())
    }
}

fn checked(params: attest_agent_request::Params) -> Result<Params, &'static str> {
    let data = params.data.ok_or("missing attestation data")?;
    let svid = params.params.ok_or("missing X509-SVID parameters")?;
    if svid.csr.is_empty() {
        return Err("missing CSR");
    }
    if data.r#type.is_empty() {
        return Err("missing attestation data type");
    }
    if data.payload.is_empty() {
        return Err("missing attestation data payload");
    }
    if data.payload.len() > MAX_PAYLOAD {
        return Err("attestation data payload is too long");
    }
    Ok(Params { kind: data.r#type, payload: data.payload, csr: svid.csr })
}

async fn receive(
    requests: &mut Streaming<pb::AttestAgentRequest>,
) -> Result<pb::AttestAgentRequest, Status> {
    const WHAT: &str = "failed to receive request from stream";
    match tokio::time::timeout(MESSAGE_DEADLINE, requests.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(status::wrap(Code::InvalidArgument, WHAT, "EOF")),
        Ok(Err(error)) => Err(status::wrap(Code::InvalidArgument, WHAT, error.message())),
        Err(_) => Err(Status::deadline_exceeded("the agent took too long to answer")),
    }
}

fn token_text(payload: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(payload).ok()?;
    (text.len() <= join_token::MAX_TOKEN).then_some(text)
}

fn with_id(selectors: SelectorSet, id: &SpiffeId) -> Result<SelectorSet, Status> {
    let own = Selector::new("spiffe_id", &id.to_string())
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(selectors.iter().cloned().chain(std::iter::once(own)).collect())
}

fn banned() -> Status {
    Status::permission_denied("failed to attest: agent is banned")
}

/// Challenges over the attestation stream.
struct StreamChallenger<'a> {
    requests: &'a mut Streaming<pb::AttestAgentRequest>,
    replies: &'a mpsc::Sender<Reply>,
}

#[async_trait]
impl Challenger for StreamChallenger<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
        let step = attest_agent_response::Step::Challenge(challenge.into());
        let reply = pb::AttestAgentResponse { step: Some(step) };
        self.replies
            .send(Ok(reply))
            .await
            .map_err(|_| NodeAttestError::unavailable("failed to send challenge to agent"))?;
        let answer = receive(self.requests)
            .await
            .map_err(|status| NodeAttestError::unavailable(status.message()))?;
        match answer.step {
            Some(attest_agent_request::Step::ChallengeResponse(answer))
                if answer.len() <= MAX_PAYLOAD =>
            {
                Ok(answer.to_vec())
            }
            _ => Err(NodeAttestError::invalid("expected a challenge response")),
        }
    }
}

/// A stream that also drives the task that feeds it, so that both end with the connection.
struct WithTask<S, F> {
    stream: S,
    task: Option<std::pin::Pin<Box<F>>>,
}

impl<S, F> tokio_stream::Stream for WithTask<S, F>
where
    S: tokio_stream::Stream + Unpin,
    F: Future<Output = ()>,
{
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        if let Some(task) = &mut self.task
            && task.as_mut().poll(cx).is_ready()
        {
            self.task = None;
        }
        std::pin::Pin::new(&mut self.stream).poll_next(cx)
    }
}
