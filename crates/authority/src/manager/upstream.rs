//! Keeping in step with the upstream authority.

use std::{collections::HashSet, sync::Arc, time::Duration};

use signet_identity::{JwtAuthority, X509Authority};
use signet_pki::{ports::UpstreamBundle, x509::Certificate};
use tokio::time::Instant;

use super::CaManager;
use crate::{
    AuthorityError,
    context::{Chain, Context, within},
    journal::Status,
    kind::{Jwt, KeyEdit, KeyKind, Kind as _, Wit},
    ports::BundleEdit,
};

/// How long the upstream may take to answer.
const UPSTREAM_DEADLINE: Duration = Duration::from_secs(30);

impl CaManager {
    /// Asks the upstream for its roots from time to time and takes over what changed there.
    pub(super) async fn check_upstream(&mut self) {
        let Some(upstream) = self.context.upstream() else { return };
        let interval = upstream.poll_interval();
        let was_asked = self.upstream_checked.is_some_and(|at| at.elapsed() < interval);
        if was_asked && !self.context.upstream_check_is_due {
            return;
        }
        self.upstream_checked = Some(Instant::now());
        self.context.upstream_check_is_due = false;
        let asked = within(UPSTREAM_DEADLINE, "the upstream authority", upstream.upstream_bundle());
        let outcome = match asked.await {
            Ok(Ok(Some(bundle))) => self.sync(bundle).await,
            Ok(Ok(None)) => Ok(()),
            Ok(Err(error)) => Err(AuthorityError::Upstream(error)),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::warn!(error = %Chain(&error), "Could not follow the upstream authority");
        }
    }

    async fn sync(&mut self, upstream: UpstreamBundle) -> Result<(), AuthorityError> {
        let UpstreamBundle { roots, jwt_keys, wit_keys, tells_revocation } = upstream;
        self.sync_roots(roots, tells_revocation).await?;
        // Whoever has no WIT-SVIDs has none of their keys either.
        let wit_keys = wit_keys.filter(|_| Wit::is_enabled(&self.context.shared.options));
        // Both kinds of JWT authority stand in one list.
        let own: Vec<_> = self.jwt.current_ids().chain(self.second_jwt.current_ids()).collect();
        let jwt = sync_keys::<Jwt>(&mut self.context, &own, jwt_keys, tells_revocation).await;
        let own: Vec<_> = self.wit.current_ids().collect();
        let wit = sync_keys::<Wit>(&mut self.context, &own, wit_keys, tells_revocation).await;
        jwt.and(wit)
    }

