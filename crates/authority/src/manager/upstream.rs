//! Keeping in step with the upstream authority.

use std::{sync::Arc, time::Duration};

use signet_identity::X509Authority;
use signet_pki::x509::Certificate;
use tokio::time::Instant;

use super::CaManager;
use crate::{
    AuthorityError,
    context::{Chain, within},
    journal::Status,
    ports::BundleEdit,
};

/// How often the upstream's roots are asked for.
const UPSTREAM_INTERVAL: Duration = Duration::from_secs(60);
/// How long the upstream may take to answer.
const UPSTREAM_DEADLINE: Duration = Duration::from_secs(30);

impl CaManager {
    /// Asks the upstream for its roots from time to time and takes over what changed there.
    pub(super) async fn check_upstream(&mut self) {
        let Some(upstream) = self.context.upstream() else { return };
        let was_asked = self.upstream_checked.is_some_and(|at| at.elapsed() < UPSTREAM_INTERVAL);
        if was_asked && !self.context.upstream_check_is_due {
            return;
        }
        self.upstream_checked = Some(Instant::now());
        self.context.upstream_check_is_due = false;
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

    /// Brings the bundle in step with the upstream's roots: new ones are added, and a root that
    /// became tainted there is tainted here, after the CA was moved off it.
    ///
    /// A root that an operator revoked is not added again, though the upstream may name it still.
    ///
    /// None is removed: a root that is no longer named upstream may have signed what is in use at
    /// nodes that were away. A tainted one stays until an operator revokes it, any other until it
    /// expires.
    async fn sync_roots(&mut self, roots: Vec<X509Authority>) -> Result<(), AuthorityError> {
        let known = self.context.read_bundle().await?.x509_authorities;
        self.report_gone(&known, &roots);
        let revoked = &mut self.context.revoked_roots;
        revoked.retain(|der| roots.iter().any(|root| root.der == *der));
        let is_revoked = |der: &Arc<[u8]>| revoked.contains(der);
        let roots: Vec<_> = roots.into_iter().filter(|root| !is_revoked(&root.der)).collect();
        let append_x509: Vec<_> = roots.iter().map(|root| Arc::clone(&root.der)).collect();
        let is_tainted_here =
            |der: &Arc<[u8]>| known.iter().any(|known| known.der == *der && known.tainted);
        let tainted: Vec<_> = roots
            .iter()
            .filter(|root| root.tainted && !is_tainted_here(&root.der))
            .map(|root| Arc::clone(&root.der))
            .collect();
        self.context.edit_bundle(BundleEdit { append_x509, ..BundleEdit::default() }).await?;
        if tainted.is_empty() {
            return Ok(());
        }
        let active = self.x509.slots.active().and_then(|active| active.material.as_ref());
        if active.is_some_and(|ca| ca.is_under(&tainted)) {
            tracing::info!(
                "The active X.509 CA is signed by a tainted upstream authority: replacing it"
            );
            let prepared_is_clean = self.x509.slots.next.held.as_ref().is_some_and(|next| {
                next.status == Status::Prepared
                    && next.material.as_ref().is_some_and(|ca| !ca.is_under(&tainted))
            });
            if !prepared_is_clean {
                self.x509.prepare(&mut self.context).await?;
            }
            self.x509.activate(&mut self.context).await?;
            self.publish();
        }
        for root in &tainted {
            tracing::warn!(
                subject_key_id = subject_key_id(root),
                "X.509 upstream authority tainted: the upstream authority says so"
            );
        }
        let edit = BundleEdit { taint_x509: tainted, ..BundleEdit::default() };
        if self.context.edit_bundle(edit).await?.1 {
            self.context.announce_taint();
        }
        Ok(())
    }

    /// Writes one line for each tainted root that the upstream no longer names.
    fn report_gone(&mut self, known: &[X509Authority], roots: &[X509Authority]) {
        let is_gone = |known: &&X509Authority| {
            known.tainted && !roots.iter().any(|root| root.der == known.der)
        };
        let gone: std::collections::HashSet<_> =
            known.iter().filter(is_gone).map(|authority| Arc::clone(&authority.der)).collect();
        for root in gone.difference(&self.reported_gone) {
            tracing::warn!(
                subject_key_id = subject_key_id(root),
                "The upstream authority no longer names a tainted X.509 upstream authority: it \
                 stays in the trust bundle until it is revoked, with `signet-server \
                 upstreamauthority revoke`"
            );
        }
        self.reported_gone = gone;
    }
}

fn subject_key_id(der: &[u8]) -> String {
    Certificate::from_der(der).map(|root| root.subject_key_id_hex()).unwrap_or_default()
}
