//! What the manager writes and everyone reads.

use std::sync::{Arc, atomic::AtomicI64};

use arc_swap::{ArcSwap, ArcSwapOption};
use signet_base::SharedClock;
use signet_pki::{CredentialComposer, KeyManager};
use signet_time::UnixTime;
use tokio::sync::{Notify, watch};

use crate::{
    local::LocalIntermediate,
    material::{JwtKey, X509Ca},
    options::AuthorityOptions,
    view::AuthorityView,
};

/// What signs now, read by everyone without a lock.
pub(crate) type Current<M> = Arc<ArcSwapOption<M>>;

/// What the manager writes and everyone reads.
pub(crate) struct Shared {
    pub options: AuthorityOptions,
    pub clock: SharedClock,
    composers: ArcSwap<Composers>,
    pub has_upstream: bool,
    pub keys: Arc<dyn KeyManager>,
    pub x509: Current<X509Ca>,
    pub jwt: Current<JwtKey>,
    pub second_jwt: Current<JwtKey>,
    pub wit: Current<JwtKey>,
    pub intermediate: ArcSwapOption<LocalIntermediate>,
    pub view: watch::Sender<AuthorityView>,
    pub taints: watch::Sender<u64>,
    pub wake: Notify,
    /// When the last of what was signed expires, Unix seconds.
    pub issued_until: AtomicI64,
}

/// What changes the content of credentials, in order.
pub(crate) type Composers = Vec<Arc<dyn CredentialComposer>>;

impl Shared {
    pub(crate) fn new(
        options: AuthorityOptions,
        clock: SharedClock,
        composers: Composers,
        has_upstream: bool,
        keys: Arc<dyn KeyManager>,
    ) -> Self {
        Self {
            options,
            clock,
            composers: ArcSwap::from_pointee(composers),
            has_upstream,
            keys,
            x509: Current::default(),
            jwt: Current::default(),
            second_jwt: Current::default(),
            wit: Current::default(),
            intermediate: ArcSwapOption::empty(),
            view: watch::Sender::new(AuthorityView::default()),
            taints: watch::Sender::new(0),
            wake: Notify::new(),
            issued_until: AtomicI64::new(0),
        }
    }

    /// Others from the next credential on.
    pub(crate) fn replace_composers(&self, composers: Composers) {
        self.composers.store(Arc::new(composers));
    }

    /// The composers in force; a credential is made with one set of them from beginning to end.
    pub(crate) fn composers(&self) -> Arc<Composers> {
        self.composers.load_full()
    }

    /// What signs X.509-SVIDs now in place of the active authority; that itself where there is no
    /// intermediate.
    pub(crate) fn issuer_under(&self, active: Arc<X509Ca>) -> Arc<X509Ca> {
        let local = self.intermediate.load();
        let Some(local) = &*local else { return active };
        match local.stand_in(&active, self.clock.unix()) {
            Some(ca) => ca,
            None => {
                self.wake.notify_one();
                active
            }
        }
    }

    /// Until when X.509-SVIDs are signed in this process, Unix seconds.
    pub(crate) fn intermediate_expires_at(&self) -> Option<UnixTime> {
        let active = self.x509.load_full()?;
        let local = self.intermediate.load();
        let ca = local.as_ref()?.stand_in(&active, self.clock.unix())?;
        Some(ca.ca.certificate().not_after())
    }
}
