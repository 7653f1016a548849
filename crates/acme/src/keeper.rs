//! The task that keeps the certificates: reads what is there, orders what is missing or old.

use std::{sync::Arc, time::Duration};

use instant_acme::Error;
use signet_base::{Backoff, Jitter, chain, sleep_until};
use signet_http::HttpClient;
use signet_pki::{ManagedKey, tls::TlsIdentity, x509::Certificate};
use signet_time::UnixTime;

use crate::{
    Acme, AcmeError,
    error::{readable, shown},
    order::Authority,
    schedule::{ask_again, renew_at, within},
    transport::Asked,
};

/// How long one order may take, all that it waits for included.
const ORDER: Duration = Duration::from_secs(600);
/// How long to wait before the authority is asked again when it would not say when to renew.
const NOT_SAID: Duration = Duration::from_secs(6 * 3600);
/// How long to wait after a first failure, doubled after each further one, and at most, unless the
/// authority asks for more: a name that was published a moment ago is found soon, and who stays
/// refused asks no more often than authorities allow.
const RETRY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(3600));

/// Does one thing at a time. Between two of them nothing of the authority is held, so that roots and
/// accounts are as they are then.
pub(crate) struct Keeper {
    acme: Acme,
    asked: Asked,
    random: Jitter,
}

struct Domain {
    name: String,
    leaf: Option<Certificate>,
    /// When the next order is made.
    order_at: UnixTime,
    /// When the authority is asked whether to renew sooner.
    ask_at: UnixTime,
    backoff: Backoff,
}

/// What is to be done next.
#[derive(Clone, Copy)]
enum Task {
    Ask,
    Order,
}

impl Keeper {
    pub(crate) fn new(acme: Acme) -> Self {
        Self { acme, asked: Asked::default(), random: Jitter::new() }
    }

    /// Never ends; is dropped at any point.
    pub(crate) async fn run(mut self) {
        let now = self.acme.clock.unix();
        let domain = |name: &String| Domain {
            name: name.clone(),
            leaf: None,
            order_at: now,
            ask_at: UnixTime::MAX,
            backoff: Backoff::new(RETRY.0, RETRY.1),
        };
        let mut domains: Vec<_> = self.acme.settings.domains.iter().map(domain).collect();
        loop {
            let next = domains.iter_mut().min_by_key(|domain| domain.next().0);
            let Some(domain) = next else { return };
            let (at, task) = domain.next();
            sleep_until(&*self.acme.clock, at.into()).await;
            match task {
                Task::Ask => self.ask(domain).await,
                Task::Order => self.order(domain).await,
            }
        }
    }

    /// Sees to it that there is a certificate; a failure leaves the one before in use.
    async fn order(&mut self, domain: &mut Domain) {
        self.asked.take();
        let obtained = tokio::time::timeout(ORDER, self.obtain(domain)).await;
        let mut obtained = obtained.unwrap_or(Err(AcmeError::TimedOut(ORDER.as_secs())));
        if obtained.is_ok() && domain.order_at <= self.acme.clock.unix() {
            obtained = Err(AcmeError::Unfit(
                "so short-lived, or this machine's clock so wrong, that it is due for renewal already",
            ));
        }
        match obtained {
            Ok(()) => {
                domain.backoff.reset();
                self.acme.status.change(&domain.name, |status| {
                    status.failures = 0;
                    status.last_error = None;
                });
            }
            Err(error) => self.failed(domain, &error),
        }
    }

    /// Takes what is kept, or orders a certificate.
    async fn obtain(&mut self, domain: &mut Domain) -> Result<(), AcmeError> {
        // Made before the authority is bothered.
        let key = self.acme.store.certificate_key(&domain.name).await?;
        if domain.leaf.is_none() && self.load(domain, &key).await? {
            return Ok(());
        }
        let (certificates, clock) =
            (Arc::clone(&self.acme.certificates), Arc::clone(&self.acme.clock));
        let authority = self.authority().await?;
        let chain = authority.obtain(&domain.name, &key, &certificates, &*clock).await?;
        self.present(domain, TlsIdentity::managed(&chain, &key)?);
        domain.ask_at = self.acme.clock.unix() + NOT_SAID;
        tracing::info!(
            domain = domain.name,
            expiration = self.expiration(domain),
            renewal = domain.order_at.seconds(),
            "Obtained a certificate"
        );
        if let Err(error) = self.acme.store.keep(&domain.name, &chain).await {
            tracing::error!(
                domain = domain.name,
                error = signet_base::chain(&error),
                "The new certificate is served but cannot be kept: a restart orders another one"
            );
        }
        Ok(())
    }

