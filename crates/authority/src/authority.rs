//! The handle that everyone but the CA manager holds.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use signet_base::SharedClock;
use signet_identity::JwtAuthority;
use signet_pki::{CredentialComposer, UpstreamAuthority, key_manager::SigningFault};
use signet_time::UnixTime;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    AuthorityError, AuthorityKind, AuthorityOptions, AuthorityPorts, AuthorityView, CaManager,
    OperationClass, OperationError, TrustRoot, manager::Command, shared::Shared,
    view::AuthorityState,
};

/// How many operations may wait for the manager.
const MAX_WAITING_OPERATIONS: usize = 16;

/// Issues credentials and asks for operations on the authorities. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl CaManager {
    /// Recovers the authorities from journal and key manager. Nothing is made yet: the first
    /// [`CaManager::tick`] does that.
    ///
    /// # Errors
    /// [`AuthorityError`] when journal, bundle or key manager cannot be read, the journal is
    /// corrupt, or the key of the authority that signs was lost ([`AuthorityError::LostKey`]).
    pub async fn open(
        options: AuthorityOptions,
        ports: AuthorityPorts,
        clock: SharedClock,
    ) -> Result<(Self, Authority), AuthorityError> {
        let (sender, commands) = mpsc::channel(MAX_WAITING_OPERATIONS);
        let has_upstream = matches!(ports.trust_root, TrustRoot::Upstream(_));
        let (composers, keys) = (ports.composers.clone(), Arc::clone(&ports.keys));
        let shared = Arc::new(Shared::new(options, clock, composers, has_upstream, keys));
        let manager = Self::recovered(&shared, ports, commands).await?;
        Ok((manager, Authority { shared, commands: sender }))
    }
}

impl Authority {
    /// The states of all authorities, now and whenever one changes.
    pub fn view(&self) -> watch::Receiver<AuthorityView> {
        self.shared.view.subscribe()
    }

    /// Counts taints of X.509 authorities: when it grows, what tainted authorities signed is to
    /// be replaced at once.
    pub fn taints(&self) -> watch::Receiver<u64> {
        self.shared.taints.subscribe()
    }

    /// How signing with a remote key manager fares; `None` when all is well.
    pub fn signing_fault(&self) -> Option<SigningFault> {
        self.shared.keys.fault()
    }

    /// Until when a local intermediate signs X.509-SVIDs without the key manager, Unix seconds;
    /// `None` where there is none.
    pub fn local_intermediate_expires_at(&self) -> Option<UnixTime> {
        self.shared.intermediate_expires_at()
    }

    /// When the last of the credentials expires that were signed since the start, Unix seconds.
    pub fn issued_until(&self) -> UnixTime {
        UnixTime::from_seconds(self.shared.issued_until.load(Ordering::Relaxed))
    }

    /// Whether an upstream authority signs the X.509 CA.
    pub fn has_upstream(&self) -> bool {
        self.shared.has_upstream
    }

    /// Whether there are SVIDs of this kind.
    pub fn has(&self, kind: AuthorityKind) -> bool {
        kind.is_enabled(&self.shared.options)
    }

    /// What the authority was told at its start.
    pub fn options(&self) -> &AuthorityOptions {
        &self.shared.options
    }

    /// Prepares the next authority of a kind; a prepared one is replaced.
    ///
    /// # Errors
    /// [`OperationError`], as for every operation, with SPIRE's texts: nothing signs yet, or the
    /// key manager, the upstream authority or the store failed.
    pub async fn prepare(&self, kind: AuthorityKind) -> Result<AuthorityState, OperationError> {
        self.ask(move |manager| Box::pin(manager.operate_prepare(kind))).await?
    }

