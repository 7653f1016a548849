//! How an agent becomes one: evidence, challenges, agent ID, signature, record; in SPIRE's order.

use std::{fmt, net::IpAddr};

use bytes::Bytes;
use signet_attest::node::{Challenger, FailureClass, MAX_PAYLOAD, NodeAttestation, join_token};
use signet_audit::{Digested, Field};
use signet_authority::Authority;
use signet_base::SharedClock;
use signet_identity::{AttestedNode, Selector, SelectorSet, SpiffeId, TrustDomain};
use signet_pki::{PublicKey, digest, x509::Serial};
use signet_store::{Store, TokenAttestation};
use signet_time::UnixTime;

use super::{
    Call,
    agents::join_token_id,
    authorization::Action,
    error::{Error, ErrorKind},
    issuance::{Issued, public_key},
    parts::Parts,
};
use crate::{
    attestors::Attestors,
    cache::Cache,
    limits::{Limits, Work},
    metrics::ServerMetrics,
    policy::Policy,
};

const TOKEN_UNUSABLE: &str = "failed to attest: join token does not exist or has already been used";
const USED: &str = "attestation data has already been used to attest an agent";
/// How often a record that others create and delete is tried again.
const MAX_RACES: u32 = 3;

/// Attests agents. Cheap to clone.
#[derive(Clone)]
pub struct Attestation {
    trust_domain: TrustDomain,
    store: Store,
    clock: SharedClock,
    authority: Authority,
    attestors: Attestors,
    limits: Limits,
    counted: ServerMetrics,
    id_is_selector: bool,
    cache: std::sync::Arc<Cache>,
    policy: Policy,
}

/// What an agent brings forward, well-formed.
#[derive(Clone, Debug)]
pub struct Evidence {
    kind: String,
    payload: Bytes,
    csr: Bytes,
}

/// An attested agent.
#[derive(Clone, Debug)]
pub struct Attested {
    /// Its SVID.
    pub issued: Issued,
    /// It may attest again with the same evidence, and does so in place of renewing.
    pub can_reattest: bool,
}

impl Evidence {
    /// Checks what must be there, in SPIRE's order; `data` is the attestor's type and its payload.
    ///
    /// # Errors
    /// What is missing.
    pub fn new(data: Option<(String, Bytes)>, csr: Option<Bytes>) -> Result<Self, &'static str> {
        let (kind, payload) = data.ok_or("missing attestation data")?;
        let csr = csr.ok_or("missing X509-SVID parameters")?;
        if csr.is_empty() {
            return Err("missing CSR");
        }
        if kind.is_empty() {
            return Err("missing attestation data type");
        }
        if payload.is_empty() {
            return Err("missing attestation data payload");
        }
        if payload.len() > MAX_PAYLOAD {
            return Err("attestation data payload is too long");
        }
        Ok(Self { kind, payload, csr })
    }
}

impl Attestation {
    /// That of a server with these parts.
    pub fn new(parts: &Parts, attestors: Attestors) -> Self {
        Self {
            trust_domain: parts.trust_domain.clone(),
            store: parts.store.clone(),
            clock: std::sync::Arc::clone(&parts.clock),
            authority: parts.authority.clone(),
            attestors,
            limits: parts.limits.clone(),
            counted: parts.counted.clone(),
            cache: std::sync::Arc::clone(&parts.cache),
            policy: parts.policy.clone(),
            id_is_selector: parts.rules.agent_id_as_selector,
        }
    }

    /// Waits until the caller may be told that its attestation failed.
    pub async fn failed(&self, call: &Call) {
        self.limits.attestation_failed(&call.principal).await;
    }

    /// Judges `evidence`, records the agent and signs its SVID.
    ///
    /// # Errors
    /// `Invalid` and `Denied` as the attestor says; `Denied` when the agent is banned or may attest
    /// only once; or when store or authority fail.
    pub async fn attest(
        &self,
        call: &Call,
        evidence: Evidence,
        challenger: &mut dyn Challenger,
    ) -> Result<Attested, Error> {
        call.may(Action::AttestAgent)?;
        call.about(Field::NodeAttestorType(evidence.kind.clone()));
        // Whoever is not attested yet chooses the type: only those that are known are told apart.
        let is_known =
            evidence.kind == join_token::KIND || self.attestors.find(&evidence.kind).is_some();
        let attestor = if is_known { evidence.kind.as_str() } else { "unknown" };
        let timer = self.counted.attestation.start(&[attestor]);
        let outcome = self.judge(call, &evidence, challenger).await;
        timer.done(outcome.as_ref().map_or_else(|error| error.kind().name(), |_| "OK"));
        outcome
    }

