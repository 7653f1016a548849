//! The one owner of the authorities' state.

mod prepare;
mod recover;
mod upstream;

pub(crate) use prepare::seconds;

use std::{fmt, sync::Arc, time::Duration};

use signet_base::{CancellationToken, SharedClock};
use signet_identity::{Bundle, JwtAuthority};
use signet_pki::x509::Certificate;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    Authority, AuthorityError, AuthorityOptions, AuthorityPorts, AuthorityView,
    authority::{Command, JwtKey, MAX_WAITING_OPERATIONS, Shared, X509Ca},
    journal::Journal,
    ports::BundleEdit,
    slot::{Due, Slots},
    timing,
};

/// How long the key manager may take for a key.
const KEY_DEADLINE: Duration = Duration::from_secs(60);
/// How long a write of journal or bundle may take.
const STORE_DEADLINE: Duration = Duration::from_secs(30);
/// How far wall clock and timers may drift apart between two looks before it counts as a jump.
const JUMP: i64 = 3600;

/// Owns the authorities: prepares, activates, and keeps journal and bundle in step.
pub struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ports: AuthorityPorts,
    pub(crate) journal: Journal,
    /// The stored journal is behind the one here (a write failed when it could not be waited for).
    journal_is_behind: bool,
    pub(crate) x509: Slots<X509Ca>,
    pub(crate) jwt: Slots<JwtKey>,
    failed_rotations: u32,
    commands: mpsc::Receiver<Command>,
    upstream_checked: Option<Instant>,
    warned_jwt_upstream: bool,
}

impl Keeper {
    /// Recovers the authorities from journal and key manager. Nothing is made or changed yet: the
    /// first [`Keeper::tick`] does that.
    ///
    /// # Errors
    /// [`AuthorityError`] when journal, bundle or key manager cannot be read, or the journal is
    /// corrupt.
    pub async fn open(
        options: AuthorityOptions,
        ports: AuthorityPorts,
        clock: SharedClock,
    ) -> Result<(Self, Authority), AuthorityError> {
        let (sender, commands) = mpsc::channel(MAX_WAITING_OPERATIONS);
        let has_upstream = ports.upstream.is_some();
        let shared = Shared::new(options, clock, ports.composers.clone(), has_upstream);
        let shared = Arc::new(shared);
        let mut keeper = Self {
            shared: Arc::clone(&shared),
            ports,
            journal: Journal::default(),
            journal_is_behind: false,
            x509: Slots::empty(),
            jwt: Slots::empty(),
            failed_rotations: 0,
            commands,
            upstream_checked: None,
            warned_jwt_upstream: false,
        };
        keeper.recover().await?;
        keeper.publish();
        Ok((keeper, Authority { shared, commands: sender }))
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
        self.publish();
        outcome
    }

