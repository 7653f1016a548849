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
    present: HashSet<Arc<[u8]>>,
    present_jwt: HashSet<Box<str>>,
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
            let timer = shared.metrics.process_tainted_jwt.start(&[]);
            let dropped = shared.jwt_cache.taint(&key_ids);
            timer.done("OK");
            shared.metrics.tainted_jwt.observe_len(&[], dropped);
            tracing::info!(dropped, "JWT authorities were tainted; their JWT-SVIDs are dropped");
            self.jwt.extend(key_ids);
        }

        self.drop_orphan_tokens(shared, bundle);
        self.replace_orphans(shared, bundle);
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
        let timer = shared.metrics.process_tainted_x509.start(&[]);
        let marked = shared.cache.taint(|svid| verify_svid(&svid.chain, &trust, now).is_ok());
        timer.done("OK");
        shared.metrics.tainted_x509.observe_len(&[], marked);
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

    /// Drops JWT-SVIDs that no authority vouches for any more, as [`Self::replace_orphans`] does
    /// with X.509-SVIDs.
    fn drop_orphan_tokens(&mut self, shared: &Shared, bundle: &Bundle) {
        let present: HashSet<Box<str>> =
            bundle.jwt_authorities.iter().map(|key| Box::from(&*key.key_id)).collect();
        let all_still_there = !self.present_jwt.is_empty() && self.present_jwt.is_subset(&present);
        self.present_jwt = present;
        if all_still_there {
            return;
        }
        let dropped = shared.jwt_cache.keep_signed_by(&self.present_jwt);
        if dropped > 0 {
            tracing::info!(dropped, "No authority vouches for these JWT-SVIDs; they are dropped");
        }
    }

    /// Marks SVIDs that no authority vouches for any more: after one was revoked, and those that
    /// an earlier run left.
    fn replace_orphans(&mut self, shared: &Shared, bundle: &Bundle) {
        let present: HashSet<Arc<[u8]>> =
            bundle.x509_authorities.iter().map(|a| Arc::clone(&a.der)).collect();
        let all_still_there = !self.present.is_empty() && self.present.is_subset(&present);
        self.present = present;
        if all_still_there || shared.cache.svid_count() == 0 {
            return;
        }
        let Ok(trust) = TrustBundle::from_bundle(bundle) else { return };
        let now = shared.clock.unix();
        let marked = shared
            .cache
            .taint(|svid| !svid.expired(now) && verify_svid(&svid.chain, &trust, now).is_err());
        if marked > 0 {
            tracing::info!(svids = marked, "No authority vouches for these SVIDs; replacing them");
        }
    }
}
