//! The server's own X.509-SVID: made at start, renewed at half of its life and when an authority
//! is tainted.

use std::{fmt, sync::Arc, time::Duration};

use signet_authority::Authority;
use signet_base::{Backoff, CancellationToken, SharedClock, sleep_until};
use signet_daemon::metrics::Calls;
use signet_pki::{
    KeyError, KeyType, PrivateKey, SignError,
    tls::{SwappableIdentity, TlsError, TlsIdentity},
};
use signet_time::UnixTime;
use tokio::sync::watch;

/// A chain of DER certificates, leaf first.
pub type Chain = Arc<[Arc<[u8]>]>;

/// Keeps the server's identity fresh.
pub struct ServerIdentity {
    authority: Authority,
    clock: SharedClock,
    rotations: Calls,
    tls: Arc<SwappableIdentity>,
    chain: watch::Sender<Chain>,
    issued_at: UnixTime,
    renew_at: UnixTime,
}

/// Why the server has no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Signing it failed.
    #[error("signing the server's own SVID")]
    Issue(#[from] signet_authority::IssueError),
    /// Making its key failed.
    #[error("making the key of the server's own SVID")]
    Key(#[from] KeyError),
    /// The crypto library refused the key.
    #[error("using the key of the server's own SVID")]
    Sign(#[from] SignError),
    /// TLS refused it.
    #[error("presenting the server's own SVID")]
    Tls(#[from] TlsError),
}

impl ServerIdentity {
    /// Signs the first SVID; later ones are counted in `rotations`.
    ///
    /// # Errors
    /// [`IdentityError`] when no key can be made, or it cannot be signed.
    pub async fn new(
        authority: Authority,
        clock: SharedClock,
        rotations: Calls,
    ) -> Result<Self, IdentityError> {
        let mut identity = Self {
            authority,
            clock,
            rotations,
            tls: Arc::new(SwappableIdentity::empty()),
            chain: watch::Sender::new(Arc::from([])),
            issued_at: UnixTime::EPOCH,
            renew_at: UnixTime::EPOCH,
        };
        identity.rotate().await?;
        Ok(identity)
    }

    /// What TLS presents.
    pub fn tls(&self) -> Arc<SwappableIdentity> {
        Arc::clone(&self.tls)
    }

    /// The chain, now and whenever it changes.
    pub fn chain(&self) -> watch::Receiver<Chain> {
        self.chain.subscribe()
    }

    /// Renews in time until the token is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let mut taints = self.authority.taints();
        let mut authorities = self.authority.view();
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            let clock = Arc::clone(&self.clock);
            tokio::select! {
                () = token.cancelled() => return,
                () = sleep_until(&*clock, self.renew_at.into()) => {}
                changed = taints.changed() => if changed.is_err() { return },
                changed = authorities.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // A new authority alone is no reason; one that came of a jump of the clock is.
                    let now = self.clock.unix();
                    if now >= self.issued_at && now < self.renew_at {
                        continue;
                    }
                }
            }
            while let Err(error) = self.rotate().await {
                let delay = backoff.next_delay();
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    retry_ms = delay.as_millis() as u64,
                    "Could not renew the server's own SVID"
                );
                if token.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                    return;
                }
            }
            backoff.reset();
        }
    }

    async fn rotate(&mut self) -> Result<(), IdentityError> {
        let timer = self.rotations.start(&[]);
        let renewed = self.renew().await;
        timer.done(if renewed.is_ok() { "OK" } else { "Unknown" });
        renewed
    }

    async fn renew(&mut self) -> Result<(), IdentityError> {
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let svid = self.authority.sign_server_x509(key.public_key()).await?;
        self.tls.set(TlsIdentity::new(&svid.chain, key.signer()?)?);
        self.chain.send_replace(svid.chain.into());
        let now = self.clock.unix();
        self.issued_at = now;
        self.renew_at = now + (svid.not_after - now) / 2;
        tracing::debug!(expiration = svid.not_after.seconds(), "The server's own SVID is renewed");
        Ok(())
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerIdentity(renewed at {})", self.renew_at.seconds())
    }
}