    async fn judge(
        &self,
        call: &Call,
        evidence: &Evidence,
        challenger: &mut dyn Challenger,
    ) -> Result<Attested, Error> {
        let public_key = public_key(&evidence.csr)?;
        let is_token = evidence.kind == join_token::KIND;
        let mut attestation = if is_token {
            self.token_attestation(&evidence.payload).await?
        } else {
            let peer = call.principal.addr().map(|addr| addr.ip().to_canonical());
            self.by_plugin(evidence, peer, challenger).await?
        };
        let agent_id = attestation.agent_id.clone();
        call.about(Field::AgentId(agent_id.clone()));
        self.check_agent_id(&agent_id, &evidence.kind)?;
        self.limits.attested(&call.principal, &agent_id).await?;
        if self.id_is_selector {
            attestation.selectors = with_id(attestation.selectors, &agent_id)?;
        }
        if call.audit.is_on() {
            let selectors = Digested(attestation.selectors.clone());
            call.about(Field::MatchedSelectors(selectors));
        }
        if self.policy.is_required() {
            self.policy.ready(&self.cache).await?;
            self.cache.fresh().await?;
            let selectors = &attestation.selectors;
            self.policy.judge(&self.cache, |judge| judge.agent(&agent_id, selectors).map(drop))?;
        }
        let (can_reattest, now) = (attestation.can_reattest, self.clock.unix());
        let may_attest = |known: &AttestedNode| match known {
            _ if known.is_banned() => Err(banned()),
            _ if can_reattest || is_repeated(known, &public_key, now) => Ok(()),
            _ => Err(Error::new(ErrorKind::Denied, USED)),
        };
        // Whoever may not attest costs no signature. What counts is asked when it is recorded.
        let known = match is_token {
            true => None,
            false => self
                .store
                .node(&agent_id)
                .await
                .map_err(|error| Error::store("failed to fetch agent", &error))?,
        };
        known.as_ref().map_or(Ok(()), may_attest)?;
        // The node has proved what it is, so what it has counts.
        let expires_at = known.as_ref().map(|node| node.expires_at.max(node.new_expires_at));
        let turn = self.limits.turns.turn(&call.principal, Work::Attest, expires_at, now);
        let _turn = turn.await?;
        // For a token this comes before the token is spent, so that spending it and recording the
        // agent are one transaction; nothing leaves before that has come to pass.
        let serial = Serial::of_key(&public_key)
            .map_err(|error| Error::internal("failed to sign X509 SVID").because(error))?;
        let signed = self.authority.sign_agent_x509(&agent_id, &public_key, Some(serial)).await;
        let svid = signed.map_err(|error| Error::signing("failed to sign X509 SVID", &error))?;
        let node = AttestedNode {
            spiffe_id: agent_id.clone(),
            attestation_type: evidence.kind.clone(),
            serial_number: svid.serial_number.clone(),
            expires_at: svid.not_after,
            new_serial_number: String::new(),
            new_expires_at: UnixTime::EPOCH,
            selectors: attestation.selectors,
            can_reattest: attestation.can_reattest,
            agent_version: String::new(),
        };
        if is_token {
            self.spend_token(&evidence.payload, &public_key, node).await?;
        } else {
            self.record(node, known.is_some(), may_attest).await?;
        }
        call.about(Field::SerialNumber(svid.serial_number.clone()));
        call.about(Field::ExpiresAt(svid.not_after));
        tracing::info!(
            agent_id = %agent_id,
            node_attestor_type = evidence.kind,
            address = call.principal.addr().map(tracing::field::display),
            serial_num = svid.serial_number,
            request_id = &**call.audit.request_id(),
            "Agent attestation request completed"
        );
        let issued = Issued { spiffe_id: agent_id, svid };
        Ok(Attested { issued, can_reattest: attestation.can_reattest })
    }

