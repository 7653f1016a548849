//! The server's half of `http_challenge`: fetches the nonce from the host it is to prove.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use regex::Regex;
use signet_base::chain;
use signet_http::{HttpClient, Proxies, Trust};
use signet_identity::{Selector, SpiffeId, TrustDomain};
use signet_pki::{digest::constant_time_eq, random};

use super::{
    Challenge, KIND, Payload, challenge_path,
    host::{OtherMachines, is_own},
};
use crate::node::{Challenger, MAX_PAYLOAD, NodeAttestError, NodeAttestation, NodeAttestorServer};

/// The most bytes of the answer that are read: a nonce is shorter.
const MAX_ANSWER: usize = 64;
/// How long the fetch may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(10);
/// The longest agent name.
const MAX_AGENT_NAME: usize = 32;

/// Settings of the server's half, with SPIRE's names.
#[derive(Clone, Debug, Default)]
pub struct HttpChallengeServerConfig {
    /// Patterns of host names that may attest; empty for all.
    pub allowed_dns_patterns: Vec<Regex>,
    /// The only port that may be fetched from.
    pub required_port: Option<u16>,
    /// Whether ports of 1024 and above may be used; unset means they may.
    pub allow_non_root_ports: Option<bool>,
    /// Whether a host attests only once; unset means it does.
    pub tofu: Option<bool>,
}

/// Fetches a challenge: `GET http://host:port/path`, no redirects, at most 64 bytes, within 10
/// seconds.
#[async_trait::async_trait]
pub trait ChallengeFetcher: Send + Sync + fmt::Debug {
    /// The answer's body.
    ///
    /// # Errors
    /// What went wrong, as text; a body over 64 bytes among it.
    async fn fetch(&self, host: &str, port: u16, path: &str) -> Result<Vec<u8>, String>;
}

/// Fetches over the network, through the proxies of the environment where they are set, and only
/// from other machines: whoever has a process on the server's own machine could answer there, for
/// any name that leads to it.
#[derive(Debug)]
pub struct NetworkFetcher {
    client: HttpClient,
}

impl NetworkFetcher {
    /// A fetcher with SPIRE's limits: 10 seconds, 64 bytes.
    ///
    /// # Errors
    /// What is wrong with the proxies of the environment, as text.
    pub fn new(proxies: Proxies) -> Result<Self, String> {
        // Plain HTTP only: no certificate is ever trusted.
        let client = HttpClient::builder()
            .trust(Trust::Roots(Vec::new()))
            .proxies(proxies)
            .peers(Arc::new(OtherMachines::new()))
            .timeout(FETCH_DEADLINE)
            .max_body(MAX_ANSWER)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { client })
    }
}

#[async_trait::async_trait]
impl ChallengeFetcher for NetworkFetcher {
    async fn fetch(&self, host: &str, port: u16, path: &str) -> Result<Vec<u8>, String> {
        let url = format!("http://{host}:{port}{path}");
        let answer = self.client.get(&url).await.map_err(|e| chain(&e).to_string())?;
        Ok(answer.into_body().to_vec())
    }
}

/// The server's half.
#[derive(Debug)]
pub struct HttpChallengeServer {
    trust_domain: TrustDomain,
    config: HttpChallengeServerConfig,
    fetcher: Box<dyn ChallengeFetcher>,
}

impl HttpChallengeServer {
    /// An attestor for agents of `trust_domain`.
    ///
    /// # Errors
    /// [`NodeAttestError`] when trust on first use is off although a process without privileges
    /// could listen on an allowed port.
    pub fn new(
        trust_domain: TrustDomain,
        config: HttpChallengeServerConfig,
        fetcher: Box<dyn ChallengeFetcher>,
    ) -> Result<Self, NodeAttestError> {
        let non_root = match (config.required_port, config.allow_non_root_ports) {
            (Some(port), _) => port >= 1024,
            (None, allowed) => allowed.unwrap_or(true),
        };
        if config.tofu == Some(false) && non_root {
            return Err(NodeAttestError::invalid(
                "you can not turn off trust on first use (TOFU) when non-root ports are allowed",
            ));
        }
        Ok(Self { trust_domain, config, fetcher })
    }