    /// Activates the prepared authority of a kind.
    ///
    /// # Errors
    /// [`OperationError`] when `id` is not the prepared authority's.
    pub async fn activate(
        &self,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<AuthorityState, OperationError> {
        let id = id.to_owned();
        self.ask(move |manager| Box::pin(async move { manager.operate_activate(kind, &id).await }))
            .await?
    }

    /// Taints an authority in the bundle, however old.
    ///
    /// # Errors
    /// [`OperationError`] when `id` is that of the one that signs, of the prepared one, or of
    /// nothing in the bundle; for X.509 also when there is an upstream.
    pub async fn taint(
        &self,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<AuthorityState, OperationError> {
        let id = id.to_owned();
        self.ask(move |manager| Box::pin(async move { manager.operate_taint(kind, &id).await }))
            .await?
    }

    /// Removes a tainted authority from the bundle, however old.
    ///
    /// # Errors
    /// As [`Authority::taint`], and when it is not tainted.
    pub async fn revoke(&self, kind: AuthorityKind, id: &str) -> Result<(), OperationError> {
        let id = id.to_owned();
        self.ask(move |manager| Box::pin(async move { manager.operate_revoke(kind, &id).await }))
            .await?
    }

    /// Taints an upstream authority in the bundle, however old. Answers with its subject key ID in
    /// lower case.
    ///
    /// # Errors
    /// [`OperationError`] when it is not in the bundle, when the active or the prepared X.509
    /// authority is under it, or there is no upstream.
    pub async fn taint_upstream(&self, subject_key_id: &str) -> Result<String, OperationError> {
        let id = subject_key_id.to_ascii_lowercase();
        self.ask(|manager| Box::pin(async move { manager.operate_taint_upstream(id).await }))
            .await?
    }

    /// Removes a tainted upstream authority from the bundle, however old.
    ///
    /// # Errors
    /// As [`Authority::taint_upstream`], and when it is not tainted.
    pub async fn revoke_upstream(&self, subject_key_id: &str) -> Result<String, OperationError> {
        let id = subject_key_id.to_ascii_lowercase();
        self.ask(|manager| Box::pin(async move { manager.operate_revoke_upstream(id).await }))
            .await?
    }

    /// Publishes a downstream server's JWT key: upstream if that can, else in the bundle. Answers
    /// with all JWT authorities then.
    ///
    /// # Errors
    /// [`AuthorityError`] when upstream or the bundle cannot be reached.
    pub async fn publish_jwt_key(
        &self,
        key: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, AuthorityError> {
        self.ask(|manager| Box::pin(manager.publish_jwt_key(key)))
            .await
            .map_err(|_| AuthorityError::Stopped)?
    }

    /// Publishes a downstream server's WIT key: upstream if that can, else in the bundle. Answers
    /// with all WIT authorities then.
    ///
    /// # Errors
    /// [`AuthorityError`] when upstream or the bundle cannot be reached.
    pub async fn publish_wit_key(
        &self,
        key: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, AuthorityError> {
        self.ask(|manager| Box::pin(manager.publish_wit_key(key)))
            .await
            .map_err(|_| AuthorityError::Stopped)?
    }

    /// Replaces the upstream authority by one with new settings: the next X.509 authority is signed
    /// by it, and its roots are followed at once.
    ///
    /// # Errors
    /// [`OperationError`] when the server runs without an upstream authority, or is stopping.
    pub async fn replace_upstream(
        &self,
        upstream: Arc<dyn UpstreamAuthority>,
    ) -> Result<(), OperationError> {
        self.ask(|manager| Box::pin(async move { manager.operate_replace_upstream(upstream) }))
            .await?
    }

    /// Replaces the credential composers from the next credential on.
    pub fn replace_composers(&self, composers: Vec<Arc<dyn CredentialComposer>>) {
        self.shared.replace_composers(composers);
    }

    /// Has the manager do something and waits for the answer. What was begun is finished even when
    /// the caller goes away.
    async fn ask<T: Send + 'static>(
        &self,
        operation: impl for<'a> FnOnce(
            &'a mut CaManager,
        ) -> Pin<Box<dyn Future<Output = T> + Send + 'a>>
        + Send
        + 'static,
    ) -> Result<T, OperationError> {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |manager| {
            Box::pin(async move {
                // The caller may be gone: then nobody wants the answer.
                let _ = reply.send(operation(manager).await);
            })
        });
        let stopped = || OperationError::new(OperationClass::Unavailable, "server is stopping");
        self.commands.send(command).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("view", &*self.shared.view.borrow()).finish()
    }
}
