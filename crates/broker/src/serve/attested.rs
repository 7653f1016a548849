//! Callers on the Unix socket: the agent says who a process is, by a JWT-SVID for the broker.

use std::{fmt, path::Path, time::Duration};

use signet_api::{
    REQUEST_ID, connect,
    pb::spire::api::agent::delegatedidentity::v1::{
        FetchJwtsviDsRequest, delegated_identity_client::DelegatedIdentityClient,
    },
};
use signet_attest::peer::PinnedPeer;
use signet_daemon::spans;
use tonic::{Code, Request, transport::Channel};

use crate::reason::{Denial, Reason};

/// How long the agent may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the agent of this node (Delegated Identity API) for tokens of other processes. The broker's
/// SPIFFE ID has to be among the agent's `authorized_delegates`.
#[derive(Clone)]
pub struct Attested {
    channel: Channel,
    audience: String,
}

impl Attested {
    /// At the agent's admin socket; tokens are for `audience`.
    pub fn new(admin_socket: &Path, audience: String) -> Self {
        Self { channel: connect::unix_lazy(admin_socket), audience }
    }

    /// The tokens of a process, one for each of its identities.
    ///
    /// # Errors
    /// [`Denial`] when it has none, or nobody can say.
    pub async fn tokens(
        &self,
        peer: &PinnedPeer,
        correlation: &str,
    ) -> Result<Vec<String>, Denial> {
        let gone = |error: &dyn fmt::Display| {
            Denial::new(Reason::Unattested, format!("the process has gone: {error}"))
        };
        peer.verify().map_err(|error| gone(&error))?;
        let mut request = Request::new(FetchJwtsviDsRequest {
            audience: vec![self.audience.clone()],
            selectors: Vec::new(),
            pid: peer.pid(),
        });
        request.set_timeout(TIMEOUT);
        if let Ok(id) = correlation.parse() {
            request.metadata_mut().insert(REQUEST_ID, id);
        }
        if let Some(traceparent) = spans::traceparent().and_then(|it| it.parse().ok()) {
            request.metadata_mut().insert(spans::TRACEPARENT, traceparent);
        }
        let mut client = DelegatedIdentityClient::new(self.channel.clone());
        let answer = tokio::time::timeout(TIMEOUT, client.fetch_jwtsvi_ds(request)).await;
        // What the agent attested is this process only if it has lived through it.
        peer.verify().map_err(|error| gone(&error))?;
        match answer {
            Ok(Ok(answer)) => {
                Ok(answer.into_inner().svids.into_iter().map(|svid| svid.token).collect())
            }
            Ok(Err(status)) => {
                let text = format!("the agent answers {}: {}", status.code(), status.message());
                let reason = match status.code() {
                    Code::PermissionDenied | Code::InvalidArgument => Reason::Unattested,
                    _ => Reason::ServerUnavailable,
                };
                Err(Denial::new(reason, text))
            }
            Err(_) => Err(Denial::new(Reason::ServerUnavailable, "the agent does not answer")),
        }
    }
}

impl fmt::Debug for Attested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attested")
    }
}
