//! Authorities the server has tainted: what they signed is replaced at once.

use std::{collections::HashSet, sync::Arc};

use signet_identity::{Bundle, X509Authority};
use signet_pki::x509::{TrustBundle, verify_svid};

use super::Shared;
use crate::agent_identity::AgentIdentity;

/// The tainted authorities that were dealt with.
#[derive(Debug, Default)]
pub(super) struct Processed {
    x509: HashSet<Arc<[u8]>>,
    jwt: HashSet<Box<str>>,
}

impl Processed {
    /// Marks what newly tainted authorities of `bundle` signed; true when the agent's own SVID
    /// is among it.
    pub(super) fn process(
        &mut self,
        shared: &Shared,
        bundle: &Bundle,
        identity: &AgentIdentity,
    ) -> bool {
        let key_ids: HashSet<Box<str>> = bundle
            .jwt_authorities
            .iter()
            .filter(|key| key.tainted && !self.jwt.contains(&*key.key_id))
            .map(|key| Box::from(&*key.key_id))
            .collect();
        if !key_ids.is_empty() {
            let dropped = shared.jwt_cache.taint(&key_ids);
            tracing::info!(dropped, "JWT authorities were tainted; their JWT-SVIDs are dropped");
            self.jwt.extend(key_ids);
        }

        let tainted: Vec<&X509Authority> = bundle
            .x509_authorities
            .iter()
            .filter(|authority| authority.tainted && !self.x509.contains(&authority.der))
            .collect();
        if tainted.is_empty() {
            return false;
        }
        let ders: Vec<&[u8]> = tainted.iter().map(|authority| &*authority.der).collect();
        let trust = match TrustBundle::new(bundle.trust_domain.clone(), &ders) {
            Ok(trust) => trust,
            Err(error) => {
                tracing::error!(error = %error, "A tainted authority cannot be read");
                return false;
            }
        };
        let now = shared.clock.unix();
        let marked = shared.cache.taint(|svid| verify_svid(&svid.chain, &trust, now).is_ok());
        tracing::info!(
            svids = marked,
            "X.509 authorities were tainted; replacing what they signed"
        );
        self.x509.extend(tainted.iter().map(|authority| Arc::clone(&authority.der)));
        let own = verify_svid(&identity.chain_der(), &trust, now).is_ok();
        if own {
            tracing::info!("Agent SVID is tainted by a root authority, forcing rotation");
        }
        own
    }
}
