//! Rate limits: SPIRE's numbers per second, none for local callers.
//!
//! Whoever has an identity has a bucket of its own, so that agents behind one address do not
//! starve each other; everyone else shares the bucket of their address.
//!
//! An attestation is not counted before it is known what it was. One that succeeds counts for the
//! agent that it is of. One that fails counts for the identity that the caller presented, else for
//! its address, and what waits is the answer to it: whoever fails in a loop delays itself, and not
//! the agents behind the same address.

mod calls;
mod turns;
mod urgent;

use std::{net::IpAddr, sync::Arc, time::Duration};

use signet_base::{RateLimitError, RateLimiter};
use signet_daemon::{listen::counted_address, metrics::Calls};
use signet_identity::SpiffeId;

use crate::{
    config,
    metrics::RateLimitMetrics,
    usecase::{authorization::action::Action, error::Error, principal::Principal},
};

pub use calls::CallLimits;
pub use turns::{Turns, Work};

/// Attestations per second and agent, and failed ones per second and caller.
pub const ATTEST_PER_SECOND: u32 = 1;
/// The longest that the answer to a failed attestation is held back.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Signatures, and published keys, per second and caller.
pub const SIGN_PER_SECOND: u32 = 500;
/// Status reports per second and caller.
pub const STATUS_PER_SECOND: u32 = 10;

/// Which bucket a call draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// NewJWTSVID.
    SignJwt,
    /// BatchNewWITSVID (one for each SVID).
    SignWit,
    /// BatchNewX509SVID (one for each SVID), RenewAgent, NewDownstreamX509CA.
    SignX509,
    /// PostStatus.
    Status,
    /// PublishJWTAuthority.
    PublishKey,
}

/// The buckets of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Limits {
    inner: Arc<Buckets>,
    counted: RateLimitMetrics,
    /// Who comes first where the server is busy.
    pub turns: Turns,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    Identity(SpiffeId),
}

#[derive(Debug)]
struct Buckets {
    attest: Option<RateLimiter<Key>>,
    sign_jwt: Option<RateLimiter<Key>>,
    sign_wit: Option<RateLimiter<Key>>,
    sign_x509: Option<RateLimiter<Key>>,
    status: RateLimiter<Key>,
    publish: RateLimiter<Key>,
}

impl Limits {
    /// The limits that the configuration asks for.
    pub fn new(config: config::RateLimits, counted: RateLimitMetrics, turns: Turns) -> Self {
        let signing = || config.signing.then(|| RateLimiter::new(SIGN_PER_SECOND));
        Self {
            inner: Arc::new(Buckets {
                attest: config.attestation.then(|| RateLimiter::new(ATTEST_PER_SECOND)),
                sign_jwt: signing(),
                sign_wit: signing(),
                sign_x509: signing(),
                status: RateLimiter::new(STATUS_PER_SECOND),
                publish: RateLimiter::new(SIGN_PER_SECOND),
            }),
            counted,
            turns,
        }
    }

    /// Waits until the caller may do something that costs `cost`; `doing` completes the message
    /// "rejecting request due to … rate limiting".
    ///
    /// # Errors
    /// `Exhausted` when the cost can never be met, or the wait would be too long.
    pub async fn acquire(
        &self,
        principal: &Principal,
        limit: Limit,
        cost: usize,
        doing: &str,
    ) -> Result<(), Error> {
        let Some(addr) = principal.addr() else { return Ok(()) };
        let bucket = match limit {
            Limit::SignJwt => self.inner.sign_jwt.as_ref(),
            Limit::SignWit => self.inner.sign_wit.as_ref(),
            Limit::SignX509 => self.inner.sign_x509.as_ref(),
            Limit::Status => Some(&self.inner.status),
            Limit::PublishKey => Some(&self.inner.publish),
        };
        let Some(bucket) = bucket else { return Ok(()) };
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let key = Key::of(principal, addr.ip());
        let calls = match (limit, principal.action) {
            (Limit::SignJwt, _) => &self.counted.jwt,
            (Limit::SignWit, _) => &self.counted.wit,
            (Limit::SignX509, Action::RenewAgent) => &self.counted.renew,
            (Limit::SignX509, Action::IssueDownstreamAuthority) => &self.counted.downstream,
            (Limit::SignX509, _) => &self.counted.x509,
            (Limit::Status, _) => &self.counted.status,
            (Limit::PublishKey, _) => &self.counted.publish,
        };
        wait(calls, bucket, &key, cost).await.map_err(|error| Error::rate_limited(doing, error))
    }

    /// Waits until one more attestation of this agent may succeed.
    ///
    /// # Errors
    /// `Exhausted` when the wait would be too long.
    pub async fn attested(&self, principal: &Principal, agent: &SpiffeId) -> Result<(), Error> {
        let (Some(bucket), Some(_)) = (&self.inner.attest, principal.addr()) else { return Ok(()) };
        let key = Key::Identity(agent.clone());
        let waited = wait(&self.counted.attest, bucket, &key, 1).await;
        waited.map_err(|error| Error::rate_limited("attest agent", error))
    }