    /// Stores the attested agent, where `may_attest` lets it replace what is known of it then: of
    /// two that attest at once with evidence that is good once, one is refused, and a ban that came
    /// meanwhile stays.
    async fn record(
        &self,
        node: AttestedNode,
        mut is_known: bool,
        may_attest: impl Fn(&AttestedNode) -> Result<(), Error> + Send + Sync,
    ) -> Result<(), Error> {
        let (store, now) = (&self.store, self.clock.unix());
        // Again where it is created or deleted in between.
        for _ in 0..MAX_RACES {
            if !is_known {
                let created = store.create_node(node.clone(), now).await;
                let failed = |error| Error::store("failed to create attested agent", &error);
                if created.map_err(failed)? {
                    return Ok(());
                }
            }
            let (fresh, may_attest) = (node.clone(), &may_attest);
            let updated = store.update_node(&node.spiffe_id, now, move |stored| {
                if may_attest(stored).is_err() {
                    return false;
                }
                let agent_version = std::mem::take(&mut stored.agent_version);
                *stored = AttestedNode { agent_version, ..fresh };
                true
            });
            let updated = updated
                .await
                .map_err(|error| Error::store("failed to update attested agent", &error))?;
            match updated {
                Some((_, true)) => return Ok(()),
                Some((stored, false)) => return may_attest(&stored),
                None => is_known = false,
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the agent attests elsewhere at the same time"))
    }

    /// What a join token stands for, if it is one.
    async fn token_attestation(&self, payload: &[u8]) -> Result<NodeAttestation, Error> {
        let unusable = || Error::invalid(TOKEN_UNUSABLE);
        let token = token_text(payload).ok_or_else(unusable)?;
        let agent_id = join_token_id(&self.trust_domain, token).map_err(|_| unusable())?;
        // Guessing costs a look, and not a signature. Whether it can still be spent is decided when
        // it is.
        let known = self.store.join_token(token).await;
        if known.map_err(|error| Error::store("failed to fetch join token", &error))?.is_none() {
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
    ) -> Result<(), Error> {
        let token = token_text(payload).unwrap_or_default();
        let key_hash = digest::sha256(public_key.spki_der());
        let now = self.clock.unix();
        let spent = self.store.attest_with_token(token, key_hash, node, now).await;
        match spent.map_err(|error| Error::store("failed to fetch join token", &error))? {
            TokenAttestation::Attested => Ok(()),
            TokenAttestation::Banned => Err(banned()),
            TokenAttestation::Expired => Err(Error::invalid("join token expired")),
            TokenAttestation::SpentByAnother | TokenAttestation::Unknown => {
                Err(Error::invalid(TOKEN_UNUSABLE))
            }
        }
    }

    async fn by_plugin(
        &self,
        evidence: &Evidence,
        peer: Option<IpAddr>,
        challenger: &mut dyn Challenger,
    ) -> Result<NodeAttestation, Error> {
        let kind = &evidence.kind;
        let attestor = self.attestors.find(kind).ok_or_else(|| {
            Error::new(ErrorKind::Precondition, "error getting node attestor")
                .because(format_args!("could not find node attestor type \"{kind}\""))
        })?;
        attestor.attest(&evidence.payload, peer, challenger).await.map_err(|error| {
            let class = match error.class {
                FailureClass::Internal => ErrorKind::Internal,
                FailureClass::InvalidArgument => ErrorKind::Invalid,
                FailureClass::PermissionDenied => ErrorKind::Denied,
                FailureClass::Unavailable => ErrorKind::Unavailable,
            };
            Error::new(class, format!("nodeattestor({kind}): {}", error.message))
        })
    }

    fn check_agent_id(&self, id: &SpiffeId, kind: &str) -> Result<(), Error> {
        if !id.is_member_of(&self.trust_domain) {
            return Err(Error::internal("invalid agent ID").because(format_args!(
                "\"{id}\" is not a member of trust domain \"{}\"",
                self.trust_domain
            )));
        }
        if id.is_server() {
            return Err(Error::internal("agent ID cannot collide with the server ID"));
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

impl fmt::Debug for Attestation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attestation(..)")
    }
}

/// Whether an attestation that can be made only once is made again with the key it was made with
/// before, because its answer was lost: the agent has not renewed its SVID since, which the serial
/// number on record tells to be of this key.
fn is_repeated(node: &AttestedNode, key: &PublicKey, now: UnixTime) -> bool {
    node.new_serial_number.is_empty()
        && node.expires_at > now
        && Serial::is_of_key(&node.serial_number, key)
}

fn token_text(payload: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(payload).ok()?;
    (text.len() <= join_token::MAX_TOKEN).then_some(text)
}

fn with_id(selectors: SelectorSet, id: &SpiffeId) -> Result<SelectorSet, Error> {
    let own = Selector::new("spiffe_id", &id.to_string())
        .map_err(|error| Error::internal(error.to_string()))?;
    Ok(selectors.iter().cloned().chain(std::iter::once(own)).collect())
}

fn banned() -> Error {
    Error::new(ErrorKind::Denied, "failed to attest: agent is banned")
}

#[cfg(test)]
mod tests {
    use signet_pki::{KeyType, PrivateKey, Signer as _};

    use super::*;

    #[test]
    fn only_the_key_that_was_first_attests_again_and_only_until_it_is_renewed_or_expires() {
        let key = || PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
        let (first, other) = (key(), key());
        let (first, other) = (first.public_key(), other.public_key());
        let at = UnixTime::from_seconds;
        let node = AttestedNode {
            spiffe_id: "spiffe://td/spire/agent/http_challenge/a".parse().unwrap(),
            attestation_type: "http_challenge".into(),
            serial_number: Serial::of_key(first).unwrap().to_string(),
            expires_at: at(100),
            new_serial_number: String::new(),
            new_expires_at: UnixTime::EPOCH,
            selectors: SelectorSet::default(),
            can_reattest: false,
            agent_version: String::new(),
        };
        assert!(is_repeated(&node, first, at(99)));
        assert!(!is_repeated(&node, other, at(99)));
        assert!(!is_repeated(&node, first, at(100)), "expired");
        let renewing = AttestedNode { new_serial_number: "7".into(), ..node.clone() };
        assert!(!is_repeated(&renewing, first, at(99)));
        let renewed = Serial::random().unwrap().to_string();
        assert!(!is_repeated(&AttestedNode { serial_number: renewed, ..node }, first, at(99)));
    }
}