    /// Brings the bundle in step with the upstream's roots: new ones are added, and a root that
    /// became tainted there is tainted here, after the CA was moved off it.
    ///
    /// A root that an operator revoked is not added again, though the upstream may name it still.
    ///
    /// A root that is no longer named upstream may have signed what is in use at nodes that were
    /// away: it stays until it expires. A tainted one is removed where upstream tells of
    /// revocations, as SPIRE does, and else stays until an operator revokes it.
    async fn sync_roots(
        &mut self,
        roots: Vec<X509Authority>,
        tells_revocation: bool,
    ) -> Result<(), AuthorityError> {
        let known = self.context.read_bundle().await?.x509_authorities;
        if tells_revocation {
            self.revoke_gone(&known, &roots).await?;
        } else {
            self.report_gone(&known, &roots);
        }
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

    /// Revokes the tainted roots that the upstream no longer names, but for one that what signs
    /// now is under.
    async fn revoke_gone(
        &mut self,
        known: &[X509Authority],
        roots: &[X509Authority],
    ) -> Result<(), AuthorityError> {
        let is_gone = |known: &&X509Authority| {
            known.tainted && !roots.iter().any(|root| root.der == known.der)
        };
        let active = self.x509.slots.active().and_then(|active| active.material.clone());
        let is_in_use = |der: &Arc<[u8]>| {
            active.as_ref().is_some_and(|ca| ca.is_under(std::slice::from_ref(der)))
        };
        let gone = known.iter().filter(is_gone).map(|root| Arc::clone(&root.der));
        let remove_x509: Vec<_> = gone.filter(|der| !is_in_use(der)).collect();
        if remove_x509.is_empty() {
            return Ok(());
        }
        for root in &remove_x509 {
            tracing::warn!(
                subject_key_id = subject_key_id(root),
                "X.509 upstream authority revoked: the upstream authority says so"
            );
        }
        let edit = BundleEdit { remove_x509, ..BundleEdit::default() };
        self.context.edit_bundle(edit).await.map(drop)
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

/// Brings the bundle in step with the keys of a kind that upstream has, where it knows such keys:
/// new ones are added, tainted ones are tainted here, and tainted ones that are gone there are revoked
/// here. Own keys that upstream lacks are published again (SPIRE issue 6083): a publication may have
/// been lost there.
///
/// A key that an operator revoked here is not added again, though upstream may name it still.
async fn sync_keys<K: KeyKind>(
    context: &mut Context,
    own: &[&str],
    keys: Option<Vec<JwtAuthority>>,
    tells_revocation: bool,
) -> Result<(), AuthorityError> {
    let Some(keys) = keys else { return Ok(()) };
    let bundle = context.read_bundle().await?;
    let is_refused = K::upstream_of(context).is_refused();
    let unpublished =
        if is_refused { Vec::new() } else { unpublished(K::keys(&bundle), &keys, own) };
    let revoked = &mut K::upstream_of(context).revoked;
    revoked.retain(|id| keys.iter().any(|key| key.key_id == *id));
    let edit = in_step(K::keys(&bundle), &keys, revoked, tells_revocation);
    for (key_ids, what) in [(&edit.taint, "tainted"), (&edit.remove, "revoked")] {
        for key_id in key_ids {
            let kind = K::NAMES.log;
            tracing::warn!(key_id = &**key_id, "{kind} {what}: the upstream authority says so");
        }
    }
    context.edit_bundle(K::edit(edit)).await?;
    for key in unpublished {
        if context.publish_key_upstream::<K>(&key).await?.is_some() {
            tracing::info!(key_id = &*key.key_id, "Published a {} upstream again", K::NAMES.log);
        }
    }
    Ok(())
}

/// The change that brings `known`, the keys of the bundle, in step with those upstream.
fn in_step(
    known: &[JwtAuthority],
    upstream: &[JwtAuthority],
    revoked_here: &HashSet<Arc<str>>,
    tells_revocation: bool,
) -> KeyEdit {
    let mut edit = KeyEdit::default();
    for key in upstream.iter().filter(|key| !revoked_here.contains(&key.key_id)) {
        if key.tainted && find(known, &key.key_id).is_none_or(|known| !known.tainted) {
            edit.taint.push(Arc::clone(&key.key_id));
        }
        edit.append.push(key.clone());
    }
    let is_gone = |key: &&JwtAuthority| key.tainted && find(upstream, &key.key_id).is_none();
    let gone = known.iter().filter(is_gone).filter(|_| tells_revocation);
    edit.remove.extend(gone.map(|key| Arc::clone(&key.key_id)));
    edit
}

/// Those of the `own` keys that upstream lacks, but for tainted ones.
fn unpublished(
    known: &[JwtAuthority],
    upstream: &[JwtAuthority],
    own: &[&str],
) -> Vec<JwtAuthority> {
    let missing = own.iter().filter(|id| find(upstream, id).is_none());
    let missing = missing.filter_map(|id| find(known, id)).filter(|key| !key.tainted);
    missing.cloned().collect()
}

fn find<'a>(keys: &'a [JwtAuthority], id: &str) -> Option<&'a JwtAuthority> {
    keys.iter().find(|key| *key.key_id == *id)
}

fn subject_key_id(der: &[u8]) -> String {
    Certificate::from_der(der).map(|root| root.subject_key_id_hex()).unwrap_or_default()
}
