//! The task that keeps the certificates: reads what is there, orders what is missing or old.

use std::{sync::Arc, time::Duration};

use instant_acme::Error;
use signet_base::{Backoff, Jitter, SharedClock, chain, sleep_until};
use signet_http::HttpClient;
use signet_pki::{tls::TlsIdentity, x509::Certificate};
use signet_time::UnixTime;

use crate::{
    Acme, AcmeError, Settings, Status, Store,
    certificates::Certificates,
    error::{readable, shown},
    order::Authority,
    schedule::{ask_again, renew_at, within},
    transport::Asked,
};

/// How long one order may take, all that it waits for included.
const ORDER: Duration = Duration::from_secs(600);
/// How long to wait before the authority is asked again when it would not say when to renew.
const NOT_SAID: Duration = Duration::from_secs(6 * 3600);

/// Orders one certificate at a time.
pub(crate) struct Keeper {
    settings: Settings,
    store: Arc<dyn Store>,
    clock: SharedClock,
    certificates: Arc<Certificates>,
    status: Status,
    domains: Vec<Domain>,
    authority: Option<Authority>,
    http: Option<HttpClient>,
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
        let Acme { settings, pace, store, clock, certificates, status } = acme;
        let now = clock.unix();
        let domain = |name: &String| Domain {
            name: name.clone(),
            leaf: None,
            order_at: now,
            ask_at: UnixTime::MAX,
            backoff: Backoff::new(pace.first, pace.max),
        };
        let domains = settings.domains.iter().map(domain).collect();
        Self {
            settings,
            store,
            clock,
            certificates,
            status,
            domains,
            authority: None,
            http: None,
            asked: Asked::default(),
            random: Jitter::new(),
        }
    }

    /// Never ends; is dropped at any point.
    pub(crate) async fn run(mut self) {
        let mut domains = std::mem::take(&mut self.domains);
        for domain in &mut domains {
            self.load(domain).await;
        }
        loop {
            let next = domains.iter_mut().min_by_key(|domain| domain.next().0);
            let Some(domain) = next else { return };
            let (at, task) = domain.next();
            sleep_until(&*self.clock, at.into()).await;
            match task {
                Task::Ask => self.ask(domain).await,
                Task::Order => self.order(domain).await,
            }
        }
    }

    /// Takes what is kept of a domain.
    async fn load(&mut self, domain: &mut Domain) {
        let kept = async {
            let chain = self.store.chain(&domain.name).await?;
            if chain.is_empty() {
                return Ok(None);
            }
            let key = self.store.certificate_key(&domain.name).await?;
            Ok::<_, AcmeError>(Some(TlsIdentity::managed(&chain, &key)?))
        };
        match kept.await {
            Ok(None) => tracing::info!(domain = domain.name, "There is no certificate yet"),
            Ok(Some(identity)) => {
                self.present(domain, identity);
                // At once: a certificate that is about to be revoked was perhaps issued long ago.
                domain.ask_at = self.clock.unix();
                tracing::info!(
                    domain = domain.name,
                    expiration = self.expiration(domain),
                    "The certificate of before is served"
                );
            }
            Err(error) => tracing::warn!(
                domain = domain.name,
                error = shown(&error),
                "The certificate that is kept cannot be used; another one is ordered"
            ),
        }
    }

    /// Orders a certificate; a failure leaves the one before in use.
    async fn order(&mut self, domain: &mut Domain) {
        self.asked.take();
        let obtained = tokio::time::timeout(ORDER, self.obtain(domain)).await;
        let obtained = obtained.unwrap_or(Err(AcmeError::TimedOut(ORDER.as_secs())));
        if let Err(error) = obtained {
            self.failed(domain, &error);
            return;
        }
        let now = self.clock.unix();
        if domain.order_at <= now {
            let error = AcmeError::Unfit(
                "so short-lived, or this machine's clock so wrong, that it is due for renewal already",
            );
            self.failed(domain, &error);
            return;
        }
        domain.backoff.reset();
        domain.ask_at = now + NOT_SAID;
        self.status.change(&domain.name, |status| {
            status.failures = 0;
            status.last_error = None;
        });
        tracing::info!(
            domain = domain.name,
            expiration = self.expiration(domain),
            renewal = domain.order_at.seconds(),
            "Obtained a certificate"
        );
    }

    async fn obtain(&mut self, domain: &mut Domain) -> Result<(), AcmeError> {
        // Made before the authority is bothered.
        let key = self.store.certificate_key(&domain.name).await?;
        let (certificates, clock) = (Arc::clone(&self.certificates), Arc::clone(&self.clock));
        let authority = self.authority().await?;
        let chain = authority.obtain(&domain.name, &key, &certificates, &*clock).await?;
        let identity = TlsIdentity::managed(&chain, &key)?;
        self.present(domain, identity);
        if let Err(error) = self.store.keep(&domain.name, &chain).await {
            tracing::error!(
                domain = domain.name,
                error = signet_base::chain(&error),
                "The new certificate is served but cannot be kept: a restart orders another one"
            );
        }
        Ok(())
    }

    /// Our account, asked for anew after each failure: an authority may have forgotten it.
    async fn authority(&mut self) -> Result<&Authority, AcmeError> {
        let authority = match self.authority.take() {
            Some(authority) => authority,
            None => {
                let http = match self.http.take() {
                    Some(http) => http,
                    None => HttpClient::builder().build()?,
                };
                let http = self.http.insert(http);
                let key = self.store.account_key().await?;
                Authority::open(&self.settings, http, key, self.asked.clone()).await?
            }
        };
        Ok(self.authority.insert(authority))
    }

    fn failed(&mut self, domain: &mut Domain, error: &AcmeError) {
        self.authority = None;
        let delay = domain.backoff.next_delay().max(self.asked.take().unwrap_or_default());
        domain.order_at = self.clock.unix() + delay.max(Duration::from_secs(1));
        let text = shown(error);
        tracing::error!(
            domain = domain.name,
            directory = self.settings.directory_url,
            error = text,
            retry_seconds = delay.as_secs(),
            expiration = self.expiration(domain),
            "Failed to obtain a certificate"
        );
        self.status.change(&domain.name, |status| {
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
        let now = self.clock.unix();
        match window {
            Ok(window) => {
                domain.ask_at = now + ask_again(window.ask_after);
                let suggested = (window.from, window.to);
                let sooner = within(domain.order_at, suggested, &mut self.random);
                if sooner < domain.order_at {
                    domain.order_at = sooner;
                    self.status
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
                    self.authority = None;
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
        self.status.change(&domain.name, |status| {
            status.not_after = Some(leaf.not_after());
            status.next_order = Some(domain.order_at);
        });
        domain.leaf = Some(leaf);
        self.certificates.set(&domain.name, identity);
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
