//! AttestAgent: the messages of an attestation, and how long each may take.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use signet_api::pb::spire::api::server::agent::v1::{
    self as pb, attest_agent_request, attest_agent_response,
};
use signet_attest::node::{Challenger, MAX_PAYLOAD, NodeAttestError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::super::{shared::status, svid::x509_to_pb};
use crate::usecase::{
    Call,
    attestation::{Attestation, Evidence},
    error::{Error, ErrorKind},
};

/// How long the agent may take for its first message, and for each answer to a challenge.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a whole attestation may take.
const ATTEST_DEADLINE: Duration = Duration::from_secs(120);

type Reply = Result<pb::AttestAgentResponse, Status>;

/// Attests the agent at the other end of `requests`; the stream answers it.
pub(super) fn stream(
    attestation: Attestation,
    call: Call,
    mut requests: Streaming<pb::AttestAgentRequest>,
) -> <super::AgentService as super::agent_server::Agent>::AttestAgentStream {
    let (replies, stream) = mpsc::channel(1);
    let task = async move {
        let attested = attest(&attestation, &call, &mut requests, &replies);
        let attested = match tokio::time::timeout(ATTEST_DEADLINE, attested).await {
            Ok(attested) => attested,
            Err(_) => Err(Error::new(ErrorKind::TimedOut, "attestation took too long")),
        };
        let reply = match attested {
            Ok(result) => Ok(pb::AttestAgentResponse {
                step: Some(attest_agent_response::Step::Result(result)),
            }),
            Err(error) => {
                call.audit.failed(&error);
                attestation.failed(&call).await;
                Err(status(&error))
            }
        };
        // An agent that is gone does not read its answer.
        let _ = replies.send(reply).await;
    };
    Box::pin(WithTask { stream: ReceiverStream::new(stream), task: Some(Box::pin(task)) })
}

async fn attest(
    attestation: &Attestation,
    call: &Call,
    requests: &mut Streaming<pb::AttestAgentRequest>,
    replies: &mpsc::Sender<Reply>,
) -> Result<attest_agent_response::Result, Error> {
    let evidence = match receive(requests).await?.step {
        Some(attest_agent_request::Step::Params(params)) => Evidence::new(
            params.data.map(|data| (data.r#type, data.payload)),
            params.params.map(|svid| svid.csr),
        ),
        _ => Err("missing params"),
    };
    let evidence = evidence.map_err(|why| Error::invalid("malformed param").because(why))?;
    let mut challenger = StreamChallenger { requests, replies };
    let attested = attestation.attest(call, evidence, &mut challenger).await?;
    Ok(attest_agent_response::Result {
        svid: Some(x509_to_pb(attested.issued)),
        reattestable: attested.can_reattest,
    })
}

async fn receive(
    requests: &mut Streaming<pb::AttestAgentRequest>,
) -> Result<pb::AttestAgentRequest, Error> {
    const WHAT: &str = "failed to receive request from stream";
    match tokio::time::timeout(MESSAGE_DEADLINE, requests.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(Error::invalid(WHAT).because("EOF")),
        Ok(Err(error)) => Err(Error::invalid(WHAT).because(error.message())),
        Err(_) => Err(Error::new(ErrorKind::TimedOut, "the agent took too long to answer")),
    }
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
            .map_err(|error| NodeAttestError::unavailable(error.to_string()))?;
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
    task: Option<Pin<Box<F>>>,
}

impl<S, F> tokio_stream::Stream for WithTask<S, F>
where
    S: tokio_stream::Stream + Unpin,
    F: Future<Output = ()>,
{
    type Item = S::Item;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        if let Some(task) = &mut self.task
            && task.as_mut().poll(cx).is_ready()
        {
            self.task = None;
        }
        Pin::new(&mut self.stream).poll_next(cx)
    }
}
