//! Rate limits: SPIRE's numbers per second, none for local callers.
//!
//! Whoever has an identity has a bucket of its own, so that agents behind one address do not
//! starve each other; everyone else shares the bucket of their address.

use std::{net::IpAddr, sync::Arc};

use signet_base::{RateLimitError, RateLimiter};
use signet_identity::SpiffeId;
use tonic::Status;

use crate::{caller::Caller, config};

/// Attestations per second and caller.
pub const ATTEST_PER_SECOND: u32 = 1;
/// Signatures, and published keys, per second and caller.
pub const SIGN_PER_SECOND: u32 = 500;
/// Status reports per second and caller.
pub const STATUS_PER_SECOND: u32 = 10;

/// Which bucket a call draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// AttestAgent.
    Attest,
    /// NewJWTSVID.
    SignJwt,
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
    sign_x509: Option<RateLimiter<Key>>,
    status: RateLimiter<Key>,
    publish: RateLimiter<Key>,
}

impl Limits {
    /// The limits that the configuration asks for.
    pub fn new(config: config::RateLimits) -> Self {
        let signing = || config.signing.then(|| RateLimiter::new(SIGN_PER_SECOND));
        Self {
            inner: Arc::new(Buckets {
                attest: config.attestation.then(|| RateLimiter::new(ATTEST_PER_SECOND)),
                sign_jwt: signing(),
                sign_x509: signing(),
                status: RateLimiter::new(STATUS_PER_SECOND),
                publish: RateLimiter::new(SIGN_PER_SECOND),
            }),
        }
    }

    /// Waits until the caller may do something that costs `cost`; `doing` completes the message
    /// "rejecting request due to … rate limiting".
    ///
    /// # Errors
    /// `ResourceExhausted` when the cost can never be met, or the wait would be too long.
    pub async fn acquire(
        &self,
        caller: &Caller,
        limit: Limit,
        cost: usize,
        doing: &str,
    ) -> Result<(), Status> {
        let Some(addr) = caller.addr() else { return Ok(()) };
        let bucket = match limit {
            Limit::Attest => self.inner.attest.as_ref(),
            Limit::SignJwt => self.inner.sign_jwt.as_ref(),
            Limit::SignX509 => self.inner.sign_x509.as_ref(),
            Limit::Status => Some(&self.inner.status),
            Limit::PublishKey => Some(&self.inner.publish),
        };
        let Some(bucket) = bucket else { return Ok(()) };
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let key = match caller.spiffe_id() {
            Some(id) if limit != Limit::Attest => Key::Identity(id.clone()),
            _ => Key::Address(addr.ip().to_canonical()),
        };
        bucket.acquire(&key, cost).await.map_err(|error: RateLimitError| {
            Status::resource_exhausted(format!(
                "rejecting request due to {doing} rate limiting: {error}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{LocalPeer, Peer, PeerSvid, RemotePeer, Role};

    fn caller(peer: Peer) -> Caller {
        Caller { peer, role: Role::Anyone, request_id: "".into() }
    }

    fn remote(addr: &str, id: Option<&str>) -> Caller {
        let svid = id.map(|id| {
            Arc::new(PeerSvid {
                spiffe_id: id.parse().unwrap(),
                serial_number: "1".into(),
                not_after: 0,
            })
        });
        caller(Peer::Remote(RemotePeer { addr: addr.parse().unwrap(), svid }))
    }

    #[tokio::test(start_paused = true)]
    async fn agents_behind_one_address_have_buckets_of_their_own() {
        let limits = Limits::new(config::RateLimits::default());
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
    async fn attestation_counts_by_address_whoever_it_is_and_local_callers_never() {
        let limits = Limits::new(config::RateLimits::default());
        let begun = tokio::time::Instant::now();
        let (v4, mapped) = (remote("10.0.0.1:1", None), remote("[::ffff:10.0.0.1]:9", None));
        limits.acquire(&v4, Limit::Attest, 1, "x").await.unwrap();
        limits.acquire(&mapped, Limit::Attest, 1, "x").await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 1, "one address in two forms");
        let local = caller(Peer::Local(LocalPeer { pid: None, uid: 0, gid: 0 }));
        for _ in 0..1000 {
            limits.acquire(&local, Limit::Attest, 1, "x").await.unwrap();
        }
        let refused = limits.acquire(&v4, Limit::SignX509, 501, "signing").await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert_eq!(begun.elapsed().as_secs(), 1);
    }
}
