//! Keeping in step with the upstream authority.

use std::{sync::Arc, time::Duration};

use signet_identity::X509Authority;
use signet_pki::x509::Certificate;
use tokio::time::Instant;

use super::{Chain, Keeper, within};
use crate::{AuthorityError, authority::X509Ca, journal::Status, ports::BundleEdit};

/// How often the upstream's roots are asked for.
const UPSTREAM_INTERVAL: Duration = Duration::from_secs(60);
/// How long the upstream may take to answer.
const UPSTREAM_DEADLINE: Duration = Duration::from_secs(30);

impl Keeper {
    /// Asks the upstream for its roots from time to time and takes over what changed there.
    pub(super) async fn check_upstream(&mut self) {
        let Some(upstream) = self.ports.upstream.clone() else { return };
        if self.upstream_checked.is_some_and(|at| at.elapsed() < UPSTREAM_INTERVAL) {
            return;
        }
        self.upstream_checked = Some(Instant::now());
        let asked = within(UPSTREAM_DEADLINE, "the upstream authority", upstream.upstream_roots());
        let outcome = match asked.await {
            Ok(Ok(Some(roots))) => self.sync_roots(roots).await,
            Ok(Ok(None)) => Ok(()),
            Ok(Err(error)) => Err(AuthorityError::Upstream(error)),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::warn!(error = %Chain(&error), "Could not follow the upstream authority's roots");
        }
    }

    /// Has the next look ask the upstream whatever the time.
    pub(crate) fn check_upstream_soon(&mut self) {
        self.upstream_checked = None;
    }

    /// Brings the bundle in step with the upstream's roots: new ones are added; a root that became
    /// tainted there is tainted here, after the CA was moved off it; a tainted one that is gone
    /// there is removed.
    pub(super) async fn sync_roots(
        &mut self,
        roots: Vec<X509Authority>,
    ) -> Result<(), AuthorityError> {
        let known = self.read_bundle().await?.map_or_else(Vec::new, |b| b.x509_authorities);
        let mut edit = BundleEdit {
            append_x509: roots.iter().map(|root| Arc::clone(&root.der)).collect(),
            ..BundleEdit::default()
        };
        for root in &roots {
            let tainted_here = known.iter().any(|k| k.der == root.der && k.tainted);
            if root.tainted && !tainted_here {
                edit.taint_x509.push(Arc::clone(&root.der));
            }
        }
        for authority in known.iter().filter(|authority| authority.tainted) {
            if !roots.iter().any(|root| root.der == authority.der) {
                edit.remove_x509.push(Arc::clone(&authority.der));
            }
        }
        let tainted = std::mem::take(&mut edit.taint_x509);
        self.edit_bundle(edit).await?;
        if tainted.is_empty() {
            return Ok(());
        }
        if self
            .x509
            .active()
            .and_then(|h| h.material.as_ref())
            .is_some_and(|ca| ca.is_under(&tainted))
        {
            tracing::info!(
                "The active X.509 CA is signed by a tainted upstream authority: replacing it"
            );
            let prepared_is_clean = self.x509.next.held.as_ref().is_some_and(|held| {
                held.status == Status::Prepared
                    && held.material.as_ref().is_some_and(|ca| !ca.is_under(&tainted))
            });
            if !prepared_is_clean {
                self.prepare_x509().await?;
            }
            self.activate_x509().await?;
        }
        let edit = BundleEdit { taint_x509: tainted, ..BundleEdit::default() };
        if self.edit_bundle(edit).await?.1 {
            self.announce_taint();
        }
        Ok(())
    }
}

impl X509Ca {
    /// Whether one of `roots` (DER) signed a certificate of this CA's chain.
    fn is_under(&self, roots: &[Arc<[u8]>]) -> bool {
        let keys: Vec<_> = roots
            .iter()
            .filter_map(|der| Certificate::from_der(der).ok())
            .filter_map(|root| root.public_key().ok().cloned())
            .collect();
        let chain = self.issuer.upstream_chain();
        let own = std::iter::once(self.issuer.certificate().der());
        own.chain(chain)
            .filter_map(|der| Certificate::from_der(der).ok())
            .any(|certificate| keys.iter().any(|key| certificate.is_signed_by(key)))
    }
}
