//! How the certificates fare, for health checks and metrics.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use signet_time::UnixTime;

/// How one domain fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainStatus {
    /// When the certificate that is served expires; none where there is no certificate.
    pub not_after: Option<UnixTime>,
    /// How many orders failed since the last that brought a certificate.
    pub failures: u32,
    /// Why the last order failed; none since a certificate has come.
    pub last_error: Option<String>,
    /// When the next order is made.
    pub next_order: Option<UnixTime>,
}

/// How all domains of a listener fare, always as of now. Clones share it.
#[derive(Clone)]
pub struct Status(Arc<Mutex<BTreeMap<String, DomainStatus>>>);

impl Status {
    pub(crate) fn new(domains: &[String]) -> Self {
        let unknown = domains.iter().map(|name| (name.clone(), DomainStatus::default()));
        Self(Arc::new(Mutex::new(unknown.collect())))
    }

    /// Each domain with how it fares, by name.
    pub fn domains(&self) -> Vec<(String, DomainStatus)> {
        self.lock().iter().map(|(name, status)| (name.clone(), status.clone())).collect()
    }

    /// What an operator must know of the domains that are in trouble, one sentence each: an order
    /// failed, or there is no certificate that is valid at `now`.
    pub fn complaints(&self, now: UnixTime) -> Vec<String> {
        let domains = self.lock();
        domains.iter().filter_map(|(name, status)| status.complaint(name, now)).collect()
    }

    pub(crate) fn change(&self, domain: &str, change: impl FnOnce(&mut DomainStatus)) {
        if let Some(status) = self.lock().get_mut(domain) {
            change(status);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, DomainStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DomainStatus {
    fn complaint(&self, name: &str, now: UnixTime) -> Option<String> {
        let served = match self.not_after {
            None => format!("there is no certificate for {name}"),
            Some(end) if end <= now => format!("the certificate for {name} has expired"),
            Some(_) if self.failures == 0 => return None,
            Some(end) => {
                let days = (end - now) / 86_400;
                format!("the certificate for {name}, {days} days from its end, is not renewed")
            }
        };
        Some(match &self.last_error {
            Some(error) => {
                format!("{served}: {error} ({} orders failed in a row)", self.failures)
            }
            None => served,
        })
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_without_a_valid_certificate_or_with_failed_orders_is_complained_of() {
        let status = Status::new(&["web.test".to_owned()]);
        let at = UnixTime::from_seconds;
        assert_eq!(status.complaints(at(0)), ["there is no certificate for web.test"]);
        status.change("web.test", |it| it.not_after = Some(at(864_000)));
        assert!(status.complaints(at(0)).is_empty());
        status.change("web.test", |it| {
            it.failures = 2;
            it.last_error = Some("no".to_owned());
        });
        assert_eq!(
            status.complaints(at(0)),
            ["the certificate for web.test, 10 days from its end, is not renewed: no (2 orders \
              failed in a row)"]
        );
        assert!(status.complaints(at(864_000))[0].starts_with("the certificate for web.test has"));
        assert_eq!(status.domains().len(), 1);
    }
}
