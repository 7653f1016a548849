//! The life of the authorities of one kind, the same for all kinds: prepare, activate, taint,
//! revoke, and taking them up again at a start.

use signet_identity::Bundle;
use signet_time::UnixTime;
use tokio::time::Instant;

use crate::{
    AuthorityError,
    context::Context,
    journal::{self, Record, Status},
    kind::Kind,
    shared::Current,
    slot::{Due, LocalAuthority, Slots},
};

/// The authorities of one kind.
#[derive(Debug)]
pub(crate) struct Machine<K: Kind> {
    pub slots: Slots<K::Material>,
    current: Current<K::Material>,
}

impl<K: Kind> Machine<K> {
    /// Without authorities; what signs will be shown in `current`.
    pub(crate) fn new(current: Current<K::Material>) -> Self {
        Self { slots: Slots::empty(), current }
    }

    /// The IDs of the authority that signs and of the one that is prepared.
    pub(crate) fn current_ids(&self) -> impl Iterator<Item = &str> {
        let current = self.slots.active().into_iter().chain(self.slots.prepared());
        current.map(|authority| authority.authority_id.as_str())
    }

    /// Does what the clock asks for, and what the bundle does: an authority that another server
    /// tainted or revoked there signs no longer than until the next look.
    pub(crate) async fn rotate(
        &mut self,
        context: &mut Context,
        bundle: Option<&Bundle>,
    ) -> Result<(), AuthorityError> {
        if !K::is_enabled(&context.shared.options) {
            return Ok(());
        }
        let published_for = context.shared.options.published_for.as_secs();
        let published_for = i64::try_from(published_for).unwrap_or(i64::MAX);
        match self.due(context.now(), published_for, bundle) {
            Due::Nothing => Ok(()),
            Due::Prepare => self.prepare(context).await,
            Due::Activate => self.activate(context).await,
            Due::Replace => {
                self.prepare(context).await?;
                self.activate(context).await
            }
        }
    }

    fn due(&mut self, now: UnixTime, published_for: i64, bundle: Option<&Bundle>) -> Due {
        let is_withdrawn = |authority: &LocalAuthority<K::Material>| {
            bundle.is_some_and(|bundle| K::is_withdrawn(bundle, authority))
        };
        if self.slots.prepared().is_some_and(is_withdrawn) {
            self.slots.forget_prepared();
        }
        match self.slots.active() {
            Some(active) if is_withdrawn(active) => {
                tracing::warn!(
                    local_authority_id = active.authority_id,
                    "The active {} was tainted or revoked in the trust bundle: replacing it",
                    K::NAMES.log
                );
                self.slots.due_without_current(now)
            }
            _ => self.slots.due(now, published_for),
        }
    }

    /// Prepares the next authority: key, journal, bundle, in this order. A prepared one is
    /// replaced.
    pub(crate) async fn prepare(&mut self, context: &mut Context) -> Result<(), AuthorityError> {
        let begun = Instant::now();
        let outcome = self.prepare_next(context).await;
        if let Some(observer) = &context.ports.observer {
            observer.prepared(K::NAMES.log, begun.elapsed(), outcome.as_ref().map(|_| ()));
        }
        outcome
    }

    async fn prepare_next(&mut self, context: &mut Context) -> Result<(), AuthorityError> {
        self.slots.make_room();
        let slot = self.slots.next.id;
        let key_id = K::key_id(slot);
        let key = context.unpublished_key(&key_id, K::key_type(&context.shared.options)).await?;
        // The slot's earlier key is gone now.
        self.slots.forget_prepared();
        let made = K::make(context, slot, key).await?;
        let mut journal = context.journal.clone();
        journal::append(K::records_mut(&mut journal), made.record);
        // From here on a crash is recovered from the record.
        let unpublished = journal.unpublished_keys.remove(&key_id);
        if made.publish_first {
            K::publish(context, made.publication).await?;
            context.save_journal(journal).await?;
        } else {
            context.save_journal(journal).await?;
            if let Err(error) = K::publish(context, made.publication).await {
                context.journal.unpublished_keys.extend(unpublished.map(|key| (key_id, key)));
                return Err(error);
            }
        }
        let authority = made.authority;
        tracing::info!(
            slot = slot.as_str(),
            local_authority_id = authority.authority_id,
            upstream_authority_id = authority.upstream_authority_id,
            expiration = authority.not_after.seconds(),
            self_signed = !context.has_upstream(),
            "{} prepared",
            K::NAMES.log
        );
        self.slots.next.held = Some(authority);
        Ok(())
    }