    /// Waits until the caller may be told that its attestation failed.
    pub async fn attestation_failed(&self, principal: &Principal) {
        let (Some(bucket), Some(addr)) = (&self.inner.attest, principal.addr()) else { return };
        let key = Key::of(principal, addr.ip());
        if wait(&self.counted.attest, bucket, &key, 1).await.is_err() {
            tokio::time::sleep(LONGEST_DELAY).await;
        }
    }
}

impl Key {
    fn of(principal: &Principal, addr: IpAddr) -> Self {
        match principal.spiffe_id() {
            Some(id) => Self::Identity(id.clone()),
            None => Self::Address(counted_address(addr)),
        }
    }
}

async fn wait(
    calls: &Calls,
    bucket: &RateLimiter<Key>,
    key: &Key,
    cost: u32,
) -> Result<(), RateLimitError> {
    let timer = calls.start(&[]);
    let waited = bucket.acquire(key, cost).await;
    timer.done(if waited.is_ok() { "OK" } else { "ResourceExhausted" });
    waited
}

#[cfg(test)]
mod tests {
    use signet_daemon::metrics::Metrics;
    use signet_time::UnixTime;

    use super::*;
    use crate::{
        metrics::ServerMetrics,
        usecase::{
            error::ErrorKind,
            principal::{LocalPeer, Peer, PeerSvid, RemotePeer, Role},
        },
    };

    fn limits() -> Limits {
        let metrics = Metrics::detached();
        let counted = ServerMetrics::new(&metrics);
        Limits::new(config::RateLimits::default(), counted.rate_limits, Turns::new(&metrics))
    }

    fn caller(peer: Peer) -> Principal {
        Principal { peer, role: Role::Anyone, action: Action::AttestAgent, scope: None }
    }

    fn remote(addr: &str, id: Option<&str>) -> Principal {
        let svid = id.map(|id| {
            Arc::new(PeerSvid {
                spiffe_id: id.parse().unwrap(),
                serial_number: "1".into(),
                not_after: UnixTime::EPOCH,
            })
        });
        caller(Peer::Remote(RemotePeer { addr: addr.parse().unwrap(), svid }))
    }

    #[tokio::test(start_paused = true)]
    async fn agents_behind_one_address_have_buckets_of_their_own() {
        let limits = limits();
        let one = remote("10.0.0.1:1", Some("spiffe://td/spire/agent/a"));
        let other = remote("10.0.0.1:2", Some("spiffe://td/spire/agent/b"));
        let begun = tokio::time::Instant::now();
        for agent in [&one, &other] {
            limits.acquire(agent, Limit::SignX509, 500, "x").await.unwrap();
        }
        assert_eq!(begun.elapsed(), std::time::Duration::ZERO);
        limits.acquire(&one, Limit::SignX509, 250, "x").await.unwrap();
        assert_eq!(begun.elapsed().as_millis(), 500, "the third waits for its tokens");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_attestations_of_an_address_delay_themselves_and_nobody_else() {
        let limits = limits();
        let failing = |from: String| {
            let limits = limits.clone();
            tokio::spawn(async move {
                loop {
                    limits.attestation_failed(&remote(&from, None)).await;
                }
            })
        };
        // In both spellings of one address.
        for n in 1..=30 {
            failing(format!("10.0.0.1:{n}"));
            failing(format!("[::ffff:10.0.0.1]:{n}"));
        }
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        let begun = tokio::time::Instant::now();
        let honest = remote("10.0.0.1:1", None);
        for agent in ["spiffe://td/spire/agent/a", "spiffe://td/spire/agent/b"] {
            limits.attested(&honest, &agent.parse().unwrap()).await.unwrap();
        }
        // One that presents an SVID counts by that, even where it fails.
        let known = remote("10.0.0.1:1", Some("spiffe://td/spire/agent/c"));
        limits.attestation_failed(&known).await;
        assert_eq!(begun.elapsed(), std::time::Duration::ZERO);
        limits.attestation_failed(&honest).await;
        assert!(begun.elapsed() > std::time::Duration::from_secs(20), "it counts for its address");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_attests_again_and_again_waits_and_local_callers_never_do() {
        let limits = limits();
        let agent: SpiffeId = "spiffe://td/spire/agent/a".parse().unwrap();
        let begun = tokio::time::Instant::now();
        for n in 0..5 {
            let from = format!("10.0.0.{n}:1");
            limits.attested(&remote(&from, None), &agent).await.unwrap();
            assert_eq!(begun.elapsed().as_secs(), n);
        }
        let local = caller(Peer::Local(LocalPeer { pid: None, uid: 0, gid: 0 }));
        for _ in 0..1000 {
            limits.attested(&local, &agent).await.unwrap();
            limits.attestation_failed(&local).await;
        }
        let one = remote("10.0.0.1:1", None);
        let refused = limits.acquire(&one, Limit::SignX509, 501, "signing").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exhausted);
        assert_eq!(begun.elapsed().as_secs(), 4);
    }
}