    fn check(&self, payload: &Payload) -> Result<u16, NodeAttestError> {
        let port = u16::try_from(payload.port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| NodeAttestError::invalid("port is invalid"))?;
        if self.config.required_port.is_some_and(|required| required != port) {
            return Err(NodeAttestError::invalid(format!(
                "port {port} is not allowed to be used by this server"
            )));
        }
        if self.config.allow_non_root_ports == Some(false) && port >= 1024 {
            return Err(NodeAttestError::invalid(format!(
                "port {port} is not allowed to be >= 1024"
            )));
        }
        let name = payload.agentname.as_bytes();
        let good_name = name.first().is_some_and(u8::is_ascii_alphabetic)
            && name.len() <= MAX_AGENT_NAME
            && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        if !good_name {
            return Err(NodeAttestError::invalid("agent name is not valid"));
        }
        let host = payload.hostname.as_str();
        if is_own(host) {
            return Err(NodeAttestError::denied("you can not use localhost as a hostname"));
        }
        if host.is_empty() || host.len() > 253 || host.contains(['/', ':', '@', '?', '#', '%']) {
            return Err(NodeAttestError::invalid("hostname is not valid"));
        }
        let patterns = &self.config.allowed_dns_patterns;
        if !patterns.is_empty() && !patterns.iter().any(|pattern| pattern.is_match(host)) {
            return Err(NodeAttestError::denied(
                "the requested hostname is not allowed to connect",
            ));
        }
        Ok(port)
    }
}

#[async_trait::async_trait]
impl NodeAttestorServer for HttpChallengeServer {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn attest(
        &self,
        payload: &[u8],
        _peer: Option<IpAddr>,
        challenger: &mut dyn Challenger,
    ) -> Result<NodeAttestation, NodeAttestError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(NodeAttestError::invalid("attestation payload is too long"));
        }
        let payload: Payload = serde_json::from_slice(payload)
            .map_err(|e| NodeAttestError::invalid(format!("failed to unmarshal data: {e}")))?;
        let port = self.check(&payload)?;
        let path = format!("/http_challenge/{}", payload.hostname);
        let agent_id = SpiffeId::new(self.trust_domain.clone(), &format!("/spire/agent{path}"))
            .map_err(|e| NodeAttestError::invalid(format!("hostname is not valid: {e}")))?;
        let secret = random::bytes::<32>()
            .map_err(|e| NodeAttestError::internal(format!("unable to generate challenge: {e}")))?;
        let nonce = {
            use base64::{Engine, engine::general_purpose::URL_SAFE};
            URL_SAFE.encode(secret)
        };
        let challenge = serde_json::to_vec(&Challenge { nonce: nonce.clone() })
            .map_err(|e| NodeAttestError::internal(format!("unable to marshal challenge: {e}")))?;
        // The response says only that the agent now serves the nonce.
        challenger.challenge(challenge).await?;
        let answer = self
            .fetcher
            .fetch(&payload.hostname, port, &challenge_path(&payload.agentname))
            .await
            .map_err(|e| NodeAttestError::denied(format!("challenge verification failed: {e}")))?;
        if !constant_time_eq(answer.trim_ascii(), nonce.as_bytes()) {
            return Err(NodeAttestError::denied(
                "challenge verification failed: expected nonce was not found in HTTP response",
            ));
        }
        let selector = Selector::new(KIND, &format!("hostname:{}", payload.hostname))
            .map_err(|e| NodeAttestError::internal(format!("making a selector: {e}")))?;
        Ok(NodeAttestation {
            agent_id,
            selectors: [selector].into_iter().collect(),
            can_reattest: self.config.tofu == Some(false),
        })
    }
}