    /// Makes the prepared authority the one that signs.
    pub(crate) async fn activate(&mut self, context: &mut Context) -> Result<(), AuthorityError> {
        let Some(next) = &self.slots.next.held else { return Ok(()) };
        let (id, expires_at) = (next.authority_id.clone(), next.not_after);
        let mut journal = context.journal.clone();
        journal::activate(K::records_mut(&mut journal), &id);
        let must_go_on = self.slots.active().is_none_or(|active| active.not_after <= context.now());
        context.commit_activation(journal, must_go_on).await?;
        self.slots.swap();
        self.show();
        if let Some(observer) = &context.ports.observer {
            observer.activated(K::NAMES.log);
        }
        tracing::info!(
            slot = self.slots.current.id.as_str(),
            local_authority_id = id,
            expiration = expires_at.seconds(),
            "{} activated",
            K::NAMES.log
        );
        Ok(())
    }

    /// Takes up every recorded authority whose key the key manager still has.
    ///
    /// An authority that was active or old but is missing from the bundle is not taken up: nobody
    /// could verify what it signs (the store was restored from a backup, or it was revoked). A
    /// prepared one is put into the bundle (again), because the server may have ended between
    /// journal and bundle.
    pub(crate) async fn recover(
        &mut self,
        context: &mut Context,
        bundle: &Bundle,
    ) -> Result<(), AuthorityError> {
        if !K::is_enabled(&context.shared.options) {
            return Ok(());
        }
        let (mut active, mut other) = (None, None);
        let (mut lost, mut unpublished) = (None, Vec::new());
        for record in K::records(&context.journal).iter().rev() {
            let in_bundle = K::is_in_bundle(bundle, record);
            let must_be_in_bundle = K::must_be_in_bundle(context);
            if must_be_in_bundle && !in_bundle && record.status() != Status::Prepared {
                tracing::warn!(
                    local_authority_id = record.authority_id(),
                    "{} slot unusable: it is not in the trust bundle",
                    K::NAMES.log
                );
                continue;
            }
            if record.not_after() <= context.now() {
                Self::unusable(record, "it expired");
                continue;
            }
            let place = match record.status() {
                Status::Active => &mut active,
                Status::Old | Status::Prepared => &mut other,
            };
            let key = context.find_key(&K::key_id(record.slot())).await?;
            let Some(key) = key.filter(|key| record.is_for(key.public_key())) else {
                Self::unusable(record, "its key is not in the key manager");
                if record.status() == Status::Active {
                    lost = Some(record.clone());
                }
                continue;
            };
            if place.is_none() {
                *place = Some((record.slot(), LocalAuthority::of(record, K::load(record, key)?)));
                if must_be_in_bundle && !in_bundle {
                    unpublished.push(K::publication(record));
                }
            }
        }
        let prepared = other.as_ref().filter(|(_, other)| other.status == Status::Prepared);
        if let Some(lost) = lost
            && active.is_none()
        {
            Self::lost_key(context, &lost, prepared.is_some())?;
        }
        for publication in unpublished {
            K::publish(context, publication).await?;
        }
        for (slot, _) in active.iter().chain(&other) {
            context.key_is_published(&K::key_id(*slot));
        }
        self.slots = Slots::recovered(active, other);
        self.show();
        Ok(())
    }

    fn unusable(record: &K::Record, why: &str) {
        tracing::debug!(
            slot = record.slot().as_str(),
            local_authority_id = record.authority_id(),
            why,
            "{} slot unusable",
            K::NAMES.log
        );
    }

    /// The key of the authority that signs is gone. To go on with a new authority is refused where
    /// that would lock out everyone, unless the operator said so or keys never outlive a process;
    /// and is said loudly in any case.
    fn lost_key(
        context: &Context,
        lost: &K::Record,
        has_prepared: bool,
    ) -> Result<(), AuthorityError> {
        let locks_out = K::loss_locks_out(context) && !has_prepared;
        let key_manager = context.ports.keys.name();
        if locks_out && !context.goes_on_without_key() {
            return Err(AuthorityError::LostKey {
                authority: K::NAMES.log,
                authority_id: lost.authority_id().to_owned(),
                key_id: K::key_id(lost.slot()),
                key_manager,
            });
        }
        tracing::error!(
            slot = lost.slot().as_str(),
            local_authority_id = lost.authority_id(),
            expiration = lost.not_after().seconds(),
            key_manager,
            consequence = match (has_prepared, locks_out) {
                (true, _) => "the prepared authority takes its place",
                (false, true) =>
                    "a new authority is made, which agents that are connected at no time before \
                     their SVIDs expire will not trust",
                (false, false) => "a new authority is made",
            },
            "The key of the active {} is not in the key manager",
            K::NAMES.log
        );
        Ok(())
    }

    /// Shows readers what signs now.
    fn show(&self) {
        self.current.store(self.slots.active().and_then(|active| active.material.clone()));
    }
}
