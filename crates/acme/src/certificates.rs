//! What the listener presents: each domain's certificate, and the answers to challenges.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use signet_pki::tls::{SwappableIdentity, TlsIdentity};

use crate::ALPN_CHALLENGE;

/// The certificates of all domains.
#[derive(Debug)]
pub(crate) struct Certificates {
    domains: Vec<(String, SwappableIdentity)>,
    challenges: Mutex<BTreeMap<String, TlsIdentity>>,
}

impl Certificates {
    pub(crate) fn new(domains: &[String]) -> Self {
        let empty = |name: &String| (name.clone(), SwappableIdentity::empty());
        Self { domains: domains.iter().map(empty).collect(), challenges: Mutex::default() }
    }

    /// Presents a certificate of that domain from now on.
    pub(crate) fn set(&self, domain: &str, identity: TlsIdentity) {
        if let Some(held) = self.of(domain) {
            held.set(identity);
        }
    }

    /// Answers the challenge of a domain for as long as what is returned lives.
    pub(crate) fn answer(self: &Arc<Self>, domain: &str, answer: TlsIdentity) -> Answering {
        self.challenges().insert(domain.to_owned(), answer);
        Answering { certificates: Arc::clone(self), domain: domain.to_owned() }
    }

    fn of(&self, domain: &str) -> Option<&SwappableIdentity> {
        let same = |(name, _): &&(String, _)| name.eq_ignore_ascii_case(domain);
        self.domains.iter().find(same).map(|(_, held)| held)
    }

    fn challenges(&self) -> MutexGuard<'_, BTreeMap<String, TlsIdentity>> {
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        let mut offered = hello.alpn().into_iter().flatten();
        // An authority offers this protocol and no other (RFC 8737, section 3).
        if offered.next() == Some(ALPN_CHALLENGE) && offered.next().is_none() {
            let name = name?.to_ascii_lowercase();
            return self.challenges().get(&name).map(|answer| Arc::clone(answer.certified_key()));
        }
        let held = match name {
            Some(name) => self.of(name)?,
            None => self.domains.first().map(|(_, held)| held)?,
        };
        held.get().map(|identity| Arc::clone(identity.certified_key()))
    }
}

/// Answers a challenge until it is dropped.
#[derive(Debug)]
pub(crate) struct Answering {
    certificates: Arc<Certificates>,
    domain: String,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.certificates.challenges().remove(&self.domain);
    }
}