    /// Takes what is kept of a domain; says whether that will do.
    async fn load(&mut self, domain: &mut Domain, key: &ManagedKey) -> Result<bool, AcmeError> {
        let chain = self.acme.store.chain(&domain.name).await?;
        if chain.is_empty() {
            tracing::info!(domain = domain.name, "There is no certificate yet");
            return Ok(false);
        }
        match TlsIdentity::managed(&chain, key) {
            Ok(identity) => self.present(domain, identity),
            Err(error) => {
                tracing::warn!(
                    domain = domain.name,
                    error = signet_base::chain(&error),
                    "The certificate that is kept cannot be used; another one is ordered"
                );
                return Ok(false);
            }
        }
        let now = self.acme.clock.unix();
        // At once: the authority may have changed its mind while nobody asked.
        domain.ask_at = now;
        tracing::info!(
            domain = domain.name,
            expiration = self.expiration(domain),
            "The certificate that is kept is served"
        );
        Ok(domain.order_at > now)
    }

    /// Our account at the authority.
    async fn authority(&self) -> Result<Authority, AcmeError> {
        let key = self.acme.store.account_key().await?;
        let http = HttpClient::builder().build()?;
        let (asked, clock) = (self.asked.clone(), Arc::clone(&self.acme.clock));
        Authority::open(&self.acme.settings, &http, key, asked, clock).await
    }

    fn failed(&mut self, domain: &mut Domain, error: &AcmeError) {
        let delay = domain.backoff.next_delay().max(self.asked.take().unwrap_or_default());
        domain.order_at = self.acme.clock.unix() + delay.max(Duration::from_secs(1));
        let text = shown(error);
        tracing::error!(
            domain = domain.name,
            directory = self.acme.settings.directory_url,
            error = text,
            retry_seconds = delay.as_secs(),
            expiration = self.expiration(domain),
            "Failed to obtain a certificate"
        );
        self.acme.status.change(&domain.name, |status| {
            status.failures = status.failures.saturating_add(1);
            status.last_error = Some(text);
            status.next_order = Some(domain.order_at);
        });
    }

    /// Asks the authority whether to renew sooner than planned.
    async fn ask(&mut self, domain: &mut Domain) {
        let Some(leaf) = domain.leaf.clone() else {
            domain.ask_at = UnixTime::MAX;
            return;
        };
        let window = async { Ok::<_, AcmeError>(self.authority().await?.window(&leaf).await?) };
        let window = tokio::time::timeout(ORDER, window).await;
        let window = window.unwrap_or(Err(AcmeError::TimedOut(ORDER.as_secs())));
        let now = self.acme.clock.unix();
        match window {
            Ok(window) => {
                domain.ask_at = now + ask_again(window.ask_after);
                let suggested = (window.from, window.to);
                let sooner = within(domain.order_at, suggested, &mut self.random);
                if sooner < domain.order_at {
                    domain.order_at = sooner;
                    self.acme
                        .status
                        .change(&domain.name, |status| status.next_order = Some(sooner));
                    tracing::info!(
                        domain = domain.name,
                        renewal = sooner.seconds(),
                        "The certificate authority wants the certificate renewed sooner"
                    );
                }
            }
            Err(error) => {
                let is_unknown = matches!(&error, AcmeError::Authority(Error::Unsupported(_)));
                domain.ask_at = now + NOT_SAID;
                if !is_unknown {
                    tracing::debug!(
                        domain = domain.name,
                        error = readable(&chain(&error)),
                        "The certificate authority does not say when to renew"
                    );
                }
            }
        }
    }

    fn present(&mut self, domain: &mut Domain, identity: TlsIdentity) {
        let leaf = identity.leaf().clone();
        domain.order_at = renew_at(leaf.not_before(), leaf.not_after(), &mut self.random);
        self.acme.status.change(&domain.name, |status| {
            status.not_after = Some(leaf.not_after());
            status.next_order = Some(domain.order_at);
        });
        domain.leaf = Some(leaf);
        self.acme.certificates.set(&domain.name, identity);
    }

    fn expiration(&self, domain: &Domain) -> Option<i64> {
        domain.leaf.as_ref().map(|leaf| leaf.not_after().seconds())
    }
}

impl Domain {
    fn next(&self) -> (UnixTime, Task) {
        match self.ask_at < self.order_at {
            true => (self.ask_at, Task::Ask),
            false => (self.order_at, Task::Order),
        }
    }
}