    /// Serves operations and looks at the clock every 10 s until the token is cancelled. An
    /// operation that has begun is finished first.
    pub async fn run(mut self, token: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        let mut checks = tokio::time::interval(timing::CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut prunes = tokio::time::interval_at(
            Instant::now() + timing::BUNDLE_PRUNE_INTERVAL,
            timing::BUNDLE_PRUNE_INTERVAL,
        );
        let mut drift = Drift::new(shared.clock.unix());
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                Some(command) = self.commands.recv() => {
                    command(&mut self).await;
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
        if self.journal_is_behind {
            self.save_journal(self.journal.clone()).await?;
            self.journal_is_behind = false;
        }
        let x509 = self.rotate_x509().await;
        if x509.is_err() && self.x509.active().is_none() {
            return x509;
        }
        let jwt = self.rotate_jwt().await;
        x509.and(jwt)
    }

    async fn rotate_x509(&mut self) -> Result<(), AuthorityError> {
        match self.x509.due(self.now()) {
            Due::Nothing => Ok(()),
            Due::Prepare => self.prepare_x509().await,
            Due::Activate => self.activate_x509().await,
            Due::Replace => {
                self.prepare_x509().await?;
                self.activate_x509().await
            }
        }
    }

    async fn rotate_jwt(&mut self) -> Result<(), AuthorityError> {
        if self.shared.options.jwt_disabled {
            return Ok(());
        }
        match self.jwt.due(self.now()) {
            Due::Nothing => Ok(()),
            Due::Prepare => self.prepare_jwt().await,
            Due::Activate => self.activate_jwt().await,
            Due::Replace => {
                self.prepare_jwt().await?;
                self.activate_jwt().await
            }
        }
    }

    /// Makes the prepared X.509 authority the one that signs.
    pub(crate) async fn activate_x509(&mut self) -> Result<(), AuthorityError> {
        let Some(next) = &self.x509.next.held else { return Ok(()) };
        let (id, expires_at) = (next.authority_id.clone(), next.not_after);
        let mut journal = self.journal.clone();
        journal.activate_x509(&id);
        let must_go_on = self.x509.active().is_none_or(|active| active.not_after <= self.now());
        self.commit_activation(journal, must_go_on).await?;
        self.x509.swap();
        self.publish();
        tracing::info!(
            slot = self.x509.current.id.as_str(),
            local_authority_id = id,
            expiration = expires_at,
            "X509 CA activated"
        );
        Ok(())
    }

    /// Makes the prepared JWT authority the one that signs.
    pub(crate) async fn activate_jwt(&mut self) -> Result<(), AuthorityError> {
        let Some(next) = &self.jwt.next.held else { return Ok(()) };
        let (id, expires_at) = (next.authority_id.clone(), next.not_after);
        let mut journal = self.journal.clone();
        journal.activate_jwt(&id);
        let must_go_on = self.jwt.active().is_none_or(|active| active.not_after <= self.now());
        self.commit_activation(journal, must_go_on).await?;
        self.jwt.swap();
        self.publish();
        tracing::info!(
            slot = self.jwt.current.id.as_str(),
            local_authority_id = id,
            expiration = expires_at,
            "JWT key activated"
        );
        Ok(())
    }

    /// Writes the journal of an activation. When nothing valid signs any more (`must_go_on`), a
    /// failure to write only postpones the write: after a crash the stored journal still has the
    /// authority as prepared, which recovers it just as well.
    async fn commit_activation(
        &mut self,
        journal: Journal,
        must_go_on: bool,
    ) -> Result<(), AuthorityError> {
        match self.save_journal(journal.clone()).await {
            Ok(()) => Ok(()),
            Err(error) if must_go_on => {
                tracing::error!(error = %Chain(&error), "The CA journal will be written later");
                self.journal = journal;
                self.journal_is_behind = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Makes `journal` the stored one and ours; on failure both stay as they were.
    pub(crate) async fn save_journal(
        &mut self,
        mut journal: Journal,
    ) -> Result<(), AuthorityError> {
        let forgotten = self.now().saturating_sub(timing::JOURNAL_PRUNE_AGE);
        journal.x509.retain(|record| record.not_after > forgotten);
        journal.jwt.retain(|record| record.not_after > forgotten);
        let data = journal.encode()?;
        within(STORE_DEADLINE, "the CA journal", self.ports.journal.save(data))
            .await?
            .map_err(AuthorityError::JournalStore)?;
        self.journal = journal;
        Ok(())
    }

    pub(crate) async fn edit_bundle(
        &self,
        edit: BundleEdit,
    ) -> Result<(Bundle, bool), AuthorityError> {
        within(STORE_DEADLINE, "the trust bundle", self.ports.bundle.edit(edit))
            .await?
            .map_err(AuthorityError::Bundle)
    }

    pub(crate) async fn read_bundle(&self) -> Result<Option<Bundle>, AuthorityError> {
        within(STORE_DEADLINE, "the trust bundle", self.ports.bundle.bundle())
            .await?
            .map_err(AuthorityError::Bundle)
    }

    /// Drops from the bundle what expired more than a day ago; never the last of a kind.
    ///
    /// # Errors
    /// [`AuthorityError`] when the bundle cannot be read or written.
    pub async fn prune_bundle(&mut self) -> Result<bool, AuthorityError> {
        let Some(bundle) = self.read_bundle().await? else { return Ok(false) };
        let limit = self.now().saturating_sub(timing::BUNDLE_PRUNE_AGE);
        let is_old_cert = |der: &[u8]| match Certificate::from_der(der) {
            Ok(certificate) => certificate.not_after() <= limit,
            Err(error) => {
                tracing::warn!(%error, "The bundle holds an authority that cannot be read");
                false
            }
        };
        let is_old_key = |key: &JwtAuthority| key.expires_at != 0 && key.expires_at <= limit;
        let x509: Vec<_> = bundle
            .x509_authorities
            .iter()
            .filter(|authority| is_old_cert(&authority.der))
            .map(|authority| Arc::clone(&authority.der))
            .collect();
        let jwt: Vec<_> = bundle
            .jwt_authorities
            .iter()
            .filter(|key| is_old_key(key))
            .map(|key| Arc::clone(&key.key_id))
            .collect();
        if x509.is_empty() && jwt.is_empty() {
            return Ok(false);
        }
        if x509.len() == bundle.x509_authorities.len()
            || (!jwt.is_empty() && jwt.len() == bundle.jwt_authorities.len())
        {
            tracing::warn!("Pruning halted; all known authorities of a kind have expired");
            return Ok(false);
        }
        tracing::info!(x509 = x509.len(), jwt = jwt.len(), "Pruning expired authorities");
        let edit = BundleEdit { remove_x509: x509, remove_jwt: jwt, ..BundleEdit::default() };
        self.edit_bundle(edit).await.map(|(_, changed)| changed)
    }

    /// Shows readers what is true now.
    pub(crate) fn publish(&self) {
        let x509 = self.x509.active().and_then(|held| held.material.clone());
        self.shared.x509.store(x509);
        let jwt = self.jwt.active().and_then(|held| held.material.clone());
        self.shared.jwt.store(jwt);
        let view = AuthorityView {
            x509: self.x509.view(),
            jwt: self.jwt.view(),
            failed_rotations: self.failed_rotations,
        };
        self.shared.view.send_if_modified(|current| {
            let changed = *current != view;
            *current = view;
            changed
        });
    }

    /// Tells those concerned that a tainted authority's SVIDs are to be replaced.
    pub(crate) fn announce_taint(&self) {
        self.shared.taints.send_modify(|count| *count = count.saturating_add(1));
    }

    pub(crate) fn now(&self) -> i64 {
        self.shared.clock.unix()
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("x509", &self.x509).field("jwt", &self.jwt).finish()
    }
}

/// Awaits something outside, but not for ever.
pub(crate) async fn within<T>(
    deadline: Duration,
    what: &'static str,
    future: impl Future<Output = T>,
) -> Result<T, AuthorityError> {
    tokio::time::timeout(deadline, future).await.map_err(|_| AuthorityError::TimedOut(what))
}

/// An error with its causes, for logs.
pub(crate) struct Chain<'a>(pub &'a (dyn std::error::Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Compares the wall clock with timers, to notice jumps.
struct Drift {
    unix: i64,
    instant: Instant,
}

impl Drift {
    fn new(unix: i64) -> Self {
        Self { unix, instant: Instant::now() }
    }

    fn jumped(&mut self, unix: i64) -> bool {
        let timer = i64::try_from(self.instant.elapsed().as_secs()).unwrap_or(i64::MAX);
        let wall = unix.saturating_sub(self.unix);
        *self = Self::new(unix);
        wall.saturating_sub(timer).abs() > JUMP
    }
}
