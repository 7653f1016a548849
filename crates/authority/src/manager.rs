//! The CA manager: the one owner of the authorities' state.

mod intermediate;
mod operations;
mod upstream;

use std::{collections::HashSet, fmt, pin::Pin, sync::Arc};

use signet_base::CancellationToken;
use signet_identity::JwtAuthority;
use signet_pki::x509::Certificate;
use signet_time::UnixTime;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    AuthorityError, AuthorityPorts, AuthorityView,
    context::{Chain, Context},
    kind::{Jwt, SecondJwt, Wit, X509},
    machine::Machine,
    ports::BundleEdit,
    shared::Shared,
    timing,
};

/// How far wall clock and timers may drift apart between two looks before it counts as a jump.
const JUMP: i64 = 3600;

/// Something the manager is asked to do.
pub(crate) type Command = Box<
    dyn for<'a> FnOnce(&'a mut CaManager) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> + Send,
>;

/// Owns the authorities: prepares, activates, and keeps journal and bundle in step.
pub struct CaManager {
    context: Context,
    x509: Machine<X509>,
    jwt: Machine<Jwt>,
    second_jwt: Machine<SecondJwt>,
    wit: Machine<Wit>,
    failed_rotations: u32,
    commands: mpsc::Receiver<Command>,
    upstream_checked: Option<Instant>,
    /// Tainted roots that the upstream no longer names, and of which the log has a line.
    reported_gone: HashSet<Arc<[u8]>>,
}

impl CaManager {
    /// Recovers the authorities from journal and key manager, for those who hold `shared` and send
    /// `commands`.
    ///
    /// # Errors
    /// As [`CaManager::open`].
    pub(crate) async fn recovered(
        shared: &Arc<Shared>,
        ports: AuthorityPorts,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, AuthorityError> {
        let mut manager = Self {
            context: Context::new(Arc::clone(shared), ports),
            x509: Machine::new(Arc::clone(&shared.x509)),
            jwt: Machine::new(Arc::clone(&shared.jwt)),
            second_jwt: Machine::new(Arc::clone(&shared.second_jwt)),
            wit: Machine::new(Arc::clone(&shared.wit)),
            failed_rotations: 0,
            commands,
            upstream_checked: None,
            reported_gone: HashSet::new(),
        };
        manager.recover().await?;
        manager.publish();
        Ok(manager)
    }

    async fn recover(&mut self) -> Result<(), AuthorityError> {
        let context = &mut self.context;
        if !context.load_journal().await? {
            return Ok(());
        }
        tracing::info!(
            x509_cas = context.journal.x509.len(),
            jwt_keys = context.journal.jwt.len(),
            second_jwt_keys = context.journal.second_jwt.len(),
            wit_keys = context.journal.wit.len(),
            "Journal loaded"
        );
        let bundle = context.read_bundle().await?;
        self.x509.recover(context, &bundle).await?;
        self.jwt.recover(context, &bundle).await?;
        self.second_jwt.recover(context, &bundle).await?;
        self.wit.recover(context, &bundle).await
    }

    /// Looks at the clock and does what is due: prepares, activates, replaces.
    ///
    /// # Errors
    /// The first [`AuthorityError`]. What signs goes on signing; the next look tries again.
    pub async fn tick(&mut self) -> Result<(), AuthorityError> {
        let outcome = self.rotate().await;
        self.failed_rotations = match &outcome {
            Ok(()) => 0,
            Err(_) => self.failed_rotations.saturating_add(1),
        };
        self.context.renew_intermediate().await;
        self.publish();
        outcome
    }

    /// Serves operations and looks at the clock every 10 s until the token is cancelled. An
    /// operation that has begun is finished first.
    pub async fn run(mut self, token: CancellationToken) {
        let shared = Arc::clone(&self.context.shared);
        let mut checks = tokio::time::interval(timing::CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut prunes = tokio::time::interval_at(
            Instant::now() + timing::BUNDLE_PRUNE_INTERVAL,
            timing::BUNDLE_PRUNE_INTERVAL,
        );
        let mut upstream_polls = tokio::time::interval(timing::UPSTREAM_POLL_INTERVAL);
        upstream_polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drift = Drift::new(shared.clock.unix());
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                Some(command) = self.commands.recv() => {
                    command(&mut self).await;
                    self.context.renew_intermediate().await;
                    self.publish();
                }
                () = shared.wake.notified() => self.look().await,
                _ = checks.tick() => {
                    if drift.jumped(shared.clock.unix()) {
                        tracing::warn!("The wall clock jumped; the bundle is not pruned for now");
                        prunes.reset();
                    }
                    self.look().await;
                }
                _ = upstream_polls.tick() => self.check_upstream().await,
                _ = prunes.tick() => {
                    if let Err(error) = self.prune_bundle().await {
                        tracing::error!(error = %Chain(&error), "Could not prune CA certificates");
                    }
                }
            }
        }
    }

    async fn look(&mut self) {
        if let Err(error) = self.tick().await {
            tracing::error!(
                error = %Chain(&error),
                failed_rotations = self.failed_rotations,
                "Unable to rotate authorities"
            );
        }
        self.check_upstream().await;
    }

    async fn rotate(&mut self) -> Result<(), AuthorityError> {
        let context = &mut self.context;
        context.catch_up().await?;
        // The bundle is looked at while it can be: the clock asks for more.
        let bundle = context.read_bundle().await.inspect_err(|error| {
            tracing::warn!(error = %Chain(error), "Could not look at the trust bundle");
        });
        let bundle = bundle.ok();
        let x509 = self.x509.rotate(context, bundle.as_ref()).await;
        if x509.is_err() && self.x509.slots.active().is_none() {
            return x509;
        }
        let jwt = self.jwt.rotate(context, bundle.as_ref()).await;
        let second_jwt = self.second_jwt.rotate(context, bundle.as_ref()).await;
        let wit = self.wit.rotate(context, bundle.as_ref()).await;
        x509.and(jwt).and(second_jwt).and(wit)
    }

    /// Drops from the bundle what expired more than a day ago; never the last of a kind that every
    /// trust domain has.
    ///
    /// # Errors
    /// [`AuthorityError`] when the bundle cannot be read or written.
    pub async fn prune_bundle(&mut self) -> Result<bool, AuthorityError> {
        let begun = Instant::now();
        let outcome = self.prune_expired().await;
        if let Some(observer) = &self.context.ports.observer {
            observer.pruned(begun.elapsed(), outcome.as_ref().map(|dropped| *dropped));
        }
        outcome
    }

    async fn prune_expired(&mut self) -> Result<bool, AuthorityError> {
        let bundle = self.context.read_bundle().await?;
        let limit = self.context.now() - timing::BUNDLE_PRUNE_AGE;
        let is_old_cert = |der: &[u8]| match Certificate::from_der(der) {
            Ok(certificate) => certificate.not_after() <= limit,
            Err(error) => {
                tracing::warn!(%error, "The bundle holds an authority that cannot be read");
                false
            }
        };
        let old_keys = |keys: &[JwtAuthority]| -> Vec<Arc<str>> {
            let old = keys
                .iter()
                .filter(|key| key.expires_at != UnixTime::EPOCH && key.expires_at <= limit);
            old.map(|key| Arc::clone(&key.key_id)).collect()
        };
        let x509: Vec<_> = bundle
            .x509_authorities
            .iter()
            .filter(|authority| is_old_cert(&authority.der))
            .map(|authority| Arc::clone(&authority.der))
            .collect();
        let jwt = old_keys(&bundle.jwt_authorities);
        // WIT-SVIDs may have been switched off: then the last of their authorities goes, too.
        let wit = old_keys(&bundle.wit_authorities);
        if x509.is_empty() && jwt.is_empty() && wit.is_empty() {
            return Ok(false);
        }
        if x509.len() == bundle.x509_authorities.len()
            || (!jwt.is_empty() && jwt.len() == bundle.jwt_authorities.len())
        {
            tracing::warn!("Pruning halted; all known authorities of a kind have expired");
            return Ok(false);
        }
        tracing::info!(
            x509 = x509.len(),
            jwt = jwt.len(),
            wit = wit.len(),
            "Pruning expired authorities"
        );
        let edit = BundleEdit {
            remove_x509: x509,
            remove_jwt: jwt,
            remove_wit: wit,
            ..BundleEdit::default()
        };
        self.context.edit_bundle(edit).await.map(|(_, changed)| changed)
    }

    /// Shows readers how the authorities are now.
    fn publish(&self) {
        let view = AuthorityView {
            x509: self.x509.slots.view(),
            jwt: self.jwt.slots.view(),
            second_jwt: self.second_jwt.slots.view(),
            wit: self.wit.slots.view(),
            failed_rotations: self.failed_rotations,
        };
        self.context.shared.view.send_if_modified(|current| {
            let changed = *current != view;
            *current = view;
            changed
        });
    }
}

impl fmt::Debug for CaManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaManager")
            .field("x509", &self.x509)
            .field("jwt", &self.jwt)
            .field("second_jwt", &self.second_jwt)
            .field("wit", &self.wit)
            .finish()
    }
}

/// Compares the wall clock with timers, to notice jumps.
struct Drift {
    unix: UnixTime,
    instant: Instant,
}

impl Drift {
    fn new(unix: UnixTime) -> Self {
        Self { unix, instant: Instant::now() }
    }

    fn jumped(&mut self, unix: UnixTime) -> bool {
        let timer = i64::try_from(self.instant.elapsed().as_secs()).unwrap_or(i64::MAX);
        let wall = unix - self.unix;
        *self = Self::new(unix);
        wall.saturating_sub(timer).abs() > JUMP
    }
}
